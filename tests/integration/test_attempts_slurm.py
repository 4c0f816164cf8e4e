"""Further attempts on a real cluster, by a pattern's rule and by a person's clear: one job each, and none is lost,
however often who makes them is killed."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from airavata_provider.jobs.reconcile import stop_reconciler
from airavata_provider.jobs.submission import Patience, submit
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.job import Job
from airavata_provider.models.outcome import Outcome
from airavata_provider.triggers.hosted import HostedTask
from tests.bed import Bed
from tests.services import BedServices

T = TypeVar("T")
SETUP = HostedTask(id="setup", type="environment_setup", resource="cluster")
SUBMIT = HostedTask(
    id="submit",
    type="submit",
    resource="cluster",
    parameters={
        "executable": "/bin/sh",
        "arguments": ["-c", 'echo "$SLURM_MEM_PER_NODE" >> asked; [ "$SLURM_MEM_PER_NODE" -ge 300 ] || exit 75'],
        "memory_mb": 100,
        "walltime_s": 120,
    },
)
SLEEP = SUBMIT.model_copy(
    update={"parameters": {"executable": "sleep", "arguments": ["300"], "walltime_s": 600}},
)
NEEDY = (
    'echo "$SLURM_MEM_PER_NODE" >> asked;'
    ' [ "$SLURM_MEM_PER_NODE" -ge "$1" ] && [ "$(wc -l < asked)" -ge "$2" ] || exit "$3"'
)
"""Of an array's element: it needs so much memory, so many attempts, and ends with that status without."""
ARRAY = SUBMIT.model_copy(
    update={
        "parameters": {
            "executable": "/bin/sh",
            "elements": [
                {"arguments": ["-c", NEEDY, "element", *needs]}
                for needs in (["100", "1", "1"], ["300", "1", "75"], ["100", "2", "76"], ["200", "1", "75"])
            ],
            "memory_mb": 100,
            "walltime_s": 120,
        }
    },
)
RULE = {"outcome": "FAILED", "exit_codes": [75], "memory": "*2", "walltime": "*1.5", "at_most": 2}
MONITOR = HostedTask(
    id="monitor",
    type="monitor",
    resource="cluster",
    parameters={"job": "submit", "on_outcome": [RULE]},
    submission=SUBMIT,
)


async def recorded(bed: Bed, job: Job) -> list[str]:
    """What the cluster's accounting, which lags behind, has under a job's name."""
    columns = "JobID,State,ReqMem,TimelimitRaw"
    for _ in range(60):
        lines = bed.run(f"sacct -X -n -P --name {job.name} -o {columns}").stdout.splitlines()
        if len(lines) == (job.size or 1) and not any("PENDING" in line or "RUNNING" in line for line in lines):
            break
        await asyncio.sleep(0.5)
    return lines


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submit that was cut before it told anything is not looked for long; the bed's SLURM is never that slow."""
    defaults = {**(submit.__kwdefaults__ or {}), "patience": Patience(grace_s=5, pauses_s=(0.5,))}
    monkeypatch.setattr(submit, "__kwdefaults__", defaults)


async def killed_until_done(
    run: Callable[[], Awaitable[T]], chance: random.Random, steps: tuple[float, float], *, all_of_it: bool = False
) -> T:
    """The result, of what is killed after longer and longer times.

    :param all_of_it: its process' reconciler dies with it
    """
    patience = 0.0
    while True:
        patience += chance.uniform(*steps) + patience / 10
        running = asyncio.ensure_future(run())
        done, _ = await asyncio.wait({running}, timeout=patience)
        if done:
            return running.result()
        running.cancel()
        await asyncio.wait({running})
        if all_of_it:
            await stop_reconciler()


@pytest.mark.usefixtures("hasty")
async def test_a_cleared_submission_ends_the_old_job_and_makes_one(services: BedServices, bed: Bed) -> None:
    experiment = f"test-{uuid.uuid4().hex}"
    await services.run(experiment, None, SETUP)
    await services.run(experiment, None, SLEEP)
    result = await killed_until_done(
        lambda: services.run(experiment, None, SLEEP, try_number=2), random.Random(3), (0.01, 0.2), all_of_it=True
    )
    first, second = await services.store.attempts(TaskIdentity("pattern", experiment, "submit"))
    assert (result["submit"]["attempt"], result["submit"]["native_id"]) == (2, second.native_id)
    there = bed.run(f"squeue -h -t PENDING,RUNNING -o %i -n {first.name},{second.name}").stdout.split()
    assert there == [second.native_id]
    await services.store.request_cancel(second.name, "test")
    await services.watch()
    await services.store.wait(second.name, timeout_s=30)
    for job in (first, second):
        (line,) = await recorded(bed, job)
        assert line.startswith(f"{job.native_id}|CANCELLED")


@pytest.mark.usefixtures("hasty")
async def test_an_attempt_elsewhere_takes_the_experiment_along(
    services: BedServices, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From SLURM to a host without a scheduler, whose scratch is another."""
    # What other tests have in SLURM's queue decides nothing here.
    monkeypatch.setattr(services, "loads", lambda: None)
    experiment = f"test-{uuid.uuid4().hex}"
    (services.root / "in.txt").write_text("text\n")
    conf = {
        "application": "moving",
        "inputs": {"text": "storage://files/in.txt"},
        "outputs_to": "storage://files/out",
    }
    setup, stage_in, submit_ = (
        HostedTask(id=each, type=each) for each in ("environment_setup", "stage_in", "submit")
    )
    rule = {"outcome": "FAILED", "exit_codes": [75], "answer": "elsewhere"}
    monitor = HostedTask(
        id="monitor",
        type="monitor",
        parameters={"job": "submit", "on_outcome": [rule]},
        submission=submit_,
        before=(setup, stage_in),
    )
    await services.run(experiment, conf, setup, stage_in, submit_)
    result = await killed_until_done(
        lambda: services.run(experiment, conf, monitor), random.Random(5), (0.2, 0.6), all_of_it=True
    )
    first, second = await services.store.attempts(TaskIdentity("pattern", experiment, "submit"))
    assert (result["monitor"]["job"], result["monitor"]["state"]) == (second.name, "COMPLETE")
    assert (first.resource, second.resource) == ("cluster", "other")
    (line,) = await recorded(bed, first)
    assert line.startswith(f"{first.native_id}|FAILED")
    there = [bed.run(f"ls {job.directory}").stdout.split() for job in (first, second)]
    assert there == [["in.txt", "stderr.txt", "stdout.txt"], ["in.txt", "result.txt", "stderr.txt", "stdout.txt"]]
    finish = [HostedTask(id=each, type=each) for each in ("stage_out", "clean_up")]
    await services.run(experiment, conf, *finish)
    assert (services.root / "out" / "result.txt").read_text() == "TEXT\n"
    for job in (first, second):
        assert bed.run(f"test -e {job.directory}", check=False).returncode == 1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("seed", [None, 1])
async def test_each_attempt_asks_for_more_and_runs_once(services: BedServices, bed: Bed, seed: int | None) -> None:
    experiment = f"test-{uuid.uuid4().hex}"
    await services.run(experiment, None, SETUP)
    await services.run(experiment, None, SUBMIT)
    if seed is None:
        watched = (await services.run(experiment, None, MONITOR))["monitor"]
    else:
        again = killed_until_done(lambda: services.run(experiment, None, MONITOR), random.Random(seed), (0.005, 0.08))
        watched = (await again)["monitor"]

    attempts = await services.store.attempts(TaskIdentity("pattern", experiment, "submit"))
    assert (watched["attempt"], watched["native_id"], watched["state"]) == (3, attempts[-1].native_id, "COMPLETE")
    assert [job.outcome for job in attempts] == [Outcome.FAILED, Outcome.FAILED, Outcome.COMPLETED]
    assert [job.exit_code for job in attempts] == [75, 75, 0]
    assert bed.run(f"cat {attempts[0].directory}/asked").stdout.split() == ["100", "200", "400"]
    found = [await recorded(bed, job) for job in attempts]
    first, second, third = (job.native_id for job in attempts)
    assert found == [[f"{first}|FAILED|100M|2"], [f"{second}|FAILED|200M|3"], [f"{third}|COMPLETED|400M|5"]]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("seed", [None, 7])
async def test_elements_run_again_with_what_each_needs(services: BedServices, bed: Bed, seed: int | None) -> None:
    experiment = f"test-{uuid.uuid4().hex}"
    longer = {"outcome": "FAILED", "exit_codes": [76], "walltime": "*1.5"}
    parameters = {"job": "submit", "on_outcome": [{**RULE, "walltime": None}, longer]}
    monitor = MONITOR.model_copy(update={"parameters": parameters, "submission": ARRAY})
    await services.run(experiment, None, SETUP.model_copy(update={"parameters": {"elements": 4}}))
    await services.run(experiment, None, ARRAY)
    if seed is None:
        watched = (await services.run(experiment, None, monitor))["monitor"]
    else:
        again = killed_until_done(lambda: services.run(experiment, None, monitor), random.Random(seed), (0.005, 0.08))
        watched = (await again)["monitor"]
    assert (watched["state"], watched["elements"]) == ("COMPLETE", 4)

    attempts = await services.store.attempts(TaskIdentity("pattern", experiment, "submit"))
    assert [job.attempt for job in attempts] == [1, 2, 3, 4]
    asked = [bed.run(f"cat {attempts[0].directory}/{place}/asked").stdout.split() for place in range(4)]
    assert asked == [["100"], ["100", "200", "400"], ["100", "100"], ["100", "200"]]
    first, second, third, fourth = (job.native_id for job in attempts)
    assert [sorted(await recorded(bed, job)) for job in attempts] == [
        [f"{first}_0|COMPLETED|100M|2", *(f"{first}_{index}|FAILED|100M|2" for index in (1, 2, 3))],
        [f"{second}_1|FAILED|200M|2", f"{second}_3|COMPLETED|200M|2"],
        [f"{third}_2|COMPLETED|100M|3"],
        [f"{fourth}_1|COMPLETED|400M|2"],
    ]
