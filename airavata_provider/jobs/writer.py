"""Group commit: the writes of many coroutines in one transaction, each caller with its own result or error.

While one transaction is under way the next callers' work gathers, so under load the price of a commit is
shared and a lone caller waits for nobody. What always holds:

* A caller's await returns after its work is committed.
* One caller's failure never undoes another's work: work that raises is told so and leaves nothing; a batch
that
  the database refuses is rolled back and done again one by one.
* Work may therefore run more than once; it touches nothing but its
:class:`~airavata_provider.jobs.unit.Unit`.

Imports no Airflow.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from airavata_provider.errors import AiravataError, StoreError
from airavata_provider.jobs.engine import PATIENCE_S, WRITES, is_passing, pauses, store_error, stumbled
from airavata_provider.jobs.unit import Unit, Work

T = TypeVar("T")

MAX_BATCH = 200


@dataclass
class _Item(Generic[T]):
    work: Work[T]
    result: asyncio.Future[T]


class GroupWriter:
    """Writes through one engine, in one event loop.

    :param patience_s: how long a batch is tried again when the database stumbles; then its callers are told
    """

    def __init__(self, engine: AsyncEngine, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._engine = engine.execution_options(**{WRITES: True})
        self._pending: list[_Item[Any]] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def write(self, work: Work[T]) -> T:
        """Run the work in a transaction shared with others; return when it is committed.

        :raises StoreError: the database failed, for good or for longer than the pauses
        """
        if self._closed:
            raise StoreError(f"{work.doing}: the store is closed", where="job store")
        item: _Item[T] = _Item(work, asyncio.get_running_loop().create_future())
        self._pending.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="airavata job store writer")
        return await item.result

    async def close(self) -> None:
        """Finish what was asked for; nothing is taken after."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._pending:
                batch = [item for item in self._pending[:MAX_BATCH] if not item.result.done()]
                del self._pending[:MAX_BATCH]
                try:
                    await self._write_batch(batch)
                except asyncio.CancelledError:
                    _fail(batch + self._pending, StoreError("the store was stopped", where="job store"))
                    self._pending.clear()
                    raise
        finally:
            self._task = None

    async def _write_batch(self, batch: list[_Item[Any]]) -> None:
        failure: Exception | None = None
        for pause in (0.0, *pauses(self._patience_s)):
            if failure is not None:
                stumbled(failure, pause)
                await asyncio.sleep(pause)
            try:
                outcomes = await self._transaction([item.work for item in batch])
            except Exception as error:
                # A row that another process inserted between our look and our insert is seen at the next
                # look.
                known = isinstance(error, IntegrityError) and failure is None and len(batch) == 1
                failure = error
                if not (known or is_passing(error)):
                    break
            else:
                for item, outcome in zip(batch, outcomes, strict=True):
                    _tell(item, outcome)
                return
        if failure is not None and (len(batch) == 1 or is_passing(failure)):
            _fail(batch, failure)
            return
        for item in batch:
            await self._write_batch([item])

    async def _transaction(self, work: list[Work[Any]]) -> list[Any]:
        """What each piece of work returned or, as an exception, raised."""
        async with self._engine.begin() as connection:
            unit = await Unit.load(connection, work)
            outcomes = [_outcome(each, unit) for each in work]
            await unit.flush(connection)
        return outcomes


def _outcome(work: Work[Any], unit: Unit) -> Any:
    try:
        return work.do(unit)
    except Exception as error:
        return error


def _tell(item: _Item[Any], outcome: Any) -> None:
    if item.result.done():
        return
    if isinstance(outcome, Exception):
        item.result.set_exception(outcome)
    else:
        item.result.set_result(outcome)


def _fail(items: list[_Item[Any]], failure: Exception) -> None:
    """Tell the callers; each gets an error of its own."""
    for item in items:
        error = failure
        if not isinstance(failure, AiravataError):
            error = store_error(item.work.doing, failure)
            error.__cause__ = failure
        _tell(item, error)
