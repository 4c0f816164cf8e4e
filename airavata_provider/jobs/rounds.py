"""One round of admission as one transaction: count, read the heads of the lines that may move, decide, write.

Rounds of all processes come one after the other: PostgreSQL's advisory lock, SQLite's write lock. So what is counted
holds until the commit, and no two processes let go what is for one. A round reads sums, and of the jobs that wait
only as many as could go, however many wait.

What always holds: a job counts from when it is let go until it ends, or until ``jobs.grants`` takes it for lost. It
waits only while its waiter's process lives, which the process' lease tells: what died with its triggerer holds nobody
up, and what was let go there and did not begin is taken back. No queue is passed over because of another.

Imports no Airflow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, Select, and_, case, delete, false, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from airavata_provider.jobs import tables
from airavata_provider.jobs.admission import Line, Load, Waiting, decide, promising
from airavata_provider.jobs.engine import take_turn
from airavata_provider.jobs.grants import GRANT_S, adopted, begun, granted, left, unsent, waits
from airavata_provider.jobs.limits import Hold, Limits, Place, full, learned
from airavata_provider.jobs.placing import PlaceLoad
from airavata_provider.jobs.rows import availability_from
from airavata_provider.jobs.unit import CHANNEL, ROUND, Lease, Unit, Work
from airavata_provider.models.availability import Availability
from airavata_provider.models.job import Job, SubmissionState

LEASE_S = 30.0
"""How long the waiters of a process that died still count as waiting, and what was let go to them as there, in
seconds."""

SILENCE_MS = 30_000
"""After how long without a word from a process in the middle of its round the database ends that round."""

MAX_LINES = 64
"""Lines that one query reads; there is another only where none of theirs may go."""
MAX_HEADS = 1000
_LOCK = 0x61697261  # "aira": ours among the database's advisory locks
_LEASES = "admitter:"
_NO_QUEUE = ""

_job = tables.job.c
_queue = func.coalesce(_job.queue, _NO_QUEUE)


@dataclass(frozen=True)
class Refusal:
    """A scheduler took a job for one too many.

    :param words: the scheduler's
    :param cost: how many jobs the refused one counts as
    """

    words: str
    cost: int = 1


@dataclass(frozen=True)
class Call:
    """What a process brings to a round.

    :param holder: the admitter's name
    :param limits: what the catalog says; what people and schedulers said is read within
    :param renew: its lease is due
    :param adopt: jobs for which somebody waits in this process now
    :param release: jobs for which nobody waits here any more
    :param here: jobs whose tasks wait here at this moment: the submission of those begins as they are let go
    :param refused: by place, the smallest job that its scheduler refused
    :param step_s: see ``jobs.admission.full``
    :param most: at most so many jobs are looked at
    """

    holder: str
    limits: Limits
    renew: bool = True
    adopt: frozenset[str] = frozenset()
    release: frozenset[str] = frozenset()
    here: frozenset[str] = frozenset()
    refused: Mapping[Place, Refusal] = field(default_factory=dict)
    step_s: float = 30.0
    most: int = MAX_HEADS


@dataclass(frozen=True)
class Round:
    """What a round did.

    :param granted: jobs that were let go, as they are on record now
    :param held: why the others wait, by line
    :param said: what is said of resources
    :param more: not everybody who could go was looked at: there should be another round
    """

    granted: tuple[Job, ...]
    held: Mapping[tuple[str, str, str, str, int], Hold]
    said: Sequence[Availability]
    more: bool


async def run_round(connection: AsyncConnection, call: Call) -> Round:
    """One round, within the caller's transaction, which is one that writes."""
    await take_turn(connection, _LOCK, SILENCE_MS)
    now = datetime.now(UTC)
    await _present(connection, call, now)
    said = [availability_from(row) for row in (await connection.execute(select(tables.availability))).mappings()]
    alive = await _alive(connection, now)
    rows = (await connection.execute(_sums(now, alive))).mappings().all()
    if any(row["orphans"] for row in rows):
        # What began meanwhile is no orphan: so they are locked, then everything is counted again.
        await _take_back(connection, alive)
        rows = (await connection.execute(_sums(now, alive))).mappings().all()
    news = _lessons(rows, said, call, now)
    said = [each for each in said if each.id not in {new.id for new in news}] + news
    limits = replace(call.limits, said=said)
    running = loads(rows, limits)
    lines, held = promising(_lines(rows), running, limits, now)
    more = False
    heads: list[Waiting] = []
    grants = decide(heads, running, limits, now)
    for start in range(0, len(lines), MAX_LINES):
        some = lines[start : start + MAX_LINES]
        found = (await connection.execute(_heads(some, alive, call.most, now))).mappings().all()
        heads += [_waiting(row, limits) for row in found]
        grants = decide(heads, running, limits, now)
        if grants.names:
            more = len(found) == call.most or start + MAX_LINES < len(lines)
            break
    gone: list[Job] = []
    if grants.names or news:
        unit = await Unit.load(connection, [Work("", lambda _: None, jobs=grants.names)])
        for name in grants.names:
            job = unit.find(name)
            if job is not None and waits(job, now):
                after = granted(job, now)
                here = job.waiter == call.holder and name in call.here
                gone.append(unit.save(begun(after, now) if here else after))
        for new in news:
            unit.set_availability(new)
        await unit.flush(connection)
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_notify(CHANNEL, ROUND + call.holder)))
    return Round(tuple(gone), {**held, **grants.held}, said, more and bool(gone))


async def _take_back(connection: AsyncConnection, alive: Sequence[str]) -> None:
    """What was let go to a process that is not heard of any more, and certainly did not begin."""
    names = (await connection.execute(select(_job.name).where(_is_let_go(), _job.waiter.not_in(alive)))).scalars()
    unit = await Unit.load(connection, [Work("", lambda _: None, jobs=tuple(names))])
    for name in unit.names:
        job = unit.job(name)
        if unsent(job) and job.waiter not in alive:
            unit.save(left(job, job.waiter))
    await unit.flush(connection)


def _lessons(
    rows: Sequence[RowMapping], said: Sequence[Availability], call: Call, now: datetime
) -> list[Availability]:
    """What refusals teach: with that job there would have been one too many.

    What a larger array tells does not replace what is known of smaller jobs.
    """
    known = {each.id: most for each in said if (most := learned(each, now)) is not None}
    found = []
    for place, refusal in call.refused.items():
        lesson = full(place, _there(rows, place) + refusal.cost - 1, refusal.words, now, step_s=call.step_s)
        lesson = replace(lesson, id=_full_id(lesson))
        if refusal.cost == 1 or lesson.jobs is None or known.get(lesson.id, lesson.jobs) >= lesson.jobs:
            found.append(lesson)
    return found


def lease_of(holder: str) -> str:
    """Name of the lease that tells that an admitter's process lives."""
    return _LEASES + holder


async def _present(connection: AsyncConnection, call: Call, now: datetime) -> None:
    """Renew the process' lease, take over the jobs that are waited for here, leave those that are not."""
    name = lease_of(call.holder)
    names = call.adopt | call.release
    if not names and not call.renew:
        return
    unit = await Unit.load(connection, [Work("", lambda _: None, jobs=tuple(names))])
    if call.renew:
        unit.take_lease(name, Lease(call.holder, now + timedelta(seconds=LEASE_S)))
        old = tables.lease.c.name.startswith(_LEASES) & (tables.lease.c.expires_at < now - timedelta(hours=1))
        await connection.execute(delete(tables.lease).where(old))
    for each in names:
        job = unit.find(each)
        if job is None:
            continue
        # What another process adopted meanwhile is not ours to leave.
        changed = adopted(job, call.holder, now) if each in call.adopt else left(job, call.holder)
        if changed != job:
            unit.save(changed)
    await unit.flush(connection)


async def _alive(connection: AsyncConnection, now: datetime) -> list[str]:
    column = tables.lease.c
    found = await connection.execute(
        select(column.holder).where(column.name.startswith(_LEASES), column.expires_at > now)
    )
    return list(found.scalars())


def _is_open() -> Any:
    return and_(
        _job.ended_at.is_(None),
        _job.native_id.is_(None),
        _job.submission == SubmissionState.INTENDED.value,
        _job.array.is_(None),
    )


def _is_waiting(alive: Sequence[str] | None, now: datetime) -> Any:
    """``jobs.grants.waits``.

    :param alive: the admitters whose waiters count; None: all
    """
    return and_(
        _is_open(),
        or_(_job.admitted_at.is_(None), _job.submitting_at <= now - timedelta(seconds=GRANT_S)),
        _job.cancel_requested_at.is_(None),
        _job.waiter != "" if alive is None else _job.waiter.in_(alive),
    )


def _is_let_go() -> Any:
    """Let go, and its submission did not begin."""
    return and_(_is_open(), _job.admitted_at.is_not(None), _job.submitting_at.is_(None))


def _sums(now: datetime, alive: Sequence[str] | None) -> Select[Any]:
    """What is there and what waits, one row for each line."""
    there = _job.native_id.is_not(None)
    gone = or_(
        there,
        _job.submission == SubmissionState.UNCERTAIN.value,
        _job.submitting_at > now - timedelta(seconds=GRANT_S),
        _is_let_go(),
    )
    is_array = _job.size.is_not(None)
    plain = and_(_job.array.is_(None), _job.size.is_(None))
    waiting = _is_waiting(alive, now)
    orphans = false() if alive is None else and_(_is_let_go(), _job.waiter.not_in(alive))

    def count(*conditions: Any) -> Any:
        return func.sum(case((and_(*conditions), 1), else_=0))

    line = (_job.resource, _queue, _job.gateway, _job.user, _job.priority)
    return (
        select(
            _job.resource,
            _queue.label("queue"),
            _job.gateway,
            _job.user,
            _job.priority,
            count(gone, plain).label("plain"),
            count(gone, is_array).label("arrays"),
            count(there, _job.array.is_not(None)).label("elements"),
            # Until it is submitted, an array counts as its elements, which have no ids yet.
            func.sum(case((and_(gone, is_array, _job.native_id.is_(None)), _job.size), else_=0)).label("unborn"),
            count(there, plain).label("there"),
            count(waiting).label("waiting"),
            count(orphans).label("orphans"),
            func.min(case((waiting, _job.created_at))).label("since"),
        )
        # A job that somebody else submitted, and that is only watched, is not ours.
        .where(_job.ended_at.is_(None), _job.attempt > 0)
        .group_by(*line)
        .order_by(*line)
    )


def loads(rows: Sequence[RowMapping], limits: Limits) -> list[Load]:
    """What is there, counted as each place counts."""
    found = []
    for row in rows:
        one = (row["resource"], row["queue"]) in limits.arrays_as_one
        jobs = row["plain"] + (row["arrays"] if one else row["elements"] + row["unborn"])
        if jobs:
            found.append(Load(row["resource"], row["queue"], row["gateway"], row["user"], int(jobs)))
    return found


def _lines(rows: Sequence[RowMapping]) -> list[Line]:
    return [
        Line(
            row["resource"],
            row["queue"],
            row["gateway"],
            row["user"],
            row["priority"],
            row["since"],
            jobs=int(row["waiting"]),
        )
        for row in rows
        if row["waiting"]
    ]


def _there(rows: Sequence[RowMapping], place: Place) -> int:
    return sum(int(row["there"] + row["elements"]) for row in rows if (row["resource"], row["queue"]) == place)


def _heads(lines: Sequence[tuple[Line, int]], alive: Sequence[str], most: int, now: datetime) -> Select[Any]:
    """The oldest of each of those lines, the very first ones first; the arrays apart, which others may overtake."""
    line = (_job.resource, _queue, _job.gateway, _job.user, _job.priority)
    part = (*line, _job.size.is_(None))
    number = func.row_number().over(partition_by=part, order_by=(_job.created_at, _job.name)).label("number")
    ranked = (
        select(
            _job.name,
            _job.resource,
            _queue.label("queue"),
            _job.gateway,
            _job.user,
            _job.priority,
            _job.created_at,
            _job.size,
            number,
        )
        .where(_is_waiting(alive, now), tuple_(*line).in_([each.key for each, _ in lines]))
        .subquery()
    )
    room = max(room for _, room in lines)
    return (
        select(ranked)
        .where(ranked.c.number <= min(room, most))
        .order_by(ranked.c.number, ranked.c.created_at, ranked.c.name)
        .limit(most)
    )


def _waiting(row: RowMapping, limits: Limits) -> Waiting:
    one = (row["resource"], row["queue"]) in limits.arrays_as_one
    return Waiting(
        row["name"],
        row["resource"],
        row["queue"],
        row["gateway"],
        row["user"],
        row["priority"],
        row["created_at"],
        1 if one or not row["size"] else row["size"],
    )


def positions(holder: str, now: datetime) -> Select[Any]:
    """``name`` and ``number`` of the jobs that an admitter waits for, among all that wait for their place."""
    number = (
        func.row_number()
        .over(partition_by=(_job.resource, _queue), order_by=(_job.priority.desc(), _job.created_at, _job.name))
        .label("number")
    )
    ranked = select(_job.name, _job.waiter, number).where(_is_waiting(None, now)).subquery()
    return select(ranked.c.name, ranked.c.number).where(ranked.c.waiter == holder)


def held_by(holder: str) -> Select[Any]:
    """``name`` of the jobs that wait by an admitter, or were let go there and did not begin."""
    return select(_job.name).where(_is_open(), _job.waiter == holder)


def sums(now: datetime) -> Select[Any]:
    """What is there and what waits, for :func:`place_loads`."""
    return _sums(now, None)


def place_loads(rows: Sequence[RowMapping], limits: Limits) -> list[PlaceLoad]:
    """The rows of :func:`sums`, by place."""
    running: dict[Place, int] = {}
    waiting: dict[Place, int] = {}
    for load in loads(rows, limits):
        place = (load.resource, load.queue)
        running[place] = running.get(place, 0) + load.jobs
    for row in rows:
        place = (row["resource"], row["queue"])
        waiting[place] = waiting.get(place, 0) + int(row["waiting"])
    return [PlaceLoad(*place, running.get(place, 0), waiting[place]) for place in sorted(waiting)]


def _full_id(each: Availability) -> str:
    digest = hashlib.sha256(f"{each.resource}\0{each.queue}".encode()).hexdigest()
    return f"full:{digest[:32]}"
