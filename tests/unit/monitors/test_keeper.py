"""Monitors' listeners: each runs in one place, is started again when it ends, and goes when nobody wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airavata_provider.errors import ConfigurationError, StoreError
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.catalog import Catalog
from airavata_provider.monitors.base import Listener, Monitor, MonitorContext, monitors
from airavata_provider.monitors.keeper import Keeper, Pace, ensure_keeper, stop_keeper

PACE = Pace(look=0.01, lease=0.6, again=0.01, at_most=0.02)


@dataclass
class Log:
    running: set[str] = field(default_factory=set)
    at_once: int = 0
    starts: int = 0


@dataclass(frozen=True)
class Ear:
    name: str
    log: Log = field(compare=False)
    fails: bool = False

    async def run(self) -> None:
        self.log.starts += 1
        if self.fails:
            raise RuntimeError("deaf")
        assert self.name not in self.log.running, "listens twice"
        self.log.running.add(self.name)
        self.log.at_once = max(self.log.at_once, len(self.log.running))
        try:
            await asyncio.Event().wait()
        finally:
            self.log.running.discard(self.name)


class Ears(Monitor):
    def __init__(self, *ears: Ear) -> None:
        self.ears = list(ears)
        self.broken = False

    def listeners(self, context: MonitorContext) -> Mapping[str, Listener]:
        if self.broken:
            raise ConfigurationError("the catalog has faults")
        return {ear.name: ear for ear in self.ears}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    await store.create_tables()
    yield store
    await store.close()


def context_of(store: Any) -> MonitorContext:
    async def connection(name: str) -> Any:
        raise AssertionError(name)

    return MonitorContext(store, Catalog, connection)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110  # what is waited for is in plain variables
            await asyncio.sleep(0.005)


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def keep(monitor: Monitor, store: Any, pace: Pace = PACE) -> asyncio.Task[None]:
    return asyncio.create_task(Keeper({"ears": monitor}, context_of(store), pace=pace).run())


async def test_one_of_two_listens_and_the_other_takes_over(store: JobStore) -> None:
    log = Log()
    keepers = [keep(Ears(Ear("a", log), Ear("b", log)), store) for _ in range(2)]
    await until(lambda: log.running == {"a", "b"})
    await end(keepers[0])
    await until(lambda: log.running == {"a", "b"})
    await end(keepers[1])
    assert not log.running


async def test_a_listener_that_ends_is_started_again(store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    keeper = keep(Ears(Ear("a", log, fails=True)), store)
    await until(lambda: log.starts >= 3)
    await end(keeper)
    assert "ears:a: ended by itself" in caplog.text


async def test_what_is_wanted_no_more_ends_and_what_is_changed_is_started_anew(store: JobStore) -> None:
    log = Log()
    monitor = Ears(Ear("a", log), Ear("b", log))
    keeper = keep(monitor, store)
    await until(lambda: log.running == {"a", "b"})
    monitor.ears = [Ear("a", log)]
    await until(lambda: log.running == {"a"})
    assert log.starts == 2
    other = Log()
    monitor.ears = [Ear("a", other, fails=True)]
    await until(lambda: not log.running and other.starts > 0)
    await end(keeper)


async def test_a_monitor_that_cannot_tell_keeps_what_runs(store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    monitor = Ears(Ear("a", log))
    keeper = keep(monitor, store)
    await until(lambda: log.running == {"a"})
    monitor.broken = True
    await until(lambda: "cannot tell what to listen to" in caplog.text)
    assert log.running == {"a"}
    await end(keeper)
    assert log.starts == 1


class Lost:
    """A store whose database can go away."""

    def __init__(self) -> None:
        self.there = True
        self.refused = 0

    async def lease(self, name: str, holder: str, ttl_s: float) -> bool:
        if not self.there:
            self.refused += 1
            raise StoreError("no database")
        return True


async def test_who_cannot_renew_the_lease_stops_before_it_ends() -> None:
    log, lost = Log(), Lost()
    keeper = keep(Ears(Ear("a", log)), lost)
    await until(lambda: log.running == {"a"})
    lost.there = False
    await until(lambda: lost.refused > 0)
    await until(lambda: not log.running)
    lost.there = True
    await until(lambda: log.running == {"a"})
    await end(keeper)


async def test_names_of_any_length_get_leases_of_their_own() -> None:
    names: list[str] = []

    class Asked(Lost):
        async def lease(self, name: str, holder: str, ttl_s: float) -> bool:
            names.append(name)
            return True

    log = Log()
    keeper = keep(Ears(Ear("x" * 100 + "1", log), Ear("x" * 100 + "2", log)), Asked())
    await until(lambda: len(log.running) == 2)
    await end(keeper)
    assert len(set(names)) == 2
    assert max(map(len, names)) <= 64


async def test_one_keeper_per_event_loop(store: JobStore) -> None:
    before = asyncio.all_tasks()
    ensure_keeper(context_of(store))
    ensure_keeper(context_of(store))
    await asyncio.sleep(0)
    assert len({task for task in asyncio.all_tasks() - before if task.get_name() == "airavata monitors"}) == 1
    await stop_keeper()
    await stop_keeper()
    assert not {task for task in asyncio.all_tasks() if task.get_name() == "airavata monitors"}


def test_the_mail_monitor_is_installed() -> None:
    assert "mail" in monitors()
