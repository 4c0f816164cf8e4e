"""Admission where something stands in the way: arrays that never fit, many lines, old grants, tasks that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from airavata_provider.errors import SubmissionRefused
from airavata_provider.jobs.grants import GRANT_S
from airavata_provider.jobs.limits import GatewayLimits, Limits, Most
from airavata_provider.jobs.rounds import MAX_LINES
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import JobState, SubmissionState
from tests.unit.jobs.admitter_contract import FAST, LOG, PLACE, Process, now, until
from tests.unit.jobs.factory import make_job

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def one(tmp_path: Path) -> AsyncIterator[Process]:
    store = JobStore(f"sqlite:///{tmp_path}/airavata.db", watch_interval=0.05)
    await store.create_tables()
    yield Process(store, Limits({PLACE: 5}))
    await store.close()


async def stop(*tasks: asyncio.Task[object]) -> None:
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_many_lines_of_one_queue_do_not_starve_another(one: Process) -> None:
    one.limits = Limits({PLACE: 2, ("cluster", "long"): 1})
    await one.submit("there")
    # Each of another user, and none fits beside the one that is there.
    arrays = [
        asyncio.create_task(one.submit(f"a{n:03}", size=2, user=f"u{n}", priority=3)) for n in range(MAX_LINES + 6)
    ]
    await until(lambda: one.admitter.waiting == MAX_LINES + 6)
    await one.settle()
    assert (await asyncio.wait_for(one.submit("elsewhere", queue="long", priority=0), 120)).native_id
    await stop(*arrays)


async def test_many_lines_that_cannot_go_do_not_starve_one_of_their_queue(one: Process) -> None:
    one.limits = Limits({PLACE: 500}, gateways={"g": GatewayLimits(Most(None, 2))})
    count = MAX_LINES + 6
    for n in range(count):
        await one.submit(f"r{n:03}", user=f"u{n}", priority=3)
    arrays = [asyncio.create_task(one.submit(f"a{n:03}", size=2, user=f"u{n}", priority=3)) for n in range(count)]
    await until(lambda: one.admitter.waiting == count)
    await one.settle()
    assert (await asyncio.wait_for(one.submit("other", user="v", priority=0), 120)).native_id
    await stop(*arrays)


async def test_an_array_that_its_scheduler_never_takes_is_refused_and_holds_up_nobody(one: Process) -> None:
    one = Process(one.store, Limits(), replace(FAST, step=0.4, alone=0.2))
    await one.submit("there")
    # The scheduler takes five at a time, which nobody has written down.
    words = "QOSMaxSubmitJobPerUserLimit"
    array = await one.intend("array", size=6)
    array = await one.admitter.later(array, words)
    waiting = asyncio.create_task(one.admitter.wait(array, LOG))
    await until(lambda: one.admitter.waiting == 1)
    # It came first, of the same user, and the others go all the same.
    for n in range(3):
        assert (await asyncio.wait_for(one.submit(f"small{n}"), 120)).native_id
    for name in ("there", "small0", "small1", "small2"):
        await one.end(name)
    refusals = 0
    with pytest.raises(SubmissionRefused, match=f"refuses an array of 6 even while nothing else.*{words}") as told:
        while True:
            array = await asyncio.wait_for(waiting, 120)
            refusals += 1
            array = await one.admitter.later(array, words)
            waiting = asyncio.create_task(one.admitter.wait(array, LOG))
    assert not told.value.transient and "max_array_size" in str(told.value.advice)
    assert refusals >= 3
    kept = await one.store.job("array")
    assert kept is not None and kept.submission is SubmissionState.REFUSED
    assert (await asyncio.wait_for(one.submit("after"), 120)).native_id


async def test_what_a_large_array_taught_does_not_hide_what_is_known(one: Process) -> None:
    one.limits = Limits()
    for n in range(3):
        await one.submit(f"r{n}")
    single, array = await one.intend("single"), await one.intend("array", size=100)
    for job in (single, array):
        await one.admitter.later(job, "too many")
        waiting = asyncio.create_task(one.admitter.wait((await one.store.jobs_named([job.name]))[0], LOG))
        await until(lambda: not one.admitter._refused)
        await stop(waiting)
    (said,) = await one.store.availabilities()
    assert said.jobs == 3


async def test_an_array_that_a_lowered_limit_leaves_no_room_for_is_refused(one: Process) -> None:
    await one.submit("there")
    array = asyncio.create_task(one.submit("array", size=5))
    await until(lambda: one.admitter.waiting == 1)
    one.limits = Limits({PLACE: 4})
    with pytest.raises(SubmissionRefused, match="an array of 5 is more than 4"):
        await asyncio.wait_for(array, 120)
    kept = await one.store.job("array")
    assert kept is not None and (kept.submission, bool(kept.ended_at)) == (SubmissionState.REFUSED, True)
    assert (await asyncio.wait_for(one.submit("small"), 120)).native_id


async def test_an_old_grant_is_not_honoured_past_its_time(one: Process) -> None:
    one.limits = Limits({PLACE: 1})
    old = now() - timedelta(seconds=GRANT_S + 1)
    lost = await one.store.intend(
        make_job("lost", queue="debug", gateway="g", user="u", admitted_at=old, submitting_at=old, created_at=old)
    )
    await one.submit("other")
    again = asyncio.create_task(one.admitter.wait(lost, LOG))
    await until(lambda: one.admitter.waiting == 1)
    await one.settle()
    assert not again.done()
    # It may be there for all we know: nobody takes it for one that was never sent.
    asked = await one.store.job("lost")
    assert asked is not None and asked.submitting_at == old
    await one.end("other")
    taken = await asyncio.wait_for(again, 120)
    assert taken.submitting_at is not None and taken.submitting_at > old
    assert await one.loads() == (1, 0)


async def test_what_is_on_record_as_waiting_here_and_is_not_makes_room(one: Process) -> None:
    one = Process(one.store, Limits({PLACE: 1}), replace(FAST, sweep=0.1))
    await one.intend("killed")  # and nobody comes to wait for it
    assert (await asyncio.wait_for(one.submit("other", created_at=now() + timedelta(hours=1)), 120)).native_id


async def test_a_process_that_ends_gives_back_what_was_let_go_there(one: Process, tmp_path: Path) -> None:
    one.limits = Limits({PLACE: 1})
    await one.submit("first")
    two = Process(JobStore(f"sqlite:///{tmp_path}/airavata.db", watch_interval=0.05), one.limits)
    killed = asyncio.create_task(two.submit("killed", priority=3))
    await until(lambda: two.admitter.waiting == 1)
    await two.settle()
    await two.store.close()
    await asyncio.gather(killed, return_exceptions=True)
    other = asyncio.create_task(one.submit("other"))
    await one.end("first")
    assert (await asyncio.wait_for(other, 120)).native_id


async def test_what_was_never_sent_is_cancelled_without_its_host(one: Process) -> None:
    one.limits = Limits()
    between = await one.intend("between")
    await one.admitter.leave(between)  # its task failed to connect, and is tried again later
    let_go = make_job("let-go", queue="debug", waiter=one.admitter.holder, admitted_at=now())
    await one.store.intend(let_go)
    began = await one.intend("began")
    assert began.submitting_at is not None
    for name in ("between", "let-go", "began"):
        await one.store.request_cancel(name, "ann")
    assert [job.name for job in await one.store.cancel_requests()] == ["began"]
    found = {job.name: job for job in await one.store.jobs_named(["between", "let-go"])}
    assert {job.state for job in found.values()} == {JobState.CANCELED}
    # Whoever was about to send it does not.
    assert (await one.store.begin("let-go")).submitting_at is None
    # While somebody tried to send it, in vain: that is its end, too.
    await one.admitter.leave(began)
    assert await one.store.cancel_requests() == []
    ended = await one.store.job("began")
    assert ended is not None and (ended.state, ended.cancel_requested_by) == (JobState.CANCELED, "ann")
