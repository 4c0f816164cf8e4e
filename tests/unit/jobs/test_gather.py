"""Reads that are gathered: few queries for many callers, and each gets what it asked for."""

from __future__ import annotations

import asyncio

import pytest

from airavata_provider.errors import StoreError
from airavata_provider.jobs import gather
from airavata_provider.jobs.gather import Gatherer


class Table:
    """Doubles even numbers; knows nothing of odd ones."""

    def __init__(self) -> None:
        self.queries: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def read(self, keys: list[int]) -> dict[int, int]:
        self.queries.append(keys)
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return {key: 2 * key for key in keys if key % 2 == 0}

    def gatherer(self) -> Gatherer[int, int]:
        return Gatherer(self.read, lambda: -1)


async def test_many_share_few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "MOST", 100)
    table = Table()
    gathered = table.gatherer()
    found = await asyncio.gather(*(gathered.get(number % 200) for number in range(400)))
    assert found == [2 * key if key % 2 == 0 else -1 for key in [*range(200), *range(200)]]
    assert [len(keys) for keys in table.queries] == [100, 100]
    assert await gathered.get(2) == 4


async def test_who_asks_during_a_query_gets_another() -> None:
    table = Table()
    gathered = table.gatherer()
    table.open.clear()
    first = asyncio.create_task(gathered.get(2))
    while not table.queries:  # noqa: ASYNC110 -- nobody is told
        await asyncio.sleep(0)
    second, third = asyncio.create_task(gathered.get(2)), asyncio.create_task(gathered.get(4))
    await asyncio.sleep(0)
    third.cancel()
    table.open.set()
    assert (await first, await second) == (4, 4)
    assert table.queries == [[2], [2]]


async def test_an_error_is_for_those_who_asked() -> None:
    table = Table()
    gathered = table.gatherer()
    table.error = StoreError("away")
    found = await asyncio.gather(gathered.get(1), gathered.get(2), return_exceptions=True)
    assert [*found] == [table.error, table.error]
    table.error = None
    assert await gathered.get(2) == 4


async def test_closing_finishes_what_was_asked_for() -> None:
    table = Table()
    gathered = table.gatherer()
    await gathered.close()
    asked = asyncio.create_task(gathered.get(2))
    await asyncio.sleep(0)
    await gathered.close()
    assert await asked == 4
