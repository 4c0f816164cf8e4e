"""``fork`` keeps the contract on this machine; and what is only its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from airavata_provider.jobs.submission import RemoteHost
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import JobRef
from airavata_provider.schedulers.fork import Fork
from airavata_provider.schedulers.record import control_directory
from tests.contract.hosts import LocalHost
from tests.contract.suite import WalltimeContract


@pytest.mark.slow
class TestFork(WalltimeContract):
    """Detached processes of this machine."""

    adaptor = Fork()

    @pytest.fixture
    async def host(self) -> AsyncIterator[RemoteHost]:
        yield LocalHost(noise="Welcome!\nAIRAVATA\n")

    def control(self, ref: JobRef) -> Path:
        return Path(control_directory(ref.directory, ref.name))

    async def test_a_killed_job_is_failed_and_says_why(self, host: RemoteHost, folder: Path) -> None:
        ref = await self.submitted(host, self.request_(folder, "sleep 600"))
        os.killpg(int(ref.native_id.split(".")[0]), signal.SIGKILL)
        status = await self.until(host, ref, JobState.FAILED)
        assert "left no exit record" in status.reason

    async def test_another_process_with_the_id_is_not_the_job(self, host: RemoteHost, folder: Path) -> None:
        ref = await self.submitted(host, self.request_(folder, "true"))
        await self.until(host, ref, JobState.COMPLETE)
        process = self.control(ref) / "process"
        _, start, boot, name = process.read_text().split()
        reused = JobRef(f"{os.getpid()}.{start}", ref.name, ref.directory)
        process.write_text(f"{os.getpid()} {start} {boot} {name}\n")
        assert (await self.states(host, reused))[reused.native_id].state is JobState.COMPLETE
        await host.run(self.adaptor.cancel_command([reused]))  # or this test is over

    @pytest.mark.parametrize(("record", "state"), [(True, JobState.COMPLETE), (False, JobState.FAILED)])
    async def test_after_a_reboot_the_record_tells(
        self, host: RemoteHost, folder: Path, record: bool, state: JobState
    ) -> None:
        ref = await self.submitted(host, self.request_(folder, "true"))
        await self.until(host, ref, JobState.COMPLETE)
        process = self.control(ref) / "process"
        pid, start, _, name = process.read_text().split()
        process.write_text(f"{pid} {start} another-boot {name}\n")
        if not record:
            (self.control(ref) / "exit").unlink()
        assert (await self.states(host, ref))[ref.native_id].state is state

    async def test_on_another_login_node_nothing_is_known(self, host: RemoteHost, folder: Path) -> None:
        ref = await self.submitted(host, self.request_(folder, "true"))
        await self.until(host, ref, JobState.COMPLETE)
        process = self.control(ref) / "process"
        pid, start, boot, _ = process.read_text().split()
        process.write_text(f"{pid} {start} {boot} login2\n")
        status = (await self.states(host, ref))[ref.native_id]
        assert status.state is JobState.UNKNOWN
        assert "login2" in status.reason
        cancel = await host.run(self.adaptor.cancel_command([ref]))
        assert cancel.exit_status != 0
        assert "login2" in cancel.stderr

    async def test_a_stopped_job_is_suspended(self, host: RemoteHost, folder: Path) -> None:
        ref = await self.submitted(host, self.request_(folder, "touch up; exec sleep 600"))
        # The script's traps are set then.
        while not (folder / "up").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        group = int(ref.native_id.split(".")[0])
        os.killpg(group, signal.SIGSTOP)
        await self.until(host, ref, JobState.SUSPENDED)
        await host.run(self.adaptor.cancel_command([ref]))
        status = await self.until(host, ref, JobState.CANCELED)
        assert (status.reason, status.outcome) == ("SIGNAL TERM", Outcome.CANCELED)

    async def test_a_job_outlives_the_shell_that_submitted_it(self, host: RemoteHost, folder: Path) -> None:
        ref = await self.submitted(host, self.request_(folder, "ps -o sid= -p $$"))
        await self.until(host, ref, JobState.COMPLETE)
        assert (folder / "stdout.txt").read_text().strip() == ref.native_id.split(".")[0]

    async def test_many_jobs_in_one_question(self, host: RemoteHost, folder: Path) -> None:
        refs = []
        for number in range(500):
            ref = JobRef(f"1.{number}", f"a{number}", str(folder))
            control = self.control(ref)
            control.mkdir(parents=True)
            (control / "process").write_text(f"1 {number} none {os.uname().nodename}\n")
            record = {"exit_code": number % 2, "signal": None, "reason": "", "native_id": ref.native_id}
            (control / "exit").write_text(json.dumps(record) + "\n")
            refs.append(ref)
        states = await asyncio.wait_for(self.states(host, *refs), 20)
        assert [states[ref.native_id].exit_code for ref in refs] == [n % 2 for n in range(500)]
