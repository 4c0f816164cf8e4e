"""One job in a scheduler's own records, wherever a submission is cut: the same faults for every real scheduler.

A test module subclasses :class:`SubmissionSuite` and says how its scheduler is asked, and how it fails.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airavata_provider.errors import ConnectFailed, SubmissionRefused, SubmissionUncertain
from airavata_provider.jobs.store import JobStore
from airavata_provider.jobs.submission import RemoteHost, submit
from airavata_provider.models.job import SubmissionState
from airavata_provider.schedulers.base import CommandResult, JobRef, Scheduler
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.ssh.host import Host
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Limits, Target
from tests.bed import Bed
from tests.contract.hosts import MemoryStore, job
from tests.integration.bent_hosts import PATIENCE, Bent, BentShared
from tests.integration.submitter import Told, intend_and_submit, submitter

Records = Callable[[], list[str]]
Shim = Callable[[str, str], str]

CUT = """\
said=$($real "$@"); status=$?
if [ $n -eq 0 ]; then
  session= process=$$
  until case $(cat /proc/$process/comm) in sshd*) true;; *) false;; esac; do
    session="$process $session"
    process=$(sed -n 's/^PPid:[^0-9]*//p' /proc/$process/status)
    [ -e "/proc/$process/comm" ] || exit 1
  done
  kill -9 $process KILLED
fi
printf '%s\\n' "$said"
exit $status"""
"""Takes its connection away from a submit command's answer, by the end of the sshd process that serves it."""


@cache
def _path(bed: Bed, command: str) -> str:
    return bed.run(f"command -v {command}").stdout.strip()


class SubmissionSuite:
    """The fault table of a submission, over real sshd and one real scheduler."""

    adaptor: ClassVar[Scheduler]
    submitter: ClassVar[str]
    """The submit command."""

    queue: ClassVar[str]
    """The command that shows the queue."""

    history: ClassVar[str]
    """The command that shows jobs that left it."""

    list_ids: ClassVar[str]
    """Shell command that prints the ids of all jobs named ``$NAME``, ended or not, one word each."""

    timed_out: ClassVar[str]
    """What the submit command says when it times out, for ``echo``."""

    queue_timeout: ClassVar[str]
    """Shell code in the queue command's place, for a controller that times out."""

    empty_queue: ClassVar[str]
    """The same, for a queue without any job."""

    history_down: ClassVar[str]
    """Shell code in the history command's place, for a history that does not answer."""

    empty_history: ClassVar[str]
    """The same, for a history without any job."""

    hold: ClassVar[str]
    """Directive that keeps a job waiting."""

    bad_queue: ClassVar[str]
    """What a refusal of a queue that does not exist says, as a pattern."""

    @pytest.fixture
    async def raw_host(self, ssh_target: Target) -> AsyncIterator[Host]:
        pool = SSHPool()
        yield pool.host(ssh_target)
        await pool.close()

    @pytest.fixture
    def request_(self, bed_dir: str) -> JobRequest:
        return JobRequest(f"a{os.urandom(7).hex()}", bed_dir, "sleep", ("3",), walltime_s=300)

    @pytest.fixture
    def held(self, bed: Bed, request_: JobRequest, records: Records) -> Iterator[JobRequest]:
        """One whose job waits: it has no word of its own, which would tell its id."""
        yield replace(request_, directives=(self.hold,))
        for native_id in records():
            ref = JobRef(native_id, request_.name, request_.directory)
            bed.run(self.adaptor.cancel_command([ref]), check=False)

    @pytest.fixture
    def told(self, ssh_target: Target, held: JobRequest, store: JobStore, tmp_path: Path) -> Told:
        """For a process that submits that request, with that store."""
        target = ssh_target
        assert target.private_key_file is not None
        assert target.known_hosts is not None
        return Told(
            scheduler=self.adaptor.name,
            store=f"sqlite:///{tmp_path / 'jobs.db'}",
            host=target.host,
            port=target.port,
            user=target.user,
            key=target.private_key_file,
            known_hosts=target.known_hosts,
            name=held.name,
            directory=held.directory,
            directives=held.directives,
        )

    @pytest.fixture
    def records(self, bed: Bed, request_: JobRequest) -> Records:
        """Ids under the job's name in the scheduler's own record."""

        def ask() -> list[str]:
            return bed.run(f"NAME={request_.name}; {self.list_ids}").stdout.split()

        return ask

    @pytest.fixture
    def shim(self, bed: Bed, bed_dir: str) -> Shim:
        """``shim(command, body)`` puts a stand-in before a command; ``$real`` in it is the real one. Shell prefix."""

        def make(command: str, body: str) -> str:
            real = _path(bed, command)
            text = f"#!/bin/sh\nreal={real}\nn=$(cat $0.n 2>/dev/null || echo 0); echo $((n + 1)) >$0.n\n{body}\n"
            subprocess.run(["install", "-d", "-m", "755", f"{bed_dir}/bin"], check=True)
            file = Path(bed_dir, "bin", command)
            file.write_text(text)
            file.chmod(0o755)
            Path(bed_dir, "bin").chmod(0o777)
            return f"PATH={bed_dir}/bin:$PATH; export PATH\n"

        return make

    async def send(self, host: RemoteHost, request: JobRequest, **options: Any) -> str:
        """Submit, without patience."""
        options.setdefault("first", True)
        options.setdefault("store", MemoryStore())
        options.setdefault("patience", PATIENCE)
        return await submit(host, self.adaptor, request, job=job(request.name, request.directory), **options)

    async def test_plainly(self, raw_host: Host, request_: JobRequest, records: Records) -> None:
        store = MemoryStore()
        native_id = await self.send(raw_host, request_, store=store)
        assert records() == [native_id]
        assert store.outcomes[request_.name] == (SubmissionState.SUBMITTED, native_id)

    async def test_the_connection_is_cut_before_anything_runs(
        self, raw_host: Host, request_: JobRequest, records: Records
    ) -> None:
        class Cut(Bent):
            async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
                raise ConnectFailed("cut")

        with pytest.raises(ConnectFailed):
            await self.send(Cut(raw_host), request_)
        assert records() == []
        native_id = await self.send(raw_host, request_, first=False)
        assert records() == [native_id]

    @pytest.mark.parametrize("then", ["goes on", "ends, too"])
    async def test_the_connection_is_cut_after_the_scheduler_accepted(
        self, raw_host: Host, held: JobRequest, records: Records, shim: Shim, then: str
    ) -> None:
        """``then``: what ran in the session."""
        killed = "$session" if then == "ends, too" else ""
        host = BentShared(raw_host, shim(self.submitter, CUT.replace("KILLED", killed)))
        native_id = await self.send(host, held)
        assert host.cut == [True]
        assert records() == [native_id]

    async def test_the_process_is_killed_before_it_saves_the_id(
        self, raw_host: Host, told: Told, store: JobStore, records: Records
    ) -> None:
        with submitter(replace(told, dies=True)) as process:
            process.go()
            assert process.end() == (-signal.SIGKILL, "")
        (native_id,) = records()
        left = await store.job(told.name)
        assert left is not None
        assert (left.submission, left.native_id) == (SubmissionState.INTENDED, None)
        assert await intend_and_submit(BentShared(raw_host, ""), told, store) == native_id
        saved = await store.job(told.name)
        assert saved is not None
        assert (saved.submission, saved.native_id) == (SubmissionState.SUBMITTED, native_id)
        assert records() == [native_id]

    @pytest.mark.parametrize("then", ["fails without words", "times out", "is killed", "says nothing"])
    async def test_the_submit_command_submits_and_then(
        self, raw_host: Host, request_: JobRequest, records: Records, shim: Shim, then: str
    ) -> None:
        what = {
            "fails without words": "exit 1",
            "times out": f"echo {self.timed_out!r} >&2; exit 1",
            "is killed": "kill -9 $PPID $$",
            "says nothing": "exit 0",
        }[then]
        native_id = await self.send(Bent(raw_host, shim(self.submitter, f'$real "$@" >/dev/null; {what}')), request_)
        assert records() == [native_id]

    async def test_the_submit_command_submits_and_hangs(
        self,
        raw_host: Host,
        request_: JobRequest,
        records: Records,
        shim: Shim,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("airavata_provider.jobs.submission.SUBMIT_S", 2)
        native_id = await self.send(Bent(raw_host, shim(self.submitter, '$real "$@" >/dev/null; sleep 30')), request_)
        assert records() == [native_id]

    async def test_the_scheduler_never_got_it(
        self, raw_host: Host, request_: JobRequest, records: Records, shim: Shim
    ) -> None:
        host = Bent(raw_host, shim(self.submitter, '[ $n -gt 0 ] || exit 1; exec $real "$@"'))
        native_id = await self.send(host, request_, patience=replace(PATIENCE, grace_s=2))
        assert records() == [native_id]

    @pytest.mark.parametrize("then", ["goes on", "fails without words", "kills the session", "hangs"])
    async def test_one_of_those_who_share_a_session_submits_and(
        self, bed: Bed, ssh_target: Target, bed_dir: str, shim: Shim, monkeypatch: pytest.MonkeyPatch, then: str
    ) -> None:
        monkeypatch.setattr("airavata_provider.jobs.submission.SUBMIT_S", 2)
        monkeypatch.setattr("airavata_provider.jobs.submit_script.LOCK_S", 1)
        monkeypatch.setattr("airavata_provider.ssh.shared.SLOW_S", 1)
        requests = [JobRequest(f"a{os.urandom(7).hex()}", bed_dir, "sleep", ("3",), walltime_s=300) for _ in range(5)]
        what = {
            "goes on": "exit 0",
            "fails without words": "exit 1",
            "kills the session": "kill -9 0",
            "hangs": "sleep 30",
        }[then]
        out = "" if then == "goes on" else ">/dev/null"
        # Not the first one, which has a session of its own.
        struck = f'if mkdir $0.struck 2>/dev/null; then $real "$@" {out}; {what}; fi'
        prefix = shim(self.submitter, f'case "$*" in *{requests[2].name}*) {struck};; esac; exec $real "$@"')
        pool = SSHPool()
        target = replace(ssh_target, limits=Limits(max_connections=1, sessions_per_connection=1))
        try:
            host = BentShared(pool.host(target), prefix)
            ids = await asyncio.gather(*(self.send(host, request) for request in requests))
        finally:
            await pool.close()
        for request, native_id in zip(requests, ids, strict=True):
            assert bed.run(f"NAME={request.name}; {self.list_ids}").stdout.split() == [native_id]

    async def test_two_processes_try_the_same_task_at_the_same_time(
        self, bed_dir: str, told: Told, store: JobStore, records: Records, shim: Shim
    ) -> None:
        # The one that submits waits until the other is there.
        there = f"{bed_dir}/there"
        wait = f"until [ $(wc -l <{there}) -gt 1 ]; do sleep 0.1; done"
        before = f"echo >>{there}\n" + shim(self.submitter, f'{wait}; exec $real "$@"')
        told = replace(told, before=before)
        with submitter(told) as one, submitter(told) as other:
            for process in (one, other):
                process.ready()
            for process in (one, other):
                process.go()
            ends = {one.end(), other.end()}
        (native_id,) = records()
        assert ends == {(0, native_id)}
        saved = await store.job(told.name)
        assert saved is not None
        assert (saved.submission, saved.native_id) == (SubmissionState.SUBMITTED, native_id)

    @pytest.mark.parametrize("trouble", ["timeout", "failing", "hanging"])
    async def test_the_queue_in_trouble_during_the_look_up(
        self, raw_host: Host, request_: JobRequest, records: Records, shim: Shim, trouble: str
    ) -> None:
        # The history may know the job already, which would be an answer: it is in trouble too.
        shim(self.history, self.history_down)
        what = {"timeout": self.queue_timeout, "failing": "exit 1", "hanging": "sleep 60"}[trouble]
        shim(self.queue, f'[ $n -gt 1 ] || {{ {what}; }}; exec $real "$@"')
        prefix = shim(self.submitter, '$real "$@" >/dev/null; exit 1')
        native_id = await self.send(Bent(raw_host, prefix), request_)
        assert records() == [native_id]

    async def test_the_queue_is_empty_although_the_scheduler_has_the_job(
        self, raw_host: Host, request_: JobRequest, records: Records, shim: Shim
    ) -> None:
        shim(self.history, self.empty_history)
        shim(self.queue, f'[ $n -gt 1 ] || {{ {self.empty_queue}; exit 0; }}; exec $real "$@"')
        native_id = await self.send(Bent(raw_host, shim(self.submitter, '$real "$@" >/dev/null; exit 1')), request_)
        assert records() == [native_id]

    async def test_nobody_can_tell_to_the_end(
        self, raw_host: Host, request_: JobRequest, records: Records, shim: Shim
    ) -> None:
        shim(self.queue, "exit 1")
        shim(self.history, "exit 1")
        request = JobRequest(request_.name, request_.directory, "true", directives=(self.hold,))
        prefix = shim(self.submitter, '$real "$@" >/dev/null; exit 1')
        with pytest.raises(SubmissionUncertain, match=request.name):
            await self.send(Bent(raw_host, prefix), request, deadline_s=3)
        native_id = await self.send(raw_host, request, first=False)
        assert records() == [native_id]
        await raw_host.run(self.adaptor.cancel_command([JobRef(native_id, request.name, request.directory)]))

    async def test_noise_around_everything(
        self, raw_host: Host, request_: JobRequest, records: Records, shim: Shim
    ) -> None:
        noise = "echo Welcome; echo 'warning: 17' >&2; printf 'no newline'\n"
        prefix = shim(self.submitter, 'echo "---- site wrapper ----"; echo note >&2; exec $real "$@"')
        native_id = await self.send(Bent(raw_host, noise + prefix), request_)
        assert records() == [native_id]
        assert await self.send(Bent(raw_host, noise + prefix), request_, first=False) == native_id

    async def test_a_refusal_in_the_schedulers_words(self, raw_host: Host, request_: JobRequest) -> None:
        with pytest.raises(SubmissionRefused, match=self.bad_queue):
            await self.send(raw_host, replace(request_, queue="nope"))
        assert (await self.send(raw_host, request_, first=False)).isdigit()
