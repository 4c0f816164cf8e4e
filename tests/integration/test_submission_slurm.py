"""One job in SLURM's own records, wherever a submission is cut, and the contract, over real sshd and real SLURM."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from airavata_provider.jobs.submission import RemoteHost
from airavata_provider.models.job import JobState
from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.slurm import Slurm
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Target
from tests.bed import Bed
from tests.contract.suite import PATIENCE_S, SchedulerContract
from tests.integration.submission_suite import SubmissionSuite


def run(command: str, environment: Mapping[str, str]) -> str:
    """Run a command as the user of this process, which is not the bed's."""
    return subprocess.run(
        command, shell=True, check=True, capture_output=True, text=True, env=environment
    ).stdout.strip()


class TestSubmissionToSlurm(SubmissionSuite):
    """The fault table."""

    adaptor: ClassVar[Scheduler] = Slurm()
    submitter = "sbatch"
    queue = "squeue"
    history = "sacct"
    list_ids = "squeue -h -t all -n $NAME -o %i"
    timed_out = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    queue_timeout = "echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 0"
    empty_queue = "exit 0"
    history_down = "echo 'sacct: error: Connection refused' >&2; exit 1"
    empty_history = "exit 0"
    hold = "--hold"
    bad_queue = "Invalid partition name specified"


class TestSlurmOnTheBed(SchedulerContract):
    """The contract on real SLURM, over real sshd."""

    adaptor = Slurm()

    @pytest.fixture
    async def host(self, ssh_target: Target) -> AsyncIterator[RemoteHost]:
        pool = SSHPool()
        yield pool.host(ssh_target)
        await pool.close()

    @pytest.fixture
    def folder(self, bed: Bed, bed_dir: str) -> Path:
        path = Path(bed_dir) / "it's $HOME 50%j é"
        path.mkdir()
        path.chmod(0o777)
        return path

    async def test_a_cancelled_job_in_the_queue(self, host: RemoteHost, folder: Path) -> None:
        ref = await self.submitted(host, self.request_(folder, "true", directives=("--hold",)))
        assert (await self.until(host, ref, JobState.QUEUED)).reason in ("JobHeldUser", "None", "")
        assert (await host.run(self.adaptor.cancel_command([ref]))).exit_status == 0
        await self.until(host, ref, JobState.CANCELED)

    async def test_the_load_is_everybody_s(self, host: RemoteHost, folder: Path, bed: Bed) -> None:
        other = "sbatch -p debug --wrap 'sleep 60' -o /dev/null -D / --parsable"
        environment = {**os.environ, "SLURM_CONF": str(bed.slurm_conf)}
        number = run(other, environment)
        try:
            end = time.monotonic() + PATIENCE_S
            while bed.run(f"squeue -h -j {number} -t R -o %i").stdout.strip() == "":
                assert time.monotonic() < end
                await asyncio.sleep(0.2)
            queues = ["", "debug", "long", "none"]
            command = self.adaptor.load_command(queues)
            assert command is not None
            load = self.adaptor.parse_load(await host.run(command), queues)
        finally:
            run(f"scancel {number}", environment)
        # How many of others' jobs there are beside it, the other tests know.
        assert load.keys() == {"", "debug", "long"}
        assert all(each.cpus == 64 and each.busy and each.waiting is not None for each in load.values())
        assert load["debug"].running
        assert load[""].running

    async def test_a_requeued_job_is_followed_under_its_id(self, host: RemoteHost, folder: Path, bed: Bed) -> None:
        ref = await self.submitted(host, self.request_(folder, "while [ ! -e go ]; do sleep 0.1; done; exit 3"))
        await self.until(host, ref, JobState.ACTIVE)
        bed.run(f"scontrol requeue {ref.native_id}")
        await self.until(host, ref, JobState.QUEUED)
        bed.run(f"scontrol update jobid={ref.native_id} starttime=now")
        await self.until(host, ref, JobState.ACTIVE)
        (folder / "go").touch()
        end = await self.end(host, ref)
        assert (end.state, end.exit_code) == (JobState.FAILED, 3)
        record = (folder / ".airavata" / ref.name / "started").read_text()
        assert record == f"{ref.native_id} 1\n"
