"""How often the reconciler calls a cluster, and for how long, with the pace that it has by default: hours on a clock
that is moved by hand.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, tzinfo
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio

from airavata_provider.jobs.poller import Way
from airavata_provider.jobs.reconcile import Reconciler, lease_of
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Job, JobState
from airavata_provider.schedulers.base import CommandResult
from tests.unit.jobs.cluster import PaperCluster, PaperScheduler
from tests.unit.jobs.factory import at, make_event, make_job

pytestmark = pytest.mark.slow

S = JobState
CLOCKED = ("jobs.canceller", "jobs.cancels", "jobs.poller", "jobs.reconcile", "jobs.unit", "monitors.poll")


class Clock:
    """What time it is for all that is tested here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        clock = self

        class Moment(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return at(clock.seconds)

        for module in CLOCKED:
            monkeypatch.setattr(f"airavata_provider.{module}.datetime", Moment, raising=True)
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 1e6 + self.seconds)


class ClockedCluster(PaperCluster):
    """One that notes when it was called."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.moments: dict[str, list[float]] = {}

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        verb, _ = json.loads(command)
        self.moments.setdefault(verb, []).append(self._clock.seconds)
        return await super().run(command, timeout=timeout)


class World:
    """A store, a cluster and the reconciler of them."""

    def __init__(self, store: JobStore, clock: Clock) -> None:
        self.store, self.clock = store, clock
        self.cluster = ClockedCluster(clock)
        self.restart()

    def restart(self) -> None:
        """Another reconciler takes over."""
        self.reconciler = Reconciler(self.store, self._connect)

    async def _connect(self, resource: str) -> Way:
        return Way(self.cluster, PaperScheduler())

    async def passes(self, seconds: float, tick: float = 1.0) -> None:
        until = self.clock.seconds + seconds
        while self.clock.seconds < until:
            self.clock.seconds += tick
            await self.reconciler._round()
            if tasks := [task for state in self.reconciler._resources.values() for task in state.tasks]:
                await asyncio.wait(tasks)

    async def runs(self, name: str = "a1", **values: object) -> None:
        """A job of that name runs, and was asked about."""
        await self.store.intend(make_job(name, **values))
        await self.store.submitted(name, f"id-{name}", at(self.clock.seconds))
        self.cluster.queue[f"id-{name}"] = ("ACTIVE", None)

    async def ends(self, name: str = "a1", truth: str = "FAILED", behind_s: float = 0.0) -> None:
        """Its script says that all is well.

        :param truth: what accounting says
        :param behind_s: by how much the compute node's clock is
        """
        del self.cluster.queue[f"id-{name}"]
        if truth:
            self.cluster.history[f"id-{name}"] = (truth, 0)
        said = make_event(S.COMPLETE, self.clock.seconds - behind_s, source="webhook", job=name, exit_code=0)
        await self.store.append(said)

    async def job(self, name: str = "a1") -> Job:
        job = await self.store.job(name)
        assert job is not None
        return job


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    store = JobStore(f"sqlite:///{tmp_path}/a.db")
    await store.create_tables()
    with monkeypatch.context() as patch:
        yield World(store, Clock(patch))
    await store.close()


@pytest.mark.parametrize("behind_s", [0.0, 3600.0, -3600.0])
async def test_a_lone_jobs_end_is_looked_up_though_it_was_asked_about_before(world: World, behind_s: float) -> None:
    await world.runs()
    await world.passes(45, tick=5)
    assert (await world.job()).state is S.ACTIVE
    await world.ends(behind_s=behind_s)
    assert (await world.job()).state is S.COMPLETE
    await world.passes(35)
    job = await world.job()
    assert (job.state, job.state_source) == (S.FAILED, "poll")


async def test_accounting_that_lags_is_asked_again(world: World) -> None:
    await world.runs()
    await world.passes(45, tick=5)
    await world.ends(truth="")
    await world.passes(200, tick=5)
    assert (await world.job()).state is S.COMPLETE
    world.cluster.history["id-a1"] = ("FAILED", 0)
    await world.passes(200, tick=5)
    assert (await world.job()).state is S.FAILED


@pytest.mark.parametrize("how", ["down", "accounting"])
@pytest.mark.parametrize("restarted", [False, True])
async def test_an_end_that_was_told_in_an_outage_is_looked_up_after_it(
    world: World, how: str, restarted: bool
) -> None:
    await world.runs()
    await world.passes(45, tick=5)
    world.cluster.down, world.cluster.unreadable = how == "down", {"history"} if how == "accounting" else set()
    await world.ends()
    await world.passes(3 * 3600, tick=150)
    assert (await world.job()).state is S.COMPLETE
    if restarted:
        world.restart()
    world.cluster.down, world.cluster.unreadable = False, set()
    await world.passes(400, tick=10)
    assert (await world.job()).state is S.FAILED


async def test_a_process_that_leads_again_looks_up_what_was_told_meanwhile(world: World) -> None:
    """The one that led in between had no answer from the cluster."""
    await world.runs()
    await world.runs("a2")
    await world.passes(1200, tick=20)
    world.clock.seconds += 60
    assert await world.store.lease(lease_of("cluster"), "another", 7200)
    await world.ends()
    await world.passes(7100, tick=100)
    assert (await world.job()).state is S.COMPLETE
    await world.passes(200, tick=5)
    assert (await world.job()).state is S.FAILED


async def test_an_end_that_its_scheduler_does_not_know_is_looked_up_a_few_times(world: World) -> None:
    await world.runs()
    await world.passes(45, tick=5)
    await world.ends(truth="")
    began = world.cluster.count("status")
    await world.passes(1200, tick=10)
    calls = world.cluster.count("status")
    assert 3 <= calls - began <= 6
    await world.passes(6 * 3600, tick=300)
    assert world.cluster.count("status") == calls


async def test_a_cancel_of_a_job_that_does_not_end_is_repeated_for_ever_and_hammers_nobody(world: World) -> None:
    world.cluster.deaf = 10**6
    await world.runs()
    await world.passes(100, tick=5)
    looked = len(world.cluster.moments["status"])
    await world.store.request_cancel("a1", "ada")
    asked = world.clock.seconds
    await world.passes(60)
    first = [moment - asked for moment in world.cluster.moments["cancel"]]
    assert first[0] <= 1
    assert len([moment for moment in first if moment <= 15]) >= 3
    assert len(first) <= 6
    await world.passes(1800, tick=5)
    cancels, looks = world.cluster.moments["cancel"], world.cluster.moments["status"]
    # Not less often than the poll's interval, and not much more often.
    assert all(later - earlier <= 35 for earlier, later in pairwise(cancels))
    assert len(cancels) <= 6 + 1800 / 25
    assert len(looks) - looked <= 10 + 1800 / 25
    late = [moment for moment in looks if moment > asked + 15]
    assert min(later - earlier for earlier, later in pairwise(late)) >= 10
    world.cluster.deaf = 0
    await world.passes(35)
    assert (await world.job()).state is S.CANCELED


async def test_a_later_cancel_is_as_quick_as_the_first(world: World) -> None:
    world.cluster.deaf = 10**6
    await world.runs()
    await world.store.request_cancel("a1", "ada")
    await world.passes(200, tick=5)
    await world.runs("a2")
    await world.store.request_cancel("a2", "ada")
    world.cluster.deaf = 1
    await world.passes(5)
    assert (await world.job("a2")).state is S.CANCELED


async def test_an_array_that_does_not_end_is_cancelled_as_one_each_time(world: World) -> None:
    world.cluster.deaf = 10**6
    await world.store.intend_array(make_job(), range(3))
    await world.store.submitted("a1", "17", at(0), PaperScheduler().element_id)
    world.cluster.queue = {f"17_{index}": ("ACTIVE", None) for index in range(3)}
    await world.store.request_cancel("a1.1", "ada")
    await world.passes(50, tick=5)
    await world.store.request_cancel("a1", "ada")
    asked = world.clock.seconds
    await world.passes(16)
    await world.passes(280, tick=5)
    calls = iter(world.cluster.moments["cancel"])
    cancels = [(next(calls), names) for verb, names in world.cluster.calls if verb == "cancel"]
    assert {tuple(names) for moment, names in cancels if moment <= asked} == {("17_1",)}
    assert {tuple(names) for moment, names in cancels if moment > asked} == {("17",)}
    assert len([moment for moment, _ in cancels if asked < moment <= asked + 15]) >= 3


@pytest.mark.parametrize("after_s", [0, 2, 7, 15, 40, 53])
async def test_a_cancel_delays_nobody_elses_news(world: World, after_s: float) -> None:
    world.cluster.deaf = 10**6
    for name in ("a1", "a2"):
        await world.runs(name)
    await world.passes(100, tick=5)
    await world.store.request_cancel("a1", "ada")
    await world.passes(after_s)
    world.cluster.queue["id-a2"] = ("COMPLETE", 0)
    await world.passes(32)
    assert (await world.job("a2")).state is S.COMPLETE


async def test_status_calls_keep_to_the_floor_whatever_is_expected(world: World) -> None:
    """Jobs that are new, that were stopped from outside, that are heard and come near their end."""
    for number in range(8):
        name = f"a{number}"
        await world.runs(name, walltime_s=60 + 37 * number)
        if number % 2:
            await world.store.append(make_event(S.ACTIVE, world.clock.seconds, source="webhook", job=name))
        await world.passes(7)
        if number % 3 == 0:
            stopped = make_event(S.NON_CRITICAL_FAIL, world.clock.seconds, source="webhook", job=name)
            await world.store.append(stopped)
            del world.cluster.queue[f"id-{name}"]
    await world.passes(200)
    looks = world.cluster.moments["status"]
    assert min(later - earlier for earlier, later in pairwise(looks)) >= 10
    assert len(looks) >= 15
