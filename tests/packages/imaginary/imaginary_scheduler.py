"""The scheduler ``imaginary``: ``qadd``, ``qlist``, ``qhist``, ``qdel``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers import frame
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler, SubmitWords, quote
from airavata_provider.schedulers.record import outcome_of_end
from airavata_provider.schedulers.request import Inexpressible, JobRequest, Option

STATES: Mapping[str, JobState] = {
    "waiting": JobState.QUEUED,
    "running": JobState.ACTIVE,
    "held": JobState.SUSPENDED,
    "done": JobState.COMPLETE,
    "error": JobState.FAILED,
    "deleted": JobState.CANCELED,
}


def _queue(request: JobRequest) -> Iterable[str]:
    if request.queue and not request.queue.isidentifier():
        raise Inexpressible("a queue's name is one word here")
    return [f"queue={request.queue}"] if request.queue else []


def _minutes(request: JobRequest) -> Iterable[str]:
    return [f"minutes={-(-request.walltime_s // 60)}"] if request.walltime_s else []


class Imaginary(Scheduler):
    """Four commands, one line for each job."""

    name: ClassVar[str] = "imaginary"
    prefix: ClassVar[str] = "#Q"
    native_id_expression: ClassVar[str] = "${QJOB_ID:-unknown}"
    options: ClassVar[Sequence[Option]] = (
        Option(("queue",), _queue),
        Option(("nodes",), lambda request: [f"nodes={request.nodes}"]),
        Option(("walltime_s",), _minutes),
    )

    submit_words: ClassVar[SubmitWords | None] = SubmitWords(
        command="qadd",
        missing="is the imaginary scheduler in the account's PATH?",
        bare=re.compile(r"^(\d+)\s*$", re.MULTILINE),
        uncertain=re.compile("no answer"),
        later=re.compile("qadd: full"),
        refused=re.compile("qadd: refused"),
    )

    def submit_command(self, script: str, request: JobRequest) -> str:
        return f"qadd -n {quote(request.name)} {quote(script)}"

    def find_command(self, name: str, user: str | None, directory: str) -> str:
        return _framed("qlist && qhist")

    def parse_find(self, result: CommandResult, name: str) -> str | None:
        found = [status for status in _statuses(result) if status.name == name]
        return found[0].native_id if found else None

    def status_command(self, jobs: Sequence[JobRef]) -> str:
        return _framed("qlist")

    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        known = {(job.native_id, job.name) for job in jobs}
        return {each.native_id: each for each in _statuses(result) if (each.native_id, each.name) in known}

    def history_command(self, jobs: Sequence[JobRef]) -> str:
        return _framed("qhist")

    def parse_history(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        return {i: status for i, status in self.parse_status(result, jobs).items() if status.state.terminal}

    def cancel_command(self, jobs: Sequence[JobRef]) -> str:
        return " ".join(["qdel", *(quote(job.native_id) for job in jobs)])


def _framed(command: str) -> str:
    return f"{frame.SETUP}\n{frame.frame('jobs', command)}"


def _statuses(result: CommandResult) -> list[JobStatus]:
    answer = frame.whole(result.stdout, "jobs", stderr=result.stderr)
    if answer.status != 0:
        raise AnswerUnreadable(f"status {answer.status}: {answer.errors[-300:]}")
    lines = [line.split("|") for line in answer.lines]
    return [_status(*words) for words in lines if len(words) == 4 and words[0].isdigit()]


def _status(native_id: str, word: str, name: str, exit_code: str) -> JobStatus:
    state = STATES.get(word, JobState.UNKNOWN)
    code = int(exit_code) if exit_code.isdigit() else None
    signal = code - 128 if code is not None and 128 < code <= 192 else None
    outcome = None
    if state is JobState.CANCELED:
        outcome = Outcome.CANCELED
    elif state.terminal and code is not None:
        outcome = outcome_of_end(code, signal, "")
    return JobStatus(native_id, state, word, name=name, exit_code=code, signal=signal, outcome=outcome)
