"""The part of the job store that is not about jobs: tasks' checkpoints, leases, placements, resources' availability;
and what every part needs, the way to the database.

Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import RowMapping, Select, select, tuple_

from airavata_provider.jobs import tables
from airavata_provider.jobs.engine import make_async_engine, persist, translated
from airavata_provider.jobs.gather import Gatherer
from airavata_provider.jobs.rows import availability_from, placement_from
from airavata_provider.jobs.unbroken import Unbroken
from airavata_provider.jobs.unit import Lease, Place, Unit, Work, place_of
from airavata_provider.jobs.writer import GroupWriter
from airavata_provider.models.availability import Availability
from airavata_provider.models.job import TaskRecord, TaskState
from airavata_provider.models.placement import Placement

T = TypeVar("T")


class Records:
    """See the module; :class:`~airavata_provider.jobs.store.JobStore` is the whole."""

    def __init__(self, url: str, pool_size: int, patience_s: float) -> None:
        self._engine = make_async_engine(url, pool_size)
        self._patience_s = patience_s
        self._writer = GroupWriter(self._engine, patience_s)
        # Reads stand in line here, where nothing runs out; one connection is left to whoever writes.
        self._room = asyncio.Semaphore(max(1, pool_size - 1))
        self._unbroken = Unbroken()
        self._checkpoints = Gatherer[Place, Mapping[tuple[str, int], TaskRecord]](self._task_records, dict)
        self._placed = Gatherer[Place, Placement | None](self._placements, lambda: None)

    async def close(self) -> None:
        """Finish writes and reads, close connections."""
        await self._writer.close()
        await self._checkpoints.close()
        await self._placed.close()
        await self._unbroken.close()
        await self._engine.dispose()

    async def create_tables(self) -> None:
        """Make the tables that are missing, without migrations: for tests and throw-away stores."""
        with translated("making the tables"):
            async with self._engine.begin() as connection:
                await connection.run_sync(tables.metadata.create_all)

    # --- tasks' checkpoints

    async def record_task(self, record: TaskRecord) -> None:
        """Keep a task's checkpoint in place of an earlier one; that of a later try is never overwritten."""
        await self.record_tasks([record])

    async def record_tasks(self, records: Iterable[TaskRecord]) -> None:
        """:meth:`record_task` for several at once: all are kept, or none."""

        def do(unit: Unit) -> None:
            for record in records:
                unit.put_task(record)

        await self._writer.write(Work("saving tasks' checkpoints", do))

    async def task_records(self, dag_id: str, experiment_id: str, born: str) -> Mapping[tuple[str, int], TaskRecord]:
        """An experiment's checkpoints by task id and map index.

        :param born: when its run was made: another run of the same id has checkpoints of its own
        """
        return await self._checkpoints.get((dag_id, experiment_id, born))

    async def _task_records(self, runs: list[Place]) -> Mapping[Place, Mapping[tuple[str, int], TaskRecord]]:
        column = tables.task.c
        of_runs = tuple_(column.dag_id, column.experiment_id, column.born).in_(runs)
        found: dict[Place, dict[tuple[str, int], TaskRecord]] = {}
        for row in await self._read("reading checkpoints", select(tables.task).where(of_runs)):
            record = TaskRecord(**{**row, "state": TaskState(row["state"])})
            run = (record.dag_id, record.experiment_id, record.born)
            found.setdefault(run, {})[record.task_id, record.map_index] = record
        return found

    # --- placements

    async def place(self, placement: Placement) -> Placement:
        """Keep a decision, unless there is one of this revision or a higher one; what is kept then.

        Of two that decide at the same moment both get the first one's.
        """
        return await self._writer.write(
            Work("saving a placement", lambda unit: unit.place(placement), placements=(place_of(placement),))
        )

    async def placement(self, dag_id: str, experiment_id: str, born: str) -> Placement | None:
        """Where that experiment was placed; None when nobody decided yet."""
        return await self._placed.get((dag_id, experiment_id, born))

    async def _placements(self, runs: list[Place]) -> Mapping[Place, Placement | None]:
        column = tables.placement.c
        of_runs = tuple_(column.dag_id, column.experiment_id, column.born).in_(runs)
        rows = await self._read("reading a placement", select(tables.placement).where(of_runs))
        return {place_of(each): each for each in map(placement_from, rows)}

    # --- availability

    async def set_availability(self, availability: Availability) -> Availability:
        """Keep a statement about a resource, in place of an earlier one of its id; as it is stored, with an id."""
        stored = availability if availability.id else replace(availability, id=uuid.uuid4().hex)
        work = Work("saving a resource's availability", lambda unit: unit.set_availability(stored))
        await self._writer.write(work)
        return stored

    async def clear_availability(self, key: str) -> None:
        """Forget the statement of that id; one that is not there is fine."""
        await self._writer.write(
            Work("clearing a resource's availability", lambda unit: unit.clear_availability(key))
        )

    async def availabilities(self) -> list[Availability]:
        """All statements, also those that are past or yet to come; by resource, queue and start."""
        column = tables.availability.c
        query = select(tables.availability).order_by(column.resource, column.queue, column.starts_at, column.id)
        return list(map(availability_from, await self._read("reading resources' availability", query)))

    # --- leases

    async def lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Take or renew the lease of that name; False while another holds it. ``ttl_s`` 0 gives it back."""

        def do(unit: Unit) -> bool:
            held = unit.lease(name)
            if held is not None and held.holder != holder and held.expires_at > unit.now:
                return False
            unit.take_lease(name, Lease(holder, unit.now + timedelta(seconds=ttl_s)))
            return True

        return await self._writer.write(Work("taking a lease", do, leases=(name,)))

    # --- within

    async def _read(self, doing: str, query: Select[Any]) -> Sequence[RowMapping]:
        """Rows of a query. It ends on its own connection even when nobody waits for it any more: a connection
        that is left in the middle of a query is lost to the pool. Tried again when the database stumbles."""

        async def look() -> Sequence[RowMapping]:
            async with self._room, self._engine.connect() as connection:
                rows: Sequence[RowMapping] = (await connection.execute(query)).mappings().all()
            return rows

        async def read() -> Sequence[RowMapping]:
            with translated(doing):
                return await persist(look, self._patience_s)

        return await self._unbroken.run(read())
