"""What every scheduler adaptor promises, as tests: subclass :class:`SchedulerContract` and name the adaptor.

A plug-in's author gives ``adaptor`` and, where jobs can really be run, a ``host``; the tests that need one are
skipped without. Jobs here take a second or two.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.errors import (
    AnswerUnreadable,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.jobs.submission import RemoteHost, submit
from airavata_provider.models.job import JobState
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler
from airavata_provider.schedulers.registry import scheduler
from airavata_provider.schedulers.request import JobRequest
from tests.contract.hosts import LocalHost, MemoryStore, job

REF = JobRef("12", "ajob", "/scratch/d")
noise = st.builds(CommandResult, st.integers(0, 255), st.text(), st.text())


class SchedulerContract:
    """One adaptor's tests."""

    adaptor: Scheduler

    @pytest.fixture
    async def host(self) -> AsyncIterator[RemoteHost]:
        """Where its commands run; override it, or leave it and its tests are skipped."""
        pytest.skip(f"no {self.adaptor.name} here")
        yield LocalHost()

    @pytest.fixture
    def folder(self) -> Any:
        """A working directory that the job's account can write, with a name that needs quoting."""
        path = Path(tempfile.mkdtemp(prefix="contract $x'é "))
        yield path
        shutil.rmtree(path, ignore_errors=True)

    def request_(self, folder: Path, shell: str, **fields: Any) -> JobRequest:
        """A small job with a name of its own."""
        given = {"name": f"a{os.urandom(7).hex()}", "walltime_s": 300, **fields}
        return JobRequest(directory=str(folder), executable="/bin/sh", arguments=("-c", shell), **given)

    async def submitted(self, host: RemoteHost, request: JobRequest) -> JobRef:
        """Submit a job, first try."""
        store = MemoryStore()
        intent = job(request.name, request.directory)
        native_id = await submit(host, self.adaptor, request, store=store, job=intent, first=True)
        return JobRef(native_id, request.name, request.directory)

    async def states(self, host: RemoteHost, *refs: JobRef) -> Mapping[str, JobStatus]:
        """What the queue says."""
        return self.adaptor.parse_status(await host.run(self.adaptor.status_command(refs)), refs)

    async def until(self, host: RemoteHost, ref: JobRef, *wanted: JobState) -> JobStatus:
        """Ask until the job is in one of the states."""
        end = time.monotonic() + 60
        while True:
            status = (await self.states(host, ref)).get(ref.native_id)
            if status is not None and status.state in wanted:
                return status
            assert time.monotonic() < end, f"the job is {status}"
            await asyncio.sleep(0.2)

    async def end(self, host: RemoteHost, ref: JobRef) -> JobStatus:
        """What the history says, once it knows."""
        end = time.monotonic() + 60
        while True:
            result = await host.run(self.adaptor.history_command([ref]))
            if found := self.adaptor.parse_history(result, [ref]).get(ref.native_id):
                return found
            assert time.monotonic() < end, f"no history: {result}"
            await asyncio.sleep(0.5)

    # --- pure

    def test_it_is_found_by_its_name(self) -> None:
        assert isinstance(scheduler(self.adaptor.name), type(self.adaptor))

    # Hypothesis wants one executor per property: each class makes its own.

    def test_noise_is_never_an_answer(self) -> None:
        @given(noise)
        def holds(result: CommandResult) -> None:
            with pytest.raises(AnswerUnreadable):
                self.adaptor.parse_status(result, [REF])
            with pytest.raises(AnswerUnreadable):
                self.adaptor.parse_history(result, [REF])
            with pytest.raises(AnswerUnreadable):
                self.adaptor.parse_find(result, REF.name)

        holds()

    def test_a_submit_without_an_answer_is_refused_or_uncertain(self) -> None:
        @given(noise)
        def holds(result: CommandResult) -> None:
            with pytest.raises((SubmissionRefused, SubmissionUncertain)):
                self.adaptor.parse_submit(CommandResult(result.exit_status, "", result.stderr))

        holds()

    @pytest.mark.parametrize("status", [124, 137, -9])
    def test_a_submit_that_was_cut_is_uncertain(self, status: int) -> None:
        with pytest.raises(SubmissionUncertain):
            self.adaptor.parse_submit(CommandResult(status, "", ""))

    def test_a_directory_is_quoted_wherever_it_stands(self) -> None:
        @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
        def holds(text: str) -> None:
            ref = JobRef("12", "ajob", f"/d/'$(x)`y`{text}")
            for command in (
                self.adaptor.status_command([ref]),
                self.adaptor.history_command([ref]),
                self.adaptor.cancel_command([ref]),
                self.adaptor.find_command("ajob", None, ref.directory),
            ):
                assert "/d/'$(x)" not in command

        holds()

    # --- real

    async def test_a_job_from_queue_to_history(self, host: RemoteHost, folder: Path) -> None:
        ref = await self.submitted(host, self.request_(folder, "echo out; echo err >&2; exit 3"))
        status = await self.until(host, ref, JobState.FAILED)
        assert status.name == ref.name
        end = await self.end(host, ref)
        assert (end.state, end.exit_code, end.signal) == (JobState.FAILED, 3, None)
        assert (folder / "stdout.txt").read_text() == "out\n"
        assert (folder / "stderr.txt").read_text() == "err\n"

    async def test_success_and_a_signal(self, host: RemoteHost, folder: Path) -> None:
        good = await self.submitted(host, self.request_(folder, "true"))
        bad = await self.submitted(host, self.request_(folder, "kill -SEGV $$"))
        assert (await self.end(host, good)).state is JobState.COMPLETE
        end = await self.end(host, bad)
        assert (end.state, end.exit_code, end.signal) == (JobState.FAILED, 139, 11)

    async def test_one_command_tells_of_all_jobs_and_a_forgotten_one_spoils_nothing(
        self, host: RemoteHost, folder: Path
    ) -> None:
        refs = [await self.submitted(host, self.request_(folder, "sleep 5")) for _ in range(3)]
        forgotten = JobRef("999999999", "anever", str(folder))
        states = await self.states(host, forgotten, *refs)
        assert set(states) == {ref.native_id for ref in refs}
        await host.run(self.adaptor.cancel_command(refs))

    async def test_a_job_is_found_by_name_and_nothing_else_is(self, host: RemoteHost, folder: Path) -> None:
        request = self.request_(folder, "sleep 5")
        ref = await self.submitted(host, request)
        find = self.adaptor.find_command(request.name, None, str(folder))
        assert self.adaptor.parse_find(await host.run(find), request.name) == ref.native_id
        absent = self.adaptor.find_command("anever", None, str(folder))
        assert self.adaptor.parse_find(await host.run(absent), "anever") is None
        await host.run(self.adaptor.cancel_command([ref]))

    async def test_cancel_ends_the_whole_tree_and_may_be_asked_again(self, host: RemoteHost, folder: Path) -> None:
        # A grandchild, a child that ignores SIGTERM, and one that left for a session of its own.
        payload = (
            "sh -c 'sleep 987001 & wait' & sh -c 'trap \"\" TERM; while :; do sleep 1; done; # 987001' & "
            "setsid sleep 987001 & touch up; wait"
        )
        request = self.request_(folder, payload)
        ref = await self.submitted(host, request)
        await self.until(host, ref, JobState.ACTIVE)
        end = time.monotonic() + 60
        while not (folder / "up").exists():
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        while await self.alive(host, request.name):
            assert time.monotonic() < end, "the job's processes live on"
            assert (await host.run(self.adaptor.cancel_command([ref]))).exit_status == 0
            await asyncio.sleep(1)
        status = await self.until(host, ref, JobState.CANCELED, JobState.FAILED)
        assert status.state.terminal
        assert (await host.run(self.adaptor.cancel_command([ref]))).exit_status == 0

    async def alive(self, host: RemoteHost, name: str) -> list[str]:
        """The job's processes, by the mark that its script puts into their environment."""
        ask = f"grep -lszxF AIRAVATA_JOB={name} /proc/[0-9]*/environ"
        return [line for line in (await host.run(ask)).stdout.split("\n") if line.startswith("/proc/")]

    async def test_the_walltime_is_kept_and_told(self, host: RemoteHost, folder: Path) -> None:
        if self.adaptor.enforces_walltime:
            pytest.skip("the scheduler's own walltimes are minutes long")
        ref = await self.submitted(host, self.request_(folder, "sleep 60", walltime_s=1))
        status = await self.until(host, ref, JobState.FAILED)
        assert (status.exit_code, status.reason) == (143, "WALLTIME")
