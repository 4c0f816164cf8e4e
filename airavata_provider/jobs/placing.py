"""Which of the places where an experiment fits it goes to. Pure.

A **policy** ranks them (entry points ``airavata.placement_policies``; ``[airavata] placement_policy`` names the one
that counts). What always holds, whatever the policy: a place that is drained or down is taken only when all are, and
then the one that opens first; what is taken is one of the places that fit; and every place's reason is told.

Imports no Airflow and no SQLAlchemy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median

from airavata_provider.errors import ConfigurationError, Fault
from airavata_provider.jobs.limits import Hold, Limits, Place, closed, learned
from airavata_provider.models.availability import AvailabilityState
from airavata_provider.models.experiment import Experiment
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.resolved import ResolvedExperiment
from airavata_provider.schedulers.load import QueueLoad

LATELY = timedelta(hours=2)
"""How far back waiting times and failures are looked at."""

FAULTS = (Outcome.NODE_FAILURE, Outcome.REFUSED, Outcome.UNKNOWN)
"""Ends that are held against a place; others are the program's or the request's."""

TURN_S = 3600.0
"""How long others' jobs are taken to run where a wait is guessed."""

UNTOLD_S = 86400.0
"""The wait that is guessed where a cluster was asked and did not tell, or nothing starts: worse than most queues."""

SOME = 10
"""How many jobs a place is taken to run at a time where nobody tells its size."""


@dataclass(frozen=True)
class PlaceLoad:
    """What is in one place, for people.

    :param running: jobs of ours that were let go and have not ended, counted as the place's limit counts
    :param waiting: jobs that wait to be let go
    """

    resource: str
    queue: str
    running: int
    waiting: int


@dataclass(frozen=True)
class QueueState:
    """How things are in a queue: what our own jobs tell, and the cluster's own figures.

    :param jobs: jobs of ours that were let go and have not ended, counted as the queue's limit counts
    :param waiting: jobs that wait with us, and experiments that were sent there and have no job yet
    :param limit: most jobs of ours there at a time; None: any number
    :param wait_s: seconds that jobs waited there until they started, the median of those that started lately
    :param oldest_s: seconds that the oldest one has been waiting there to start
    :param ended: jobs that ended lately
    :param failed: those of them whose end was the place's fault
    :param shut: why nothing new goes there now
    :param load: how full the queue is, everybody's jobs counted; None: that is not known
    :param untold: why not, or not lately, where the cluster was asked
    :param askable: False: its scheduler tells nobody how full that queue is
    :param counted: those of our ``jobs`` that the cluster's figures count; None: all of them
    """

    jobs: int = 0
    waiting: int = 0
    limit: int | None = None
    wait_s: float | None = None
    oldest_s: float | None = None
    ended: int = 0
    failed: int = 0
    shut: Hold | None = None
    load: QueueLoad | None = None
    untold: str = ""
    askable: bool = True
    counted: int | None = None

    def __str__(self) -> str:
        if self.limit is None:
            words = [f"{self.jobs} jobs there"]
        else:
            words = [f"{self.jobs} of at most {self.limit} jobs there"]
        words.append(f"{self.waiting} wait with us")
        if self.wait_s is not None:
            words.append(f"jobs waited {_span(self.wait_s)} of late")
        if self.oldest_s is not None:
            words.append(f"one has been waiting for {_span(self.oldest_s)}")
        if self.failed:
            words.append(f"{self.failed} of {self.ended} jobs failed there of late")
        if self.load is not None and str(self.load):
            words.append(f"{self.load} ({self.untold})" if self.untold else str(self.load))
        elif self.untold:
            words.append(f"everybody's jobs are not known ({self.untold})")
        return ", ".join(words)

    @property
    def guessed_s(self) -> float:
        """Seconds that a job may wait there by the cluster's figures: a rough guess, to compare queues by.

        As many turns as it takes until all who wait have started, when each turn starts as many as run now. What the
        figures do not count of ours waits, too, as far as no CPUs are free for it. Where nothing starts, or nobody
        tells how many wait and no CPU is free, it is :data:`UNTOLD_S` at least. Where nobody can be asked it is what
        our own jobs waited, else a turn, and more the more of ours are there. 0: nobody waits, or nobody asked.
        """
        if self.load is not None:
            return self._by(self.load)
        if not self.askable:
            own_s = TURN_S if self.wait_s is None else self.wait_s
            return max(own_s, TURN_S * ((self.jobs + self.waiting) // SOME))
        return UNTOLD_S if self.untold else 0.0

    def _by(self, load: QueueLoad) -> float:
        ours = self.waiting if self.counted is None else max(0, self.jobs + self.waiting - self.counted)
        at_once, free = max(1, load.running or load.busy or load.cpus or 0), SOME
        if load.cpus is not None and load.busy is not None:
            free = max(0, load.cpus - load.busy)
            ours = max(0, ours + 1 - free)
        guess = TURN_S * ((load.waiting or 0) / at_once + ours / max(at_once, free))
        no_room = load.cpus is None or load.busy is None or load.cpus <= load.busy
        if load.starts_none or (load.waiting is None and no_room):
            return max(UNTOLD_S, guess)
        return guess


@dataclass(frozen=True)
class Candidate:
    """A place where an experiment fits.

    :param number: 0 for the one that the application prefers, then on
    :param resource: the compute resource's name in the catalog
    :param queue: its queue, as the catalog calls it; None for a resource without queues
    :param place: the resource and the scheduler's name of that queue
    :param state: how things are there
    """

    number: int
    resource: str
    queue: str | None
    place: Place
    state: QueueState = field(default_factory=QueueState)

    def __str__(self) -> str:
        return f"{self.resource}'s queue {self.queue}" if self.queue else self.resource


Policy = Callable[[Experiment, Sequence[Candidate]], Sequence[Candidate]]
"""Those of the candidates that it would take, the best one first; at least one. Pure, and quick: it runs in the
triggerer's event loop."""


@dataclass(frozen=True)
class Recent:
    """What the store knows of places, beside what is there now (``PlaceLoad``).

    :param waits: seconds until they started, of jobs that started lately, by place
    :param oldest: since when the oldest one waits to start
    :param ended: jobs that ended lately, and those that failed by the place's fault
    :param chosen: experiments that were sent there and have no job yet, by resource and the catalog's queue
    """

    waits: Mapping[Place, Sequence[float]] = field(default_factory=dict)
    oldest: Mapping[Place, datetime] = field(default_factory=dict)
    ended: Mapping[Place, tuple[int, int]] = field(default_factory=dict)
    chosen: Mapping[tuple[str, str | None], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """Where to, and why: a sentence for each place."""

    candidate: Candidate
    reasons: tuple[str, ...]


def soonest(experiment: Experiment, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """The policy that is there unless another is named: where the job starts soonest, by all signs.

    In this order: where jobs did not mostly fail of late; where there is room below the limit, or the fewest wait for
    it; where jobs of ours waited of late, and wait now, for a shorter time, which is guessed from the cluster's
    figures where none of ours tells, or nothing starts now; where that guess is shorter; where fewer of ours are;
    what the application prefers. Times and numbers are compared by their magnitude, so that small differences do not
    outweigh what the application prefers.
    """
    return sorted(candidates, key=_soonest)


def preferred(experiment: Experiment, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """The policy that looks at nothing: the order of the application's deployments."""
    return sorted(candidates, key=lambda each: each.number)


def _soonest(candidate: Candidate) -> tuple[bool, int, int, int, int, int]:
    state = candidate.state
    crowd = state.jobs + state.waiting
    wait_s = max(state.guessed_s if state.wait_s is None else state.wait_s, state.oldest_s or 0.0)
    if not state.askable or (state.load is not None and state.load.starts_none):
        # What ours waited is over where nothing starts any more, and where many are by now tells little.
        wait_s = max(wait_s, state.guessed_s)
    return (
        state.failed >= 3 and 2 * state.failed >= state.ended,
        crowd // max(state.limit, 1) if state.limit is not None else 0,
        int(math.log2(1 + wait_s / 60)),
        int(math.log2(1 + state.guessed_s / 60)),
        int(math.log2(1 + crowd / 10)),
        candidate.number,
    )


def candidates_of(places: Iterable[ResolvedExperiment]) -> list[Candidate]:
    """The places where an experiment fits, without their states."""
    found = []
    for number, each in enumerate(places):
        queue = next((key for key, queue in each.resource.queues.items() if queue is each.queue), None)
        found.append(Candidate(number, each.resource.name, queue, (each.resource.name, each.queue.name or "")))
    return found


def queue_state(
    candidate: Candidate, limits: Limits, loads: Sequence[PlaceLoad], recent: Recent, now: datetime
) -> QueueState:
    """How things are in a candidate's place.

    :param limits: with what is said of resources
    """
    place, resource = candidate.place, candidate.resource
    here = next((each for each in loads if (each.resource, each.queue) == place), PlaceLoad(*place, 0, 0))
    most = [limits.queues.get(place)]
    if (all_of_it := limits.resources.get(resource)) is not None:
        elsewhere = sum(each.running for each in loads if each.resource == resource) - here.running
        most.append(max(0, all_of_it - elsewhere))
    most += [
        learned(each, now)
        for each in limits.said
        if each.state is AvailabilityState.FULL and (each.resource, each.queue) == place
    ]
    waits, oldest = recent.waits.get(place), recent.oldest.get(place)
    ended, failed = recent.ended.get(place, (0, 0))
    return QueueState(
        jobs=here.running,
        waiting=here.waiting + recent.chosen.get((resource, candidate.queue), 0),
        limit=min((each for each in most if each is not None), default=None),
        wait_s=median(waits) if waits else None,
        oldest_s=max(0.0, (now - oldest).total_seconds()) if oldest is not None else None,
        ended=ended,
        failed=failed,
        shut=closed(limits, place, now),
    )


def decide(
    experiment: Experiment,
    candidates: Sequence[Candidate],
    unfit: Mapping[str, Sequence[Fault]],
    policy: Policy,
) -> Decision:
    """Where an experiment goes; see the module.

    :param candidates: where it fits, with their states; at least one
    :param unfit: why not on other resources
    :raises ConfigurationError: the policy fails, or takes what is none of the candidates
    """
    able = [each for each in candidates if each.state.shut is None]
    shut = [each for each in candidates if each.state.shut is not None]
    if not able:
        first = min(_opens(each) for each in candidates)
        able = [each for each in candidates if _opens(each) == first]
    try:
        ranked = list(policy(experiment, able))
    except Exception as error:
        raise ConfigurationError(f"the placement policy fails: {type(error).__name__}: {error}") from error
    if not ranked or not all(each in able for each in ranked):
        raise ConfigurationError("the placement policy takes none of the places where the experiment fits")
    chosen, others = ranked[0], ranked[1:]
    reasons = [f"{chosen}: chosen; {_told(chosen)}"]
    reasons += [f"{each}: after it; {_told(each)}" for each in others]
    reasons += [f"{each}: left out by the policy; {_told(each)}" for each in able if each not in ranked]
    reasons += [f"{each}: {_told(each)}" for each in shut if each not in able]
    reasons += [f"{name}: {'; '.join(fault.message for fault in faults)}" for name, faults in unfit.items()]
    return Decision(chosen, tuple(reasons))


def _opens(candidate: Candidate) -> datetime:
    """When something can go there; the end of time where nobody knows."""
    shut = candidate.state.shut
    return shut.until if shut is not None and shut.until is not None else datetime.max.replace(tzinfo=UTC)


def _told(candidate: Candidate) -> str:
    return str(candidate.state.shut or candidate.state)


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"
