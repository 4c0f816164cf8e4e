"""A job's history, explained: each piece of news with what it did and why.

The reasons are not stored: the news is decided upon once more, in the order in which it was stored, by the same
:func:`~airavata_provider.jobs.state.decide`. What always holds: the effect that is told is the one on record.

Pure; imports no Airflow and no SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from airavata_provider.jobs.state import decide, ends_as
from airavata_provider.models.job import Effect, EventSource, Job, JobEvent, JobState


class Kept(Protocol):
    """A stored event (``jobs.rows.StoredEvent``)."""

    @property
    def event(self) -> JobEvent:
        """The news."""

    @property
    def received_at(self) -> datetime:
        """When it was stored, by our clock."""

    @property
    def effect(self) -> Effect:
        """What it did."""


@dataclass(frozen=True)
class Explained:
    """One line of a history.

    :param event: the news, with its source and its own time
    :param received_at: when it was stored
    :param effect: what it did
    :param why: why it did that
    :param state: the job's state afterwards
    """

    event: JobEvent
    received_at: datetime
    effect: Effect
    why: str
    state: JobState | None


def explain(job: Job, news: Iterable[Kept]) -> list[Explained]:
    """The history of a job, in the order in which its news was stored.

    :param job: as it is now
    :param news: all that is stored of it
    """
    lines = []
    now = _unborn(job)
    for kept in news:
        event = kept.event
        if event.source == EventSource.SUBMISSION and now.native_id is None:
            now = replace(now, native_id=event.native_id)
        asked = job.cancel_requested_at
        if asked is not None and asked <= kept.received_at and now.cancel_requested_at is None:
            over = now.state is not None and now.state.terminal
            now = replace(now, cancel_requested_at=asked, canceled_at=asked if over else None)
        decision = decide(now, event)
        if decision.effect is kept.effect:
            now, why = decision.job, decision.why.value
        else:
            # The rules, or the job's record, were others when it was stored.
            why = "decided by what was known then"
            if kept.effect is Effect.APPLIED:
                now = replace(now, state=event.state, state_at=event.at, state_source=event.source)
        lines.append(Explained(event, kept.received_at, kept.effect, why, now.state))
    return lines


def _unborn(job: Job) -> Job:
    """The job before anything was heard of it."""
    return replace(
        job,
        state=None,
        state_at=None,
        state_source="",
        native_id=None,
        exit_code=None,
        signal=None,
        reason="",
        started_at=None,
        ended_at=None,
        cancel_requested_at=None,
        canceled_at=None,
    )


def summary(job: Job, lines: Sequence[Explained]) -> str:
    """How the job stands, in one sentence."""
    if job.ended_at is None:
        heard = f"; last heard of from {lines[-1].event.source}" if lines else ""
        return f"{job.state or job.submission}: news is awaited{heard}"
    end = ends_as(job)
    if end is not job.state:
        return f"{job.state}, told by {job.state_source}; its end was asked for, so its process is {end}"
    told = f", told by {job.state_source}" if job.state_source else ""
    against = sorted({f"{each.event.source}: {each.event.state}" for each in lines if _against(each, job)})
    return f"{job.state or job.submission}{told}" + (f"; against {', '.join(against)}" if against else "")


def _against(line: Explained, job: Job) -> bool:
    return line.event.state.terminal and line.event.state is not job.state and line.effect is not Effect.IMPOSSIBLE


def last_words(news: Iterable[JobEvent]) -> str:
    """What each source said last, for a person who has to find out what became of a job."""
    last: dict[str, JobEvent] = {}
    for event in sorted(news, key=lambda each: each.at):
        last[str(event.source)] = event
    return "; ".join(
        f"{source} at {event.at:%Y-%m-%d %H:%M:%S}: {event.state}{f' ({event.reason})' if event.reason else ''}"
        for source, event in last.items()
    )
