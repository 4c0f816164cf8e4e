"""``airflow airavata drain``, ``resume`` and ``queues``: what people say of resources, and what is where.

Works on the catalog and the job store; triggerers hear of it within seconds.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airavata_provider.cli_commands import command, say, say_json, user_name, with_store
from airavata_provider.deployment import get_deployment
from airavata_provider.errors import AiravataError
from airavata_provider.jobs.limits import Limits, Place, learned, limits_of, places
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.values import suggestion

if TYPE_CHECKING:
    from airavata_provider.jobs.placing import PlaceLoad
    from airavata_provider.jobs.store import JobStore

_FROM_NOW = re.compile(r"([0-9]{1,6})\s*([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@command
def drain(args: Namespace) -> int:
    """Let nothing new go there."""
    resource, queue = _place(get_deployment().catalog, args.resource, args.queue)
    now = datetime.now(UTC)
    starts = moment(args.starts, now) if args.starts else now
    ends = moment(args.ends, now) if args.ends else None
    if ends is not None and ends <= max(starts, now):
        raise AiravataError("--until is not after --from, or is past", advice="give a later moment")
    state = AvailabilityState.DOWN if args.down else AvailabilityState.DRAINING
    said = Availability(resource, state, starts, queue, ends, user_name() or "the command line", args.reason)

    async def work(store: JobStore) -> None:
        for each in await store.availabilities():
            if _about(each, resource, queue) and _past(each, now):
                await store.clear_availability(each.id)
        await store.set_availability(said)

    with_store(work)
    say(f"{_name(resource, queue)} is {told(said, now)}. Jobs that are there stay.")
    return 0


@command
def resume(args: Namespace) -> int:
    """Take back what was said."""
    resource, queue = _place(get_deployment().catalog, args.resource, args.queue)
    now = datetime.now(UTC)

    async def work(store: JobStore) -> tuple[list[Availability], list[Availability]]:
        said = [each for each in await store.availabilities() if each.resource == resource]
        mine = [each for each in said if _about(each, resource, queue)]
        for each in mine:
            await store.clear_availability(each.id)
        left = [each for each in said if each not in mine and not each.queue and not _past(each, now)]
        return [each for each in mine if not _past(each, now)], left

    taken_back, left = with_store(work)
    for each in taken_back:
        say(f"{_name(each.resource, each.queue)}: no more {told(each, now)}")
    if not taken_back:
        say(f"Nothing was said of {_name(resource, queue)}.")
    for each in left:
        say(f"But all of {resource} is {told(each, now)}; take that back with: airflow airavata resume {resource}")
    return 0


@command
def queues(args: Namespace) -> int:
    """Show what is where."""
    catalog = get_deployment().catalog
    if args.resource is not None:
        _place(catalog, args.resource, None)
    limits = limits_of(catalog)

    async def work(store: JobStore) -> tuple[list[PlaceLoad], list[Availability]]:
        return await store.place_loads(limits), await store.availabilities()

    loads, said = with_store(work)
    rows = report(places(catalog), limits, loads, said, datetime.now(UTC))
    rows = [row for row in rows if args.resource in (None, row["resource"])]
    if args.output == "json":
        say_json(rows)
        return 0
    table = [("resource", "queue", "jobs", "limit", "waiting", "")]
    for row in rows:
        limit = "-" if row["limit"] is None else str(row["limit"])
        words = "; ".join(each["told"] for each in row["said"])
        table.append((row["resource"], row["queue"] or "-", str(row["jobs"]), limit, str(row["waiting"]), words))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        say("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
    return 0


def report(
    known: Iterable[Place],
    limits: Limits,
    loads: Sequence[PlaceLoad],
    said: Sequence[Availability],
    now: datetime,
) -> list[dict[str, Any]]:
    """One entry for each queue of the catalog, and for each other one where jobs of ours are. Pure.

    ``jobs`` are those that were let go and have not ended, ``limit`` the configured one or what the scheduler's
    refusal taught, the lower one.
    """
    found: Mapping[Place, PlaceLoad] = {(load.resource, load.queue): load for load in loads}
    rows = []
    for place in sorted({*known, *found}):
        resource, queue = place
        about = [
            each
            for each in said
            if each.resource == resource
            and each.queue in ("", queue)
            and (each.ends_at is None or each.ends_at > now)
        ]
        most = [limits.queues.get(place)]
        most += [learned(each, now) for each in about if each.state is AvailabilityState.FULL]
        load = found.get(place)
        rows.append(
            {
                "resource": resource,
                "queue": queue,
                "jobs": load.running if load else 0,
                "limit": min((each for each in most if each is not None), default=None),
                "waiting": load.waiting if load else 0,
                "said": [
                    {
                        "state": each.state.value,
                        "starts_at": each.starts_at,
                        "ends_at": each.ends_at,
                        "by": each.by,
                        "reason": each.reason,
                        "holds": each.holds(now),
                        "told": told(each, now),
                    }
                    for each in about
                ],
            }
        )
    return rows


def told(said: Availability, now: datetime) -> str:
    """A statement in words. Pure but for the local time zone."""
    parts = [said.state.value]
    if said.starts_at > now:
        parts.append(f"from {_clock(said.starts_at)}")
    if said.ends_at is not None:
        parts.append(f"until {_clock(said.ends_at)}")
    by = f" by {said.by}" if said.by else ""
    return " ".join(parts) + f" (said{by}{': ' + said.reason if said.reason else ''})"


def moment(text: str, now: datetime, *, past: bool = False) -> datetime:
    """A moment as people write it.

    :param past: a time alone is one before now, not from now
    :raises AiravataError: it is none
    """
    if found := _FROM_NOW.fullmatch(text.strip()):
        apart = timedelta(**{_UNITS[found[2]]: int(found[1])})
        return now - apart if past else now + apart
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        relative = "before" if past else "from"
        raise AiravataError(
            f"{text!r} is no moment",
            advice=f"write a date and time (2030-01-31T08:00) or a time {relative} now (30m, 8h, 2d)",
        ) from None


def _place(catalog: Catalog, resource: str, queue: str | None) -> Place:
    """:raises AiravataError: the catalog does not have it"""
    entry = catalog.compute_resource(resource)
    if queue is None:
        return resource, ""
    if queue in entry.queues:
        return resource, entry.queues[queue].name or queue
    names = {each.name for each in entry.queues.values() if each.name}
    if queue not in names:
        raise AiravataError(f"{resource} has no queue {queue!r}{suggestion(queue, {*entry.queues, *names})}")
    return resource, queue


def _about(said: Availability, resource: str, queue: str) -> bool:
    """What is said of a resource's queues is about the resource, too."""
    return said.resource == resource and queue in ("", said.queue)


def _past(said: Availability, now: datetime) -> bool:
    return said.ends_at is not None and said.ends_at <= now


def _name(resource: str, queue: str) -> str:
    return f"{resource}'s queue {queue}" if queue else resource


def _clock(moment: datetime) -> str:
    return moment.astimezone().isoformat(sep=" ", timespec="minutes")
