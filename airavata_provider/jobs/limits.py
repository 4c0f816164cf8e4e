"""What keeps jobs back: ceilings from the catalog, what people said of resources, what schedulers taught us. Pure.

A scheduler that refused a job because too many are there (``QOSMaxSubmitJobPerUserLimit``) taught us a ceiling: with
that job there would have been one too many. It rises again as time passes without another refusal (:func:`learned`).

Imports no Airflow and no SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.resource import Queue

LEARNED_STEPS = 8
"""After how many steps a ceiling that a refusal taught is forgotten; each lets twice as many more try."""

Place = tuple[str, str]
"""A compute resource's name in the catalog and the scheduler's name of its queue, "" where it has none."""


@dataclass(frozen=True)
class Most:
    """How many at a time; None: any number."""

    jobs: int | None = None
    jobs_per_user: int | None = None


@dataclass(frozen=True)
class GatewayLimits:
    """A gateway's ceilings and its share of what is scarce.

    :param on: further ceilings, by resource
    """

    most: Most = Most()
    share: float = 1.0
    on: Mapping[str, Most] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """Everything that keeps jobs back.

    :param queues: most jobs at a time, by place
    :param resources: the same, by resource
    :param gateways: by name; one that is not here has no ceilings and a share of 1
    :param arrays_as_one: places where an array counts as one job
    :param said: what people said of resources, and what schedulers taught us
    """

    queues: Mapping[Place, int] = field(default_factory=dict)
    resources: Mapping[str, int] = field(default_factory=dict)
    gateways: Mapping[str, GatewayLimits] = field(default_factory=dict)
    arrays_as_one: frozenset[Place] = frozenset()
    said: Sequence[Availability] = ()


@dataclass(frozen=True)
class Hold:
    """Why the jobs of a line are kept back.

    :param until: when that ends by itself, where somebody knows
    """

    reason: str
    until: datetime | None = None

    def __str__(self) -> str:
        return f"{self.reason}, until {self.until.isoformat(timespec='minutes')}" if self.until else self.reason


def places(catalog: Catalog) -> dict[Place, list[Queue]]:
    """Where jobs can go: the queues by the scheduler's names for them; several entries may be about the same."""
    found: dict[Place, list[Queue]] = {}
    for name, resource in catalog.compute_resources.items():
        for key, queue in resource.queues.items() or [("", Queue())]:
            found.setdefault((name, queue.name or key), []).append(queue)
    return found


def limits_of(catalog: Catalog) -> Limits:
    """What a catalog allows; of several entries about one of the scheduler's queues, the strictest counts."""
    queues: dict[Place, int] = {}
    one: set[Place] = set()
    for place, entries in places(catalog).items():
        most = [queue.max_jobs for queue in entries if queue.max_jobs is not None]
        if most:
            queues[place] = min(most)
        if all(queue.arrays_count_as == "one" for queue in entries):
            one.add(place)
    return Limits(
        queues=queues,
        resources={
            name: resource.max_jobs
            for name, resource in catalog.compute_resources.items()
            if resource.max_jobs is not None
        },
        gateways={
            name: GatewayLimits(
                Most(gateway.max_jobs, gateway.max_jobs_per_user),
                gateway.share,
                {where: Most(each.max_jobs, each.max_jobs_per_user) for where, each in gateway.resources.items()},
            )
            for name, gateway in catalog.gateways.items()
        },
        arrays_as_one=frozenset(one),
    )


def closed(limits: Limits, place: Place, now: datetime) -> Hold | None:
    """Why nothing goes to that place now: what somebody said of it, or of its whole resource."""
    found: Hold | None = None
    for each in limits.said:
        if each.state is AvailabilityState.FULL or not each.holds(now) or not _about(each, place):
            continue
        what = f"{each.resource}'s queue {each.queue}" if each.queue else each.resource
        hold = Hold(f"{what} is {each.state.value}{f' ({each.reason})' if each.reason else ''}", each.ends_at)
        # Of several the one that lasts longest is what counts.
        if found is None or (found.until is not None and (hold.until is None or hold.until > found.until)):
            found = hold
    return found


def learned(said: Availability, now: datetime) -> int | None:
    """The ceiling that a refusal taught: what was there, more and more as time passes; None once it is forgotten."""
    if said.ends_at is None or said.jobs is None or not said.holds(now):
        return None
    step = (said.ends_at - said.starts_at) / LEARNED_STEPS
    passed = int((now - said.starts_at) / step) if step else LEARNED_STEPS
    return said.jobs + (2 ** (passed - 1) if passed else 0)


def _about(said: Availability, place: Place) -> bool:
    return said.resource == place[0] and said.queue in ("", place[1])


def full(place: Place, there: int, words: str, now: datetime, *, step_s: float) -> Availability:
    """What a scheduler's "too many" teaches: no more than that for a while, then a few, then as before.

    :param there: how many jobs of ours the scheduler can have: as many as it had, and of the one that was refused all
        elements but one
    :param step_s: seconds until the first one more is tried
    """
    return Availability(
        resource=place[0],
        queue=place[1],
        state=AvailabilityState.FULL,
        starts_at=now,
        ends_at=now + timedelta(seconds=step_s * LEARNED_STEPS),
        by="the scheduler",
        reason=words,
        jobs=there,
    )
