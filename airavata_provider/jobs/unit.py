"""One transaction's worth of store work: what it needs is read and locked at once, done in memory, written at
once.

However many callers share the transaction, it costs a handful of statements. The row lock on a job
(PostgreSQL; on SQLite the database's write lock) is held until the commit, so what is decided in memory
holds, and nobody else can store news of that job meanwhile. Locks are taken in the order of names, by every
process. Whoever needs an array's element locks the array's row as well, because the row's tally
(``jobs.arrays``) follows from every change of an element, here and nowhere else.

:class:`Unit` is what work sees: plain synchronous calls, no SQL. Imports no Airflow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, func, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from airavata_provider.errors import JobUnknown
from airavata_provider.jobs import tables
from airavata_provider.jobs.arrays import follow, standing
from airavata_provider.jobs.grants import takes_room
from airavata_provider.jobs.rows import (
    event_values,
    job_from,
    job_values,
    placement_from,
    placement_values,
    storable,
    task_values,
)
from airavata_provider.jobs.state import decide
from airavata_provider.jobs.statements import PUT_LEASE, PUT_TASK, UPDATE_JOB, say_availability
from airavata_provider.models.availability import Availability
from airavata_provider.models.identity import TaskIdentity, array_name
from airavata_provider.models.job import Effect, Job, JobEvent, TaskRecord
from airavata_provider.models.placement import Placement

T = TypeVar("T")
CHANNEL = "airavata_job"
"""PostgreSQL's notification channel; a payload is names of changed jobs with commas between."""

ROOM = "!"
"""First in a payload where something ended, or was taken back, that others wait for; no job has that name."""

ROUND = "?"
"""Before the admitter's name in a payload that tells of its round of admission; no job's name begins so."""

Place = tuple[str, str, str]
"""Key of a placement: the DAG, the experiment, and when its run was born."""

_ROWS_PER_STATEMENT = 500
_NAMES_PER_NOTICE = 100  # a payload is at most 8,000 bytes, a name at most 64


@dataclass(frozen=True)
class Work(Generic[T]):
    """One caller's work.

    :param doing: what it does, for an error's message
    :param do: the work; raises before it changes anything, or not at all
    :param jobs: names of the jobs that it needs; an element brings its array's row
    :param arrays: names of the jobs whose elements it needs too, if they are arrays
    :param events: the news that it may append
    :param leases: names of the leases that it needs
    :param placements: keys of the placements that it needs
    :param tasks: submission tasks of which it needs the number of the last attempt; only who has the rows of the
        attempts before among its ``jobs`` knows that nobody adds another meanwhile
    """

    doing: str
    do: Callable[[Unit], T]
    jobs: tuple[str, ...] = ()
    arrays: tuple[str, ...] = ()
    events: tuple[JobEvent, ...] = ()
    leases: tuple[str, ...] = ()
    placements: tuple[Place, ...] = ()
    tasks: tuple[TaskIdentity, ...] = ()


@dataclass(frozen=True)
class Lease:
    """Who holds a lease, and until when."""

    holder: str
    expires_at: datetime


class Unit:
    """The store within one transaction: what was asked for is at hand, what changes is gathered."""

    def __init__(
        self,
        jobs: Iterable[Job] = (),
        known: Iterable[tuple[str, str, str]] = (),
        leases: Mapping[str, Lease] | None = None,
        placements: Mapping[Place, Placement] | None = None,
        attempts: Mapping[TaskIdentity, int] | None = None,
    ) -> None:
        self.now = datetime.now(UTC)
        self._jobs: dict[str, Job] = {}
        self._elements: dict[str, list[str]] = {}
        for job in jobs:
            self._keep(job)
        self._known = set(known)
        self._leases = dict(leases or {})
        self._placements = dict(placements or {})
        self._attempts = dict(attempts or {})
        self.new_jobs: set[str] = set()
        self.changed_jobs: set[str] = set()
        self.made_room = False
        self._moves: dict[str, Counter[str]] = {}
        self.new_events: list[dict[str, Any]] = []
        self.journal: list[dict[str, Any]] = []
        self.task_work: list[dict[str, Any]] = []
        self.changed_leases: set[str] = set()
        self.new_placements: set[Place] = set()
        self.changed_placements: set[Place] = set()
        self.availability_work: list[Availability | str] = []

    @property
    def names(self) -> list[str]:
        """Names of the jobs at hand."""
        return list(self._jobs)

    def find(self, name: str) -> Job | None:
        """The job of that name, None when there is none."""
        if name in self._moves:
            self._follow(name)
        return self._jobs.get(name)

    def elements(self, array: str) -> list[Job]:
        """An array's elements, which the work asked for; none of a plain job."""
        return [self._jobs[name] for name in self._elements.get(array, ())]

    def job(self, name: str) -> Job:
        """:raises JobUnknown: no such job"""
        job = self.find(name)
        if job is None:
            raise JobUnknown(f"no job {name!r}", where="job store")
        return job

    def last_attempt(self, task: TaskIdentity) -> int:
        """The number of a submission task's last attempt, 0 where there is none; the work asked for it."""
        return self._attempts.get(task, 0)

    def add(self, job: Job) -> Job:
        """A new job, which :meth:`find` did not find."""
        job = replace(job, created_at=job.created_at or self.now, changed_at=self.now, version=1)
        self._keep(job)
        self.new_jobs.add(job.name)
        if job.array is not None:
            self._move(job.array, None, job)
        elif (task := job.task) in self._attempts:
            self._attempts[task] = max(job.attempt, self._attempts[task])
        return job

    def save(self, job: Job) -> Job:
        """A changed job."""
        job = replace(job, changed_at=self.now, version=job.version + 1)
        before = self._jobs[job.name]
        self.made_room = self.made_room or (takes_room(before) and not takes_room(job))
        if job.array is not None:
            self._move(job.array, before, job)
        self._jobs[job.name] = job
        self.changed_jobs.add(job.name)
        return job

    def _keep(self, job: Job) -> None:
        """Have a job at hand that was not."""
        self._jobs[job.name] = job
        if job.array is not None:
            self._elements.setdefault(job.array, []).append(job.name)

    def _move(self, array: str, before: Job | None, after: Job) -> None:
        """Note that an element stands elsewhere now, or that the scheduler gave it up."""
        left, right = None if before is None else standing(before), standing(after)
        gone = after.canceled_at is not None and (before is None or before.canceled_at is None)
        if left != right or gone:
            moves = self._moves.setdefault(array, Counter())
            moves[right] += 1
            if left is not None:
                moves[left] -= 1

    def _follow(self, name: str) -> None:
        """Let an array's row follow its elements."""
        moves = self._moves.pop(name)
        array = self._jobs.get(name)
        if array is None:
            # Somebody cleaned up and took an array before its elements: nobody waits for it.
            return
        tally = Counter(array.tally or {})
        tally.update(moves)
        self.save(follow(array, tally, self.now))

    def write_journal(self, job: Job, reason: str) -> None:
        """Note where the job's submission stands."""
        self.journal.append(
            {
                "job": job.name,
                "state": job.submission.value,
                "at": self.now,
                "native_id": job.native_id,
                "reason": storable(reason),
            }
        )

    def append(self, job: Job, event: JobEvent) -> tuple[Effect, Job]:
        """Store news of the job; return its effect and the job afterwards, which is not saved yet."""
        key = (event.job, event.source, event.event_id)
        if key in self._known:
            return Effect.DUPLICATE, job
        decision = decide(job, event)
        self._known.add(key)
        self.new_events.append(event_values(event, received_at=self.now, effect=decision.effect))
        return decision.effect, decision.job

    def put_task(self, record: TaskRecord) -> None:
        """Keep a task's checkpoint."""
        self.task_work.append(task_values(record))

    def lease(self, name: str) -> Lease | None:
        """Who holds the lease of that name."""
        return self._leases.get(name)

    def take_lease(self, name: str, lease: Lease) -> None:
        """The lease's next holder."""
        self._leases[name] = lease
        self.changed_leases.add(name)

    def place(self, placement: Placement) -> Placement:
        """Keep a placement unless one of its revision is there; what is kept."""
        key = place_of(placement)
        found = self._placements.get(key)
        if found is not None and found.revision >= placement.revision:
            return found
        (self.new_placements if found is None else self.changed_placements).add(key)
        self._placements[key] = placement
        return placement

    def set_availability(self, availability: Availability) -> None:
        """Keep a statement in place of an earlier one of its id."""
        self.availability_work.append(availability)

    def clear_availability(self, key: str) -> None:
        """Forget the statement of that id."""
        self.availability_work.append(key)

    # --- reading and writing

    @classmethod
    async def load(cls, connection: AsyncConnection, work: Sequence[Work[Any]]) -> Unit:
        """Read and lock what that work needs."""
        names = {name for each in work for name in each.jobs}
        names |= {array_name(name) for name in names}
        arrays = {name for each in work for name in each.arrays}
        events = [event for each in work for event in each.events]
        leases = {name for each in work for name in each.leases}
        jobs: list[Job] = []
        known: set[tuple[str, str, str]] = set()
        held: dict[str, Lease] = {}
        placed: dict[Place, Placement] = {}
        if names:
            named = tables.job.c.name.in_(names)
            wanted = or_(named, tables.job.c.array.in_(arrays)) if arrays else named
            query = select(tables.job).where(wanted).order_by(tables.job.c.name)
            jobs = [job_from(row) for row in (await connection.execute(_locking(query))).mappings()]
        if events:
            column = tables.job_event.c
            found = await connection.execute(
                select(column.job, column.source, column.event_id).where(
                    column.job.in_({event.job for event in events}),
                    column.event_id.in_({event.event_id for event in events}),
                )
            )
            known = {(row.job, row.source, row.event_id) for row in found}
        if leases:
            query = select(tables.lease).where(tables.lease.c.name.in_(leases)).order_by(tables.lease.c.name)
            rows = (await connection.execute(_locking(query))).mappings()
            held = {row["name"]: Lease(row["holder"], row["expires_at"]) for row in rows}
        places = {key for each in work for key in each.placements}
        if places:
            column = tables.placement.c
            key = tuple_(column.dag_id, column.experiment_id, column.born)
            query = select(tables.placement).where(key.in_(places)).order_by(*tables.placement.primary_key)
            rows = (await connection.execute(_locking(query))).mappings()
            placed = {place_of(each): each for each in map(placement_from, rows)}
        # After the locks: who adds an attempt holds them until its row can be seen.
        attempts = await _last_attempts(connection, {task for each in work for task in each.tasks})
        return cls(jobs, known, held, placed, attempts)

    async def flush(self, connection: AsyncConnection) -> None:
        """Write what changed."""
        for name in list(self._moves):
            self._follow(name)
        for names in _slices(sorted(self.new_jobs)):
            await connection.execute(insert(tables.job), [job_values(self._jobs[name]) for name in names])
        for names in _slices(sorted(self.changed_jobs - self.new_jobs)):
            rows = [{**job_values(self._jobs[name]), "key": name} for name in names]
            await connection.execute(UPDATE_JOB, rows)
        for events in _slices(self.new_events):
            await connection.execute(insert(tables.job_event), events)
        if self.journal:
            await connection.execute(insert(tables.submission), self.journal)
        if self.task_work:
            await connection.execute(PUT_TASK[connection.dialect.name], self.task_work)
        if self.changed_leases:
            rows = [
                {
                    "name": name,
                    "holder": self._leases[name].holder,
                    "expires_at": self._leases[name].expires_at,
                }
                for name in sorted(self.changed_leases)
            ]
            await connection.execute(PUT_LEASE[connection.dialect.name], rows)
        await self._flush_placements(connection)
        for each in self.availability_work:
            await connection.execute(*say_availability(each, connection.dialect.name))
        told = sorted(self.new_jobs | self.changed_jobs)
        if told and connection.dialect.name == "postgresql":
            for start in range(0, len(told), _NAMES_PER_NOTICE):
                words = told[start : start + _NAMES_PER_NOTICE]
                if self.made_room and start == 0:
                    words = [ROOM, *words]
                payload = ",".join(words)
                await connection.execute(select(func.pg_notify(CHANNEL, payload)))

    async def _flush_placements(self, connection: AsyncConnection) -> None:
        # Not "insert or update": of two processes that insert the first wins, and the other looks again.
        if self.new_placements:
            rows = [placement_values(self._placements[key]) for key in sorted(self.new_placements)]
            await connection.execute(insert(tables.placement), rows)
        for key in sorted(self.changed_placements - self.new_placements):
            column = tables.placement.c
            await connection.execute(
                update(tables.placement)
                .where(column.dag_id == key[0], column.experiment_id == key[1], column.born == key[2])
                .values(placement_values(self._placements[key]))
            )


async def _last_attempts(connection: AsyncConnection, tasks: Collection[TaskIdentity]) -> dict[TaskIdentity, int]:
    if not tasks:
        return {}
    column = tables.job.c
    key = (column.dag_id, column.experiment_id, column.task_id, column.map_index, column.born)
    wanted = [(task.dag_id, task.experiment_id, task.task_id, task.map_index, task.born) for task in tasks]
    query = (
        select(*key, func.max(column.attempt).label("last"))
        .where(tuple_(*key).in_(wanted), column.array.is_(None))
        .group_by(*key)
    )
    found = {TaskIdentity(*row[:-1]): row.last for row in await connection.execute(query)}
    return {task: found.get(task, 0) for task in tasks}


def _slices(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    """Rows for one statement each: between two, whoever shares the event loop has a turn."""
    return (rows[start : start + _ROWS_PER_STATEMENT] for start in range(0, len(rows), _ROWS_PER_STATEMENT))


def place_of(placement: Placement) -> Place:
    """Key of a placement."""
    return placement.dag_id, placement.experiment_id, placement.born


def _locking(query: Select[Any]) -> Select[Any]:
    # SQLite's dialect leaves the clause out: its transaction began with the write lock.
    return query.with_for_update()
