"""How waiters are woken: by what the database tells, and where it tells nothing by one query for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime

import pytest

from airavata_provider.errors import StoreError
from airavata_provider.jobs import watch
from airavata_provider.jobs.watch import Watcher
from airavata_provider.models.job import Job, JobState
from tests.unit.jobs.factory import make_job

NEVER_S = 3600.0
AT_ONCE_S = 0.001


class Database:
    """Jobs in a table of paper, and what was asked of it."""

    def __init__(self, *names: str) -> None:
        self.jobs = {name: make_job(name, version=1) for name in names}
        self.read: list[set[str]] = []
        self.looks = 0
        self.full_looks = 0
        self.looked = asyncio.Event()
        self.told: asyncio.Queue[list[str] | Exception] = asyncio.Queue()
        self.recent: set[str] = set()
        self.watching: Watcher | None = None
        self.looked_while_heard = asyncio.Event()

    def watcher(self, interval_s: float, *, tells: bool = False) -> Watcher:
        listen = self._listen if tells else None
        return Watcher(self._named, self._changed_since, self._versions_of, interval_s=interval_s, listen=listen)

    def end(self, name: str) -> None:
        job = self.jobs[name]
        self.jobs[name] = make_job(name, version=job.version + 1, state=JobState.COMPLETE)
        self.recent.add(name)

    async def _named(self, names: Collection[str]) -> list[Job]:
        self.read.append(set(names))
        return [self.jobs[name] for name in names if name in self.jobs]

    async def _changed_since(self, at: datetime) -> Mapping[str, int]:
        self.looks += 1
        self.looked.set()
        if self.watching is not None and self.watching._hears:
            self.looked_while_heard.set()
        return {name: self.jobs[name].version for name in self.recent}

    async def _versions_of(self, names: Collection[str]) -> Mapping[str, int]:
        self.full_looks += 1
        return {name: self.jobs[name].version for name in names if name in self.jobs}

    async def _listen(self) -> AsyncIterator[list[str]]:
        while True:
            names = await self.told.get()
            if isinstance(names, Exception):
                raise names
            yield names

    async def another_look(self) -> None:
        self.looked.clear()
        await self.looked.wait()


def ended(job: Job) -> bool:
    return job.state is JobState.COMPLETE


async def waiting(watcher: Watcher, *names: str) -> list[asyncio.Task[Job]]:
    tasks = [asyncio.create_task(watcher.wait(name, ended, None)) for name in names]
    while watcher.waiting < len(names):  # noqa: ASYNC110 -- nobody is told
        await asyncio.sleep(0)
    return tasks


async def test_what_is_told_wakes_without_a_look() -> None:
    database = Database("a1", "a2")
    watcher = database.watcher(NEVER_S, tells=True)
    one, two = await waiting(watcher, "a1", "a2")
    database.told.put_nowait([])
    database.end("a1")
    database.told.put_nowait(["a1", "somebody else's"])
    assert (await one).name == "a1"
    assert not two.done()
    database.end("a2")
    database.told.put_nowait(["a2"])
    assert (await two).name == "a2"
    assert database.looks == 0
    await watcher.close()


async def test_where_nothing_is_told_one_query_serves_all() -> None:
    names = [f"a{number}" for number in range(50)]
    database = Database(*names)
    watcher = database.watcher(AT_ONCE_S)
    tasks = await waiting(watcher, *names)
    for _ in range(3):
        await database.another_look()
    # Everybody was read once, as newcomers; while nothing happens nobody is read again.
    assert sorted(name for each in database.read for name in each) == sorted(names)
    database.read.clear()
    database.end("a7")
    assert (await tasks[7]).name == "a7"
    assert database.read == [{"a7"}]
    assert watcher.waiting == 49
    await watcher.close()
    others = await asyncio.gather(*tasks[:7], *tasks[8:], return_exceptions=True)
    assert {type(each) for each in others} == {StoreError}


async def test_who_hears_looks_seldom_until_nothing_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "HEARD_S", NEVER_S)
    database = Database("a1", "a2")
    watcher = database.watcher(AT_ONCE_S, tells=True)
    database.watching = watcher
    one, two = await waiting(watcher, "a1", "a2")
    database.told.put_nowait([])
    await database.looked_while_heard.wait()
    looks = database.looks
    database.end("a1")
    database.end("a2")
    database.told.put_nowait(["a2"])
    assert (await two).name == "a2"
    assert (database.looks, one.done()) == (looks, False)
    database.told.put_nowait(OSError("gone"))
    assert (await one).name == "a1"
    assert database.looks > looks
    await watcher.close()


async def test_what_no_clock_shows_is_found_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FULL_LOOK_S", 0.0)
    database = Database("a1", "a2")
    watcher = database.watcher(AT_ONCE_S)
    one, two = await waiting(watcher, "a1", "a2")
    await database.another_look()
    database.read.clear()
    database.end("a1")
    database.recent.clear()
    assert (await one).name == "a1"
    assert database.read == [{"a1"}]
    assert not two.done()
    await watcher.close()
    with pytest.raises(StoreError):
        await two
