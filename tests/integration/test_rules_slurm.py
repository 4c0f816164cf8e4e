"""A pattern's rule on a real cluster: the next attempt asks for more, once, however often the monitor is killed."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from airavata_provider.jobs.reconcile import stop_reconciler
from airavata_provider.jobs.store import JobStore
from airavata_provider.jobs.submission import Patience, submit
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.job import Job
from airavata_provider.models.outcome import Outcome
from airavata_provider.ssh.pool import close_pool
from airavata_provider.ssh.target import Target
from airavata_provider.triggers.hosted import HostedTask
from tests.bed import Bed
from tests.services import BedServices

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
RULE = {"outcome": "FAILED", "exit_codes": [75], "memory": "*2", "walltime": "*1.5", "at_most": 2}
MONITOR = HostedTask(
    id="monitor",
    type="monitor",
    resource="cluster",
    parameters={"job": "submit", "on_outcome": [RULE]},
    submission=SUBMIT,
)


@pytest.fixture
async def services(bed: Bed, ssh_target: Target, tmp_path: Path) -> AsyncIterator[BedServices]:
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db", watch_interval=0.05)
    await store.create_tables()
    yield BedServices(bed, ssh_target, tmp_path, store)
    await stop_reconciler()
    await close_pool()
    await store.close()


async def recorded(bed: Bed, job: Job) -> list[str]:
    """What the cluster's accounting, which lags behind, has under a job's name."""
    columns = "JobID,State,ReqMem,TimelimitRaw"
    for _ in range(60):
        lines = bed.run(f"sacct -X -n -P --name {job.name} -o {columns}").stdout.split()
        if lines and not any("PENDING" in line or "RUNNING" in line for line in lines):
            break
        await asyncio.sleep(0.5)
    return lines


@pytest.mark.parametrize("seed", [None, 1])
async def test_each_attempt_asks_for_more_and_runs_once(
    services: BedServices, bed: Bed, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A submit that was cut before it told anything is looked for this long; the bed's SLURM is never that slow.
    defaults = {**(submit.__kwdefaults__ or {}), "patience": Patience(grace_s=5, pauses_s=(0.5,))}
    monkeypatch.setattr(submit, "__kwdefaults__", defaults)
    experiment, chance = f"test-{uuid.uuid4().hex}", random.Random(seed)
    await services.run(experiment, None, SETUP)
    await services.run(experiment, None, SUBMIT)
    patience = 0.0 if seed is not None else 120.0
    while True:
        patience += chance.uniform(0.005, 0.08)
        running = asyncio.create_task(services.run(experiment, None, MONITOR))
        done, _ = await asyncio.wait({running}, timeout=patience)
        if done:
            watched = running.result()["monitor"]
            break
        running.cancel()
        await asyncio.wait({running})

    attempts = await services.store.attempts(TaskIdentity("pattern", experiment, "submit"))
    assert (watched["attempt"], watched["native_id"], watched["state"]) == (3, attempts[-1].native_id, "COMPLETE")
    assert [job.outcome for job in attempts] == [Outcome.FAILED, Outcome.FAILED, Outcome.COMPLETED]
    assert [job.exit_code for job in attempts] == [75, 75, 0]
    assert bed.run(f"cat {attempts[0].directory}/asked").stdout.split() == ["100", "200", "400"]
    found = [await recorded(bed, job) for job in attempts]
    first, second, third = (job.native_id for job in attempts)
    assert found == [[f"{first}|FAILED|100M|2"], [f"{second}|FAILED|200M|3"], [f"{third}|COMPLETED|400M|5"]]
