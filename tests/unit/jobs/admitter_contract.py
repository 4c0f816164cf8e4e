"""What admission does on every database: one suite, run on SQLite and on PostgreSQL.

A subclass gives the fixture ``url``, of an empty database.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event

from airavata_provider.errors import SubmissionRefused
from airavata_provider.jobs.admission import GatewayLimits, Limits, Most
from airavata_provider.jobs.admitter import Admitter, Pace, get_admitter
from airavata_provider.jobs.rounds import Call
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.job import Job, JobState, SubmissionState
from tests.unit.jobs.factory import make_event, make_job

LOG = logging.getLogger("tests.admission")
FAST = Pace(tick=0.2, least=0.01, said=0.05, step=3600.0, word=(0.0, 3600.0))
PLACE = ("cluster", "debug")


def now() -> datetime:
    return datetime.now(UTC)


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

    def __init__(self, store: JobStore, limits: Limits) -> None:
        self.store = store
        self.limits = limits
        self.admitter = Admitter(store, lambda: self.limits, pace=FAST)
        store.closers.append(self.admitter.close)

    async def intend(self, name: str, **values: Any) -> Job:
        job = make_job(name, **{"queue": "debug", "gateway": "g", "user": "u", "created_at": now(), **values})
        return await self.store.intend(await self.admitter.stamp(job))

    async def submit(self, name: str, **values: Any) -> Job:
        """Intend, wait, submit."""
        job = await self.admitter.wait(await self.intend(name, **values), LOG)
        if job.cancel_requested_at is None:
            job = await self.store.submitted(name, f"id-{name}", now())
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
        peak, low = 0, 5
        names = [f"j{n:03}" for n in range(40)]
        submits = {
            asyncio.create_task((one, two)[n % 2].submit(name)): name for n, name in enumerate(names)
        }
        pending, done_names = set(submits), set()
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            running, waiting = await one.loads()
            peak = max(peak, running)
            if waiting >= 5 and len(done_names) > 5:
                low = min(low, running)
            for task in done:
                assert task.result().native_id
                await two.end(submits[task])
                done_names.add(submits[task])
        assert peak <= 5
        assert len(done_names) == 40

    async def test_where_nothing_is_limited_the_intent_lets_go_and_nothing_is_asked(self, one: Process) -> None:
        one.limits = Limits({("cluster", "other"): 1})
        with statements(one.store) as with_admission:
            job = await one.intend("a0")
            for n in range(1, 20):
                job = await one.intend(f"a{n}")
                assert await one.admitter.wait(job, LOG) is job
        assert job.admitted_at is not None
        with statements(one.store) as without:
            for n in range(20):
                await one.store.intend(make_job(f"b{n}"))
        asked = [each for each in with_admission if "airavata_availability" in each]
        # What was said of resources is read now and then by the process, not for a job.
        assert len(with_admission) - len(asked) == len(without)
        assert len(asked) <= 3
        assert one.admitter.waiting == 0

    async def test_waiting_asks_nothing_per_waiter(self, one: Process) -> None:
        for n in range(5):
            await one.submit(f"r{n}")
        waiting = [asyncio.create_task(one.submit(f"w{n:03}")) for n in range(100)]
        while one.admitter.waiting < 100:
            await asyncio.sleep(0.01)
        await one.settle()
        with statements(one.store) as asked:
            for _ in range(10):
                await one.settle()
        assert len(asked) <= 10 * 12  # rounds of the admitter's own are among them
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

        tasks = []
        for n, (name, level) in enumerate([("low", 0), ("normal", 1), ("urgent", 3), ("second", 1)]):
            tasks.append(asyncio.create_task(submit((one, two)[n % 2], name, priority=level)))
            while one.admitter.waiting + two.admitter.waiting <= n:
                await asyncio.sleep(0.01)
        await one.settle()
        await two.settle()
        await one.end("first")
        await asyncio.wait_for(asyncio.gather(*tasks), 20)
        assert order == ["urgent", "normal", "second", "low"]

    async def test_a_burst_leaves_room_for_another_gateway(self, one: Process) -> None:
        burst = [asyncio.create_task(one.submit(f"b{n:03}", gateway="big")) for n in range(50)]
        while one.admitter.waiting < 45:
            await asyncio.sleep(0.01)
        small = asyncio.create_task(one.submit("small", gateway="small"))
        while one.admitter.waiting < 46:
            await asyncio.sleep(0.01)
        await one.settle()
        await one.end(next(task.result().name for task in burst if task.done()))
        assert (await asyncio.wait_for(small, 20)).native_id
        for each in burst:
            each.cancel()
        await asyncio.gather(*burst, return_exceptions=True)

    async def test_gateways_and_users_have_ceilings_across_places(self, one: Process) -> None:
        one.limits = Limits(gateways={"g": GatewayLimits(Most(4, 2))})
        for n in range(12):
            await one.intend(f"j{n:02}", user=f"u{n % 3}", queue=f"q{n % 2}", resource=f"r{n % 4}")
        await one.settle()
        found = await one.store.jobs_named([f"j{n:02}" for n in range(12)])
        users = Counter(each.user for each in found if each.admitted_at is not None)
        assert sum(users.values()) == 4
        assert max(users.values()) <= 2

    async def test_a_cancel_ends_a_waiting_job_at_once(self, one: Process) -> None:
        one.limits = Limits({PLACE: 1})
        await one.submit("first")
        waiting = asyncio.create_task(one.submit("waits"))
        while not one.admitter.waiting:
            await asyncio.sleep(0.01)
        asked = await one.store.request_cancel("waits", "somebody")
        assert asked.state is JobState.CANCELED
        assert asked.canceled_at is not None and asked.ended_at is not None
        assert (await asyncio.wait_for(waiting, 5)).cancel_requested_by == "somebody"
        assert await one.store.cancel_requests() == []
        await one.end("first")
        assert (await one.submit("next")).native_id

    async def test_what_nobody_waits_for_any_more_holds_nobody_up(self, one: Process, two: Process) -> None:
        one.limits = two.limits = Limits({PLACE: 1})
        await one.submit("first")
        killed = asyncio.create_task(one.submit("killed", priority=3))
        while not one.admitter.waiting:
            await asyncio.sleep(0.01)
        await one.settle()
        killed.cancel()
        await asyncio.gather(killed, return_exceptions=True)
        await one.end("first")
        assert (await asyncio.wait_for(two.submit("other"), 10)).native_id
        # And run again, it waits where it was.
        again = await two.store.job("killed")
        assert again is not None and again.admitted_at is None
        waiting = asyncio.create_task(two.admitter.wait(again, LOG))
        await two.end("other")
        assert (await asyncio.wait_for(waiting, 10)).admitted_at is not None

    async def test_a_process_that_died_holds_nobody_up(self, one: Process, two: Process) -> None:
        one.limits = two.limits = Limits({PLACE: 1})
        dead = "no such process"
        job = make_job("orphan", queue="debug", priority=3, waiter=dead, created_at=now() - timedelta(days=1))
        await one.store.intend(job)
        assert (await asyncio.wait_for(two.submit("other"), 10)).native_id
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

    async def test_a_schedulers_refusal_is_later_and_not_a_failure(self, one: Process) -> None:
        one.limits = Limits()  # nothing is configured: the scheduler alone knows
        for n in range(3):
            await one.submit(f"r{n}")
        job = await one.intend("refused")
        assert job.admitted_at is not None
        job = await one.admitter.later(job, "QOSMaxSubmitJobPerUserLimit")
        assert (job.admitted_at, job.submission) == (None, SubmissionState.INTENDED)
        waiting = asyncio.create_task(one.admitter.wait(job, LOG))
        while not await one.store.availabilities():
            await asyncio.sleep(0.01)
        (said,) = await one.store.availabilities()
        assert (said.state, said.jobs, said.resource, said.queue) == (AvailabilityState.FULL, 3, *PLACE)
        # Those that come now do not try.
        await asyncio.sleep(FAST.said * 2)
        assert (await one.intend("next")).admitted_at is None
        await one.settle()
        assert not waiting.done()
        await one.end("r0")
        assert (await asyncio.wait_for(waiting, 10)).admitted_at is not None
        kept = await one.store.job("next")
        assert kept is not None and kept.admitted_at is None

    async def test_a_drained_queue_waits_until_it_is_taken_back(self, one: Process) -> None:
        one.limits = Limits()
        said = await one.store.set_availability(
            Availability("cluster", AvailabilityState.DRAINING, now(), queue="debug", reason="new disks")
        )
        waiting = asyncio.create_task(one.submit("waits"))
        assert (await one.intend("elsewhere", queue="long")).admitted_at is not None
        while not one.admitter.waiting:
            await asyncio.sleep(0.01)
        await one.settle()
        assert not waiting.done()
        await one.store.clear_availability(said.id)
        assert (await asyncio.wait_for(waiting, 10)).native_id

    async def test_a_window_opens_by_itself(self, one: Process) -> None:
        one.limits = Limits()
        end = now() + timedelta(seconds=0.5)
        await one.store.set_availability(Availability("cluster", AvailabilityState.DOWN, now(), ends_at=end))
        job = await asyncio.wait_for(one.submit("waits"), 10)
        assert job.admitted_at is not None and job.admitted_at >= end

    async def test_who_waits_is_told_why_and_where(
        self, one: Process, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "tests.admission")
        for n in range(5):
            await one.submit(f"r{n}")
        waiting = [asyncio.create_task(one.submit(f"w{n}")) for n in range(3)]
        while len(caplog.messages) < 3:
            await asyncio.sleep(0.01)
        assert sorted(caplog.messages) == [
            f"Waiting for cluster's queue debug, number {n} there:"
            " 5 of at most 5 jobs are there: cluster's queue debug"
            for n in (1, 2, 3)
        ]
        for _ in range(3):
            await one.settle()
        await asyncio.sleep(3 * FAST.tick)
        assert len(caplog.messages) == 3
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def test_arrays_count_as_their_elements_or_as_one(self, one: Process) -> None:
        with pytest.raises(SubmissionRefused, match="an array of 6 is more than 5"):
            await one.intend("large", size=6)
        first = await one.admitter.wait(await one.intend("first", size=3), LOG)
        assert first.admitted_at is not None
        assert await one.loads() == (3, 0)
        waits = asyncio.create_task(one.submit("second", size=3))
        while not one.admitter.waiting:
            await asyncio.sleep(0.01)
        await one.settle()
        assert not waits.done()
        one.limits = replace(one.limits, arrays_as_one=frozenset({PLACE}))
        assert (await asyncio.wait_for(waits, 10)).native_id
        assert (await one.loads())[0] == 2

    async def test_elements_count_until_they_end(self, one: Process) -> None:
        await one.submit("array", size=3)
        for n in range(3):
            element = make_job(
                f"array.{n}", queue="debug", array="array", element=n, native_id=f"7_{n}", gateway="g", user="u",
                submission=SubmissionState.SUBMITTED,
            )
            await one.store.intend(element)
        assert await one.loads() == (3, 0)
        await one.end("array.1")
        assert await one.loads() == (2, 0)

    async def test_a_refused_job_that_is_tried_again_waits_like_others(self, one: Process) -> None:
        one.limits = Limits({PLACE: 1})
        await one.admitter.wait(await one.intend("cured"), LOG)
        refused = await one.store.refused("cured", "no such account")
        await one.submit("other")
        again = await one.admitter.again(refused, "tried again")
        assert (again.ended_at, again.admitted_at, again.submission) == (None, None, SubmissionState.INTENDED)
        waiting = asyncio.create_task(one.admitter.wait(again, LOG))
        await one.settle()
        assert not waiting.done()
        await one.end("other")
        assert (await asyncio.wait_for(waiting, 10)).admitted_at is not None

    async def test_one_that_was_not_tried_to_the_end_makes_room(self, one: Process) -> None:
        one.limits = Limits({PLACE: 1})
        job = await one.admitter.wait(await one.intend("broken"), LOG)
        waiting = asyncio.create_task(one.submit("other"))
        await one.admitter.leave(job)
        assert (await asyncio.wait_for(waiting, 10)).native_id

    async def test_a_job_that_is_there_is_never_put_back(self, one: Process) -> None:
        job = await one.submit("there")
        assert (await one.admitter.later(job, "?")).admitted_at is not None
        doubtful = await one.admitter.wait(await one.intend("doubtful"), LOG)
        await one.store.uncertain("doubtful", "?")
        assert (await one.admitter.again(doubtful, "?")).submission is SubmissionState.UNCERTAIN
        assert await one.loads() == (2, 0)

    async def test_a_grant_that_came_to_nothing_runs_out(self, one: Process) -> None:
        await one.intend("lost")
        lost = await one.store.readmit("lost", now() - timedelta(hours=2), "", "")
        assert lost.admitted_at is not None
        assert await one.loads() == (0, 0)

    async def test_one_admitter_for_each_store(self, one: Process) -> None:
        first = get_admitter(one.store, Limits)
        assert get_admitter(one.store, Limits) is first

    async def test_the_store_closes_with_somebody_waiting(self, one: Process, url: str) -> None:
        from airavata_provider.errors import StoreError

        other = Process(JobStore(url, watch_interval=0.05), Limits({PLACE: 0}))
        waiting = asyncio.create_task(other.submit("waits"))
        while not other.admitter.waiting:
            await asyncio.sleep(0.01)
        await other.store.close()
        with pytest.raises(StoreError):
            await waiting
