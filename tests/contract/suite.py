"""What every scheduler adaptor promises, as tests: subclass one of these classes and name the adaptor.

- :class:`PureContract`: what needs no scheduler.
- :class:`JobsContract`: that, and jobs that really run; it needs a ``host``.
- :class:`SchedulerContract`: that, and arrays. What a scheduler with arrays keeps as a whole.
- :class:`WalltimeContract`, beside one of them, where a walltime may be as short as a second.

Jobs here take a second or two.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.errors import (
    AnswerUnreadable,
    ConfigurationError,
    ConnectFailed,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.jobs.submission import Patience, RemoteHost, submit
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler
from airavata_provider.schedulers.load import QueueLoad
from airavata_provider.schedulers.registry import scheduler
from airavata_provider.schedulers.request import (
    BY_SCHEDULER,
    Array,
    Dependency,
    Element,
    JobRequest,
    MailEvent,
    Signal,
)
from tests.contract.hosts import MemoryStore, job

PATIENCE_S = 120.0
"""What a busy machine may take for anything."""

REF = JobRef("12", "ajob", "/scratch/d")
noise = st.builds(CommandResult, st.integers(0, 255), st.text(), st.text())
TEXTS = ("queue", "account", "qos", "reservation", "constraint", "gpu_type", "mail_to", "comment")
"""Fields whose text reaches a directive."""

EVERYTHING = JobRequest(
    name="ajob", directory="/d", executable="x", queue="q", nodes=2, tasks=4, tasks_per_node=2, cpus_per_task=2,
    memory_mb=100, gpus=1, gpu_type="a100", walltime_s=60, account="a", qos="o", reservation="r", exclusive=True,
    constraint="fast", licenses=("l:2",), array=Array((Element(0, "/d/0"), Element(1, "/d/1")), 1),
    after=(Dependency("12"),), mail_to="a@b.c", mail_events=frozenset(MailEvent), export=("PATH",),
    signal_before_end_s=30, signal=Signal.TERM,
)  # fmt: skip


def _with(field: str, value: Any) -> JobRequest:
    return replace(EVERYTHING, **{field: value})


class _Losing:
    """The first answer never arrives."""

    def __init__(self, host: RemoteHost) -> None:
        self._host, self._lost = host, False

    @property
    def name(self) -> str:
        return self._host.name

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        result = await self._host.run(command, timeout=timeout)
        if not self._lost:
            self._lost = True
            cut = ConnectFailed("the connection was cut")
            cut.started = True
            raise cut
        return result


class PureContract:
    """What needs no scheduler."""

    adaptor: Scheduler

    plain: ClassVar[Mapping[str, str]] = {}
    """For a text field that cannot be any word (a reservation that has a number): one that it can be."""

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

    def test_noise_is_never_a_load(self) -> None:
        asks = self.adaptor.load_command(["", "q"]) is not None

        @given(noise)
        def holds(result: CommandResult) -> None:
            with pytest.raises(AnswerUnreadable if asks else NotImplementedError):
                self.adaptor.parse_load(result, ["", "q"])

        holds()

    def test_a_queue_is_quoted_wherever_it_stands(self) -> None:
        assert "'$(x)" not in (self.adaptor.load_command(["q'$(x)`y`"]) or "")

    def words(self, line: str) -> list[str]:
        """A directive's words, as the scheduler splits them."""
        return shlex.split(line)

    def test_no_value_makes_a_second_directive(self) -> None:
        text = st.text(min_size=1) | st.sampled_from(
            ["a b", "a\n-x", "a -x", "a;b", "a=b", '"', "'", "\\", "a,b", "-x"]
        )

        @given(st.sampled_from(TEXTS), text)
        def holds(field: str, value: str) -> None:
            plain, wild = (_with(field, each) for each in (self.plain.get(field, "plain"), value))
            try:
                lines = self.adaptor.directives(wild)
            except ConfigurationError:
                return
            expected = self.adaptor.directives(plain)
            assert len(lines) <= len(expected)
            for line in lines:
                assert line.splitlines() == [line]
                assert line.startswith(self.adaptor.prefix)
            if len(lines) == len(expected):
                assert [len(self.words(line)) for line in lines] == [len(self.words(line)) for line in expected]

        holds()

    def test_what_is_asked_for_is_said_or_told(self) -> None:
        known = {name for option in self.adaptor.entries for name in option.fields}
        told = self.adaptor.unsupported(EVERYTHING)
        assert all(told.values())
        if self.adaptor.options:
            assert known | set(told) >= BY_SCHEDULER

    def test_a_signal_before_the_walltime_can_be_had(self) -> None:
        request = JobRequest("ajob", "/d", "x", walltime_s=600, signal_before_end_s=30, signal=Signal.TERM)
        assert not {"signal_before_end_s", "signal"} & self.adaptor.unsupported(request).keys()
        late = replace(request, walltime_s=30)
        assert {"signal_before_end_s", "signal"} <= self.adaptor.unsupported(late).keys()


class JobsContract(PureContract):
    """And jobs that really run."""

    @pytest.fixture
    async def host(self) -> AsyncIterator[RemoteHost]:
        """Where its commands run."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture named host")
        yield

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
        """Ask until the job is in one of the states, the queue first, and of its end the history too."""
        end = time.monotonic() + PATIENCE_S
        while True:
            status = (await self.states(host, ref)).get(ref.native_id)
            if status is None and any(state.terminal for state in wanted):
                history = await host.run(self.adaptor.history_command([ref]))
                status = self.adaptor.parse_history(history, [ref]).get(ref.native_id)
            if status is not None and status.state in wanted:
                return status
            assert time.monotonic() < end, f"the job is {status}"
            await asyncio.sleep(0.2)

    async def end(self, host: RemoteHost, ref: JobRef) -> JobStatus:
        """What the history says once the job left the queue, or the queue has the same end."""
        end = time.monotonic() + PATIENCE_S
        while True:
            queued = (await self.states(host, ref)).get(ref.native_id)
            result = await host.run(self.adaptor.history_command([ref]))
            found = self.adaptor.parse_history(result, [ref]).get(ref.native_id)
            if found is not None and (queued is None or queued.state is found.state):
                return found
            assert time.monotonic() < end, f"no history: {queued}, {found}, {result}"
            await asyncio.sleep(0.5)

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

    async def test_each_end_has_its_outcome(self, host: RemoteHost, folder: Path) -> None:
        shells = {"true": Outcome.COMPLETED, "exit 3": Outcome.FAILED, "kill -SEGV $$": Outcome.SIGNALED}
        refs = {await self.submitted(host, self.request_(folder, shell)): each for shell, each in shells.items()}
        late = await self.submitted(host, self.request_(folder, "sleep 600"))
        for ref, outcome in refs.items():
            assert (await self.end(host, ref)).outcome is outcome
        await self.until(host, late, JobState.ACTIVE)
        await host.run(self.adaptor.cancel_command([late]))
        end = await self.end(host, late)
        assert (end.state, end.outcome) == (JobState.CANCELED, Outcome.CANCELED)

    @pytest.mark.parametrize("signal", [None, Signal.TERM])
    async def test_a_program_is_told_before_its_walltime(
        self, host: RemoteHost, folder: Path, signal: Signal | None
    ) -> None:
        shell = f"trap 'echo noticed; exit 4' {signal or 'USR1'}; echo ready; while :; do sleep 0.1; done"
        request = self.request_(folder, shell, walltime_s=60, signal_before_end_s=50, signal=signal)
        assert (await self.end(host, await self.submitted(host, request))).exit_code == 4
        assert (folder / "stdout.txt").read_text() == "ready\nnoticed\n"

    async def test_one_command_tells_of_all_jobs_and_a_forgotten_one_spoils_nothing(
        self, host: RemoteHost, folder: Path
    ) -> None:
        refs = [await self.submitted(host, self.request_(folder, "sleep 280")) for _ in range(3)]
        forgotten = JobRef("999999999", "anever", str(folder))
        states = await self.states(host, forgotten, *refs)
        assert set(states) == {ref.native_id for ref in refs}
        await host.run(self.adaptor.cancel_command(refs))

    async def load(self, host: RemoteHost) -> QueueLoad | None:
        """How full it is where a job goes that names no queue; None: the scheduler cannot be asked."""
        command = self.adaptor.load_command([""])
        return None if command is None else self.adaptor.parse_load(await host.run(command), [""])[""]

    async def test_what_runs_is_in_the_load(self, host: RemoteHost, folder: Path) -> None:
        ref = await self.submitted(host, self.request_(folder, "sleep 600"))
        await self.until(host, ref, JobState.ACTIVE)
        end = time.monotonic() + PATIENCE_S
        while (load := await self.load(host)) is not None and not (load.running or load.busy):
            assert time.monotonic() < end, load
            await asyncio.sleep(0.2)
        await host.run(self.adaptor.cancel_command([ref]))

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
        end = time.monotonic() + PATIENCE_S
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

    async def losing(self, host: RemoteHost) -> RemoteHost:
        """A host whose next submit command is run and whose answer never arrives: here, the connection is cut.

        Override it where the scheduler's own command can be told to time out.
        """
        return _Losing(host)

    async def test_a_job_that_was_accepted_without_an_answer_is_found_and_runs_once(
        self, host: RemoteHost, folder: Path
    ) -> None:
        loses = await self.losing(host)
        request = self.request_(folder, "echo run >>runs; sleep 1")
        store, intent = MemoryStore(), job(request.name, request.directory)
        hurry = Patience(pauses_s=(0.2,))
        native_id = await submit(
            loses, self.adaptor, request, store=store, job=intent, first=True, deadline_s=60, patience=hurry
        )
        again = await submit(host, self.adaptor, request, store=store, job=intent, patience=hurry)
        assert again == native_id
        assert (await self.end(host, JobRef(native_id, request.name, request.directory))).state is JobState.COMPLETE
        assert (folder / "runs").read_text() == "run\n"


class SchedulerContract(JobsContract):
    """And arrays."""

    def elements(self, native_id: str, request: JobRequest) -> list[JobRef]:
        """References to an array's elements."""
        assert request.array is not None
        return [
            JobRef(self.adaptor.element_id(native_id, index), request.name, request.directory, index)
            for index in request.array.indices
        ]

    async def array(self, host: RemoteHost, folder: Path, *shells: str, throttle: int | None = None) -> list[JobRef]:
        """Submit an array with one element for each shell text, in folders of their own; its elements."""
        elements = []
        for index, shell in enumerate(shells):
            (folder / str(index)).mkdir()
            (folder / str(index)).chmod(0o777)  # the job's account may be another one
            elements.append(Element(index, str(folder / str(index)), ("-c", shell)))
        request = replace(self.request_(folder, ""), array=Array(tuple(elements), throttle))
        return self.elements((await self.submitted(host, request)).native_id, request)

    async def test_an_array_has_a_state_for_each_element(self, host: RemoteHost, folder: Path) -> None:
        refs = await self.array(host, folder, "echo zero", "exit 5", "touch up; sleep 600", "kill -SEGV $$")
        good, bad, long, broken = refs
        await self.until(host, long, JobState.ACTIVE)
        ends = [await self.end(host, ref) for ref in (good, bad, broken)]
        assert [(end.state, end.exit_code) for end in ends] == [
            (JobState.COMPLETE, 0),
            (JobState.FAILED, 5),
            (JobState.FAILED, 139),
        ], ends
        assert (folder / "0" / "stdout.txt").read_text() == "zero\n"
        # Only that element is cancelled, and the others' ends stay what they were.
        await host.run(self.adaptor.cancel_command([long]))
        assert (await self.end(host, long)).state is JobState.CANCELED
        assert (await self.end(host, good)).state is JobState.COMPLETE

    async def test_one_element_is_cancelled_and_the_other_goes_on(self, host: RemoteHost, folder: Path) -> None:
        first, second = await self.array(host, folder, "sleep 600", "while [ ! -e go ]; do sleep 0.1; done")
        for ref in (first, second):
            await self.until(host, ref, JobState.ACTIVE)
        await host.run(self.adaptor.cancel_command([first]))
        assert (await self.end(host, first)).state is JobState.CANCELED
        assert (await self.states(host, second))[second.native_id].state is JobState.ACTIVE
        (folder / "1" / "go").touch()
        assert (await self.end(host, second)).state is JobState.COMPLETE

    async def test_a_throttle_is_kept(self, host: RemoteHost, folder: Path) -> None:
        shell = "mkdir ../one || exit 9; sleep 1; rmdir ../one"
        refs = await self.array(host, folder, shell, shell, throttle=1)
        for ref in refs:
            assert (await self.end(host, ref)).state is JobState.COMPLETE


class WalltimeContract(JobsContract):
    """And a walltime of a second, which a real scheduler's clock may be too coarse for."""

    async def test_the_walltime_is_kept_and_told(self, host: RemoteHost, folder: Path) -> None:
        ref = await self.submitted(host, self.request_(folder, "sleep 600", walltime_s=1))
        status = await self.until(host, ref, JobState.FAILED)
        if self.adaptor.enforces_walltime:
            end = await self.end(host, ref)
            assert (end.state, end.outcome) == (JobState.FAILED, Outcome.WALLTIME)
        else:
            assert (status.exit_code, status.reason, status.outcome) == (143, "WALLTIME", Outcome.WALLTIME)
