"""Which of the waiting jobs may go to their schedulers now. Pure.

Every job stands under some **ceilings**: its queue's, its resource's, its gateway's, its user's, each a number of
jobs that may be under it at a time. A job goes when there is room under all of its ceilings and its place is open.
What always holds: no ceiling is ever passed; as long as jobs of one size wait, none waits while there is room for
it; the same input gives the same answer.

Who goes first, in this order: the higher level (priority, one more for every :data:`AGING_S` of waiting, so that
nobody waits for ever); the gateway that has least there for its share; its user who has least there; the older one.

A **line** is the jobs that wait for the same place for the same gateway, user and priority: within it nothing but
age counts, so its oldest jobs are all that has to be looked at. Where the first of a line is an array that does not
fit, the ceilings that it does not fit under are kept for it: smaller jobs that came later do not overtake it. But an
array that can never fit (:func:`too_big`) is overtaken; and so is one that is kept back by nothing but what a refusal
taught, since nobody knows whether it ever fits, until it has waited for :data:`AGING_S`.

Imports no Airflow and no SQLAlchemy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from airavata_provider.jobs.limits import Hold, Limits, Most, Place, closed, learned
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.job import Job

AGING_S = 6 * 3600.0
"""Seconds of waiting that weigh as much as the next higher priority."""


@dataclass(frozen=True)
class Line:
    """Jobs that wait, of which the older always goes before the younger.

    :param level: the experiments' priority, 0 to 3
    :param since: when the first of them began to wait
    :param jobs: how many
    """

    resource: str
    queue: str
    gateway: str
    user: str
    level: int
    since: datetime
    jobs: int = 1

    @property
    def place(self) -> Place:
        """Where they want to go."""
        return self.resource, self.queue

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What tells it from other lines."""
        return self.resource, self.queue, self.gateway, self.user, self.level


@dataclass(frozen=True)
class Waiting:
    """A job that waits.

    :param since: from when on it waits
    :param cost: how many jobs it counts as, at least 1
    """

    name: str
    resource: str
    queue: str
    gateway: str
    user: str
    level: int
    since: datetime
    cost: int = 1

    @property
    def line(self) -> tuple[str, str, str, str, int]:
        """Its line's key."""
        return self.resource, self.queue, self.gateway, self.user, self.level


@dataclass(frozen=True)
class Load:
    """Jobs of ours that are let go and have not ended, of one user in one place."""

    resource: str
    queue: str
    gateway: str
    user: str
    jobs: int


@dataclass(frozen=True)
class Grants:
    """Who goes.

    :param names: the jobs, in the order in which they were chosen
    :param held: why the first of each other line does not, by the line's key
    """

    names: tuple[str, ...]
    held: Mapping[tuple[str, str, str, str, int], Hold]


def waiting_of(job: Job, limits: Limits) -> Waiting:
    """A job as admission sees it."""
    queue = job.queue or ""
    one = job.size is None or (job.resource, queue) in limits.arrays_as_one
    since = job.created_at or datetime.now(UTC)
    cost = 1 if one or job.size is None else job.size
    return Waiting(job.name, job.resource, queue, job.gateway, job.user, job.priority, since, cost)


def too_big(limits: Limits, job: Waiting) -> str | None:
    """Why that job can never go, whatever ends; None: it can."""
    for ceiling in _Ceilings(limits, (), job.since).of(job, with_learned=False):
        if job.cost > ceiling.most:
            return f"an array of {job.cost} is more than {ceiling.most}, the most for {ceiling.what}"
    return None


def unlimited(limits: Limits, job: Waiting, now: datetime) -> bool:
    """Whether nothing that is counted or said can keep that job back."""
    if closed(limits, (job.resource, job.queue), now) is not None:
        return False
    return not _Ceilings(limits, (), now).of(job)


def promising(
    lines: Iterable[Line], running: Sequence[Load], limits: Limits, now: datetime
) -> tuple[list[tuple[Line, int]], dict[tuple[str, str, str, str, int], Hold]]:
    """The lines of which a job may go now, with how many at most; and why the others wait.

    The places take turns: first the line of each that goes first there, then the second of each. So whoever looks at
    some of them alone passes over no place because of another.
    """
    ceilings = _Ceilings(limits, running, now)
    found, held = [], {}
    for line in lines:
        hold = ceilings.hold(line, 1)
        if hold is None:
            found.append((line, min(line.jobs, ceilings.room(line))))
        else:
            held[line.key] = hold
    found.sort(key=lambda each: (ceilings.rank(each[0], each[0].since), each[0].key))
    turns: Counter[Place] = Counter()
    in_turn = []
    for each in found:
        in_turn.append((turns[each[0].place], each))
        turns[each[0].place] += 1
    in_turn.sort(key=lambda each: each[0])  # stable
    return [each for _, each in in_turn], held


def decide(waiting: Iterable[Waiting], running: Sequence[Load], limits: Limits, now: datetime) -> Grants:
    """Who of those that wait goes now; see the module.

    :param waiting: of each line the oldest, as many as may matter
    """
    ceilings = _Ceilings(limits, running, now)
    lines: dict[tuple[str, str, str, str, int], list[Waiting]] = {}
    for job in sorted(waiting, key=lambda each: (each.since, each.name), reverse=True):
        lines.setdefault(job.line, []).append(job)
    names: list[str] = []
    held: dict[tuple[str, str, str, str, int], Hold] = {}
    passed: dict[tuple[str, str, str, str, int], Hold] = {}
    while lines:
        key = min(
            lines, key=lambda each: (ceilings.rank(lines[each][-1], lines[each][-1].since), lines[each][-1].name)
        )
        job = lines[key][-1]
        hold = ceilings.hold(job, job.cost)
        if hold is not None and not ceilings.yields(job):
            held[key] = hold
            ceilings.keep(job)
            del lines[key]
            continue
        if hold is not None:
            passed.setdefault(key, hold)
        else:
            ceilings.add(job, job.cost)
            names.append(job.name)
        lines[key].pop()
        if not lines[key]:
            del lines[key]
    return Grants(tuple(names), {**passed, **held})


@dataclass(frozen=True)
class _Ceiling:
    key: tuple[str, ...]
    most: int
    what: str
    taught: bool = False


class _Ceilings:
    """What is under every ceiling, counted on while jobs are let go."""

    def __init__(self, limits: Limits, running: Iterable[Load], now: datetime) -> None:
        self._limits = limits
        self._now = now
        self._used: dict[tuple[str, ...], int] = {}
        self._kept: set[tuple[str, ...]] = set()
        self._learned: dict[Place, tuple[int, Availability]] = {}
        for each in limits.said:
            most = learned(each, now) if each.state is AvailabilityState.FULL else None
            if most is not None:
                self._learned[each.resource, each.queue] = (most, each)
        for load in running:
            self.add(load, load.jobs)

    def of(self, job: Waiting | Line, *, with_learned: bool = True) -> list[_Ceiling]:
        """The ceilings that a job stands under."""
        limits, place = self._limits, (job.resource, job.queue)
        there = f"{job.resource}'s queue {job.queue}" if job.queue else job.resource
        found: list[tuple[tuple[str, ...], int | None, str]] = [
            (("queue", *place), limits.queues.get(place), there),
            (("resource", job.resource), limits.resources.get(job.resource), f"all of {job.resource}"),
        ]
        gateway = limits.gateways.get(job.gateway)
        if gateway is not None:
            name, user = f"gateway {job.gateway}", f"user {job.user} of gateway {job.gateway}"
            on = gateway.on.get(job.resource, Most())
            found += [
                (("gateway", job.gateway), gateway.most.jobs, name),
                (("user", job.gateway, job.user), gateway.most.jobs_per_user, user),
                (("gateway", job.gateway, "on", job.resource), on.jobs, f"{name} on {job.resource}"),
                (("user", job.gateway, job.user, "on", job.resource), on.jobs_per_user, f"{user} on {job.resource}"),
            ]
        ceilings = [_Ceiling(key, most, what) for key, most, what in found if most is not None]
        if with_learned and place in self._learned:
            most, said = self._learned[place]
            ceilings.append(
                _Ceiling(
                    ("queue", *place), most, f"{there}, whose scheduler takes no more ({said.reason})", taught=True
                )
            )
        return ceilings

    def hold(self, job: Waiting | Line, cost: int) -> Hold | None:
        """Why a job of that cost does not go now."""
        shut = closed(self._limits, (job.resource, job.queue), self._now)
        if shut is not None:
            return shut
        for ceiling in self.of(job):
            used = self._used.get(ceiling.key, 0)
            if used + cost > ceiling.most:
                return Hold(f"{used} of at most {ceiling.most} jobs are there: {ceiling.what}")
            if ceiling.key in self._kept:
                return Hold(f"a larger job that came before is given the room: {ceiling.what}")
        return None

    def room(self, job: Waiting | Line) -> int:
        """How many may go at most."""
        return min((each.most - self._used.get(each.key, 0) for each in self.of(job)), default=_ANY)

    def yields(self, job: Waiting) -> bool:
        """Whether that job, which does not go now, holds up none that came later."""
        if job.cost == 1 or closed(self._limits, (job.resource, job.queue), self._now) is not None:
            return False
        if too_big(self._limits, job) is not None:
            return True
        in_the_way = [each for each in self.of(job) if self._used.get(each.key, 0) + job.cost > each.most]
        aged = (self._now - job.since).total_seconds() >= AGING_S
        return bool(in_the_way) and not aged and all(each.taught for each in in_the_way)

    def keep(self, job: Waiting) -> None:
        """Keep for that job the ceilings that it does not fit under."""
        if closed(self._limits, (job.resource, job.queue), self._now) is None:
            for ceiling in self.of(job):
                if self._used.get(ceiling.key, 0) + job.cost > ceiling.most:
                    self._kept.add(ceiling.key)

    def add(self, job: Waiting | Load, cost: int) -> None:
        """Count what was let go."""
        place = (job.resource, job.queue)
        for key in (
            ("queue", *place),
            ("resource", job.resource),
            ("gateway", job.gateway),
            ("user", job.gateway, job.user),
            ("gateway", job.gateway, "on", job.resource),
            ("user", job.gateway, job.user, "on", job.resource),
            ("share", job.gateway, *place),
            ("turn", job.gateway, job.user, *place),
        ):
            self._used[key] = self._used.get(key, 0) + cost

    def rank(self, job: Waiting | Line, since: datetime) -> tuple[int, float, int, datetime]:
        """The lowest goes first."""
        level = job.level + max(0, int((self._now - since).total_seconds() // AGING_S))
        gateway = self._limits.gateways.get(job.gateway)
        share = gateway.share if gateway is not None else 1.0
        place = (job.resource, job.queue)
        return (
            -level,
            self._used.get(("share", job.gateway, *place), 0) / share,
            self._used.get(("turn", job.gateway, job.user, *place), 0),
            since,
        )


_ANY = 1_000_000
"""Room where there is no ceiling."""
