"""What the record of connections to hosts does, on whatever database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from airavata_provider.jobs import host_uses
from airavata_provider.jobs.store import JobStore
from airavata_provider.ssh.sharing import AGAIN_S, Answer, Ask
from tests.unit.jobs.store_contract import StoreFixtures


def word(lane: str, held: int = 0, **values: object) -> Ask:
    return replace(Ask("ada@host:22", lane, 3, 1000, held), **values)  # type: ignore[arg-type]


def wish(lane: str, held: int = 0, **values: object) -> Ask:
    return word(lane, held, wants=True, now=True, **values)


async def granted(store: JobStore, *asks: Ask) -> list[bool]:
    return [answer.granted for answer in await store.host_uses.settle(asks)]


class HostUseContract(StoreFixtures):
    async def test_processes_at_once_have_no_more_than_the_limit(self, store: JobStore, other: JobStore) -> None:
        answers = await asyncio.gather(
            *(
                granted(each, wish(f"{name}{number}"))
                for number in range(10)
                for name, each in (("a", store), ("b", other))
            )
        )
        assert sum(one for (one,) in answers) == 3

    async def test_attempts_of_all_processes_are_counted(self, store: JobStore, other: JobStore) -> None:
        assert await granted(store, wish("a", per_minute=2)) == [True]
        assert await granted(other, wish("b", per_minute=2), word("a")) == [True, False]
        (answer,) = await store.host_uses.settle([wish("c", per_minute=2)])
        assert not answer.granted
        assert answer.again_s > AGAIN_S

    async def test_one_word_for_several_hosts(self, store: JobStore, other: JobStore) -> None:
        asks = [wish(f"{host}-{number}", host=host, limit=1) for host in ("x", "y") for number in range(2)]
        assert await granted(store, *asks) == [True, False, True, False]
        assert await granted(other, wish("z-0", host="z", limit=1), wish("x-2", host="x", limit=1)) == [True, False]

    async def test_what_others_are_told(self, store: JobStore, other: JobStore) -> None:
        assert await granted(store, wish("a"), wish("a", 1), wish("a", 2)) == [True] * 3
        assert await granted(other, wish("b")) == [False]
        assert await store.host_uses.settle([word("a", 3)]) == [Answer(surplus=1)]
        assert await store.host_uses.settle([word("a", 3, leaving=1)]) == [Answer()]
        assert await granted(store, word("a", 2), wish("a", 2)) == [False, False]
        assert await granted(other, wish("b")) == [True]

    async def test_nothing_is_left_of_who_has_nothing(self, store: JobStore, other: JobStore) -> None:
        assert await granted(store, wish("a", limit=1)) == [True]
        assert await granted(other, wish("b", limit=1)) == [False]
        assert await granted(store, word("a")) == [False]
        assert await granted(other, wish("b", limit=1)) == [True]

    async def test_the_dead_count_for_a_while(
        self, store: JobStore, other: JobStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(host_uses, "TRUE_S", 0.0)
            assert await granted(store, wish("dead", limit=1)) == [True]
        assert await granted(other, wish("a", limit=1)) == [True]
        assert await granted(store, wish("b", limit=1)) == [False]
        # One that was taken for dead says so again, and is told what it means.
        assert await store.host_uses.settle([word("dead", 1, limit=1)]) == [Answer(surplus=1)]
        assert await granted(other, word("a"), wish("b", limit=1)) == [False, False]

    async def test_what_was_said_first_is_on_record_first(
        self, store: JobStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Though nobody waits for the answer any more; who was not heard by then says nothing."""
        begun, held_up = asyncio.Event(), asyncio.Event()
        on_record: list[Ask] = []
        settle = host_uses._settle

        async def slow(connection: AsyncConnection, asks: Sequence[Ask]) -> list[Answer]:
            if not begun.is_set():
                begun.set()
                await held_up.wait()
            on_record.extend(asks)
            return await settle(connection, asks)

        monkeypatch.setattr(host_uses, "_settle", slow)
        first, second = (asyncio.create_task(granted(store, wish(lane))) for lane in ("a", "b"))
        await begun.wait()
        last = asyncio.create_task(granted(store, word("a")))
        await asyncio.sleep(0)
        for task in (first, second):
            task.cancel()
        await asyncio.wait([first, second])
        held_up.set()
        await last
        assert on_record == [wish("a"), word("a")]

    async def test_what_is_said_to_count_for_too_long_does_not(self, store: JobStore, other: JobStore) -> None:
        """Somebody set the clock back since."""
        name = host_uses._host("ada@host:22")
        assert await store.lease(f"{name}lane:b", "3 0 0 0 1.0", 3600)
        for number in range(2):
            assert await store.lease(f"{name}start:{number}", "b", 3600)
        assert await granted(other, wish("a", per_minute=1)) == [True]

    async def test_other_leases_are_left_alone(self, store: JobStore) -> None:
        assert await store.lease("poll", "one", 60)
        await granted(store, wish("a"))
        await granted(store, word("a"))
        assert not await store.lease("poll", "two", 60)

    async def test_what_makes_no_sense_is_passed_over(
        self, store: JobStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number, text in enumerate(("", "nonsense", "1 0 0 0", "x 0 0 0 1.0")):
            assert await store.lease(f"{host_uses._host('ada@host:22')}lane:{number}", text, 60)
        assert await granted(store, wish("a")) == [True]
        assert "makes no sense: 'nonsense'" in caplog.text
