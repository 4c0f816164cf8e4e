"""The batched poll: one status command for all of a resource's jobs that are due, one more for those that ended. Only
of thousands there are several.

What always holds: absent is not finished, and unreadable is neither. A job that the queue does not know is looked up
in the scheduler's history; one that is in neither becomes ``UNKNOWN`` after a grace. A job that nobody can tell about
for longer than its walltime and a grace is given up, as ``UNKNOWN`` for a person. Nothing here ever guesses
``COMPLETE``.

:func:`look` runs the commands, :func:`news` and :func:`silence` decide and are pure; who is due is for
``monitors.rhythm`` to say. Imports no Airflow and no store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.models.job import EventSource, Job, JobEvent, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.output import Tails, take_tails
from airavata_provider.monitors.relay import Left, parse_collected
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler

COMMAND_TIMEOUT_S = 120.0

MOST = 2000
"""Jobs that one command asks about, at most: a shell takes a command of 128 KiB."""


class Runs(Protocol):
    """What is needed of a host."""

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        """Run a text with the host's shell; a status that is not 0 is an answer."""


@dataclass(frozen=True)
class Patience:
    """How long a job may be nowhere to be seen.

    :param missing_s: before it becomes UNKNOWN: accounting lags, and so do shared file systems
    :param over_s: past the time at which it must have ended, before it is given up
    :param unreachable_s: the same while its cluster does not answer, or in no way that makes sense: those jobs may
        well have ended as they should
    :param walltime_s: taken for jobs that asked for none
    """

    missing_s: float = 300.0
    over_s: float = 600.0
    unreachable_s: float = 86400.0
    walltime_s: float = 3600.0


@dataclass(frozen=True)
class Look:
    """What a resource's scheduler said of some jobs.

    :param at: when it was asked: what it says is true then or later
    :param known: by native id
    :param missing: native ids of which neither the queue nor the history knows anything
    :param unreadable: why the history could not be read; what is absent then is not known to be missing
    :param left: what job scripts left for the relay
    :param tails: what jobs wrote
    """

    at: datetime
    known: Mapping[str, JobStatus]
    missing: frozenset[str] = field(default_factory=frozenset)
    unreadable: str = ""
    left: Sequence[Left] = ()
    tails: Tails = field(default_factory=dict)


def refs(jobs: Sequence[Job]) -> list[JobRef]:
    """Those of the jobs that have a scheduler's id, as an adaptor takes them: an element by its array's name."""
    return [
        JobRef(job.native_id, job.scheduler_name, job.directory, job.element)
        for job in jobs
        if job.native_id is not None
    ]


async def look(host: Runs, scheduler: Scheduler, jobs: Sequence[Job], collect: str = "", tail: str = "") -> Look:
    """Ask the scheduler about the jobs: one command, a second for those that the queue does not know, or shows as
    ended without how.

    :param collect: the relay's command (``monitors.relay``), run in the same round trip
    :param tail: the command that reads what jobs write (``monitors.output``), likewise
    :raises AnswerUnreadable: the queue's answer cannot be trusted
    :raises SSHError: the host cannot be asked
    """
    asked = refs(jobs)
    at = datetime.now(UTC)
    told = {job.native_id: job for job in jobs}
    slices = [asked[start : start + MOST] for start in range(0, len(asked), MOST)]
    if (collect or tail) and not slices:
        slices = [[]]
    parts = [
        await _look((host, scheduler), each, told, at, (collect, tail) if number == 0 else ("", ""))
        for number, each in enumerate(slices)
    ]
    return Look(
        at,
        {native_id: status for part in parts for native_id, status in part.known.items()},
        frozenset().union(*(part.missing for part in parts)),
        next((part.unreadable for part in parts if part.unreadable), ""),
        parts[0].left if parts else (),
        parts[0].tails if parts else {},
    )


async def _look(
    way: tuple[Runs, Scheduler],
    asked: Sequence[JobRef],
    told: Mapping[str | None, Job],
    at: datetime,
    along: tuple[str, str],
) -> Look:
    host, scheduler = way
    collect, tail = along
    left: Sequence[Left] = ()
    tails: Tails = {}
    known: dict[str, JobStatus] = {}
    command = "\n".join(part for part in (collect, tail, scheduler.status_command(asked) if asked else "") if part)
    result = await host.run(command, timeout=COMMAND_TIMEOUT_S)
    if collect:
        left, rest = parse_collected(result.stdout)
        result = replace(result, stdout=rest)
    if tail:
        tails, rest = take_tails(result.stdout)
        result = replace(result, stdout=rest)
    if asked:
        known = dict(scheduler.parse_status(result, asked))
    ended = [ref for ref in asked if ref.native_id not in known or _bare(known[ref.native_id], told[ref.native_id])]
    absent = frozenset(ref.native_id for ref in ended if ref.native_id not in known)
    if not ended or not scheduler.has_history:
        return Look(at, known, absent, left=left, tails=tails)
    result = await host.run(scheduler.history_command(ended), timeout=COMMAND_TIMEOUT_S)
    try:
        known |= scheduler.parse_history(result, ended)
    except AnswerUnreadable as error:
        return Look(at, known, unreadable=str(error), left=left, tails=tails)
    return Look(at, known, absent - known.keys(), left=left, tails=tails)


def _bare(status: JobStatus, job: Job) -> bool:
    """Whether the queue shows an end and not how, and nobody else told how either."""
    return (
        status.state.terminal
        and status.exit_code is None
        and (job.exit_code is None or status.state is not job.state)
    )


def news(
    jobs: Sequence[Job],
    look: Look,
    missing_since: Mapping[str, datetime],
    patience: Patience = Patience(),
) -> list[JobEvent]:
    """What the look tells that is new. Pure.

    The same state seen again is no news, unless it has another outcome than is on record: a job that waits is held,
    can never start any more, or was released. A state that comes back (a second QUEUED) is news, because an event's
    id holds the record's version that it is news to.

    :param missing_since: by job's name: when a look first found it nowhere
    """
    events = []
    for job in jobs:
        status = look.known.get(job.native_id or "")
        if status is not None:
            event = _seen(job, status, look.at)
        elif job.native_id in look.missing and job.name in missing_since:
            event = _missing(job, look.at, missing_since[job.name], patience)
        else:
            event = None
        if event is not None:
            events.append(event)
    return events


def _seen(job: Job, status: JobStatus, at: datetime) -> JobEvent | None:
    if job.state is not None and job.state.terminal and not status.state.terminal:
        return None  # the script has told its end, and the scheduler is not done with it yet
    awaited = job.cancel_requested_at is not None and job.canceled_at is None and status.state.terminal
    if status.state is job.state and job.ended_at is None and not awaited and _says_the_same(job, status):
        return None
    reason = status.reason
    if status.state.terminal and status.state is not JobState.COMPLETE:
        words = dict.fromkeys(word for word in (status.native_state, status.reason) if word)
        reason = ": ".join(words)
    elif status.state is JobState.UNKNOWN:
        reason = reason or status.native_state
    return _event(
        job,
        status.state,
        at,
        exit_code=status.exit_code,
        signal=status.signal,
        reason=reason,
        outcome=status.outcome,
    )


def _says_the_same(job: Job, status: JobStatus) -> bool:
    """Whether what the scheduler says of a state is on record.

    Its words count where they explain an outcome, and numbers in them never: while a job waits for its turn, both
    change from look to look.
    """
    if status.outcome is not job.outcome:
        return False
    return status.outcome is None or _letters(status.reason) == _letters(job.reason)


def _letters(words: str) -> str:
    return re.sub(r"[\W\d_]+", "", words)


def _missing(job: Job, at: datetime, since: datetime, patience: Patience) -> JobEvent | None:
    if job.state is not None and job.state.terminal:
        return None
    if at - since < timedelta(seconds=patience.missing_s):
        return None
    if job.state is JobState.UNKNOWN and job.state_at is not None:
        # It was missing before, and whoever looked then may be gone.
        since = min(since, job.state_at)
    if job.state is JobState.NON_CRITICAL_FAIL:
        # Its script said that it was stopped from outside, and it did not come back.
        reason = job.reason or "stopped, and not requeued"
        return _event(job, JobState.FAILED, at, reason=reason, outcome=job.outcome)
    if at >= _must_have_ended(job, since, patience) + timedelta(seconds=patience.over_s):
        reason = f"neither the queue nor the history has known it since {since:%Y-%m-%d %H:%M} UTC"
        return _event(job, JobState.UNKNOWN, at, reason=reason, given_up=True)
    if job.state is JobState.UNKNOWN:
        return None
    return _event(job, JobState.UNKNOWN, at, reason="neither the queue nor the history knows it")


def silence(
    jobs: Sequence[Job], at: datetime, since: Mapping[str, datetime], why: str, patience: Patience = Patience()
) -> list[JobEvent]:
    """What a cluster tells that does not answer, or in no way that makes sense: nothing, for very long. Pure.

    :param since: by job's name: the last moment at which somebody could tell about it
    :param why: what stands in the way
    """
    grace = timedelta(seconds=patience.unreachable_s)
    events = []
    for job in jobs:
        last = since.get(job.name)
        if job.ended_at is None and last is not None and at >= _must_have_ended(job, last, patience) + grace:
            reason = f"nobody could ask about it since {last:%Y-%m-%d %H:%M} UTC: {why[:500]}"
            events.append(_event(job, JobState.UNKNOWN, at, reason=reason, given_up=True))
    return events


def _must_have_ended(job: Job, since: datetime, patience: Patience) -> datetime:
    """When a job that was not seen since then has ended at the latest."""
    walltime = timedelta(seconds=job.walltime_s or patience.walltime_s)
    return max(since, (job.started_at or since) + walltime)


def _event(
    job: Job,
    state: JobState,
    at: datetime,
    *,
    exit_code: int | None = None,
    signal: int | None = None,
    reason: str = "",
    outcome: Outcome | None = None,
    given_up: bool = False,
) -> JobEvent:
    if job.state_at is not None and not (state.terminal or given_up):
        # The record was read before the scheduler was asked: whoever told its state has a clock that is ahead.
        at = max(at, job.state_at + timedelta.resolution)
    return JobEvent(
        job=job.name,
        source=EventSource.POLL,
        event_id=f"{state}:{job.native_id}:{job.version}"[:250],
        state=state,
        at=at,
        exit_code=exit_code,
        signal=signal,
        reason=reason,
        native_id=job.native_id,
        given_up=given_up,
        outcome=outcome,
    )
