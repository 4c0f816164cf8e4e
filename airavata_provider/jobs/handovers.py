"""Experiments in two runs, from the submission on: which of them wait for their second run, and which may have it.

What always holds: an experiment is on record before its first run ends; the same submission told twice starts one
second run; looking for what may start costs by what changed of late, not by how many wait.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, Select, and_, exists, insert, select, union, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from airavata_provider.jobs.engine import WRITES, is_passing, persist, translated
from airavata_provider.jobs.tables import handover, job
from airavata_provider.jobs.unbroken import Unbroken
from airavata_provider.models.split import Handover, HandoverState


class Handovers:
    """The table of them.

    :param engine: the store's
    :param patience_s: how long reads and writes are tried again when the database does not answer
    """

    def __init__(self, engine: AsyncEngine, patience_s: float) -> None:
        self._patience_s = patience_s
        self._engine = engine
        self._writes = engine.execution_options(**{WRITES: True})
        self._unbroken = Unbroken()

    async def wait(self, dag_id: str, experiment_id: str, born: str, task_id: str, try_number: int) -> Handover:
        """Its submission is done: from now on the end of its jobs starts the second run.

        Told again by the same try, nothing changes but what was dropped; a later try, after a person cleared the
        first run, asks for the second run anew.
        """
        new = Handover(dag_id, experiment_id, born, task_id, try_number, HandoverState.WAITING)

        def decide(found: Handover) -> Handover:
            if found.try_number >= try_number and found.state != HandoverState.DROPPED:
                return found
            return replace(new, starts=found.starts)

        return await self._write("saving a submission's second run", new, decide, or_insert=True)

    async def started(self, done: Handover) -> Handover:
        """The second run is there. A try that came meanwhile still waits."""
        return await self._end(done, HandoverState.STARTED, 1)

    async def dropped(self, gone: Handover) -> Handover:
        """There is no first run that succeeded, and so no second."""
        return await self._end(gone, HandoverState.DROPPED, 0)

    async def _end(self, known: Handover, state: str, starts: int) -> Handover:
        def decide(found: Handover) -> Handover:
            if found.try_number != known.try_number or found.state != HandoverState.WAITING:
                return found
            return replace(found, state=state, starts=found.starts + starts)

        return await self._write("saving a second run", known, decide)

    async def of(self, dag_id: str, experiment_id: str, born: str) -> Handover | None:
        """An experiment's; None where it has one run, or has not submitted yet."""
        query = select(handover).where(_is(dag_id, experiment_id, born))
        return next(iter(await self._read(query)), None)

    async def due(self, since: datetime | None = None) -> list[Handover]:
        """Those that wait and whose jobs have all ended.

        :param since: only those of which something changed at that moment or later; None: all
        """
        column = handover.c
        open_job = exists().where(_its_jobs(), job.c.array.is_(None), job.c.ended_at.is_(None))
        query = select(handover).where(column.state == HandoverState.WAITING, ~open_job)
        if since is not None:
            told = select(column.dag_id, column.experiment_id, column.born).where(
                column.state == HandoverState.WAITING, column.changed_at >= since
            )
            ended = select(column.dag_id, column.experiment_id, column.born).select_from(
                handover.join(job, and_(_its_jobs(), job.c.changed_at >= since))
            )
            lately = union(told, ended.where(column.state == HandoverState.WAITING)).subquery()
            query = query.join(
                lately,
                and_(
                    lately.c.dag_id == column.dag_id,
                    lately.c.experiment_id == column.experiment_id,
                    lately.c.born == column.born,
                ),
            )
        return await self._read(query.order_by(column.changed_at))

    # --- within

    async def _write(
        self, doing: str, key: Handover, decide: Callable[[Handover], Handover], *, or_insert: bool = False
    ) -> Handover:
        """:meth:`_change`, again after what passes; all may be done twice."""

        def passes(error: Exception) -> bool:
            # Inserted by another process between our look and our insert: the next look sees it.
            return is_passing(error) or isinstance(error, IntegrityError)

        async def do() -> Handover:
            with translated(doing):
                return await persist(lambda: self._change(key, decide, or_insert=or_insert), self._patience_s, passes)

        return await self._unbroken.run(do())

    async def _change(
        self, key: Handover, decide: Callable[[Handover], Handover], *, or_insert: bool = False
    ) -> Handover:
        where = _is(key.dag_id, key.experiment_id, key.born)
        async with self._writes.begin() as connection:
            found = await _one(connection, select(handover).where(where).with_for_update())
            if found is None:
                if or_insert:
                    await connection.execute(insert(handover).values(**asdict(key), changed_at=datetime.now(UTC)))
                return key
            new = decide(found)
            if new != found:
                values = {**asdict(new), "changed_at": datetime.now(UTC)}
                await connection.execute(update(handover).where(where).values(values))
            return new

    async def _read(self, query: Select[Any]) -> list[Handover]:
        async def look() -> list[Handover]:
            async with self._engine.connect() as connection:
                return [_handover(row) for row in (await connection.execute(query)).mappings()]

        async def do() -> list[Handover]:
            with translated("looking for second runs"):
                return await persist(look, self._patience_s)

        return await self._unbroken.run(do())

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._unbroken.close()


def _is(dag_id: str, experiment_id: str, born: str) -> Any:
    column = handover.c
    return and_(column.dag_id == dag_id, column.experiment_id == experiment_id, column.born == born)


def _its_jobs() -> Any:
    return and_(
        job.c.dag_id == handover.c.dag_id,
        job.c.experiment_id == handover.c.experiment_id,
        job.c.born == handover.c.born,
        job.c.task_id == handover.c.task_id,
    )


async def _one(connection: AsyncConnection, query: Select[Any]) -> Handover | None:
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else _handover(row)


def _handover(row: RowMapping) -> Handover:
    return Handover(**{name: value for name, value in row.items() if name != "changed_at"})
