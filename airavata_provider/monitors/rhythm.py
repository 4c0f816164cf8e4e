"""When to ask a scheduler about a job: often while news is expected, seldom while its own script is heard. Pure.

What always holds: a job of which nobody but the poll brings news is asked about at most :attr:`Rhythm.base` seconds
after it was last heard of, so its end is known within that time. Only what is heard of by other ways waits longer.

A job is *covered* when its script has been heard from itself, or, before it starts, when nearly all of the last jobs
on its resource were. Imports no Airflow and no store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from airavata_provider.models.job import EventSource, Job, JobState

SCRIPT_SOURCES = frozenset({EventSource.WEBHOOK, EventSource.RELAY})
"""Ways on which a job's own script is heard."""

LONG_AGO_S = 900.0
"""Seconds after which the scheduler's own word on a failure is no more urgent than on a success."""

NEW_S = 60.0
"""A job is new for that long: a scheduler that refuses or cancels it does so soon."""

OVERDUE_S = 300.0
"""How long past its expected end a job is asked about often."""


@dataclass(frozen=True)
class Rhythm:
    """Seconds between two questions about one job.

    :param base: when nobody else brings news of it
    :param floor: while news is expected: it is new, or near its expected end, or its script says that it was stopped
        from outside, and only the scheduler knows why. Two status calls to one scheduler are no closer than that
    :param ceiling: at most, while its script is heard
    """

    base: float = 30.0
    floor: float = 10.0
    ceiling: float = 300.0

    @property
    def least(self) -> float:
        """The floor, which is never above the base."""
        return min(self.floor, self.base)


@dataclass(frozen=True)
class Hearing:
    """Whether scripts' calls arrive from a resource.

    :param ended: how many of the last jobs are known about
    :param told: of how many of them the script itself told something
    :param open: names of open jobs whose script was heard
    """

    ended: int = 0
    told: int = 0
    open: Collection[str] = field(default_factory=frozenset)

    @property
    def proven(self) -> bool:
        """Whether a call that did not come yet can be counted on."""
        return self.ended >= 3 and self.told >= 0.8 * self.ended

    def covers(self, job: Job) -> bool:
        """Whether news of the job is likely to come without asking."""
        waits = job.state in (None, JobState.SUBMITTED, JobState.QUEUED)
        return job.name in self.open or (waits and self.proven)


def pause(job: Job, now: datetime, rhythm: Rhythm, hearing: Hearing, *, asked: bool = True) -> float:
    """Seconds from the last question about the job, or its last news, to the next question.

    :param asked: whether it was asked about since its record last changed
    """
    if job.state is not None and job.state.terminal:
        # The scheduler's own word is wanted still, of a success not urgently; why a job failed, somebody waits for,
        # but not for hours: a history that cannot be read may stay so.
        long_ago = job.changed_at is not None and (now - job.changed_at).total_seconds() > LONG_AGO_S
        return rhythm.ceiling if asked and (long_ago or job.state is JobState.COMPLETE) else rhythm.base
    if job.state is JobState.NON_CRITICAL_FAIL:
        return rhythm.least
    near = _near_its_end(job, now)
    if hearing.covers(job):
        quiet = (now - job.changed_at).total_seconds() if job.changed_at is not None else 0.0
        return rhythm.base if near else min(max(rhythm.ceiling, rhythm.base), max(rhythm.base, quiet / 2))
    new = job.submitted_at is not None and now - job.submitted_at < timedelta(seconds=NEW_S)
    return rhythm.least if near or new else rhythm.base


def _near_its_end(job: Job, now: datetime) -> bool:
    """Whether the job's walltime is nearly over, or was over a little ago."""
    if job.started_at is None or not job.walltime_s:
        return False
    left = (job.started_at - now).total_seconds() + job.walltime_s
    return -OVERDUE_S <= left <= min(max(30.0, 0.02 * job.walltime_s), 300.0)


@dataclass(frozen=True)
class Turn:
    """What to ask about now, and when to look again.

    :param jobs: those to ask about, which may be none
    :param after_s: seconds from now to the next look, at most the floor: jobs that are new by then are seen then
    """

    jobs: list[Job]
    after_s: float


def turn(
    jobs: Iterable[Job],
    asked: Mapping[str, datetime],
    now: datetime,
    rhythm: Rhythm,
    hearing: Hearing,
    *,
    jitter: float = 1.0,
    along: bool = False,
    rest_s: float = 0.0,
) -> Turn:
    """Whom to ask about now.

    When one job is due, all are asked about that would be due within the floor.

    :param asked: by job's name, when it was last asked about with success
    :param jitter: at most 1: makes pauses a little shorter, so that not all resources are asked in step
    :param along: a command goes there in any case
    :param rest_s: before that nobody is asked about, whoever is due: the last status call was just now
    """
    if rest_s > 0:
        return Turn([], min(rhythm.least, rest_s))
    due = []
    for job in jobs:
        last = asked.get(job.name)
        heard = job.changed_at if last is None else max(last, job.changed_at or last)
        asked_since = last is not None and (job.changed_at is None or last >= job.changed_at)
        wait = pause(job, now, rhythm, hearing, asked=asked_since) * jitter
        passed = (now - heard).total_seconds() if heard is not None else wait
        due.append((wait - passed, job))
    chosen = [job for left, job in due if left <= rhythm.least]
    if chosen and (along or any(left <= 0 for left, _ in due)):
        return Turn(chosen, rhythm.least)
    return Turn([], min([rhythm.least, *(left for left, _ in due)]))
