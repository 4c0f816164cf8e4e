"""One job in SLURM's own records, wherever a submission is cut, over real sshd and real SLURM."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from airavata_provider.errors import ConnectFailed, SubmissionRefused, SubmissionUncertain
from airavata_provider.jobs.submission import Patience, RemoteHost, submit
from airavata_provider.models.job import JobState, SubmissionState
from airavata_provider.schedulers.base import CommandResult
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.schedulers.slurm import Slurm
from airavata_provider.ssh.host import Host
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Target
from tests.bed import Bed
from tests.contract.hosts import MemoryStore, job
from tests.contract.suite import SchedulerContract

PATIENCE = Patience(grace_s=3, pauses_s=(0.5,))
"""A grace of seconds: this controller answers within milliseconds."""


class Bent:
    """A host whose commands see a folder of shims first, and whose answers a test may take away."""

    def __init__(self, host: Host, before: str = "", after: Callable[[int], None] | None = None) -> None:
        self.host, self.before, self.after = host, before, after
        self.count = 0

    @property
    def name(self) -> str:
        return self.host.name

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        number, self.count = self.count, self.count + 1
        result = await self.host.run(self.before + command, timeout=timeout)
        if self.after is not None:
            self.after(number)
        return result


@pytest.fixture
async def host(ssh_target: Target) -> AsyncIterator[Host]:
    pool = SSHPool()
    yield pool.host(ssh_target)
    await pool.close()


@pytest.fixture
def request_(bed_dir: str) -> JobRequest:
    return JobRequest(f"a{os.urandom(7).hex()}", bed_dir, "sleep", ("3",), walltime_s=300)


@pytest.fixture
def records(bed: Bed, request_: JobRequest) -> Callable[[], list[str]]:
    """Ids under the job's name in SLURM's own record."""

    def ask() -> list[str]:
        done = bed.run(f"squeue -h -t all -n {request_.name} -o %i")
        return done.stdout.split()

    return ask


@pytest.fixture
def shim(bed: Bed, bed_dir: str) -> Callable[[str, str], str]:
    """``shim(command, body)`` puts a stand-in before a command; ``$real`` in it is the real one. Shell prefix."""

    def make(command: str, body: str) -> str:
        real = bed.run(f"command -v {command}").stdout.strip()
        text = f"#!/bin/sh\nreal={real}\nn=$(cat $0.n 2>/dev/null || echo 0); echo $((n + 1)) >$0.n\n{body}\n"
        subprocess.run(["install", "-d", "-m", "755", f"{bed_dir}/bin"], check=True)
        file = Path(bed_dir, "bin", command)
        file.write_text(text)
        file.chmod(0o755)
        Path(bed_dir, "bin").chmod(0o777)
        return f"PATH={bed_dir}/bin:$PATH; export PATH\n"

    return make


async def send(host: RemoteHost, request: JobRequest, **options: Any) -> str:
    options.setdefault("first", True)
    options.setdefault("store", MemoryStore())
    options.setdefault("patience", PATIENCE)
    return await submit(host, Slurm(), request, job=job(request.name, request.directory), **options)


async def test_plainly(host: Host, request_: JobRequest, records: Callable[[], list[str]]) -> None:
    store = MemoryStore()
    native_id = await send(host, request_, store=store)
    assert records() == [native_id]
    assert store.outcomes[request_.name] == (SubmissionState.SUBMITTED, native_id)


async def test_the_connection_is_cut_after_slurm_accepted(
    host: Host, request_: JobRequest, records: Callable[[], list[str]]
) -> None:
    def cut(number: int) -> None:
        if number == 0:
            error = ConnectFailed("cut")
            error.started = True
            raise error

    native_id = await send(Bent(host, after=cut), request_)
    assert records() == [native_id]


async def test_the_submitter_is_killed_before_it_saves_the_id(
    host: Host, request_: JobRequest, records: Callable[[], list[str]]
) -> None:
    class Killed(Exception):
        pass

    class Dying(MemoryStore):
        async def submitted(self, name: str, native_id: str, at: object, element_id: object = None) -> None:
            raise Killed

    with pytest.raises(Killed):
        await send(host, request_, store=Dying())
    native_id = await send(host, request_, first=False)
    assert records() == [native_id]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param('$real "$@" >/dev/null; exit 1', id="fails without words"),
        pytest.param(
            '$real "$@" >/dev/null; echo "sbatch: error: Batch job submission failed: Socket timed out on'
            ' send/recv operation" >&2; exit 1',
            id="times out",
        ),
        pytest.param('$real "$@" >/dev/null; kill -9 $PPID $$', id="is killed"),
        pytest.param('$real "$@" >/dev/null; exit 0', id="says nothing"),
    ],
)
async def test_sbatch_accepts_and_then(
    host: Host, request_: JobRequest, records: Callable[[], list[str]], shim: Callable[[str, str], str], body: str
) -> None:
    native_id = await send(Bent(host, shim("sbatch", body)), request_)
    assert records() == [native_id]


async def test_sbatch_accepts_and_hangs(
    host: Host,
    request_: JobRequest,
    records: Callable[[], list[str]],
    shim: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("airavata_provider.jobs.submission.SUBMIT_S", 2)
    native_id = await send(Bent(host, shim("sbatch", '$real "$@" >/dev/null; sleep 30')), request_)
    assert records() == [native_id]


async def test_the_whole_session_is_killed_after_slurm_accepted(
    host: Host, request_: JobRequest, records: Callable[[], list[str]], shim: Callable[[str, str], str]
) -> None:
    prefix = shim("sbatch", '$real "$@" >/dev/null; [ $n -gt 0 ] || kill -9 0')
    native_id = await send(Bent(host, prefix), request_)
    assert records() == [native_id]


async def test_slurm_never_got_it(
    host: Host, request_: JobRequest, records: Callable[[], list[str]], shim: Callable[[str, str], str]
) -> None:
    native_id = await send(Bent(host, shim("sbatch", '[ $n -gt 0 ] || exit 1; exec $real "$@"')), request_)
    assert records() == [native_id]


async def test_two_submitters(host: Host, request_: JobRequest, records: Callable[[], list[str]]) -> None:
    ids = await asyncio.gather(*(send(host, request_, first=n % 2 == 0) for n in range(4)))
    assert records() == [ids[0]]
    assert set(ids) == {ids[0]}


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(
            "echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 0", id="timeout"
        ),
        pytest.param("exit 1", id="failing"),
        pytest.param("sleep 60", id="hanging"),
    ],
)
async def test_squeue_in_trouble_during_the_look_up(
    host: Host,
    request_: JobRequest,
    records: Callable[[], list[str]],
    shim: Callable[[str, str], str],
    trouble: str,
) -> None:
    # Accounting may know the job already, which would be an answer: it is in trouble too.
    shim("sacct", "echo 'sacct: error: Connection refused' >&2; exit 1")
    shim("squeue", f'[ $n -gt 1 ] || {{ {trouble}; }}; exec $real "$@"'.replace("sleep 60", "sleep 31"))
    prefix = shim("sbatch", '$real "$@" >/dev/null; exit 1')
    native_id = await send(Bent(host, prefix), request_)
    assert records() == [native_id]


async def test_squeue_is_empty_although_slurm_has_the_job(
    host: Host, request_: JobRequest, records: Callable[[], list[str]], shim: Callable[[str, str], str]
) -> None:
    shim("sacct", "exit 0")
    shim("squeue", '[ $n -gt 1 ] || exit 0; exec $real "$@"')
    native_id = await send(Bent(host, shim("sbatch", '$real "$@" >/dev/null; exit 1')), request_)
    assert records() == [native_id]


async def test_nobody_can_tell_to_the_end(
    host: Host, request_: JobRequest, records: Callable[[], list[str]], shim: Callable[[str, str], str]
) -> None:
    shim("squeue", "exit 1")
    shim("sacct", "exit 1")
    request = JobRequest(request_.name, request_.directory, "true", directives=("--hold",))
    prefix = shim("sbatch", '$real "$@" >/dev/null; exit 1')
    with pytest.raises(SubmissionUncertain, match=request.name):
        await send(Bent(host, prefix), request, deadline_s=3)
    native_id = await send(host, request, first=False)
    assert records() == [native_id]


async def test_noise_around_everything(
    host: Host, request_: JobRequest, records: Callable[[], list[str]], shim: Callable[[str, str], str]
) -> None:
    noise = "echo Welcome; echo 'warning: 17' >&2; printf 'no newline'\n"
    prefix = shim("sbatch", 'echo "---- site wrapper ----"; echo note >&2; exec $real "$@"')
    native_id = await send(Bent(host, noise + prefix), request_)
    assert records() == [native_id]
    assert await send(Bent(host, noise + prefix), request_, first=False) == native_id


async def test_a_refusal_in_slurms_words(host: Host, bed_dir: str) -> None:
    request = JobRequest("arefused", bed_dir, "true", queue="nope")
    with pytest.raises(SubmissionRefused, match="Invalid partition name specified"):
        await send(host, request)
    cured = JobRequest("arefused", bed_dir, "true")
    assert (await send(host, cured, first=False)).isdigit()


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

    async def test_a_requeued_job_is_followed_under_its_id(self, host: RemoteHost, folder: Path, bed: Bed) -> None:
        ref = await self.submitted(host, self.request_(folder, "sleep 4; exit 3"))
        await self.until(host, ref, JobState.ACTIVE)
        bed.run(f"scontrol requeue {ref.native_id}")
        await self.until(host, ref, JobState.QUEUED)
        bed.run(f"scontrol update jobid={ref.native_id} starttime=now")
        await self.until(host, ref, JobState.ACTIVE)
        end = await self.end(host, ref)
        assert (end.state, end.exit_code) == (JobState.FAILED, 3)
        record = (folder / ".airavata" / ref.name / "started").read_text()
        assert record == f"{ref.native_id} 1\n"
