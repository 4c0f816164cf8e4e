"""How the sources of news did: which one brought which transition first, how long each took, who was behind whom.

A transition is a state that a job came to: queued, running, suspended, and its end, whatever kind of end it was. What
always holds: nothing counts but what the store keeps of each piece of news, and each source counts once for each
transition, by its first news of it. A job that was requeued has its transitions once more.

Not counted are the scheduler's acceptance, which nobody but the submission tells, ``UNKNOWN``, which tells of no
transition, and news of another job (``IMPOSSIBLE``).

Pure; imports no Airflow and no SQLAlchemy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from airavata_provider.jobs.history import Kept
from airavata_provider.models.job import Effect, EventSource, JobState

END = "END"
"""The transition to an end of any kind."""

REFERENCE = EventSource.WEBHOOK
"""Whom the others are compared with: nobody can be quicker than the job itself."""

_TOLD = frozenset(JobState) - {JobState.SUBMITTED, JobState.UNKNOWN}
_ORDER = (JobState.QUEUED, JobState.ACTIVE, JobState.SUSPENDED, JobState.NON_CRITICAL_FAIL, END)


@dataclass(frozen=True)
class Telling:
    """How one source told of one transition of one job.

    :param happened_at: the earliest moment that any source names for the transition: the best that is known
    :param at: the moment that this source names
    :param received_at: when its news was stored
    :param after_first_s: seconds behind the source that was first; 0 for that one
    """

    job: str
    transition: str
    source: str
    happened_at: datetime
    at: datetime
    received_at: datetime
    after_first_s: float
    first: bool

    @property
    def own_s(self) -> float:
        """Seconds from the moment that the source names to its arrival; below 0 where its clock is ahead."""
        return (self.received_at - self.at).total_seconds()

    @property
    def notice_s(self) -> float:
        """Seconds from the transition to this source's news of it; below 0 where clocks differ."""
        return (self.received_at - self.happened_at).total_seconds()


@dataclass(frozen=True)
class Spread:
    """Some seconds in short; all of them NaN when there are none."""

    count: int
    least: float
    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of those values."""
        ordered = sorted(values)
        if not ordered:
            return cls(0, math.nan, math.nan, math.nan, math.nan)
        return cls(len(ordered), ordered[0], percentile(ordered, 0.5), percentile(ordered, 0.95), ordered[-1])


@dataclass(frozen=True)
class Source:
    """One source's part in one transition.

    :param transitions: of how many anybody told
    :param told: of how many this source told
    :param first: of how many it told first
    :param own: from the moment that it names to its arrival
    :param notice: from the transition to its arrival
    :param after_first: behind the first source, where another was first
    """

    transition: str
    source: str
    transitions: int
    told: int
    first: int
    own: Spread
    notice: Spread
    after_first: Spread


@dataclass(frozen=True)
class Behind:
    """How far a source was behind the reference, where both told of the same transition; below 0: ahead of it.

    :param earlier: how often it was ahead
    """

    transition: str
    source: str
    reference: str
    earlier: int
    seconds: Spread


@dataclass(frozen=True)
class Figures:
    """The whole report.

    :param jobs: of how many jobs there was news
    :param news: how many pieces
    :param effects: by source: what its news did
    """

    jobs: int
    news: int
    effects: Mapping[str, Mapping[str, int]]
    sources: Sequence[Source]
    behind: Sequence[Behind]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the values, which are in order, that this share of them does not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def tellings(news: Iterable[Kept], since: datetime | None = None) -> list[Telling]:
    """Who told of which transition, and when; by job, then in the order of their arrival.

    :param news: all that is stored of the jobs: the first to tell is not known from a part of it
    :param since: only transitions of which nobody had told before then
    """
    by_job: dict[str, list[Kept]] = {}
    for kept in news:
        if kept.effect is not Effect.IMPOSSIBLE and kept.event.source != EventSource.SUBMISSION:
            by_job.setdefault(kept.event.job, []).append(kept)
    found = []
    for job, of_job in sorted(by_job.items()):
        for transition, firsts in _firsts(of_job):
            happened_at = min(kept.event.at for kept in firsts)
            if since is None or firsts[0].received_at >= since:
                found += [
                    Telling(
                        job=job,
                        transition=transition,
                        source=str(kept.event.source),
                        happened_at=happened_at,
                        at=kept.event.at,
                        received_at=kept.received_at,
                        after_first_s=(kept.received_at - firsts[0].received_at).total_seconds(),
                        first=kept is firsts[0],
                    )
                    for kept in firsts
                ]
    return found


def _firsts(news: Sequence[Kept]) -> list[tuple[str, list[Kept]]]:
    """A job's transitions, each with every source's first news of it, in the order of their arrival."""
    ordered = sorted(news, key=lambda kept: kept.received_at)
    requeued = [kept.event.at for kept in _requeues(ordered)]
    firsts: dict[tuple[str, int], dict[str, Kept]] = {}
    for kept in ordered:
        state = kept.event.state
        if state.terminal:
            key = END, 0  # a job ends once, however often it was requeued
        elif state in _TOLD:
            key = state.value, sum(kept.event.at >= moment for moment in requeued)
        else:
            continue
        firsts.setdefault(key, {}).setdefault(str(kept.event.source), kept)
    return [(transition, list(by_source.values())) for (transition, _), by_source in firsts.items()]


def _requeues(ordered: Iterable[Kept]) -> Iterable[Kept]:
    """News that took a job that ran back into the queue."""
    ran = False
    for kept in ordered:
        if kept.effect is Effect.APPLIED:
            queued = kept.event.state is JobState.QUEUED
            if queued and ran:
                yield kept
            ran = not queued and (ran or kept.event.state is JobState.ACTIVE)


def figures(news: Iterable[Kept], since: datetime | None = None) -> Figures:
    """The report; see :func:`tellings` for what it takes."""
    news = list(news)
    told = tellings(news, since)
    counted = [kept for kept in news if since is None or kept.received_at >= since]
    effects: dict[str, Counter[str]] = {}
    for kept in counted:
        effects.setdefault(str(kept.event.source), Counter())[kept.effect.value] += 1
    return Figures(
        jobs=len({kept.event.job for kept in counted}),
        news=len(counted),
        effects={source: dict(sorted(counts.items())) for source, counts in sorted(effects.items())},
        sources=list(_sources(told)),
        behind=list(_behind(told)),
    )


def by_transition(told: Iterable[Telling]) -> dict[str, dict[str, list[Telling]]]:
    """By transition and source; transitions in a job's order, sources by how often they were first."""
    found: dict[str, dict[str, list[Telling]]] = {transition: {} for transition in _ORDER}
    for each in told:
        found[each.transition].setdefault(each.source, []).append(each)
    return {
        transition: dict(sorted(of.items(), key=lambda pair: (-sum(each.first for each in pair[1]), pair[0])))
        for transition, of in found.items()
        if of
    }


def _sources(told: Sequence[Telling]) -> Iterable[Source]:
    for transition, of in by_transition(told).items():
        # Each transition of a job has exactly one that was first.
        transitions = sum(each.first for tellings in of.values() for each in tellings)
        for source, tellings in of.items():
            yield Source(
                transition=transition,
                source=source,
                transitions=transitions,
                told=len(tellings),
                first=sum(each.first for each in tellings),
                own=Spread.of(each.own_s for each in tellings),
                notice=Spread.of(each.notice_s for each in tellings),
                after_first=Spread.of(each.after_first_s for each in tellings if not each.first),
            )


def behind(
    told: Iterable[Telling], reference: str = REFERENCE
) -> dict[tuple[str, str], list[tuple[datetime, float]]]:
    """By transition and source: when it happened, and the seconds from the reference's news to the source's.

    Nothing of the reference itself, and nothing of transitions that it did not tell of.
    """
    told = list(told)
    when = {(each.job, each.transition, each.happened_at): each for each in told if each.source == reference}
    found: dict[tuple[str, str], list[tuple[datetime, float]]] = {}
    for transition, of in by_transition(told).items():
        for source, tellings in of.items():
            for each in tellings:
                other = when.get((each.job, each.transition, each.happened_at))
                if other is not None and source != reference:
                    seconds = (each.received_at - other.received_at).total_seconds()
                    found.setdefault((transition, source), []).append((each.happened_at, seconds))
    return found


def _behind(told: Sequence[Telling]) -> Iterable[Behind]:
    for (transition, source), pairs in behind(told).items():
        seconds = [each for _, each in pairs]
        earlier = sum(each < 0 for each in seconds)
        yield Behind(transition, source, REFERENCE.value, earlier, Spread.of(seconds))
