"""An experiment over many inputs on a real cluster, without Airflow."""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import Any

import pytest

from airavata_provider.errors import JobFailed
from airavata_provider.jobs.submission import Patience, submit
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.job import Job, JobState
from airavata_provider.triggers.hosted import HostedTask
from tests.bed import Bed
from tests.services import BedServices

SUBMIT = HostedTask(id="submit", type="submit")
MONITOR = HostedTask(id="monitor", type="monitor", parameters={"job": "submit"})
STAGE_OUT = HostedTask(id="stage_out", type="stage_out")
PREPARE = (
    HostedTask(id="environment_setup", type="environment_setup"),
    HostedTask(id="stage_in", type="stage_in"),
)


@pytest.fixture
def services(services: BedServices) -> BedServices:
    """With the inputs of these tests."""
    (services.root / "in").mkdir()
    for index in range(6):
        (services.root / "in" / f"in {index}.txt").write_text(f"{index}\n")
    (services.root / "in" / "it's.txt").write_text("common\n")
    return services


def request(resource: str, codes: list[int]) -> dict[str, Any]:
    return {
        "application": "each",
        "compute_resource": resource,
        "inputs": {
            "text": [f"storage://files/in/in%20{index}.txt" for index in range(len(codes))],
            "code": codes,
            "common": "storage://files/in/it%27s.txt",
        },
        "outputs_to": "storage://files/out",
    }


async def arrays(services: BedServices, experiment: str) -> list[Job]:
    return await services.store.attempts(TaskIdentity("pattern", experiment, "submit"))


async def accepted(bed: Bed, array: Job) -> list[str]:
    """Ids that the cluster's accounting, which lags behind, has under an array's name, an element each."""
    for _ in range(60):
        lines = bed.run(f"sacct -X -n -P --name {array.name} -o JobID,State").stdout.split()
        if len(lines) == array.size and all("COMPLETED" in line or "FAILED" in line for line in lines):
            break
        await asyncio.sleep(0.5)
    return sorted(line.partition("|")[0] for line in lines)


async def test_only_failed_elements_run_again(services: BedServices, bed: Bed) -> None:
    experiment, conf = f"test-{uuid.uuid4().hex}", request("cluster", [0, 0, 3, 0, 0, 0])
    await services.run(experiment, conf, *PREPARE)
    submitted = await services.run(experiment, conf, SUBMIT)
    with pytest.raises(JobFailed, match=r"1 of 6 elements did not complete: 2 with exit code 3"):
        await services.run(experiment, conf, MONITOR)
    await services.run(experiment, conf, STAGE_OUT)
    # A retry that nobody cleared finds what is there.
    assert await services.run(experiment, conf, SUBMIT) == submitted

    again = await services.run(experiment, conf, SUBMIT, try_number=2)
    assert (again["submit"]["attempt"], again["submit"]["submitted"]) == (2, 1)
    watched = await services.run(experiment, conf, MONITOR, try_number=2)
    assert (watched["monitor"]["state"], watched["monitor"]["elements"]) == ("COMPLETE", 6)
    await services.run(experiment, conf, STAGE_OUT, try_number=2)

    first, second = await arrays(services, experiment)
    assert (first.tally, second.tally) == ({"COMPLETE": 5, "FAILED": 1}, {"COMPLETE": 1})
    assert [(each.request or {})["array"]["indices"] for each in (first, second)] == [[[0, 5]], [[2, 2]]]
    for index in range(6):
        folder = services.root / "out" / str(index)
        assert (folder / f"result-{index}.txt").read_text() == f"{index}\ncommon\n"
        assert (folder / "stdout.txt").read_text() == ""
    # Every element ran once, the failed one twice.
    assert await accepted(bed, first) == [f"{first.native_id}_{index}" for index in range(6)]
    assert await accepted(bed, second) == [f"{second.native_id}_2"]
    tries = bed.run(f"cd {first.directory} && wc -l [0-5]/tries | sed '$d'").stdout.split()[::2]
    assert tries == ["1", "1", "2", "1", "1", "1"]


async def test_more_elements_than_an_array_can_have_are_several_arrays(services: BedServices, bed: Bed) -> None:
    experiment, conf = f"test-{uuid.uuid4().hex}", request("small", [0, 3, 0, 0, 0, 3])
    await services.run(experiment, conf, *PREPARE)
    await services.run(experiment, conf, SUBMIT)
    with pytest.raises(JobFailed, match=r"2 of 6 elements did not complete: 1, 5 with exit code 3"):
        await services.run(experiment, conf, MONITOR)
    await services.run(experiment, conf, SUBMIT, try_number=2)
    await services.run(experiment, conf, MONITOR, try_number=2)
    await services.run(experiment, conf, STAGE_OUT, try_number=2)
    made = await arrays(services, experiment)
    assert [(each.attempt, each.offset, each.size, each.state) for each in made] == [
        (1, 0, 4, JobState.FAILED),
        (1, 4, 2, JobState.FAILED),
        (2, 0, 1, JobState.COMPLETE),
        (2, 4, 1, JobState.COMPLETE),
    ]
    assert await accepted(bed, made[3]) == [f"{made[3].native_id}_1"]
    assert (services.root / "out" / "5" / "result-5.txt").read_text() == "5\ncommon\n"


async def test_killed_anywhere_every_element_runs_once(
    services: BedServices, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A submit that was cut before it told anything is looked for this long; the bed's SLURM is never that slow.
    defaults = {**(submit.__kwdefaults__ or {}), "patience": Patience(grace_s=5, pauses_s=(0.5,))}
    monkeypatch.setattr(submit, "__kwdefaults__", defaults)
    experiment, conf, chance = f"test-{uuid.uuid4().hex}", request("small", [0] * 6), random.Random(3)

    async def insist(*tasks: HostedTask) -> None:
        """Kill the segment after a moment, again and again, a little later each time."""
        patience = 0.0
        while True:
            patience += chance.uniform(0.005, 0.08) + patience / 10
            running = asyncio.create_task(services.run(experiment, conf, *tasks))
            done, _ = await asyncio.wait({running}, timeout=patience)
            if done:
                running.result()
                return
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    await insist(*PREPARE, SUBMIT)
    await insist(MONITOR)
    await insist(STAGE_OUT)
    made = await arrays(services, experiment)
    assert [(each.offset, each.size) for each in made] == [(0, 4), (4, 2)]
    for each in made:
        assert await accepted(bed, each) == [f"{each.native_id}_{index}" for index in range(each.size or 0)]
    assert (services.root / "out" / "5" / "result-5.txt").read_text() == "5\ncommon\n"
