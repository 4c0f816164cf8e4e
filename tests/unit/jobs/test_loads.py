"""How full clusters are: asked seldom, all at once, and nobody fails or waits for ever when one does not tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from airavata_provider.errors import ConnectFailed
from airavata_provider.jobs.limits import Limits, limits_of
from airavata_provider.jobs.loads import LIMIT_S, SELDOM_S, Loads, Told, pause_s
from airavata_provider.jobs.placer import Placer, get_placer
from airavata_provider.jobs.placing import Candidate, PlaceLoad, Policy, Recent, preferred, soonest
from airavata_provider.jobs.poller import Way
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.catalog import load_catalog
from airavata_provider.models.experiment import Experiment, resolve_all
from airavata_provider.models.placement import Placement
from airavata_provider.schedulers import counting
from airavata_provider.schedulers.base import CommandResult
from airavata_provider.schedulers.load import QueueLoad
from airavata_provider.schedulers.registry import scheduler
from tests.unit.schedulers.captures import answer, framed

BUSY, IDLE = QueueLoad(120, 40, 64, 64), QueueLoad(0, 0, 64, 0)


def told(load: QueueLoad) -> CommandResult:
    """SLURM's answer about its partition ``q``, the default one."""
    assert load.cpus is not None and load.busy is not None
    cpus = f"q*|up|{load.busy}/{load.cpus - load.busy}/0/{load.cpus}"
    return answer(framed("cpus", cpus), framed("jobs", f"q|{load.running}|{load.waiting}\ncounted"))


class Cluster:
    """A host that answers, fails or hangs."""

    def __init__(self, says: CommandResult | Exception | None) -> None:
        self.says = says
        self.asked: list[str] = []
        self.begun = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        self.asked.append(command)
        self.begun.set()
        await self.may_answer.wait()
        if isinstance(self.says, CommandResult):
            return self.says
        if self.says is not None:
            raise self.says
        await asyncio.Event().wait()
        raise AssertionError


class World:
    """Clusters by the names of resources."""

    def __init__(self, **clusters: Cluster) -> None:
        self.clusters = clusters
        self.schedulers: dict[str, str] = {}

    async def connect(self, resource: str) -> Way:
        return Way(self.clusters[resource], scheduler(self.schedulers.get(resource, "slurm")))

    def asked(self) -> dict[str, int]:
        return {name: len(cluster.asked) for name, cluster in self.clusters.items()}


async def test_a_cluster_is_asked_once_in_a_while_however_many_want_to_know() -> None:
    world = World(alpha=Cluster(told(BUSY)), beta=Cluster(told(IDLE)))
    loads = Loads(world.connect)
    found = await asyncio.gather(*(loads.of([("alpha", "q"), ("beta", "")]) for _ in range(50)))
    assert all(each == {("alpha", "q"): Told(BUSY), ("beta", ""): Told(IDLE)} for each in found)
    assert world.asked() == {"alpha": 1, "beta": 1}
    await loads.of([("alpha", "q")])
    assert world.asked() == {"alpha": 1, "beta": 1}


async def test_an_old_answer_is_asked_for_again() -> None:
    world = World(alpha=Cluster(told(BUSY)))
    loads = Loads(world.connect, fresh_s=0)
    await loads.of([("alpha", "q")])
    world.clusters["alpha"].says = told(IDLE)
    assert await loads.of([("alpha", "q")]) == {("alpha", "q"): Told(IDLE)}


async def test_clusters_are_asked_at_the_same_time() -> None:
    world = World(alpha=Cluster(told(BUSY)), beta=Cluster(told(IDLE)))
    world.clusters["alpha"].may_answer.clear()
    wants = asyncio.create_task(Loads(world.connect).of([("alpha", "q"), ("beta", "q")]))
    await world.clusters["alpha"].begun.wait()
    await world.clusters["beta"].begun.wait()
    assert not wants.done()
    world.clusters["alpha"].may_answer.set()
    assert len(await wants) == 2


async def test_who_is_killed_meanwhile_takes_the_answer_from_nobody() -> None:
    world = World(alpha=Cluster(told(BUSY)))
    alpha = world.clusters["alpha"]
    alpha.may_answer.clear()
    loads = Loads(world.connect)
    first, second = (asyncio.create_task(loads.of([("alpha", "q")])) for _ in range(2))
    await alpha.begun.wait()
    first.cancel()
    alpha.may_answer.set()
    assert await second == {("alpha", "q"): Told(BUSY)}
    assert first.cancelled()
    assert world.asked() == {"alpha": 1}


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (None, "no answer in 0.01 s"),
        (ConnectFailed("connection refused"), "connection refused"),
        (RuntimeError("a plug-in's fault"), "a plug-in's fault"),
        (CommandResult(0, "Welcome!", ""), "the host gave no answer to cpus: 'Welcome!'"),
    ],
)
async def test_what_a_cluster_does_not_tell_is_not_known(says: CommandResult | Exception | None, why: str) -> None:
    world = World(alpha=Cluster(says), beta=Cluster(told(IDLE)))
    loads = Loads(world.connect, limit_s=0.01 if says is None else 60)
    places = [("alpha", "q"), ("beta", "q")]
    assert await loads.of(places) == {("alpha", "q"): Told(fault=why), ("beta", "q"): Told(IDLE)}
    # Nobody waits for it again and again.
    await loads.of([("alpha", "other")])
    assert world.asked() == {"alpha": 1, "beta": 1}
    await loads.close()


async def test_an_answer_without_the_queue_says_so_and_another_queue_is_asked_for() -> None:
    world = World(alpha=Cluster(told(IDLE)))
    loads = Loads(world.connect)
    gone = Told(fault="its answer has nothing about that queue", askable=False)
    assert (await loads.of([("alpha", "gone")]))["alpha", "gone"] == gone
    assert (await loads.of([("alpha", "q")]))["alpha", "q"] == Told(IDLE)
    await loads.of([("alpha", "q"), ("alpha", "gone")])
    assert world.asked() == {"alpha": 2}


async def test_a_queue_that_is_wanted_while_another_is_asked_about_is_asked_about_too() -> None:
    world = World(alpha=Cluster(told(IDLE)))
    alpha = world.clusters["alpha"]
    alpha.may_answer.clear()
    loads = Loads(world.connect)
    first = asyncio.create_task(loads.of([("alpha", "q")]))
    await alpha.begun.wait()
    second = asyncio.create_task(loads.of([("alpha", "")]))
    await asyncio.sleep(0)
    alpha.may_answer.set()
    assert await first == {("alpha", "q"): Told(IDLE)}
    assert await second == {("alpha", ""): Told(IDLE)}
    assert world.asked() == {"alpha": 2}


async def test_what_a_cluster_told_last_counts_while_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own way there may be busy, and the cluster well."""
    world = World(alpha=Cluster(told(BUSY)))
    loads = Loads(world.connect, fresh_s=0)
    await loads.of([("alpha", "q")])
    world.clusters["alpha"].says = ConnectFailed("connection refused")
    kept = Told(BUSY, "told 0 min ago; since then: connection refused")
    assert await loads.of([("alpha", "q"), ("alpha", "new")]) == {
        ("alpha", "q"): kept,
        ("alpha", "new"): Told(fault="connection refused"),
    }
    monkeypatch.setattr("airavata_provider.jobs.loads.KEPT_S", -1.0)
    assert await loads.of([("alpha", "q")]) == {("alpha", "q"): Told(fault="connection refused")}


def test_a_question_has_time_for_the_way_and_two_commands() -> None:
    assert 3 * counting.LIMIT_S <= LIMIT_S


async def test_a_scheduler_that_cannot_be_asked_is_not_at_fault() -> None:
    world = World(alpha=Cluster(None))
    world.schedulers["alpha"] = "fork"
    assert await Loads(world.connect).of([("alpha", "")]) == {("alpha", ""): Told(askable=False)}
    assert world.asked() == {"alpha": 0}


async def test_closing_ends_the_questions() -> None:
    world = World(alpha=Cluster(None))
    loads = Loads(world.connect)
    wants = asyncio.create_task(loads.of([("alpha", "q")]))
    await world.clusters["alpha"].begun.wait()
    await loads.close()
    assert await wants == {("alpha", "q"): Told()}


async def test_closing_begins_no_question_for_who_still_waits() -> None:
    world = World(alpha=Cluster(told(IDLE)))
    alpha, loads = world.clusters["alpha"], Loads(world.connect)
    await loads.of([("alpha", "q")])
    alpha.may_answer.clear()
    alpha.begun.clear()
    wants = asyncio.create_task(loads.of([("alpha", "other")]))
    await alpha.begun.wait()
    await loads.close()
    alpha.may_answer.set()
    await wants
    assert world.asked() == {"alpha": 2}


def test_a_cluster_that_does_not_answer_is_asked_ever_more_seldom() -> None:
    assert [pause_s(60, n) for n in range(6)] == [60, 60, 120, 240, 480, SELDOM_S]
    assert pause_s(3600, 5) == 3600
    assert pause_s(0, 9) == 0
    assert pause_s(60, 10**6) == SELDOM_S


# --- the placer

CATALOG = """\
storage_resources:
  home: {type: local, root: /srv}
compute_resources:
  alpha: &slurm {connection: a, scheduler: slurm, scratch: /scratch, queues: {main: {name: q}}}
  beta: {<<: *slurm, connection: b}
  gamma: {<<: *slurm, connection: c}
applications:
  run:
    deployments:
      alpha: {executable: /bin/run}
      beta: {executable: /bin/run}
      gamma: {executable: /bin/run}
"""


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = JobStore(f"sqlite:///{tmp_path}/a.db")
    await store.create_tables()
    yield store
    await store.close()


@pytest.fixture
def world() -> World:
    return World(alpha=Cluster(told(BUSY)), beta=Cluster(told(BUSY)), gamma=Cluster(told(IDLE)))


@pytest.fixture
def choose(tmp_path: Path, store: JobStore, world: World) -> Callable[..., Awaitable[Placement]]:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    catalog = load_catalog([tmp_path])
    placer = Placer(store, lambda: limits_of(catalog), Loads(world.connect, limit_s=0.05), read_again_s=-1)

    async def decided(policy: Policy = soonest) -> Placement:
        fitting = resolve_all(Experiment(application="run"), catalog)
        return await placer.choose("d", "r", "born", fitting, policy)

    return decided


async def drain(store: JobStore, resource: str) -> str:
    since = datetime.now(UTC) - timedelta(minutes=1)
    return (await store.set_availability(Availability(resource, AvailabilityState.DRAINING, since))).id


async def test_a_cluster_that_is_full_of_others_jobs_is_left_for_one_that_is_not(
    choose: Callable[..., Awaitable[Placement]], world: World
) -> None:
    placement = await choose()
    assert placement.resource == "gamma"
    assert placement.reasons[0] == (
        "gamma's queue main: chosen; 0 jobs there, 0 wait with us, 0 jobs of everybody wait, 0 run,"
        " 0 of 64 CPUs are busy"
    )
    assert placement.reasons[1].endswith("120 jobs of everybody wait, 40 run, 64 of 64 CPUs are busy")
    await choose()
    assert world.asked() == {"alpha": 1, "beta": 1, "gamma": 1}


async def test_jobs_that_went_there_after_the_cluster_told_are_not_forgotten(tmp_path: Path, world: World) -> None:
    """Its figures are a minute old, and the jobs no longer wait with us."""
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    catalog = load_catalog([tmp_path])
    fitting = resolve_all(Experiment(application="run"), catalog)
    jobs = {"alpha": 7, "gamma": 7}

    class Store:
        async def availabilities(self) -> list[Availability]:
            return []

        async def place_loads(self, limits: Limits) -> list[PlaceLoad]:
            return [PlaceLoad(name, "q", count, 0) for name, count in jobs.items()]

        async def recent(self, resources: set[str]) -> Recent:
            return Recent()

    store: Any = Store()
    loads = Loads(world.connect)
    placer = Placer(store, lambda: limits_of(catalog), loads, read_again_s=-1)
    seen: list[Sequence[Candidate]] = []

    def policy(experiment: Experiment, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        seen.append(candidates)
        return soonest(experiment, candidates)

    assert (await placer.choose("d", "r", "born", fitting, policy)).resource == "gamma"
    jobs["gamma"] = 700
    assert (await placer.choose("d", "r", "born", fitting, policy)).resource == "alpha"
    assert [[each.state.counted for each in candidates] for candidates in seen] == [[7, 0, 7]] * 2
    # A new answer counts them.
    loads._clusters["gamma"].due_at = float("-inf")
    await placer.choose("d", "r", "born", fitting, policy)
    assert [each.state.counted for each in seen[-1]] == [7, 0, 700]


async def test_what_is_drained_is_not_asked_nor_the_only_one_that_is_left(
    choose: Callable[..., Awaitable[Placement]], world: World, store: JobStore
) -> None:
    await drain(store, "alpha")
    key = await drain(store, "gamma")
    assert (await choose()).resource == "beta"
    assert world.asked() == {"alpha": 0, "beta": 0, "gamma": 0}
    await store.clear_availability(key)
    assert (await choose()).resource == "gamma"
    assert world.asked() == {"alpha": 0, "beta": 1, "gamma": 1}


async def test_a_policy_that_looks_at_nothing_asks_nobody(
    choose: Callable[..., Awaitable[Placement]], world: World
) -> None:
    assert (await choose(preferred)).resource == "alpha"
    assert world.asked() == {"alpha": 0, "beta": 0, "gamma": 0}


async def test_a_cluster_that_hangs_fails_no_placement(
    choose: Callable[..., Awaitable[Placement]], world: World
) -> None:
    world.clusters["gamma"].says = None
    placement = await choose()
    assert placement.resource == "alpha"
    assert placement.reasons[2].endswith("0 wait with us, everybody's jobs are not known (no answer in 0.05 s)")


async def test_the_store_s_placer_ends_its_questions(tmp_path: Path, world: World) -> None:
    store = JobStore(f"sqlite:///{tmp_path}/b.db")
    await store.create_tables()
    world.clusters["alpha"].says = None
    loads = Loads(world.connect)
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    catalog = load_catalog([tmp_path])
    placer = get_placer(store, lambda: limits_of(catalog), lambda: loads)
    fitting = resolve_all(Experiment(application="run"), catalog)
    decides = asyncio.create_task(placer.choose("d", "r", "born", fitting, soonest))
    await world.clusters["alpha"].begun.wait()
    decides.cancel()
    await asyncio.wait([decides])
    await store.close()
    assert [each for each in asyncio.all_tasks() if each is not asyncio.current_task()] == []
