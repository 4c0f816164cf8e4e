"""An attempt that a rule sends elsewhere: all of the experiment follows it, once, whoever is killed wherever."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airavata_provider.errors import ConnectFailed, JobCanceled, JobFailed
from airavata_provider.jobs.limits import limits_of
from airavata_provider.jobs.placer import Placer
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.catalog import Catalog, load_catalog
from airavata_provider.models.identity import TaskIdentity, experiment_directory, job_name
from airavata_provider.models.job import Job, JobState, TaskState
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.rules import LEFT, MADE_BY
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.tasks import answers
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult
from airavata_provider.tasks.cleanup import left_places
from airavata_provider.tasks.registry import task_type
from airavata_provider.triggers import host, moving
from airavata_provider.triggers.host import Segment, run_segment
from airavata_provider.triggers.hosted import HostedTask, Run
from tests.unit.jobs.admitter_contract import until
from tests.unit.tasks.world import Killed, World

pytestmark = pytest.mark.slow

LOG = logging.getLogger("tests.moving")
BORN = "2031-05-06T12:00:00+00:00"
TASK = TaskIdentity("d", "r", "submit", -1, BORN)
DIRECTORY = experiment_directory("d", "r", BORN)
CATALOG = """\
storage_resources:
  home: {type: local, root: /srv}
compute_resources:
  alpha: {connection: a, scheduler: slurm, scratch: /alpha, queues: {q: {max_memory_mb: 1500}}}
  beta: {connection: b, scheduler: slurm, scratch: /beta, queues: {q: {max_memory_mb: 3000, default_walltime: 7}}}
  gamma: {connection: b, scheduler: slurm, scratch: /gamma, queues: {q: {}}}
applications:
  run:
    deployments:
      alpha: {executable: /alpha/run}
      beta: {executable: /beta/run}
      gamma: {executable: /gamma/run}
"""
CONF = {"application": "run", "memory_mb": 1000, "pattern": "p"}


class Nothing(Parameters):
    """None."""


class Put(Task[Nothing]):
    """Puts something into the experiment's directory, as staging does."""

    name: ClassVar[str] = "put"
    Parameters: ClassVar[type[Parameters]] = Nothing

    async def run(self, context: TaskContext[Nothing]) -> TaskResult:
        world = context.services
        assert isinstance(world, Places)
        world.killer.point()
        if world.no_room == context.resource.name:
            world.turned_away += 1
            raise ConnectFailed("no route")
        world.files.add(context.directory)
        world.killer.point()
        return TaskResult({"in": context.directory})


class Places(World):
    """Clusters on which a job's node dies, unless it is a good one, and which need what staging brings."""

    def __init__(self, store: JobStore, catalog: Catalog) -> None:
        super().__init__(store)
        self.known = catalog
        self.good = {"beta", "gamma"}
        self.files: set[str] = set()
        self.no_room = ""
        self.turned_away = 0
        self.outcome = Outcome.NODE_FAILURE
        self.where: dict[str, str] = {}

    def catalog(self) -> Catalog:
        return self.known

    def placer(self) -> Placer:
        return Placer(self.store, lambda: limits_of(self.known), read_again_s=-1)

    async def submit(
        self, _host: Any, _scheduler: Any, request: JobRequest, *, job: Job, first: bool, webhook: Any, **_: Any
    ) -> str:
        """In the place of ``jobs.submission.submit``."""
        assert request.directory == job.directory == f"/{job.resource}/{DIRECTORY}"
        assert request.executable == f"/{job.resource}/run"
        assert request.directory in self.files, "nothing was brought there"
        assert request.environment == {"FROM": request.directory}
        self.where[job.name] = job.resource
        return await super().submit(_host, _scheduler, request, job=job, first=first, webhook=webhook)

    async def news(self) -> None:
        for name in self.accepted:
            job = (await self.store.jobs_named([name]))[0]
            if job.native_id is None or job.ended_at is not None:
                continue
            if self.where[name] in self.good:
                await self.end(name, JobState.COMPLETE, Outcome.COMPLETED, exit_code=0)
            else:
                await self.end(name, JobState.FAILED, self.outcome, reason="its node died")

    async def prepare(self) -> None:
        """Everything up to the job's end."""
        await self.segment(PUT)
        await self.segment(SUBMIT)

    async def monitor_(self, *rules: dict[str, Any]) -> dict[str, Any]:
        return await self.segment(monitoring(*rules))

    async def segment(self, task: HostedTask, **conf: Any) -> dict[str, Any]:
        run = Run("d", "r", -1, 1, conf=conf or self.conf, born=BORN)
        return dict((await run_segment(Segment([task], run, self, LOG)))[task.id])

    conf: dict[str, Any] = CONF


PUT = HostedTask(id="put", type="put")
SUBMIT = HostedTask(id="submit", type="submit", parameters={"environment": {"FROM": "{{ tasks.put['in'] }}"}})
ELSEWHERE = {"outcome": "NODE_FAILURE", "answer": "elsewhere", "at_most": 2}


def monitoring(*rules: dict[str, Any]) -> HostedTask:
    parameters = {"job": "submit", "output": None, "on_outcome": rules or (ELSEWHERE,)}
    monitor = HostedTask(id="monitor", type="monitor", parameters=parameters, submission=SUBMIT, before=(PUT,))
    return HostedTask.model_validate_json(monitor.model_dump_json())


@asynccontextmanager
async def places(folder: Path, name: str = "jobs") -> AsyncIterator[Places]:
    store = JobStore(f"sqlite:///{folder}/{name}.db", watch_interval=0.02)
    await store.create_tables()
    (folder / "catalog").mkdir(exist_ok=True)
    (folder / "catalog" / "catalog.yaml").write_text(CATALOG)
    world = Places(store, load_catalog([folder / "catalog"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airavata_provider.jobs.submission.submit", world.submit)
        for module in (host, moving):
            patch.setattr(module, "task_type", lambda kind: Put() if kind == "put" else task_type(kind))
        patch.setattr(Put, "defaults", classmethod(lambda cls, resolved: {}), raising=False)
        try:
            yield world
        finally:
            await store.close()


async def test_the_experiment_goes_where_it_did_not_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with places(tmp_path) as world:
        await world.prepare()
        before = await world.store.placement("d", "r", BORN)
        result = await world.monitor_()
        first, second = await world.store.attempts(TASK)
        assert (before is not None and before.resource, first.resource, second.resource) == ("alpha", "alpha", "beta")
        assert (result["job"], result["attempt"]) == (second.name, 2)
        assert (second.request or {})[MADE_BY] == {"rule": 1, "of": 1, "outcome": "NODE_FAILURE", LEFT: "alpha"}
        assert (second.queue, second.walltime_s, (second.request or {})["memory_mb"]) == ("q", 420, 1000)
        placement = await world.store.placement("d", "r", BORN)
        assert placement is not None
        assert (placement.resource, placement.queue, placement.revision, placement.sizes) == ("beta", "q", 1, {})
        assert placement.reasons[0].startswith("beta's queue q: chosen")
        assert "alpha: attempt 1 ended there: NODE_FAILURE" in placement.reasons
        assert "rule 1 for NODE_FAILURE (attempt 1 of 2 by it): elsewhere, on beta instead of alpha" in caplog.text
        # What comes afterwards is where the job is, and is told what was done there.
        record = (await world.store.task_records("d", "r", BORN))["put", -1]
        assert (record.state, record.result) == (TaskState.COMPLETED, {"in": f"/beta/{DIRECTORY}"})
        assert await world.segment(HostedTask(id="out", type="put")) == {"in": f"/beta/{DIRECTORY}"}
        assert left_places([first, second]) == [("alpha", f"/alpha/{DIRECTORY}")]


async def test_in_one_segment_what_comes_afterwards_goes_along(tmp_path: Path) -> None:
    async with places(tmp_path) as world:
        tasks = [PUT, SUBMIT, monitoring(), HostedTask(id="out", type="put")]
        results = await run_segment(Segment(tasks, Run("d", "r", -1, 1, conf=CONF, born=BORN), world, LOG))
        assert [job.resource for job in await world.store.attempts(TASK)] == ["alpha", "beta"]
        assert results["put"] == results["out"] == {"in": f"/beta/{DIRECTORY}"}


async def test_it_goes_nowhere_twice(tmp_path: Path) -> None:
    async with places(tmp_path) as world:
        world.good = set()
        await world.prepare()
        with pytest.raises(JobFailed, match="rule 1 for NODE_FAILURE has made its 2 attempts"):
            await world.monitor_()
        assert [job.resource for job in await world.store.attempts(TASK)] == ["alpha", "beta", "gamma"]
        with pytest.raises(JobFailed, match=r"finds no other place: .*gamma: attempt 3 ended there: NODE_FAILURE"):
            await world.monitor_({**ELSEWHERE, "at_most": 5})
        assert len(await world.store.attempts(TASK)) == 3


@pytest.mark.parametrize(
    ("conf", "told"),
    [({"compute_resource": "alpha"}, "the request names alpha alone"), ({"only_on": ["alpha"]}, "beta: the request")],
)
async def test_where_no_other_place_is_allowed_the_next_rule_decides(
    tmp_path: Path, conf: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with places(tmp_path) as world:
        world.conf = {**CONF, **conf}
        await world.prepare()
        with pytest.raises(JobFailed, match=f"rule 1 for NODE_FAILURE finds no other place: .*{told}"):
            await world.monitor_()
        with pytest.raises(JobFailed, match="rule 2 for NODE_FAILURE has made its 1 attempt"):
            await world.monitor_(ELSEWHERE, {"outcome": "NODE_FAILURE"})
        assert [job.resource for job in await world.store.attempts(TASK)] == ["alpha", "alpha"]
        assert "again; rule 1 for NODE_FAILURE finds no other place" in caplog.text


async def test_what_grew_goes_along_and_what_is_too_small_is_left_out(tmp_path: Path) -> None:
    """Memory grows to what alpha allows, then goes where more is allowed; beta's limit is passed in the end."""
    async with places(tmp_path) as world:
        world.good, world.outcome = {"gamma"}, Outcome.OUT_OF_MEMORY
        rules = (
            {"outcome": "OUT_OF_MEMORY", "memory": "*1.5"},
            {"outcome": "OUT_OF_MEMORY", "answer": "elsewhere", "memory": "*2", "at_most": 2},
        )
        await world.prepare()
        await world.monitor_(*rules)
        attempts = await world.store.attempts(TASK)
        asked = [(job.resource, (job.request or {})["memory_mb"]) for job in attempts]
        assert asked == [("alpha", 1000), ("alpha", 1500), ("beta", 3000), ("gamma", 6000)]
        placement = await world.store.placement("d", "r", BORN)
        assert placement is not None
        assert (placement.revision, placement.sizes) == (2, {"memory_mb": 6000})


async def test_what_is_drained_is_not_gone_to(tmp_path: Path) -> None:
    async with places(tmp_path) as world:
        await world.prepare()
        begin = datetime.now(UTC) - timedelta(minutes=1)
        await world.store.set_availability(Availability("beta", AvailabilityState.DRAINING, begin))
        assert (await world.monitor_())["attempt"] == 2
        assert (await world.store.attempts(TASK))[1].resource == "gamma"


async def test_a_place_that_cannot_be_reached_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PAUSES_S", (0.01, 0.01))
    async with places(tmp_path) as world:
        await world.prepare()
        world.no_room = "beta"
        running = asyncio.create_task(world.monitor_())
        await until(lambda: world.turned_away > 1)
        (second,) = await world.store.jobs_named([job_name(TASK, 2)])
        assert (second.admitted_at, second.waiter) == (None, "")
        world.no_room = ""
        assert (await asyncio.wait_for(running, 20))["attempt"] == 2


async def test_an_attempt_whose_files_are_on_their_way_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "PAUSES_S", (0.01, 0.01))
    async with places(tmp_path) as world:
        await world.prepare()
        world.no_room = "beta"
        running = asyncio.create_task(world.monitor_())
        await until(lambda: world.turned_away > 1)
        canceled = await world.store.request_cancel(job_name(TASK, 2), "ann")
        assert canceled.canceled_at is not None
        with pytest.raises(JobCanceled, match="ann"):
            await asyncio.wait_for(running, 20)
        assert list(world.accepted) == [job_name(TASK, 1)]


async def test_another_job_of_the_experiment_holds_it(tmp_path: Path) -> None:
    async with places(tmp_path) as world:
        await world.prepare()
        await world.segment(SUBMIT.model_copy(update={"id": "other"}))
        with pytest.raises(JobFailed, match="task other has a job on alpha, too"):
            await world.monitor_()


async def test_killed_anywhere_and_run_again_it_ends_the_same(tmp_path: Path) -> None:
    def watched(world: Places) -> None:
        for name in ("attempts", "jobs_of", "placement", "intend", "unended_before", "task_records", "record_task"):
            world.killer.wrap(world.store, name, before=False)
        for name in ("stamp", "wait"):
            world.killer.wrap(world.admitter(), name, before=False)

    async with places(tmp_path) as world:
        await world.prepare()
        began = world.accepted.copy(), world.where.copy(), world.files.copy()
    shutil.copy(tmp_path / "jobs.db", tmp_path / "began.db")

    @asynccontextmanager
    async def begun(number: int) -> AsyncIterator[Places]:
        shutil.copy(tmp_path / "began.db", tmp_path / f"{number}.db")
        async with places(tmp_path, str(number)) as world:
            world.accepted, world.where, world.files = began[0].copy(), began[1].copy(), began[2].copy()
            watched(world)
            world.killer.left = number
            yield world

    async with begun(10_000) as world:
        await world.monitor_()
        total = 10_000 - (world.killer.left or 0)
    assert total > 15
    for number in range(total):
        async with begun(number) as world:
            with pytest.raises(Killed):
                await world.monitor_()
            await world.news()
            async with asyncio.timeout(20):
                assert (await world.monitor_())["attempt"] == 2
            attempts = await world.store.attempts(TASK)
            assert [job.resource for job in attempts] == ["alpha", "beta"]
            assert list(world.accepted) == [job_name(TASK, each) for each in (1, 2)]
            placement = await world.store.placement("d", "r", BORN)
            assert placement is not None
            assert (placement.resource, placement.revision) == ("beta", 1)
            record = (await world.store.task_records("d", "r", BORN))["put", -1]
            assert record.result == {"in": f"/beta/{DIRECTORY}"}
