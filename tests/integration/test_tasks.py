"""The tasks of an experiment on a real cluster, without Airflow: what they do, and what they do when killed."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from airavata_provider.errors import CommandFailed, FileMissing, JobCanceled, JobFailed
from airavata_provider.jobs.poller import Way
from airavata_provider.jobs.submission import Patience, submit
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.identity import experiment_directory
from airavata_provider.models.job import JobState
from airavata_provider.monitors.poll import Runs
from airavata_provider.schedulers.base import CommandResult
from airavata_provider.tasks import staging
from airavata_provider.triggers.host import Segment, cancel_segment
from airavata_provider.triggers.hosted import HostedTask, Run
from tests.bed import Bed
from tests.services import LOG, BedServices

TEXT = "It was a bright cold day in April,\nand the clocks were striking thirteen. ä$(id)'\"\n"

PREPARE = (
    HostedTask(id="environment_setup", type="environment_setup"),
    HostedTask(id="stage_in", type="stage_in"),
    HostedTask(id="submit", type="submit"),
)
MONITOR = HostedTask(id="monitor", type="monitor", parameters={"job": "submit"})
STAGE_OUT = HostedTask(id="stage_out", type="stage_out")
FINISH = (STAGE_OUT, HostedTask(id="clean_up", type="clean_up"))


@pytest.fixture
def services(services: BedServices) -> BedServices:
    """With the inputs of these tests."""
    (services.root / "in").mkdir()
    (services.root / "in" / "the text.txt").write_text(TEXT)
    return services


def request(resource: str, **inputs: Any) -> dict[str, Any]:
    return {
        "application": "upper",
        "compute_resource": resource,
        "inputs": {"text": "storage://files/in/the%20text.txt", **inputs},
        "outputs_to": "storage://files/out",
    }


def name() -> str:
    return f"test-{uuid.uuid4().hex}"


def runs_of(bed: Bed, job: str) -> list[str]:
    """``id|state`` of every ended job of that name in SLURM's accounting, which lags a few seconds behind."""
    for _ in range(60):
        found = bed.run(f"sacct -X -n -P --name {job} -o JobID,State").stdout.split("\n")
        lines = [line for line in found if line]
        if lines and not any("PENDING" in line or "RUNNING" in line for line in lines):
            break
        time.sleep(0.5)
    return lines


@pytest.mark.parametrize("resource", ["cluster", "host"])
async def test_an_experiment_runs_from_end_to_end(services: BedServices, bed: Bed, resource: str) -> None:
    experiment, message = name(), "-n 'quoted' \"$(touch /tmp/never)\" `id` \\ ü\nsecond line"
    conf = request(resource, message=message)
    prepared = await services.run(experiment, conf, *PREPARE)
    watched = await services.run(experiment, conf, MONITOR)
    finished = await services.run(experiment, conf, *FINISH)

    assert watched["monitor"]["state"] == "COMPLETE"
    assert watched["monitor"]["native_id"] == prepared["submit"]["native_id"]
    assert (services.root / "out" / "result.txt").read_text() == TEXT.upper().replace("Ä", "ä") + message + "\n"
    assert (services.root / "out" / "stderr.txt").read_text() == f"started {message}\n"
    assert [file["name"] for file in finished["stage_out"]["files"]] == [
        "storage://files/out/result.txt",
        "storage://files/out/stdout.txt",
        "storage://files/out/stderr.txt",
    ]
    directory = f"{bed.scratch}/{experiment_directory('pattern', experiment, '')}"
    assert bed.run(f"test -e {directory}", check=False).returncode == 1


async def test_with_its_queue_drained_an_experiment_goes_elsewhere_and_stays_there(services: BedServices) -> None:
    experiment = name()
    conf = {key: value for key, value in request("").items() if key != "compute_resource"}
    begin = datetime.now(UTC) - timedelta(minutes=1)
    said = await services.store.set_availability(
        Availability("cluster", AvailabilityState.DRAINING, begin, "debug", reason="new disks")
    )
    await services.run(experiment, conf, *PREPARE)
    await services.store.clear_availability(said.id)
    await services.store.set_availability(Availability("host", AvailabilityState.DRAINING, begin))
    watched = await services.run(experiment, conf, MONITOR)
    await services.run(experiment, conf, *FINISH)
    assert watched["monitor"]["state"] == "COMPLETE"
    (job,) = await services.store.jobs_of("pattern", experiment, "")
    assert job.resource == "host"
    assert (services.root / "out" / "result.txt").exists()


@pytest.mark.parametrize("resource", ["cluster", "host"])
async def test_a_failed_jobs_logs_are_fetched(services: BedServices, resource: str) -> None:
    experiment, conf = name(), request(resource, fail=3)
    await services.run(experiment, conf, *PREPARE)
    with pytest.raises(JobFailed, match="exit code 3"):
        await services.run(experiment, conf, MONITOR)
    fetched = await services.run(experiment, conf, STAGE_OUT)
    assert [Path(file["name"]).name for file in fetched["stage_out"]["files"]] == ["stdout.txt", "stderr.txt"]
    assert (services.root / "out" / "stderr.txt").read_text() == "started hello\n"


async def test_a_job_that_completed_without_its_output_is_told(
    services: BedServices, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "LATE_S", (0.1,))
    experiment, conf = name(), request("host")
    await services.run(experiment, conf, *PREPARE)
    await services.run(experiment, conf, MONITOR)
    bed.run(f"rm {bed.scratch}/{experiment_directory('pattern', experiment, '')}/result.txt")
    with pytest.raises(FileMissing, match=r"without 'result\.txt'"):
        await services.run(experiment, conf, STAGE_OUT)


async def test_an_output_that_the_file_system_shows_late_is_waited_for(services: BedServices, bed: Bed) -> None:
    experiment, conf = name(), request("host")
    await services.run(experiment, conf, *PREPARE)
    await services.run(experiment, conf, MONITOR)
    output = f"{bed.scratch}/{experiment_directory('pattern', experiment, '')}/result.txt"
    bed.run(f"mv {output} {output}.unseen")
    fetching = asyncio.create_task(services.run(experiment, conf, STAGE_OUT))
    await asyncio.sleep(1)
    bed.run(f"mv {output}.unseen {output}")
    fetched = await fetching
    assert "storage://files/out/result.txt" in [file["name"] for file in fetched["stage_out"]["files"]]


async def test_nothing_is_fetched_where_no_job_was(services: BedServices) -> None:
    with pytest.raises(JobFailed, match="no job was submitted"):
        await services.run(name(), request("host"), STAGE_OUT)


@pytest.mark.parametrize("resource", ["cluster", "host"])
@pytest.mark.parametrize("seed", range(3))
async def test_killed_anywhere_and_run_again_it_ends_the_same(
    services: BedServices, bed: Bed, resource: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A submit that was cut before it told anything is looked for this long; the bed's SLURM is never that slow.
    defaults = {**(submit.__kwdefaults__ or {}), "patience": Patience(grace_s=5, pauses_s=(0.5,))}
    monkeypatch.setattr(submit, "__kwdefaults__", defaults)
    experiment, conf, chance = name(), request(resource), random.Random(seed)

    async def insist(*tasks: HostedTask) -> dict[str, Any]:
        """Kill the segment after a moment, again and again, a little later each time."""
        patience = 0.0
        while True:
            patience += chance.uniform(0.005, 0.08) + patience / 10
            running = asyncio.create_task(services.run(experiment, conf, *tasks))
            done, _ = await asyncio.wait({running}, timeout=patience)
            if done:
                return running.result()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    prepared = await insist(*PREPARE)
    await insist(MONITOR)
    await insist(*FINISH)
    assert (services.root / "out" / "result.txt").read_text() == TEXT.upper().replace("Ä", "ä") + "hello\n"
    if resource == "cluster":
        assert runs_of(bed, prepared["submit"]["job"]) == [f"{prepared['submit']['native_id']}|COMPLETED"]


async def test_a_cleared_submission_makes_a_new_job(services: BedServices, bed: Bed) -> None:
    experiment, conf = name(), request("cluster", seconds=300)
    first = (await services.run(experiment, conf, *PREPARE))["submit"]
    again = (await services.run(experiment, request("cluster"), *PREPARE, try_number=2))["submit"]
    assert (first["attempt"], again["attempt"]) == (1, 2)
    assert first["native_id"] != again["native_id"]
    old = await services.store.job(first["job"])
    assert old is not None and old.state is JobState.CANCELED
    assert runs_of(bed, first["job"])[0].startswith(f"{first['native_id']}|CANCELLED")
    watched = await services.run(experiment, conf, MONITOR, try_number=2)
    assert watched["monitor"]["native_id"] == again["native_id"]


@pytest.mark.parametrize("resource", ["cluster", "host"])
async def test_cancelling_the_monitor_ends_the_job(services: BedServices, bed: Bed, resource: str) -> None:
    experiment, conf = name(), request(resource, seconds=300)
    prepared = (await services.run(experiment, conf, *PREPARE))["submit"]
    waiting = asyncio.create_task(services.run(experiment, conf, MONITOR))
    await cancel_segment(Segment([MONITOR], Run("pattern", experiment, -1, 1, conf), services, LOG))
    with pytest.raises(JobCanceled, match="cancelled by task monitor"):
        await asyncio.wait_for(waiting, 60)
    if resource == "cluster":
        assert runs_of(bed, prepared["job"])[0].startswith(f"{prepared['native_id']}|CANCELLED")
    else:
        # The script ends first, what it started follows; the ended may wait for whoever reaps them.
        group = prepared["native_id"].split(".")[0]
        alive = f"ps -e -o pgid= -o stat= | grep -E '^ *{group} +[^Z]'"
        for _ in range(100):
            if not (left := bed.run(alive, check=False).stdout):
                break
            await asyncio.sleep(0.2)
        assert not left


async def test_a_command_runs_once_however_often_it_is_killed(
    services: BedServices, bed_run: Callable[..., CompletedProcess[str]]
) -> None:
    experiment = name()
    command = HostedTask(
        id="analyse",
        type="remote_command",
        resource="host",
        parameters={
            "command": 'echo run >> count; sleep 1; printf "%s" "$GREETING"',
            "environment": {"GREETING": "it's $HOME"},
        },
    )
    setup = HostedTask(id="setup", type="environment_setup", resource="host")
    directory = (await services.run(experiment, None, setup))["setup"]["directory"]
    for _ in range(4):
        running = asyncio.create_task(services.run(experiment, None, command))
        await asyncio.wait({running}, timeout=0.2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    result = (await services.run(experiment, None, command))["analyse"]
    assert result["stdout"] == "it's $HOME"
    assert bed_run(f"cat {directory}/count").stdout == "run\n"
    cleared = (await services.run(experiment, None, command, try_number=2))["analyse"]
    assert cleared["exit_code"] == 0
    assert bed_run(f"cat {directory}/count").stdout == "run\nrun\n"


async def test_a_commands_failure_is_told_in_its_words(services: BedServices) -> None:
    command = HostedTask(
        id="analyse", type="remote_command", resource="host", parameters={"command": "echo no such gene >&2; exit 7"}
    )
    experiment = name()
    await services.run(experiment, None, HostedTask(id="setup", type="environment_setup", resource="host"))
    with pytest.raises(CommandFailed, match=r"status 7: no such gene") as failure:
        await services.run(experiment, None, command)
    assert failure.value.exit_status == 7


async def test_a_parser_reads_and_writes_storage(services: BedServices, bed: Bed) -> None:
    (services.root / "out").mkdir()
    (services.root / "out" / "result.txt").write_text(TEXT)
    parse = HostedTask(
        id="parse",
        type="docker_parser",
        parameters={
            "image": bed.docker_image,
            "command": ["sh", "-c", 'wc -l < /input/result > "/output/$NAME"; echo counted'],
            "environment": {"NAME": "number of lines"},
            "outputs": ["number of lines"],
        },
    )
    result = (await services.run(name(), request("host"), parse))["parse"]
    assert (services.root / "out" / "number of lines").read_text().strip() == "2"
    assert result["files"][0]["name"] == "storage://files/out/number%20of%20lines"


class Noted:
    """A host whose commands are noted."""

    def __init__(self, host: Runs, commands: list[str]) -> None:
        self._host = host
        self._commands = commands

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        self._commands.append(command)
        return await self._host.run(command, timeout=timeout)


async def test_a_job_submitted_by_hand_is_waited_for_and_its_output_shown(
    services: BedServices, bed: Bed, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    commands: list[str] = []
    way = services.way

    async def noted(resource: str) -> Way:
        found = await way(resource)
        return replace(found, host=Noted(found.host, commands))

    monkeypatch.setattr(services, "way", noted)
    folder = f"{bed.scratch}/{name()}"
    # It ends when its output was shown; without that, in time for a failure that can be read.
    wait = "n=0; until [ -e seen ] || [ $n = 150 ]; do sleep 0.2; n=$((n + 1)); done"
    script = f"echo first \N{EURO SIGN}; {wait}; echo last"
    bed.run(f"mkdir {folder}")
    submitted = bed.run(f"sbatch --parsable -D {folder} -o by-hand.out -J by-hand -t 5 --wrap '{script}'")
    native_id = submitted.stdout.strip()
    monitor = HostedTask(
        id="wait",
        type="monitor",
        parameters={"native_id": native_id, "name": "by-hand", "directory": folder, "output": "by-hand.out"},
        resource="cluster",
    )

    async def let_it_end() -> None:
        while "| first \N{EURO SIGN}" not in caplog.text:  # noqa: ASYNC110 -- a log tells nobody
            await asyncio.sleep(0.1)
        bed.run(f"touch {folder}/seen")

    ending = asyncio.create_task(let_it_end())
    result = (await services.run(name(), None, monitor))["wait"]
    await ending
    assert (result["state"], result["native_id"], result["exit_code"]) == ("COMPLETE", native_id, 0)
    (job,) = await services.store.jobs_called(native_id)
    assert not job.ours
    assert job.started_at is not None
    # States and what was written came by one command.
    assert [command for command in commands if "airavata_tail" in command and "squeue" in command]
