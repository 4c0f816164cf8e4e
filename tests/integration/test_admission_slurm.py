"""Six jobs for a queue that takes two, on real SLURM and PostgreSQL: none fails, never three are there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from airavata_provider.jobs.reconcile import stop_reconciler
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.availability import AvailabilityState
from airavata_provider.models.catalog import load_catalog
from airavata_provider.schedulers.base import CommandResult
from airavata_provider.ssh.host import Host
from airavata_provider.ssh.pool import close_pool
from airavata_provider.ssh.target import Target
from airavata_provider.triggers.hosted import HostedTask
from tests.bed import Bed
from tests.services import CATALOG, BedServices

if TYPE_CHECKING:
    from airavata_provider.models.resource import ComputeResource

TASKS = (
    HostedTask(id="environment_setup", type="environment_setup"),
    HostedTask(id="stage_in", type="stage_in"),
    HostedTask(id="submit", type="submit"),
    HostedTask(id="monitor", type="monitor", parameters={"job": "submit"}),
)
MOST, JOBS = 2, 6


class Triggerer(BedServices):
    """What one triggerer has, with a queue of two jobs; ``before`` goes before each command on the host."""

    before = ""

    def __init__(self, bed: Bed, target: Target, folder: Path, store: JobStore, max_jobs: int | None) -> None:
        folder.mkdir()
        super().__init__(bed, target, folder, store)
        if max_jobs is not None:
            text = CATALOG.format(scratch=bed.scratch, root=self.root)
            assert "debug: {" in text
            text = text.replace("debug: {", f"debug: {{max_jobs: {max_jobs}, ")
            (folder / "catalog" / "catalog.yaml").write_text(text)
            self._catalog = load_catalog([folder / "catalog"])
        (self.root / "in").mkdir()
        (self.root / "in" / "text").write_text("text")

    async def host(self, resource: ComputeResource) -> Host:
        host = await super().host(resource)
        return cast("Host", _Prefixed(host, self.before)) if self.before else host


class _Prefixed:
    def __init__(self, host: Host, before: str) -> None:
        self._host, self._before = host, before
        self.shared = self  # also what would share a session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        return await self._host.run(self._before + command, timeout=timeout)


@pytest.fixture
async def store(postgres_db: str) -> AsyncIterator[Callable[[], JobStore]]:
    """Makes stores of one database, each as another process has it."""
    stores: list[JobStore] = []

    def make() -> JobStore:
        stores.append(JobStore(postgres_db, watch_interval=0.1))
        return stores[-1]

    await make().create_tables()
    yield make
    await stop_reconciler()
    await close_pool()
    for each in stores:
        await each.close()


async def most_there(bed: Bed, prefix: str, runs: list[asyncio.Task[Any]]) -> int:
    """The most jobs that SLURM had at a time until those runs are over, of which none may fail."""
    peak = 0
    while not all(each.done() for each in runs):
        found = await asyncio.to_thread(bed.run, "squeue -h -t PD,R,CF -o %Z")
        peak = max(peak, sum(prefix in line for line in found.stdout.splitlines()))
    await asyncio.gather(*runs)
    return peak


def conf() -> dict[str, Any]:
    inputs = {"text": "storage://files/in/text", "seconds": 6}
    return {"application": "upper", "compute_resource": "cluster", "inputs": inputs, "gateway": "g", "user": "u"}


def crowd(bed: Bed, folder: str, prefix: str) -> None:
    """An ``sbatch`` that refuses the third job as SLURM does where a QOS has MaxSubmitJobsPerUser, which takes an
    administrator to set."""
    words = (
        "sbatch: error: QOSMaxSubmitJobPerUserLimit\\n"
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
        "(job submit limit, user's size and/or time limits)\\n"
    )
    file = Path(folder, "sbatch")
    file.write_text(
        f"""#!/bin/bash
exec 9> {folder}/lock; flock 9
there=$(squeue -h -t PD,R,CF -o %Z | grep -c {prefix})
if [ "$there" -ge {MOST} ]; then echo >> {folder}/refused; printf "{words}" >&2; exit 1; fi
exec {bed.run("command -v sbatch").stdout.strip()} "$@"
"""
    )
    file.chmod(0o755)


async def test_two_triggerers_keep_to_a_queues_limit(
    store: Callable[[], JobStore], bed: Bed, ssh_target: Target, tmp_path: Path
) -> None:
    prefix = f"limit-{uuid.uuid4().hex[:12]}"
    rivals = [Triggerer(bed, ssh_target, tmp_path / str(n), store(), MOST) for n in range(2)]
    runs = [asyncio.create_task(rivals[n % 2].run(f"{prefix}-{n}", conf(), *TASKS)) for n in range(JOBS)]
    assert await most_there(bed, prefix, runs) == MOST
    assert {run.result()["monitor"]["state"] for run in runs} == {"COMPLETE"}


async def test_slurms_own_limit_means_later(
    store: Callable[[], JobStore], bed: Bed, ssh_target: Target, tmp_path: Path, bed_dir: str
) -> None:
    prefix = f"later-{uuid.uuid4().hex[:12]}"
    crowd(bed, bed_dir, prefix)
    triggerer = Triggerer(bed, ssh_target, tmp_path / "one", store(), None)
    triggerer.before = f"PATH={bed_dir}:$PATH; export PATH\n"
    runs = [asyncio.create_task(triggerer.run(f"{prefix}-{n}", conf(), *TASKS)) for n in range(JOBS)]
    assert await most_there(bed, prefix, runs) == MOST
    assert {run.result()["monitor"]["state"] for run in runs} == {"COMPLETE"}
    refusals = bed.run(f"wc -l < {bed_dir}/refused").stdout
    # Those that came at once all tried; afterwards it was known.
    assert 1 <= int(refusals) <= 2 * JOBS
    (said,) = await triggerer.store.availabilities()
    assert said.state is AvailabilityState.FULL and "QOSMaxSubmitJobPerUserLimit" in said.reason
