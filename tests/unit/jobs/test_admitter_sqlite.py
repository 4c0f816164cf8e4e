"""Admission on SQLite: what it does on every database, and what does not depend on which one it is."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from airavata_provider.errors import StoreError
from airavata_provider.jobs.admitter import get_admitter
from airavata_provider.jobs.limits import GatewayLimits, Limits, Most
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.job import JobState, SubmissionState
from tests.unit.jobs.admitter_contract import FAST, LOG, PLACE, AdmitterContract, Process, now, statements, until
from tests.unit.jobs.factory import make_job

pytestmark = pytest.mark.slow


class TestSQLite(AdmitterContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/airavata.db"

    async def test_where_nothing_is_limited_the_intent_lets_go_and_nothing_is_asked(self, one: Process) -> None:
        one = Process(one.store, Limits({("cluster", "other"): 1}), replace(FAST, said=3600.0))
        with statements(one.store) as with_admission:
            job = await one.intend("a0")
            for n in range(1, 20):
                job = await one.intend(f"a{n}")
                assert await one.admitter.wait(job, LOG) is job
        assert job.admitted_at is not None
        with statements(one.store) as without:
            for n in range(20):
                await one.store.intend(make_job(f"b{n}"))
        # What was said of resources is read now and then by the process, not for a job.
        extra = Counter(with_admission) - Counter(without)
        assert sum("airavata_availability" in each for each in extra.elements()) == 1
        assert not [each for each in extra if "airavata_job" in each]
        assert one.admitter.waiting == 0

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
        await until(lambda: bool(one.admitter.waiting))
        asked = await one.store.request_cancel("waits", "somebody")
        assert asked.state is JobState.CANCELED
        assert asked.canceled_at is not None and asked.ended_at is not None
        assert (await asyncio.wait_for(waiting, 120)).cancel_requested_by == "somebody"
        assert await one.store.cancel_requests() == []
        await one.end("first")
        assert (await one.submit("next")).native_id

    async def test_what_nobody_waits_for_any_more_holds_nobody_up(self, one: Process, two: Process) -> None:
        one.limits = two.limits = Limits({PLACE: 1})
        await one.submit("first")
        killed = asyncio.create_task(one.submit("killed", priority=3))
        await until(lambda: bool(one.admitter.waiting))
        await one.settle()
        killed.cancel()
        await asyncio.gather(killed, return_exceptions=True)
        await until(lambda: not one.admitter._release)
        await one.end("first")
        assert (await asyncio.wait_for(two.submit("other"), 120)).native_id
        # And run again, it waits where it was.
        again = await two.store.job("killed")
        assert again is not None and again.admitted_at is None
        waiting = asyncio.create_task(two.admitter.wait(again, LOG))
        await two.end("other")
        assert (await asyncio.wait_for(waiting, 120)).admitted_at is not None

    async def test_a_drained_queue_waits_until_it_is_taken_back(self, one: Process) -> None:
        one.limits = Limits()
        said = await one.store.set_availability(
            Availability("cluster", AvailabilityState.DRAINING, now(), queue="debug", reason="new disks")
        )
        waiting = asyncio.create_task(one.submit("waits"))
        assert (await one.intend("elsewhere", queue="long")).admitted_at is not None
        await until(lambda: bool(one.admitter.waiting))
        await one.settle()
        assert not waiting.done()
        await one.store.clear_availability(said.id)
        assert (await asyncio.wait_for(waiting, 120)).native_id

    async def test_a_window_opens_by_itself(self, one: Process) -> None:
        one.limits = Limits()
        end = now() + timedelta(seconds=0.5)
        await one.store.set_availability(Availability("cluster", AvailabilityState.DOWN, now(), ends_at=end))
        job = await asyncio.wait_for(one.submit("waits"), 120)
        assert job.admitted_at is not None and job.admitted_at >= end

    async def test_who_waits_is_told_why_and_where(self, one: Process, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "tests.admission")
        for n in range(5):
            await one.submit(f"r{n}")
        waiting = [asyncio.create_task(one.submit(f"w{n}")) for n in range(3)]
        await until(lambda: len(caplog.messages) == 3)
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

    async def test_many_who_wait_are_told_in_turns(
        self, one: Process, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airavata_provider.jobs.admitter._WORDS", 2)
        caplog.set_level(logging.INFO, "tests.admission")
        told, positions = [], one.store.positions

        async def noted(holder: str) -> dict[str, int]:
            told.append(len(caplog.messages))
            return await positions(holder)

        monkeypatch.setattr(one.store, "positions", noted)
        for n in range(5):
            await one.submit(f"r{n}")
        waiting = [asyncio.create_task(one.submit(f"w{n}")) for n in range(5)]
        await until(lambda: len(caplog.messages) == 5)
        assert max(after - before for before, after in itertools.pairwise([*told, 5])) == 2
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def test_elements_count_until_they_end(self, one: Process) -> None:
        await one.submit("array", size=3)
        for n in range(3):
            element = make_job(
                f"array.{n}",
                queue="debug",
                array="array",
                element=n,
                native_id=f"7_{n}",
                gateway="g",
                user="u",
                submission=SubmissionState.SUBMITTED,
            )
            await one.store.intend(element)
        # Those of an array that is let go and not there yet are its own.
        await one.store.intend(make_job("early.0", queue="debug", array="early", element=0, admitted_at=now()))
        assert await one.loads() == (3, 0)
        await one.end("array.1")
        assert await one.loads() == (2, 0)

    async def test_an_array_and_its_elements_wait_end_and_come_back_together(self, one: Process) -> None:
        waiting = make_job("array", queue="debug", waiter=one.admitter.holder, created_at=now())
        await one.store.intend_array(waiting, range(3))
        assert await one.loads() == (0, 1)
        array = await one.store.request_cancel("array", "ann")
        assert (array.state, bool(array.canceled_at)) == (JobState.CANCELED, True)
        assert {each.state for each in await one.store.elements("array")} == {JobState.CANCELED}
        assert await one.loads() == (0, 0)

        gone = make_job("gone", queue="debug", admitted_at=now(), created_at=now())
        await one.store.intend_array(gone, range(3))
        assert await one.loads() == (3, 0)
        refused = await one.store.refused("gone", "no such account")
        assert await one.loads() == (0, 0)
        again = await one.admitter.again(refused, "tried again")
        assert (again.submission, again.ended_at, again.waiter) == (
            SubmissionState.INTENDED,
            None,
            one.admitter.holder,
        )
        assert {each.ended_at for each in await one.store.elements("gone")} == {None}
        await one.admitter.wait(again, LOG)
        await one.store.submitted("gone", "7", now(), lambda native_id, index: f"{native_id}_{index}")
        assert await one.loads() == (3, 0)

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
        assert (await asyncio.wait_for(waiting, 120)).admitted_at is not None

    async def test_one_that_was_not_tried_to_the_end_makes_room(self, one: Process) -> None:
        one.limits = Limits({PLACE: 1})
        job = await one.admitter.wait(await one.intend("broken"), LOG)
        waiting = asyncio.create_task(one.submit("other"))
        await one.admitter.leave(job)
        assert (await asyncio.wait_for(waiting, 120)).native_id

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
        await one.submit("there")
        other = Process(JobStore(url, watch_interval=0.05), Limits({PLACE: 1}))
        waiting = asyncio.create_task(other.submit("waits"))
        await until(lambda: bool(other.admitter.waiting))
        await other.store.close()
        with pytest.raises(StoreError):
            await waiting
