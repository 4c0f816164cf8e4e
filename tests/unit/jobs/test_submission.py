"""One submission, whatever is cut, killed, or tried at the same time.

The scheduler here is a folder: its submit command makes one file per accepted job, in it the job's name.
"""

from __future__ import annotations

import asyncio
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airavata_provider.errors import (
    AnswerUnreadable,
    CommandTimedOut,
    ConnectFailed,
    SchedulerError,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.jobs.submission import CLOCKS_S, GRACE_S, Patience, submit
from airavata_provider.models.job import SubmissionState
from airavata_provider.models.outcome import ADVICE, Outcome
from airavata_provider.schedulers import frame
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler, quote
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.schedulers.script import Webhook
from tests.contract.hosts import LocalHost, MemoryStore, ScriptedHost, job


class Folder(Scheduler):
    """A scheduler that is a folder.

    :ivar ages: how old the jobs that were looked up could be
    :ivar old: whether every job there is older
    :param mode: what its submit command does besides: nothing, ``lost``, ``late`` and ``hang`` after accepting;
        ``vanish`` and ``refuse`` without
    """

    name: ClassVar[str] = "folder"
    native_id_expression: ClassVar[str] = "1"

    def __init__(self, place: Path) -> None:
        self.place = place
        self.queue = place / "queue"
        self.queue.mkdir(parents=True)
        self.ages: list[float] = []
        self.old = False
        self.mode("good")
        self.find("good")

    def mode(self, mode: str) -> None:
        (self.place / "mode").write_text(mode)

    def find(self, mode: str) -> None:
        (self.place / "find").write_text(mode)

    @property
    def jobs(self) -> list[str]:
        return sorted(file.name for file in self.queue.iterdir())

    def directives(self, request: JobRequest) -> Sequence[str]:
        return ()

    def submit_command(self, script: str, request: JobRequest) -> str:
        accept = f'id=$(mktemp {quote(str(self.queue))}/XXXXXX) && echo {quote(request.name)} >"$id"'
        told = 'echo "banner"; echo "ID $(basename "$id")"'
        return (
            f"case $(cat {quote(str(self.place / 'mode'))}) in\n"
            f"good) [ -s {quote(script)} ] && {accept} && {told};;\n"
            f"lost) {accept}; exit 1;;\n"
            f"killed) {accept}; kill -9 $PPID $$;;\n"
            "vanish) exit 1;;\n"
            "refuse) echo 'REFUSED: invalid account' >&2; exit 3;;\n"
            "esac"
        )

    def parse_submit(self, result: CommandResult) -> str:
        if "REFUSED" in result.stderr:
            raise SubmissionRefused(result.stderr.strip())
        _, found, rest = result.stdout.partition("ID ")
        if result.exit_status or not found:
            raise SubmissionUncertain(f"status {result.exit_status}")
        return rest.split()[0]

    def find_command(self, name: str, user: str | None, directory: str) -> str:
        mode = quote(str(self.place / "find"))
        look = f"grep -lx {quote(name)} {quote(str(self.queue))}/* || :"
        return f"{frame.SETUP}\n{frame.frame('find', f'[ $(cat {mode}) = good ] && {{ {look}; }}')}"

    def parse_find(self, result: CommandResult, name: str) -> str | None:
        answer = frame.whole(result.stdout, "find")
        if answer.status:
            raise AnswerUnreadable("the folder does not answer")
        return Path(answer.lines[0]).name if answer.lines else None

    def parse_find_within(self, result: CommandResult, name: str, age_s: float) -> str | None:
        """:meth:`parse_find`; remembers how old it was told that the job may be."""
        self.ages.append(age_s)
        return None if self.old else self.parse_find(result, name)

    def status_command(self, jobs: Sequence[JobRef]) -> str:
        raise NotImplementedError

    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        raise NotImplementedError

    history_command = status_command
    parse_history = parse_status
    cancel_command = status_command


@dataclass
class Clock:
    """Time that passes when somebody sleeps, and what happens meanwhile."""

    now: float = 1_800_000_000.0
    slept: list[float] = field(default_factory=list)
    meanwhile: dict[int, Any] = field(default_factory=dict)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if act := self.meanwhile.get(len(self.slept)):
            act()
        self.slept.append(seconds)
        await asyncio.sleep(0)

    def patience(self) -> Patience:
        return Patience(sleep=self.sleep, clock=lambda: self.now)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "scheduler 'x'")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def request_(tmp_path: Path) -> JobRequest:
    (tmp_path / "work").mkdir()
    return JobRequest("ajob", str(tmp_path / "work"), "true")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def control(request: JobRequest) -> Path:
    return Path(control_directory(request.directory, request.name))


class Try:
    """What one try is called with."""

    def __init__(self, folder: Folder, request: JobRequest, store: MemoryStore, clock: Clock) -> None:
        self.folder, self.request, self.store, self.clock = folder, request, store, clock

    async def __call__(self, host: LocalHost | None = None, **options: Any) -> str:
        return await submit(
            host or LocalHost(),
            self.folder,
            self.request,
            store=self.store,
            job=job(self.request.name, self.request.directory),
            patience=self.clock.patience(),
            **options,
        )


@pytest.fixture
def attempt(folder: Folder, request_: JobRequest, store: MemoryStore, clock: Clock) -> Try:
    return Try(folder, request_, store, clock)


async def test_a_first_try_is_one_round_trip_without_a_look_up(attempt: Try) -> None:
    attempt.folder.find("bad")
    host = LocalHost(noise="Welcome to the cluster!\nID 17\n")
    native_id = await attempt(host, first=True, webhook=Webhook("http://h/x", "tok"))
    assert attempt.folder.jobs == [native_id]
    assert len(host.commands) == 1
    assert attempt.store.outcomes == {"ajob": (SubmissionState.SUBMITTED, native_id)}
    files = control(attempt.request)
    assert stat.S_IMODE(files.stat().st_mode) == 0o700
    assert stat.S_IMODE((files / "webhook").stat().st_mode) == 0o600
    assert (files / "webhook").read_text() == 'header = "Authorization: Bearer tok"\n'
    assert "tok" not in (files / "script").read_text()


async def test_a_second_try_finds_the_first_ones_answer(attempt: Try) -> None:
    first = await attempt(first=True)
    attempt.folder.find("bad")
    for no_one_before in (False, True):
        assert await attempt(first=no_one_before) == first
    assert attempt.folder.jobs == [first]


async def test_a_job_of_that_name_from_before_the_intent_is_not_ours(
    folder: Folder, request_: JobRequest, store: MemoryStore, clock: Clock
) -> None:
    """After a reset of the controller, or with a new job store, the scheduler may remember another's job."""
    foreign = folder.queue / "foreign"
    foreign.write_text(request_.name + "\n")
    folder.old = True
    intended = datetime.fromtimestamp(clock.now - 1000, UTC)
    native_id = await submit(
        LocalHost(), folder, request_, store=store, job=replace(job("ajob", request_.directory), created_at=intended),
        patience=clock.patience(), first=False,
    )  # fmt: skip
    assert native_id != "foreign"
    assert folder.jobs == sorted(["foreign", native_id])
    # As old as the intent, and what clocks may differ by, and no older.
    assert folder.ages == [1000 + CLOCKS_S]


async def test_without_a_time_of_the_intent_every_job_of_that_name_is_ours(attempt: Try) -> None:
    (attempt.folder.queue / "found").write_text("ajob\n")
    attempt.folder.mode("vanish")
    assert await attempt(first=False) == "found"
    assert attempt.folder.ages == [float("inf")]


async def test_a_job_that_the_store_knows_needs_no_host(attempt: Try) -> None:
    known = replace(job("ajob", "/d"), native_id="17", submission=SubmissionState.SUBMITTED)
    host = LocalHost()
    assert await submit(host, attempt.folder, attempt.request, store=attempt.store, job=known) == "17"
    assert host.commands == []


async def test_a_later_try_looks_up_even_when_the_directory_is_gone(attempt: Try) -> None:
    first = await attempt(first=True)
    shutil.rmtree(control(attempt.request))
    assert await attempt() == first
    assert attempt.folder.jobs == [first]


async def test_a_later_try_without_any_trace_submits(attempt: Try) -> None:
    host = LocalHost()
    assert [await attempt(host)] == attempt.folder.jobs
    assert len(host.commands) == 2


async def test_before_anything_was_sent_the_error_is_the_callers(attempt: Try) -> None:
    def refuse(number: int) -> None:
        raise ConnectFailed("no route", where="h")

    with pytest.raises(ConnectFailed):
        await attempt(ScriptedHost(before=refuse), first=True)
    assert attempt.store.outcomes == {}
    assert attempt.folder.jobs == []


@pytest.mark.parametrize("error", [CommandTimedOut("cut"), ConnectFailed("cut")])
async def test_an_answer_lost_on_the_way_is_asked_for_again(attempt: Try, error: ConnectFailed) -> None:
    error.started = True

    def lose(number: int, result: CommandResult) -> CommandResult:
        if number == 0:
            raise error
        return result

    host = ScriptedHost(after=lose)
    assert [await attempt(host, first=True)] == attempt.folder.jobs
    assert len(host.commands) == 2


@pytest.mark.parametrize("cut", [0, 1, 40, 75, -2])
async def test_a_cut_answer_is_asked_for_again(attempt: Try, cut: int) -> None:
    def shorten(number: int, result: CommandResult) -> CommandResult:
        return replace(result, stdout=result.stdout[:cut]) if number == 0 else result

    assert [await attempt(ScriptedHost(after=shorten), first=True)] == attempt.folder.jobs


async def test_a_remote_script_that_did_not_arrive_whole_does_nothing(attempt: Try) -> None:
    host = LocalHost()
    await attempt(host, first=True)
    text = host.commands[0]
    for place in range(1, 12):
        shutil.rmtree(control(attempt.request))
        shutil.rmtree(attempt.folder.queue)
        attempt.folder.queue.mkdir()
        await LocalHost().run(text[: len(text) * place // 12])
        assert attempt.folder.jobs == []
        control(attempt.request).mkdir()


@pytest.mark.parametrize("mode", ["lost", "killed"])
async def test_accepted_and_the_answer_lost_in_the_scheduler(attempt: Try, mode: str) -> None:
    attempt.folder.mode(mode)
    native_id = await attempt(first=True)
    assert attempt.folder.jobs == [native_id]
    assert await attempt() == native_id
    assert attempt.store.outcomes["ajob"] == (SubmissionState.SUBMITTED, native_id)


async def test_not_accepted_and_no_answer_is_submitted_after_the_grace(attempt: Try) -> None:
    attempt.folder.mode("vanish")
    attempt.clock.meanwhile[0] = lambda: attempt.folder.mode("good")
    native_id = await attempt(first=True)
    assert attempt.folder.jobs == [native_id]
    assert sum(attempt.clock.slept) >= GRACE_S


async def test_a_job_that_turns_up_late_is_found(attempt: Try) -> None:
    attempt.folder.mode("vanish")

    def accept() -> None:
        (attempt.folder.queue / "late").write_text("ajob\n")

    attempt.clock.meanwhile[4] = accept
    assert await attempt(first=True) == "late"
    assert attempt.folder.jobs == ["late"]


async def test_could_not_tell_waits_and_starts_the_grace_anew(attempt: Try) -> None:
    attempt.folder.mode("vanish")
    attempt.folder.find("bad")
    recovered = []

    def recover() -> None:
        attempt.folder.mode("good")
        attempt.folder.find("good")
        recovered.append(attempt.clock.now)

    attempt.clock.meanwhile[7] = recover
    native_id = await attempt(first=True)
    assert attempt.folder.jobs == [native_id]
    assert attempt.clock.now - recovered[0] >= GRACE_S - 30


async def test_a_file_system_that_goes_away_after_a_cut_is_no_proof_that_nothing_was_submitted(attempt: Try) -> None:
    directory = Path(attempt.request.directory)
    away = directory.with_name("away")

    def lose(number: int, result: CommandResult) -> CommandResult:
        if number == 0:
            raise CommandTimedOut("cut after it was accepted")
        return result

    def go_and_come(number: int) -> None:
        if number == 1:
            directory.rename(away)
            directory.write_text("")
        if number == 2:
            directory.unlink()
            away.rename(directory)

    native_id = await attempt(ScriptedHost(before=go_and_come, after=lose), first=True)
    assert attempt.folder.jobs == [native_id]


async def test_could_not_tell_to_the_end_hands_over_and_never_submits(attempt: Try) -> None:
    attempt.folder.mode("vanish")
    attempt.folder.find("bad")
    attempt.clock.meanwhile[0] = lambda: attempt.folder.mode("good")
    with pytest.raises(SubmissionUncertain, match=r"look for a job named ajob .* write its id into") as told:
        await attempt(first=True, deadline_s=300)
    assert told.value.transient
    assert attempt.folder.jobs == []
    assert attempt.store.outcomes["ajob"][0] is SubmissionState.UNCERTAIN
    # A person follows the advice.
    (control(attempt.request) / "id").write_text("4711\n")
    assert await attempt() == "4711"


async def test_a_refusal_comes_in_the_schedulers_words_and_can_be_cured(attempt: Try) -> None:
    attempt.folder.mode("refuse")
    with pytest.raises(SubmissionRefused, match="invalid account") as told:
        await attempt(first=True)
    assert told.value.advice == ADVICE[Outcome.REFUSED]
    assert attempt.store.outcomes["ajob"] == (SubmissionState.REFUSED, "REFUSED: invalid account")
    with pytest.raises(SubmissionRefused):
        await attempt()
    attempt.folder.mode("good")
    assert [await attempt()] == attempt.folder.jobs


async def test_submitters_at_the_same_time_make_one_job(attempt: Try) -> None:
    ids = await asyncio.gather(*(attempt(first=n % 2 == 0) for n in range(6)))
    assert len(set(ids)) == 1
    assert attempt.folder.jobs == [ids[0]]


async def test_of_two_with_the_same_proof_one_submits(attempt: Try) -> None:
    attempt.folder.mode("vanish")
    with pytest.raises(SubmissionUncertain):
        await attempt(first=True, deadline_s=1)
    attempt.folder.mode("good")
    attempt.clock.now += 2 * GRACE_S
    ids = await asyncio.gather(*(attempt() for _ in range(4)))
    assert attempt.folder.jobs == [ids[0]]
    assert len(set(ids)) == 1


async def test_a_job_that_ran_told_its_own_id(attempt: Try) -> None:
    attempt.folder.find("bad")
    control(attempt.request).mkdir(parents=True)
    (control(attempt.request) / "started").write_text("55 0\n")
    assert await attempt() == "55"


@pytest.mark.parametrize("text", ["", "abc", "abc 12", "abc 1800000000 en"])
async def test_a_marker_that_was_cut_is_none(attempt: Try, text: str) -> None:
    control(attempt.request).mkdir(parents=True)
    (control(attempt.request) / "submitting").write_text(text)
    assert [await attempt(first=True)] == attempt.folder.jobs


async def test_an_answer_that_was_cut_is_none(attempt: Try) -> None:
    native_id = await attempt(first=True)
    out = control(attempt.request) / "submit.out"
    whole = out.read_text()
    for cut in (0, 5, len(whole) // 2, len(whole) - 2):
        out.write_text(whole[:cut])
        (control(attempt.request) / "id").unlink(missing_ok=True)
        assert await attempt() == native_id
    assert attempt.folder.jobs == [native_id]


async def test_a_directory_that_cannot_be_made_is_told(attempt: Try) -> None:
    attempt.request = replace(attempt.request, directory="/proc/nowhere")
    with pytest.raises(SchedulerError, match=r"cannot make /proc/nowhere/\.airavata/ajob"):
        await attempt(first=True)
    assert attempt.folder.jobs == []
