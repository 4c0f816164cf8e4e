"""Reads by key, many callers' in one query: while a query is under way, the next callers' keys gather.

A lone caller waits for nobody. When thousands of tasks begin at once, as after a triggerer's restart, they share a
few queries instead of standing in line for connections. A caller sees the database as it was after it asked, never
before. Imports no Airflow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST = 100
"""Keys in one query."""


class Gatherer(Generic[K, V]):
    """Belongs to one event loop.

    :param read: reads what there is of those keys
    :param nothing: what a caller gets of whose key nothing was read
    """

    def __init__(self, read: Callable[[list[K]], Awaitable[Mapping[K, V]]], nothing: Callable[[], V]) -> None:
        self._read = read
        self._nothing = nothing
        self._wanted: dict[K, list[asyncio.Future[V]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V:
        """What is read of that key; the reading's error is every caller's whose key was in it."""
        found: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(key, []).append(found)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="airavata gathered reads")
        return await found

    async def close(self) -> None:
        """Finish what was asked for."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._wanted:
                keys = list(self._wanted)[:MOST]
                await self._serve({key: self._wanted.pop(key) for key in keys})
        finally:
            self._task = None
            for waiting in self._wanted.values():  # only when this was cancelled
                for each in waiting:
                    each.cancel()
            self._wanted.clear()

    async def _serve(self, asked: Mapping[K, list[asyncio.Future[V]]]) -> None:
        open_ = {key: left for key, each in asked.items() if (left := [one for one in each if not one.done()])}
        if not open_:
            return
        try:
            found = await self._read(list(open_))
        except BaseException as error:
            for one in (one for each in open_.values() for one in each if not one.done()):
                if isinstance(error, Exception):
                    one.set_exception(error)
                else:
                    one.cancel()
            if not isinstance(error, Exception):
                raise
            return
        for key, each in open_.items():
            for one in each:
                if not one.done():
                    one.set_result(found[key] if key in found else self._nothing())
