"""Waiting for jobs: one watcher per process and store, however many wait; no query per waiter.

On PostgreSQL a notification sent in the transaction of the change wakes the watcher at once. Elsewhere, and
while nothing can be heard, one query per interval asks which jobs changed of late; it stays as the safety net,
every :data:`HEARD_S`, where they are heard. It looks back over :data:`OVERLAP_S`, because a change that was
stamped earlier may be committed later. Only jobs are read that are waited for and whose version was not seen.
Each newcomer's job is looked at once, and everybody's version every :data:`FULL_LOOK_S`, whatever the clocks
say. So while nothing happens, thousands of waiters cost what one costs. When nobody waits, nothing
runs and nothing is connected.

A database that does not answer delays the waiters and fails none of them. Imports no Airflow; speaks SQL
nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import URL

from airavata_provider.errors import AiravataError, DeadlineExceeded, JobUnknown, StoreError
from airavata_provider.jobs.unit import CHANNEL
from airavata_provider.models.job import Job

_LOG = logging.getLogger(__name__)
OVERLAP_S = 5.0
HEARD_S = 5.0
FULL_LOOK_S = 60.0
_BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)

Listen = Callable[[], AsyncIterator[list[str]]]


@dataclass(eq=False, slots=True)
class _Waiter:
    until: Callable[[Job], bool]
    result: asyncio.Future[Job]


class Watcher:
    """Wakes whoever waits for a job. Belongs to one event loop.

    :param named: reads jobs by their names
    :param changed_since: reads the names and versions of jobs that changed at that moment or later
    :param versions_of: reads the versions of the jobs of those names
    :param interval_s: seconds between two looks while nothing is heard
    :param listen: yields names of changed jobs as they are told, first of all an empty list once it hears;
        raises when it can hear no more. None where the database tells nothing
    """

    def __init__(
        self,
        named: Callable[[Collection[str]], Awaitable[list[Job]]],
        changed_since: Callable[[datetime], Awaitable[Mapping[str, int]]],
        versions_of: Callable[[Collection[str]], Awaitable[Mapping[str, int]]],
        *,
        interval_s: float,
        listen: Listen | None = None,
    ) -> None:
        self._named = named
        self._changed_since = changed_since
        self._versions_of = versions_of
        self._hears = False
        self._interval_s = interval_s
        self._listen = listen
        self._waiters: dict[str, set[_Waiter]] = {}
        self._look_at: set[str] = set()
        self._seen: dict[str, int] = {}
        self._noticed: Mapping[str, int] = {}
        self.listeners: set[Callable[[], None]] = set()
        self._kick = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiters.values()))

    async def wait(self, name: str, until: Callable[[Job], bool], timeout_s: float | None) -> Job:
        """The job, as soon as that is true of it.

        :raises JobUnknown: no such job
        :raises DeadlineExceeded: not within that many seconds
        :raises StoreError: the store was closed
        """
        if self._closed:
            raise StoreError("waiting for a job: the store is closed", where="job store")
        waiter = _Waiter(until, asyncio.get_running_loop().create_future())
        self._waiters.setdefault(name, set()).add(waiter)
        self._look_at.add(name)
        self._kick.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="airavata job watcher")
        try:
            return await asyncio.wait_for(waiter.result, timeout_s)
        except TimeoutError:
            raise DeadlineExceeded(f"job {name}: still not so after {timeout_s:g} s") from None
        finally:
            waiters = self._waiters.get(name, set())
            waiters.discard(waiter)
            if not waiters:
                self._waiters.pop(name, None)
                self._seen.pop(name, None)
                self._look_at.discard(name)
            if not self._waiters:
                self._kick.set()

    def look_at(self, names: Iterable[str]) -> None:
        """Those of the jobs that are waited for have changed: look at once."""
        self._look_at.update(name for name in names if name in self._waiters)
        if self._look_at:
            self._kick.set()

    async def close(self) -> None:
        """Let all waiters go with an error."""
        self._closed = True
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        for waiter in [each for waiters in self._waiters.values() for each in waiters]:
            if not waiter.result.done():
                waiter.result.set_exception(StoreError("waiting for a job: the store was closed"))

    async def _run(self) -> None:
        listener = asyncio.create_task(self._hear(), name="airavata job listener") if self._listen else None
        try:
            await self._look()
        finally:
            self._task = None
            self._hears = False
            if listener is not None:
                listener.cancel()
                await asyncio.wait([listener])
            if self._waiters and not self._closed:  # someone came while the listener was being closed
                self._task = asyncio.create_task(self._run(), name="airavata job watcher")

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        since = datetime.now(UTC)
        next_look, next_full = loop.time() + self._interval_s, loop.time() + FULL_LOOK_S
        failures = 0
        while self._waiters:
            with contextlib.suppress(TimeoutError):
                # Not wait_for, which in Python 3.11 can swallow a cancel: closing would wait for ever.
                async with asyncio.timeout_at(next_look):
                    await self._kick.wait()
            self._kick.clear()
            if not self._hears:
                next_look = min(next_look, loop.time() + self._interval_s)
            try:
                if loop.time() >= next_full:
                    versions = await self._versions_of(list(self._waiters))
                    self._look_at.update(name for name in self._waiters if versions.get(name) != self._seen.get(name))
                    next_full = loop.time() + FULL_LOOK_S
                names, self._look_at = self._look_at & self._waiters.keys(), set()
                await self._look_at_names(names)
                if loop.time() >= next_look and self._waiters:
                    began = datetime.now(UTC)
                    changed = await self._changed_since(since - timedelta(seconds=OVERLAP_S))
                    if any(version > self._noticed.get(name, 0) for name, version in changed.items()):
                        self._tell()
                    self._noticed = changed
                    names = {
                        name
                        for name, version in changed.items()
                        if name in self._waiters and version > self._seen.get(name, 0)
                    }
                    await self._look_at_names(names)
                    since = began
                    next_look = loop.time() + (max(HEARD_S, self._interval_s) if self._hears else self._interval_s)
                failures = 0
            except AiravataError as error:
                pause = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
                failures += 1
                _LOG.warning("Cannot see which jobs changed; again in %g s. %s", pause, error)
                await asyncio.sleep(pause)

    async def _look_at_names(self, names: set[str]) -> None:
        if not names:
            return
        try:
            jobs = await self._named(names)
        except AiravataError:
            self._look_at |= names
            raise
        self._deliver(jobs)
        for name in names - {job.name for job in jobs}:
            for waiter in self._waiters.get(name, ()):
                if not waiter.result.done():
                    waiter.result.set_exception(JobUnknown(f"no job {name!r}", where="job store"))

    def _deliver(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            waiters = self._waiters.get(job.name)
            if waiters is None or job.version < self._seen.get(job.name, 0):
                continue
            self._seen[job.name] = job.version
            for waiter in waiters:
                if waiter.result.done():
                    continue
                try:
                    if waiter.until(job):
                        waiter.result.set_result(job)
                except Exception as error:  # the waiter's own test failed: it is told, the others go on
                    waiter.result.set_exception(error)

    def _tell(self) -> None:
        for listener in tuple(self.listeners):
            listener()

    async def _hear(self) -> None:
        assert self._listen is not None  # noqa: S101 -- only started with one
        failures = 0
        while True:
            try:
                async for names in self._listen():
                    failures = 0
                    self._hears = True
                    # Nothing was heard before now: look at everybody once.
                    self.look_at(names or list(self._waiters))
                    if names:
                        self._tell()
            except Exception as error:  # whatever it is, the interval's query goes on without it
                _LOG.warning("No news from the database's notifications: %s", type(error).__name__)
            self._hears = False
            self._kick.set()
            await asyncio.sleep(_BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)])
            failures += 1


async def listen(url: URL) -> AsyncIterator[list[str]]:
    """Names of jobs that changed, as PostgreSQL tells; an empty list first, once it listens."""
    import psycopg

    conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=10)
    async with connection:
        await connection.execute(f"LISTEN {CHANNEL}")
        yield []
        async for notice in connection.notifies():
            yield notice.payload.split(",")
