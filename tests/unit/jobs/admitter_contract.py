"""What admission does on every database: one suite, run on SQLite and on PostgreSQL.

A subclass gives the fixture ``url``, of an empty database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event

from airavata_provider.errors import SubmissionRefused
from airavata_provider.jobs.admitter import Admitter, Pace
from airavata_provider.jobs.limits import Limits
from airavata_provider.jobs.rounds import Call
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.availability import AvailabilityState
from airavata_provider.models.job import Job, JobState, SubmissionState
from tests.unit.jobs.factory import make_event, make_job

LOG = logging.getLogger("tests.admission")
FAST = Pace(tick=0.2, least=0.01, said=0.05, step=3600.0, word=(0.0, 3600.0))
PLACE = ("cluster", "debug")


def now() -> datetime:
    return datetime.now(UTC)


async def until(true: Callable[[], bool]) -> None:
    """Until that is true."""
    while not true():  # noqa: ASYNC110 -- what is looked at tells nobody
        await asyncio.sleep(0.01)


@contextmanager
def statements(store: JobStore) -> Iterator[list[str]]:
    """The statements that the store runs meanwhile."""
    found: list[str] = []

    def note(_c: Any, _k: Any, statement: str, *_rest: Any) -> None:
        found.append(statement)

    event.listen(store._engine.sync_engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(store._engine.sync_engine, "before_cursor_execute", note)


class Process:
    """What one triggerer has: a store, an admitter, tasks that submit."""

    def __init__(self, store: JobStore, limits: Limits, pace: Pace = FAST) -> None:
        self.store = store
        self.limits = limits
        self.admitter = Admitter(store, lambda: self.limits, pace=pace)
        store.closers.append(self.admitter.close)

    async def intend(self, name: str, **values: Any) -> Job:
        job = make_job(name, **{"queue": "debug", "gateway": "g", "user": "u", "created_at": now(), **values})
        return await self.store.intend(await self.admitter.stamp(job))

    async def submit(self, name: str, **values: Any) -> Job:
        """Intend, wait, submit."""
        job = await self.admitter.wait(await self.intend(name, **values), LOG)
        if job.cancel_requested_at is None:
            job = await self.store.submitted(name, f"id-{name}", now(), lambda one, index: f"{one}_{index}")
        return job

    async def end(self, name: str) -> None:
        await self.store.append(make_event(JobState.COMPLETE, 9, job=name))

    async def settle(self) -> None:
        """Until a round has seen everything that was before."""
        await self.store.admit(Call(self.admitter.holder, self.limits))

    async def loads(self) -> tuple[int, int]:
        """Running and waiting at the place."""
        found = {(load.resource, load.queue): load for load in await self.store.place_loads(self.limits)}
        return (found[PLACE].running, found[PLACE].waiting) if PLACE in found else (0, 0)


class AdmitterContract:
    @pytest_asyncio.fixture
    async def one(self, url: str) -> AsyncIterator[Process]:
        store = JobStore(url, watch_interval=0.05)
        await store.create_tables()
        yield Process(store, Limits({PLACE: 5}))
        await store.close()

    @pytest_asyncio.fixture
    async def two(self, one: Process, url: str) -> AsyncIterator[Process]:
        """Another process on the same database."""
        store = JobStore(url, watch_interval=0.05)
        yield Process(store, one.limits)
        await store.close()

    async def test_no_more_than_the_limit_however_many_want_to_go(self, one: Process, two: Process) -> None:
        names = [f"j{n:03}" for n in range(40)]
        submits = {asyncio.create_task((one, two)[n % 2].submit(name)): name for n, name in enumerate(names)}
        pending, peak, ended = set(submits), 0, 0
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            peak = max(peak, (await one.loads())[0])
            for task in done:
                assert task.result().native_id
                await two.end(submits[task])
                ended += 1
        assert peak <= 5
        assert ended == 40

    async def test_waiting_asks_nothing_per_waiter(self, one: Process) -> None:
        for n in range(5):
            await one.submit(f"r{n}")
        waiting = [asyncio.create_task(one.submit(f"w{n:03}")) for n in range(100)]
        await until(lambda: one.admitter.waiting == 100)
        await one.settle()
        with statements(one.store) as asked:
            for _ in range(10):
                await one.settle()
        assert len(asked) < 10 * 100  # one for each round and waiter; rounds of the admitter's own are among them
        assert not any(each.done() for each in waiting)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def test_an_end_lets_the_next_one_go_in_order(self, one: Process, two: Process) -> None:
        one.limits = two.limits = Limits({PLACE: 1})
        await one.submit("first")
        order: list[str] = []

        async def submit(process: Process, name: str, **values: Any) -> None:
            await process.submit(name, **values)
            order.append(name)
            await process.end(name)

        def more_wait_than(count: int) -> bool:
            return one.admitter.waiting + two.admitter.waiting > count

        tasks = []
        for n, (name, level) in enumerate([("low", 0), ("normal", 1), ("urgent", 3), ("second", 1)]):
            tasks.append(asyncio.create_task(submit((one, two)[n % 2], name, priority=level)))
            await until(partial(more_wait_than, n))
        await one.settle()
        await two.settle()
        await one.end("first")
        await asyncio.wait_for(asyncio.gather(*tasks), 120)
        assert order == ["urgent", "normal", "second", "low"]

    async def test_a_burst_leaves_room_for_another_gateway(self, one: Process) -> None:
        burst = [asyncio.create_task(one.submit(f"b{n:03}", gateway="big")) for n in range(50)]
        await until(lambda: sum(task.done() for task in burst) == 5)
        small = asyncio.create_task(one.submit("small", gateway="small"))
        await until(lambda: one.admitter.waiting == 46)
        await one.settle()
        await one.end(next(task.result().name for task in burst if task.done()))
        assert (await asyncio.wait_for(small, 120)).native_id
        for each in burst:
            each.cancel()
        await asyncio.gather(*burst, return_exceptions=True)

    async def test_a_process_that_died_holds_nobody_up(self, one: Process, two: Process) -> None:
        one.limits = two.limits = Limits({PLACE: 1})
        dead = "no such process"
        job = make_job("orphan", queue="debug", priority=3, waiter=dead, created_at=now() - timedelta(days=1))
        await one.store.intend(job)
        assert (await asyncio.wait_for(two.submit("other"), 120)).native_id
        # While its lease lives, it counts as waiting, and first.
        await two.end("other")
        await one.store.lease(f"admitter:{dead}", dead, 60)
        late = asyncio.create_task(two.submit("late"))
        found = await one.store.wait("orphan", 10, lambda each: each.admitted_at is not None)
        assert found.admitted_at is not None
        await two.settle()
        assert not late.done()
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)

    async def test_what_was_let_go_to_a_process_that_died_is_taken_back(self, one: Process, two: Process) -> None:
        one.limits = two.limits = Limits({PLACE: 2})
        gone = make_job("gone", queue="debug", waiter="dead", admitted_at=now(), created_at=now())
        sent = make_job("sent", queue="debug", admitted_at=now(), submitting_at=now(), created_at=now())
        for job in (gone, sent):
            await one.store.intend(job)
        await one.store.lease("admitter:dead", "dead", 3600)
        waiting = asyncio.create_task(two.submit("next"))
        await until(lambda: two.admitter.waiting == 1)
        await two.settle()
        assert not waiting.done()
        await one.store.lease("admitter:dead", "dead", 0)
        assert (await asyncio.wait_for(waiting, 120)).native_id
        # What may be with the scheduler still counts; and the other one, asked for again, waits like everybody.
        assert await one.loads() == (2, 0)
        again = asyncio.create_task(one.admitter.wait(gone, LOG))
        await until(lambda: one.admitter.waiting == 1)
        await one.settle()
        assert not again.done()
        await two.end("next")
        assert (await asyncio.wait_for(again, 120)).submitting_at is not None

    async def test_the_task_that_asks_again_has_its_own_grant(self, one: Process) -> None:
        one.limits = Limits({PLACE: 1})
        job = make_job("mine", queue="debug", waiter="dead", admitted_at=now(), created_at=now())
        job = await one.store.intend(job)
        await one.store.lease("admitter:dead", "dead", 3600)
        other = asyncio.create_task(one.submit("other"))
        taken = await asyncio.wait_for(one.admitter.wait(job, LOG), 120)
        assert (taken.waiter, bool(taken.submitting_at)) == ("", True)
        await one.settle()
        assert not other.done()
        assert await one.loads() == (1, 1)
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)

    async def test_a_schedulers_refusal_is_later_and_not_a_failure(self, one: Process) -> None:
        one.limits = Limits()  # nothing is configured: the scheduler alone knows
        for n in range(3):
            await one.submit(f"r{n}")
        job = await one.intend("refused")
        assert job.admitted_at is not None
        job = await one.admitter.later(job, "QOSMaxSubmitJobPerUserLimit")
        assert (job.admitted_at, job.submission) == (None, SubmissionState.INTENDED)
        waiting = asyncio.create_task(one.admitter.wait(job, LOG))
        while not (found := await one.store.availabilities()):
            pass
        (said,) = found
        assert (said.state, said.jobs, said.resource, said.queue) == (AvailabilityState.FULL, 3, *PLACE)
        # Those that come now do not try.
        await asyncio.sleep(FAST.said * 2)
        assert (await one.intend("next")).admitted_at is None
        await one.settle()
        assert not waiting.done()
        await one.end("r0")
        assert (await asyncio.wait_for(waiting, 120)).admitted_at is not None
        kept = await one.store.job("next")
        assert kept is not None and kept.admitted_at is None

    async def test_arrays_count_as_their_elements_or_as_one(self, one: Process) -> None:
        with pytest.raises(SubmissionRefused, match="an array of 6 is more than 5"):
            await one.intend("large", size=6)
        first = await one.admitter.wait(await one.intend("first", size=3), LOG)
        assert first.admitted_at is not None
        assert await one.loads() == (3, 0)
        waits = asyncio.create_task(one.submit("second", size=3))
        await until(lambda: bool(one.admitter.waiting))
        await one.settle()
        assert not waits.done()
        one.limits = replace(one.limits, arrays_as_one=frozenset({PLACE}))
        assert (await asyncio.wait_for(waits, 120)).native_id
        assert (await one.loads())[0] == 2
