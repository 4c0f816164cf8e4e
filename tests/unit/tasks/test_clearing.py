"""A cleared submission: no clear is lost and no two jobs are there, whoever is killed or fails wherever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airavata_provider.errors import ConnectFailed, JobCanceled
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.identity import element_name, job_name
from airavata_provider.models.job import Job, JobState, SubmissionState, TaskState
from airavata_provider.models.rules import MADE_BY
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.tasks import ending
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult
from airavata_provider.tasks.registry import task_type
from airavata_provider.tasks.submission import Submit
from airavata_provider.triggers import host
from airavata_provider.triggers.host import Segment, cancel_segment, run_segment
from airavata_provider.triggers.hosted import HostedTask, Run
from tests.unit.jobs.admitter_contract import until
from tests.unit.jobs.factory import make_event
from tests.unit.tasks.world import TASK, Killed, World

pytestmark = pytest.mark.slow

LOG = logging.getLogger("tests.clearing")
SUBMIT = HostedTask(id="submit", type="submit", resource="cluster", parameters={"executable": "solve"})
ARRAY = HostedTask(
    id="submit", type="submit", resource="cluster", parameters={"executable": "solve", "elements": [{}, {}, {}]}
)


class Cluster(World):
    """Ends what it is asked to end, in its own time, and never has two jobs of the task."""

    def __init__(self, store: JobStore) -> None:
        super().__init__(store)
        self.alive: set[str] = set()
        self.ends = True
        self.made: list[str] = []

    async def submit(
        self, _host: Any, _scheduler: Any, request: JobRequest, *, job: Job, first: bool, webhook: Any, **_: Any
    ) -> str:
        """In the place of ``jobs.submission.submit``, with its promise: at most one job of a name."""
        self.killer.point()
        if self.troubles:
            raise self.troubles.pop(0)
        native_id = f"id-{job.name}"
        if job.name not in self.made:
            self.made.append(job.name)
            indices = [None] if request.array is None else list(request.array.indices)
            mine = {job.name if index is None else element_name(job.name, index) for index in indices}
            # An array is one of the elements that have to be done again: no element is there twice.
            assert not {name.partition(".")[2] for name in mine} & {name.partition(".")[2] for name in self.alive}
            self.alive |= mine
        self.killer.point()
        await self.store.submitted(job.name, native_id, datetime.now(UTC), lambda array, index: f"{array}_{index}")
        self.killer.point()
        return native_id

    async def run(self) -> None:
        """What a reconciler and the scheduler do together."""
        while True:
            for job in await self.store.cancel_requests() if self.ends else []:
                if job.size is None and (job.name in self.alive or job.native_id is None):
                    self.alive.discard(job.name)
                    await self.store.canceled(job.name)
            await asyncio.sleep(0.01)

    async def segment(self, try_number: int, task: HostedTask = SUBMIT) -> dict[str, Any]:
        run = Run(TASK.dag_id, TASK.experiment_id, -1, try_number, born=TASK.born)
        return dict((await run_segment(Segment([task], run, self, LOG)))["submit"])


@asynccontextmanager
async def cluster(folder: Path, name: str = "jobs") -> AsyncIterator[Cluster]:
    store = JobStore(f"sqlite:///{folder}/{name}.db", watch_interval=0.02)
    await store.create_tables()
    made = Cluster(store)
    running = asyncio.create_task(made.run())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airavata_provider.jobs.submission.submit", made.submit)
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.wait([running])
            await store.close()


def watched(world: Cluster) -> None:
    for name in (
        *("attempts", "elements", "latest_elements", "unended_before", "jobs_of", "task_records"),
        *("intend", "intend_arrays", "request_cancel", "wait", "record_task", "record_tasks"),
    ):
        world.killer.wrap(world.store, name, before=False)
    for name in ("stamp", "wait"):
        world.killer.wrap(world.admitter(), name, before=False)


async def fail(world: Cluster, *names: str) -> None:
    for name in names:
        await world.store.append(make_event(JobState.FAILED, 9, job=name))
        world.alive.discard(name)


@pytest.mark.parametrize("kind", ["running", "ended", "array"])
async def test_killed_anywhere_it_ends_the_same(tmp_path: Path, kind: str) -> None:
    task = ARRAY if kind == "array" else SUBMIT

    async def begun(world: Cluster) -> None:
        await world.segment(1, task)
        if kind == "ended":
            await fail(world, job_name(TASK))
        if kind == "array":
            # One is done, one failed, one nobody can tell of: it may run yet.
            one, two, three = (element_name(job_name(TASK), number) for number in range(3))
            await world.store.append(make_event(JobState.COMPLETE, 9, job=one))
            world.alive.discard(one)
            await fail(world, two)
            await world.store.append(replace(make_event(JobState.UNKNOWN, 9, job=three), given_up=True))
        watched(world)

    async with cluster(tmp_path) as world:
        await begun(world)
        world.killer.left = 10_000
        await world.segment(2, task)
        total = 10_000 - world.killer.left
    assert total > 10
    for number in range(total):
        async with cluster(tmp_path, f"jobs{number}") as world:
            await begun(world)
            world.killer.left = number
            with pytest.raises(Killed):
                await world.segment(2, task)
            async with asyncio.timeout(20):
                result = await world.segment(2, task)
            attempts = await world.store.attempts(TASK)
            assert (result["attempt"], result["native_id"]) == (2, f"id-{job_name(TASK, 2)}")
            assert [job.attempt for job in attempts] == [1, 2]
            assert world.made == [job_name(TASK, 1), job_name(TASK, 2)]
            if kind == "array":
                assert world.alive == {element_name(job_name(TASK, 2), place) for place in (1, 2)}
            else:
                assert world.alive == {job_name(TASK, 2)}


@pytest.mark.parametrize("trouble", ["before its intent", "before it is submitted"])
async def test_a_failure_does_not_lose_the_clear(tmp_path: Path, trouble: str) -> None:
    async with cluster(tmp_path) as world:
        await world.segment(1)
        stamp, error = world.admitter().stamp, ConnectFailed("no route")

        async def failing(job: Job) -> Job:
            world.admitter().stamp = stamp  # type: ignore[method-assign]
            raise error

        if trouble == "before its intent":
            world.admitter().stamp = failing  # type: ignore[method-assign]
        else:
            world.troubles = [error]
        with pytest.raises(ConnectFailed):
            await world.segment(2)
        # Airflow's retry, not a second clear.
        assert (await world.segment(3))["attempt"] == 2
        assert world.made == [job_name(TASK, 1), job_name(TASK, 2)]


async def test_a_failure_of_a_task_before_it_does_not_lose_the_clear(tmp_path: Path) -> None:
    """Cleared, a segment begins with its first task; that one's troubles may last for tries."""

    class Nothing(Parameters):
        """None."""

    class Before(Task[Nothing]):
        name: ClassVar[str] = "before"
        Parameters: ClassVar[type[Parameters]] = Nothing
        seen: ClassVar[list[bool]] = []
        fails: ClassVar[bool] = False

        async def run(self, context: TaskContext[Nothing]) -> TaskResult:
            self.seen.append(context.fresh)
            if self.fails:
                await context.begun()
                raise ConnectFailed("no route")
            return TaskResult()

    async with cluster(tmp_path) as world:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host, "task_type", lambda kind: Before() if kind == "before" else task_type(kind))
            tasks = [HostedTask(id="before", type="before", resource="cluster"), SUBMIT]

            async def segment(try_number: int) -> int:
                run = Run(TASK.dag_id, TASK.experiment_id, -1, try_number, born=TASK.born)
                return int((await run_segment(Segment(tasks, run, world, LOG)))["submit"]["attempt"])

            assert await segment(1) == 1
            Before.fails = True
            for try_number in (2, 3):
                with pytest.raises(ConnectFailed):
                    await segment(try_number)
            Before.fails = False
            assert await segment(4) == 2
            # It had begun anew before it failed: then it went on.
            assert Before.seen == [False, True, False, False]
            assert world.alive == {job_name(TASK, 2)}


async def test_an_old_job_that_does_not_end_is_told_and_ended_first_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path) as world:
        await world.segment(1)
        world.ends = False
        monkeypatch.setattr(ending, "CANCEL_WAIT_S", 0.05)
        for try_number in (2, 3):
            with pytest.raises(JobCanceled, match="the job of the attempt before still runs"):
                await world.segment(try_number)
        assert (await world.store.attempts(TASK))[1].admitted_at is None
        assert world.made == [job_name(TASK)]
        world.ends = True
        monkeypatch.setattr(ending, "CANCEL_WAIT_S", 20)
        assert (await world.segment(4))["attempt"] == 2


async def test_who_gives_up_the_new_attempt_gives_up_the_old_one_too(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        await world.segment(1)
        world.ends = False
        asked: list[str] = []
        request_cancel = world.store.request_cancel

        async def noted(name: str, by: str) -> Job:
            asked.append(name)
            return await request_cancel(name, by)

        world.store.request_cancel = noted  # type: ignore[method-assign]
        running = asyncio.create_task(world.segment(2))
        await until(lambda: bool(asked))
        running.cancel()
        await asyncio.wait([running])
        run = Run(TASK.dag_id, TASK.experiment_id, -1, 2, born=TASK.born)
        await cancel_segment(Segment([SUBMIT], run, world, LOG))
        # What did not begin takes no room, and needs no cluster to end.
        new = await world.store.job(job_name(TASK, 2))
        assert new is not None and (new.submitting_at, new.admitted_at) == (None, None)
        assert new.canceled_at is not None
        world.ends = True
        for number in (1, 2):
            ended = await world.store.wait(job_name(TASK, number), timeout_s=20)
            assert ended.canceled_at is not None
        assert (asked.count(job_name(TASK, 2)), world.alive) == (1, set())


async def test_a_rule_that_answers_at_the_same_moment_does_not_take_the_clears_place(tmp_path: Path) -> None:
    """The old monitor lives for a moment after a clear: its attempt is of the time before."""
    async with cluster(tmp_path) as world:
        await world.segment(1)
        await fail(world, job_name(TASK))
        intend = world.store.intend

        async def late(job: Job, **options: Any) -> Job:
            world.store.intend = intend  # type: ignore[method-assign]
            made_by = {MADE_BY: {"rule": 1, "of": 1, "outcome": "FAILED"}}
            await intend(replace(job, request=made_by, created_at=datetime.now(UTC)), after=job_name(TASK))
            return await intend(job, **options)

        world.store.intend = late  # type: ignore[method-assign]
        result = await asyncio.wait_for(world.segment(2), 20)
        first, rules, cleared = await world.store.attempts(TASK)
        assert result["job"] == cleared.name
        assert rules.canceled_at is not None
        assert world.made == [first.name, cleared.name]


async def test_a_job_that_was_refused_is_not_submitted_beside_the_next_one(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        await world.segment(1)
        await fail(world, job_name(TASK))
        last = (await world.store.attempts(TASK))[0]
        made_by = {MADE_BY: {"rule": 1, "of": 1, "outcome": "FAILED"}}
        second = replace(last, name=job_name(TASK, 2), attempt=2, state=None, ended_at=None)
        second = replace(second, native_id=None, submission=SubmissionState.INTENDED)
        await world.store.intend(replace(second, request=made_by, created_at=datetime.now(UTC)))
        await world.store.refused(second.name, "no")
        assert (await world.segment(2))["attempt"] == 3
        refused = await world.store.job(second.name)
        assert refused is not None
        # Whoever still answers for it goes no further.
        with pytest.raises(JobCanceled):
            await Submit().hand_over(world.submission(), refused, False)
        assert world.made == [job_name(TASK, 1), job_name(TASK, 3)]


async def test_a_completed_clear_leaves_no_mark(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        await world.segment(1)
        await world.segment(2)
        (record,) = (await world.store.task_records(TASK.dag_id, TASK.experiment_id, TASK.born)).values()
        assert (record.state, record.try_number) == (TaskState.COMPLETED, 2)
        assert (await world.segment(2))["attempt"] == 2
        assert (await world.segment(3))["attempt"] == 3
        await until(lambda: world.alive == {job_name(TASK, 3)})
