from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from airavata_provider.errors import ConnectFailed
from airavata_provider.jobs.poller import Way
from airavata_provider.jobs.reconcile import Pace, Reconciler, ensure_reconciler, lease_of, stop_reconciler
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Effect, Job, JobState
from airavata_provider.monitors.output import outputs
from airavata_provider.monitors.rhythm import Rhythm
from tests.unit.jobs.cluster import PaperCluster, PaperScheduler, TailCluster
from tests.unit.jobs.factory import make_event, make_job

pytestmark = pytest.mark.slow

S = JobState
RHYTHM = Rhythm(base=0.05, floor=0.05, ceiling=0.05)
FAST = Pace(rhythm=RHYTHM, cancel=0.02, tick=0.01, lease=0.3, at_most=0.05, idle=60, show=0.02)
WITHIN_S = 20


class World:
    """A store, and one paper cluster per resource."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.clusters = {"cluster": PaperCluster(), "other": PaperCluster()}

    async def connect(self, resource: str) -> Way:
        if resource not in self.clusters:
            raise ConnectFailed(f"no {resource}")
        return Way(self.clusters[resource], PaperScheduler())

    def reconciler(self, pace: Pace = FAST) -> Reconciler:
        return Reconciler(self.store, self.connect, pace=pace)

    async def submitted(self, name: str, resource: str = "cluster") -> Job:
        await self.store.intend(make_job(name, resource=resource))
        return await self.store.submitted(name, f"id-{name}", datetime.now(UTC))

    async def ended(self, name: str) -> Job:
        job = await self.store.wait(name, WITHIN_S)
        assert job.ended_at is not None
        return job

    async def agreed(self, name: str) -> Job:
        job = await self.store.wait(name, WITHIN_S, lambda job: job.canceled_at is not None)
        assert job.canceled_at is not None
        return job


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = JobStore(f"sqlite:///{tmp_path}/a.db", watch_interval=0.02)
    await store.create_tables()
    yield World(store)
    await store.close()


@pytest_asyncio.fixture
async def running(world: World) -> AsyncIterator[World]:
    task = asyncio.create_task(world.reconciler().run())
    yield world
    task.cancel()
    await asyncio.wait([task])


async def test_polls_each_resource_in_one_command(running: World) -> None:
    cluster = running.clusters["cluster"]
    for number in range(5):
        await running.submitted(f"a{number}")
        cluster.queue[f"id-a{number}"] = ("ACTIVE", None)
    await running.store.wait("a4", WITHIN_S, lambda job: job.state is S.ACTIVE)
    cluster.history = {f"id-a{number}": ("COMPLETE", 0) for number in range(5)}
    cluster.queue.clear()
    jobs = [await running.ended(f"a{number}") for number in range(5)]
    assert {(job.state, job.exit_code) for job in jobs} == {(S.COMPLETE, 0)}
    assert max(len(names) for verb, names in cluster.calls if verb == "status") == 5


async def test_one_bad_resource_holds_nobody_up(running: World) -> None:
    await running.submitted("a1", "unreachable")
    await running.submitted("a2", "other")
    running.clusters["other"].unreadable = {"status"}
    await running.submitted("a3")
    running.clusters["cluster"].history["id-a3"] = ("FAILED", 3)
    assert (await running.ended("a3")).state is S.FAILED
    running.clusters["other"].unreadable = set()
    running.clusters["other"].history["id-a2"] = ("COMPLETE", 0)
    assert (await running.ended("a2")).state is S.COMPLETE


async def test_cancel_is_repeated_until_the_scheduler_agrees(running: World) -> None:
    cluster = running.clusters["cluster"]
    cluster.deaf = 3
    await running.submitted("a1")
    cluster.queue["id-a1"] = ("ACTIVE", None)
    await running.store.request_cancel("a1", "ada")
    job = await running.agreed("a1")
    # A round that began before the answer came may ask once more.
    assert (job.state, cluster.count("cancel") >= 4) == (S.CANCELED, True)
    assert cluster.queue == {}


async def test_cancel_of_a_job_that_left_no_record(running: World) -> None:
    await running.submitted("a1")
    await running.store.request_cancel("a1", "ada")
    job = await running.agreed("a1")
    assert (job.state, job.state_source) == (S.CANCELED, "cancel")
    assert running.clusters["cluster"].count("cancel") >= 2


async def test_cancel_when_the_script_told_its_end_first(running: World) -> None:
    """The webhook's word wakes; the request stays until the scheduler has spoken."""
    cluster = running.clusters["cluster"]
    await running.submitted("a1")
    cluster.queue["id-a1"] = ("ACTIVE", None)
    cluster.deaf = 10**6
    await running.store.request_cancel("a1", "ada")
    await running.store.append(make_event(S.FAILED, 0, source="webhook"))
    assert (await running.ended("a1")).canceled_at is None
    cluster.deaf = 0
    assert (await running.agreed("a1")).state is S.CANCELED


async def test_cancel_before_the_id_is_known(running: World) -> None:
    """Nothing is found at first; when the job turns up, it is cancelled."""
    cluster = running.clusters["cluster"]
    await running.store.intend(make_job("a1"))
    await running.store.uncertain("a1", "the line went dead")
    await running.store.request_cancel("a1", "ada")
    await cluster.until_called("find", 2)
    assert len(await running.store.cancel_requests()) == 1
    cluster.names["a1"], cluster.queue["id-a1"] = "id-a1", ("QUEUED", None)
    job = await running.agreed("a1")
    assert (job.state, job.native_id, cluster.queue) == (S.CANCELED, "id-a1", {})


async def test_cancel_of_what_may_have_been_submitted_and_was_not(world: World) -> None:
    await world.store.intend(make_job("a1", submitting_at=datetime.now(UTC)))
    await world.store.request_cancel("a1", "ada")
    task = asyncio.create_task(world.reconciler(replace(FAST, unsubmitted=0.0)).run())
    assert (await world.agreed("a1")).state is S.CANCELED
    task.cancel()
    await asyncio.wait([task])


async def test_cancel_survives_a_dead_host(running: World) -> None:
    cluster = running.clusters["cluster"]
    await running.submitted("a1")
    cluster.queue["id-a1"] = ("ACTIVE", None)
    cluster.down = True
    await running.store.request_cancel("a1", "ada")
    await cluster.until_called("cancel", 3)
    cluster.down = False
    assert (await running.agreed("a1")).state is S.CANCELED


async def test_a_second_one_waits_and_takes_over(world: World) -> None:
    first = asyncio.create_task(world.reconciler().run())
    await world.submitted("a1")
    world.clusters["cluster"].history["id-a1"] = ("COMPLETE", 0)
    await world.ended("a1")
    second = asyncio.create_task(world.reconciler().run())
    first.cancel()
    await asyncio.wait([first])
    await world.submitted("a2")
    world.clusters["cluster"].history["id-a2"] = ("COMPLETE", 0)
    await world.ended("a2")
    second.cancel()
    await asyncio.wait([second])


async def test_two_at_once_do_no_harm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def yes(*_: object) -> bool:
        return True

    monkeypatch.setattr(world.store, "lease", yes)
    tasks = [asyncio.create_task(world.reconciler().run()) for _ in range(2)]
    for name in ("a1", "a2"):
        await world.submitted(name)
        world.clusters["cluster"].queue[f"id-{name}"] = ("ACTIVE", None)
    await world.store.request_cancel("a1", "ada")
    await world.agreed("a1")
    world.clusters["cluster"].queue.clear()
    world.clusters["cluster"].history["id-a2"] = ("COMPLETE", 0)
    await world.ended("a2")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    ends = [each for each in await world.store.events("a2") if each.event.state.terminal]
    assert {each.event.state for each in ends} == {S.COMPLETE}
    assert [each.effect for each in ends].count(Effect.APPLIED) == 1


async def test_ends_when_idle(world: World) -> None:
    await asyncio.wait_for(world.reconciler(replace(FAST, idle=0.05)).run(), WITHIN_S)
    assert await world.store.lease("reconcile", "another", 60)


async def test_one_per_loop(world: World) -> None:
    ensure_reconciler(world.store, world.connect, pace=FAST)
    ensure_reconciler(world.store, world.connect, pace=FAST)
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert names.count("airavata reconciler") == 1
    await stop_reconciler()
    await stop_reconciler()
    assert "airavata reconciler" not in [task.get_name() for task in asyncio.all_tasks()]


async def test_an_arrays_elements_are_polled_like_jobs(running: World) -> None:
    cluster = running.clusters["cluster"]
    await running.store.intend_array(make_job(), range(3))
    await running.store.submitted("a1", "17", datetime.now(UTC), PaperScheduler().element_id)
    cluster.queue = {f"17_{index}": ("COMPLETE", 0) for index in range(3)}
    assert (await running.ended("a1")).state is S.COMPLETE
    assert {name for _, names in cluster.calls for name in names} <= {"17_0", "17_1", "17_2"}


async def test_an_array_is_cancelled_as_one(running: World) -> None:
    cluster = running.clusters["cluster"]
    cluster.queue = {f"17_{index}": ("ACTIVE", None) for index in range(3)}
    await running.store.intend_array(make_job(), range(3))
    await running.store.submitted("a1", "17", datetime.now(UTC), PaperScheduler().element_id)
    await running.store.request_cancel("a1", "ada")
    job = await running.agreed("a1")
    assert (job.state, job.tally) == (S.CANCELED, {"CANCELED": 3})
    assert {tuple(names) for verb, names in cluster.calls if verb == "cancel"} == {("17",)}
    assert await running.store.cancel_requests() == []


async def test_an_array_whose_id_was_lost_is_found_and_cancelled(running: World) -> None:
    cluster = running.clusters["cluster"]
    cluster.names = {"a1": "17"}
    cluster.queue = {f"17_{index}": ("QUEUED", None) for index in range(2)}
    await running.store.intend_array(make_job(submitting_at=datetime.now(UTC)), range(2))
    await running.store.request_cancel("a1", "ada")
    assert (await running.agreed("a1")).tally == {"CANCELED": 2}
    assert {tuple(names) for verb, names in cluster.calls if verb == "find"} == {("a1",)}


async def test_whoever_does_not_lead_looks_at_its_own_files_alone(world: World) -> None:
    cluster = TailCluster()
    world.clusters["cluster"] = cluster
    cluster.files["/a1/out"] = b"one\n"
    await world.submitted("a1")
    assert await world.store.lease(lease_of("cluster"), "another", 60)
    shown = asyncio.Event()
    task = asyncio.create_task(world.reconciler().run())
    with outputs().followed("cluster", "/a1/out", lambda lines: shown.set()):
        await asyncio.wait_for(shown.wait(), WITHIN_S)
    assert cluster.calls == []
    task.cancel()
    await asyncio.wait([task])
