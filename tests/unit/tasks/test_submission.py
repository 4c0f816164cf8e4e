"""The submit task and admission: what waits, what goes back to waiting, what keeps its place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from airavata_provider.errors import (
    ConfigurationError,
    ConnectFailed,
    JobCanceled,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.jobs.admitter import Admitter
from airavata_provider.jobs.limits import Limits
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.identity import TaskIdentity, element_name, job_name
from airavata_provider.models.job import Job, JobState, SubmissionState
from airavata_provider.models.resource import ComputeResource
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.tasks.base import Deadline, Services, TaskContext
from airavata_provider.tasks.monitoring import Monitor, MonitorParameters
from airavata_provider.tasks.submission import Submit
from airavata_provider.tasks.submit_parameters import SubmitElement, SubmitParameters
from tests.unit.jobs.admitter_contract import FAST, until
from tests.unit.jobs.factory import make_event, make_job

pytestmark = pytest.mark.slow

CLUSTER = ComputeResource.model_validate(
    {"name": "cluster", "connection": "c", "scheduler": "slurm", "scratch": "/s", "queues": {"debug": {}}}
)
LOG = logging.getLogger("tests.submission")


class World(Services):
    """A store, an admitter with limits, and a scheduler that does what the test says."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.limits = Limits()
        self._admitter = Admitter(store, lambda: self.limits, pace=FAST)
        store.closers.append(self._admitter.close)
        self.answers: list[str | Exception] = []
        self.asked: list[bool] = []

    def admitter(self) -> Admitter:
        return self._admitter

    def compute_resource(self, name: str) -> ComputeResource:
        raise NotImplementedError

    async def host(self, resource: ComputeResource) -> Any:
        return None

    async def storage(self, name: str) -> Any:
        raise NotImplementedError

    def webhook_url(self, resource: ComputeResource, job: str) -> str | None:
        return None

    def webhook_token(self, job: str) -> str:
        return ""

    async def watch(self) -> None:
        pass

    async def submit(self, *_: Any, job: Job, first: bool, **__: Any) -> str:
        """In the place of ``jobs.submission.submit``."""
        self.asked.append(first)
        answer = self.answers.pop(0)
        if isinstance(answer, SubmissionUncertain):
            await self.store.uncertain(job.name, answer.message)
        if isinstance(answer, Exception):
            raise answer
        await self.store.submitted(job.name, answer, datetime.now(UTC), lambda one, index: f"{one}_{index}")
        return answer

    def context(self, number: int = 1, deadline: Deadline | None = None) -> TaskContext[SubmitParameters]:
        return TaskContext(
            identity=TaskIdentity("dag", f"e{number}", "submit"),
            try_number=1,
            fresh=False,
            parameters=SubmitParameters(executable="true"),
            experiment=None,
            resource=CLUSTER,
            directory="/s/e",
            services=self,
            log=LOG,
            deadline=deadline or Deadline(),
        )

    async def run(self, number: int = 1, deadline: Deadline | None = None) -> str:
        result = await Submit().run(self.context(number, deadline))
        return str(result.values["native_id"])

    async def job(self, number: int = 1) -> Job:
        job = await self.store.latest(TaskIdentity("dag", f"e{number}", "submit"))
        assert job is not None
        return job

    async def other(self, name: str) -> None:
        """Somebody else's job in the default queue, with its scheduler."""
        await self.store.intend(make_job(name, resource="cluster", queue="debug", admitted_at=datetime.now(UTC)))
        await self.store.submitted(name, f"id-{name}", datetime.now(UTC))

    async def end(self, name: str) -> None:
        await self.store.append(make_event(JobState.COMPLETE, 9, job=name))


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db", watch_interval=0.05)
    await store.create_tables()
    made = World(store)
    monkeypatch.setattr("airavata_provider.jobs.submission.submit", made.submit)
    yield made
    await store.close()


def waits(world: World) -> Callable[[], bool]:
    return lambda: world.admitter().waiting == 1


def later() -> SubmissionRefused:
    refusal = SubmissionRefused("QOSMaxSubmitJobPerUserLimit")
    refusal.transient = True
    return refusal


async def test_a_job_waits_in_the_default_queues_line(world: World) -> None:
    world.limits = Limits({("cluster", "debug"): 1})
    await world.other("there")
    world.answers = ["7"]
    running = asyncio.create_task(world.run())
    await until(waits(world))
    assert world.asked == []
    await world.end("there")
    assert await running == "7"
    # Nobody else made this intent, however long it waited: nothing is to be looked for.
    assert world.asked == [True]


async def test_one_too_many_is_later(world: World) -> None:
    await world.other("there")
    world.answers = [later(), "7"]
    running = asyncio.create_task(world.run())
    await until(waits(world))
    assert (await world.job()).submission is SubmissionState.INTENDED
    # A round learns from it how many are too many, from how many there are then.
    while not await world.store.availabilities():  # noqa: ASYNC110 -- nobody is told of it
        await asyncio.sleep(0.01)
    await world.end("there")
    assert await running == "7"
    # The scheduler said no, so nothing is to be looked for.
    assert world.asked == [True, True]


async def test_a_refusal_for_good_fails(world: World) -> None:
    world.answers = [SubmissionRefused("no such account")]
    with pytest.raises(SubmissionRefused, match="no such account"):
        await world.run()


async def test_what_was_not_begun_makes_room_until_it_is_tried_again(world: World) -> None:
    world.limits = Limits({("cluster", "debug"): 1})
    world.answers = [ConnectFailed("no route"), "8", "7"]
    with pytest.raises(ConnectFailed):
        await world.run(1)
    assert (await world.job(1)).admitted_at is None
    assert await asyncio.wait_for(world.run(2), 20) == "8"
    running = asyncio.create_task(world.run(1))
    await until(waits(world))
    await world.end((await world.job(2)).name)
    assert await running == "7"


async def test_what_may_be_there_keeps_its_place(world: World) -> None:
    world.limits = Limits({("cluster", "debug"): 1})
    world.answers = [SubmissionUncertain("timed out")]
    with pytest.raises(SubmissionUncertain):
        await world.run(1)
    running = asyncio.create_task(world.run(2))
    await until(waits(world))
    (load,) = await world.store.place_loads(world.limits)
    assert (load.running, load.waiting) == (1, 1)
    # And it goes on at once when it is tried again.
    world.answers = ["7", "8"]
    assert await asyncio.wait_for(world.run(1), 20) == "7"
    await world.end((await world.job(1)).name)
    assert await running == "8"


async def test_a_cancel_ends_the_waiting(world: World) -> None:
    world.limits = Limits({("cluster", "debug"): 1})
    await world.other("there")
    running = asyncio.create_task(world.run())
    await until(waits(world))
    await world.store.request_cancel((await world.job()).name, "ann")
    with pytest.raises(JobCanceled, match="ann"):
        await running
    assert world.asked == []


async def test_the_deadline_does_not_run_while_others_are_waited_for(world: World) -> None:
    world.limits = Limits({("cluster", "debug"): 1})
    await world.other("there")
    world.answers = ["7"]
    async with asyncio.timeout(30) as scope:
        running = asyncio.create_task(world.run(deadline=Deadline(scope)))
        await until(waits(world))
        assert scope.when() is None
        await world.end("there")
        assert await running == "7"
        end = scope.when()
        assert end is not None and end <= asyncio.get_running_loop().time() + 30


async def test_no_deadline_is_none_to_pause() -> None:
    with Deadline().paused():
        pass
    async with asyncio.timeout(None) as scope:
        with Deadline(scope).paused():
            await asyncio.sleep(0)
            assert scope.when() is None
        assert scope.when() is None


async def test_whoever_waits_anew_is_not_left_by_the_release_of_who_waited_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.limits = Limits({("cluster", "debug"): 1})
    await world.other("there")
    before = asyncio.create_task(world.run())
    await until(waits(world))
    releases = asyncio.Event()
    admit = world.store.admit

    async def slow(call: Any) -> Any:
        if call.release:
            releases.set()
            await asyncio.sleep(0.3)
        return await admit(call)

    monkeypatch.setattr(world.store, "admit", slow)
    before.cancel()
    await asyncio.wait_for(releases.wait(), 20)
    world.answers = ["7"]
    again = asyncio.create_task(world.run())
    await until(waits(world))
    await world.end("there")
    assert await asyncio.wait_for(again, 20) == "7"


async def test_any_error_before_the_submission_makes_room(world: World) -> None:
    world.limits = Limits({("cluster", "debug"): 1})
    world.answers = [ConfigurationError("no such connection"), "8"]
    with pytest.raises(ConfigurationError):
        await world.run(1)
    assert await asyncio.wait_for(world.run(2), 20) == "8"


async def test_what_was_called_off_before_it_was_submitted_can_be_run_again(world: World) -> None:
    world.limits = Limits({("cluster", "debug"): 1})
    await world.other("there")
    running = asyncio.create_task(world.run())
    await until(waits(world))
    await world.store.request_cancel((await world.job()).name, "ann")
    with pytest.raises(JobCanceled):
        await running
    # Not by the same try, which a restarted triggerer begins anew.
    with pytest.raises(JobCanceled):
        await world.run()
    await world.end("there")
    world.answers = ["7"]
    result = await Submit().run(replace(world.context(), try_number=2))
    assert (result.values["native_id"], result.values["attempt"]) == ("7", 2)


async def test_a_job_that_is_only_watched_takes_no_room(world: World) -> None:
    parameters = MonitorParameters(native_id="77")
    context: TaskContext[Any] = replace(world.context(), parameters=parameters)  # type: ignore[arg-type]
    await Monitor()._others(context)
    assert all((load.running, load.waiting) == (0, 0) for load in await world.store.place_loads(Limits()))


async def test_the_arrays_of_one_submission_do_not_wait_for_each_other(world: World) -> None:
    world.limits = Limits({("cluster", "debug"): 4})
    await world.other("there")
    parameters = SubmitParameters(executable="true", elements=tuple(SubmitElement() for _ in range(6)))
    resource = CLUSTER.model_copy(update={"max_array_size": 3})
    # The second one is first by its name, which is what tells two of the same moment apart.
    number = next(n for n in range(1, 99) if _array(n, 3) < _array(n, 0))
    context = replace(world.context(number), resource=resource, parameters=parameters)
    world.answers = ["7", "8"]
    running = asyncio.create_task(Submit().run(context))
    while not await world.store.attempts(context.identity):  # noqa: ASYNC110 -- nobody is told of a new one
        await asyncio.sleep(0.01)
    for offset in (0, 3):
        name = _array(number, offset)
        array = await asyncio.wait_for(world.store.wait(name, until=lambda each: each.native_id is not None), 20)
        loads = await world.store.place_loads(world.limits)
        assert sum(load.running for load in loads) <= 4
        for element in await world.store.elements(array.name):
            await world.end(element.name)
    assert (await running).values["submitted"] == 6


def _array(number: int, offset: int) -> str:
    return job_name(TaskIdentity("dag", f"e{number}", "submit"), 1, offset)


async def test_between_two_tries_a_cancel_needs_no_host(world: World) -> None:
    world.answers = [ConnectFailed("no route")]
    with pytest.raises(ConnectFailed):
        await world.run()
    ended = await world.store.request_cancel((await world.job()).name, "ann")
    assert (ended.state, bool(ended.canceled_at)) == (JobState.CANCELED, True)
    assert await world.store.cancel_requests() == []
    with pytest.raises(JobCanceled, match="ann"):
        await world.run()


async def test_elements_with_gaps_become_arrays_that_the_scheduler_can_be_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, list[int], list[int | None]]] = []

    async def submit(host: Any, adaptor: Any, request: JobRequest, *, job: Job, **_: Any) -> str:
        assert request.array is not None
        assert not adaptor.unsupported(request)
        asked.append((job.offset, list(request.array.indices), [each.place for each in request.array.elements]))
        await world.store.submitted(job.name, f"{100 + len(asked)}", datetime.now(UTC), lambda i, n: f"{i}.{n}")
        return f"{100 + len(asked)}"

    monkeypatch.setattr("airavata_provider.jobs.submission.submit", submit)
    resource = CLUSTER.model_copy(update={"scheduler": "sge"})
    elements = tuple(SubmitElement() for _ in range(6))
    parameters = SubmitParameters(executable="true", elements=elements)
    context = replace(world.context(), resource=resource, parameters=parameters)
    await Submit().run(context)
    for place in range(6):
        state = JobState.FAILED if place in (0, 1, 5) else JobState.COMPLETE
        name = element_name((await world.job()).name, place)
        await world.store.append(make_event(state, 9, job=name))
    result = await Submit().run(replace(context, fresh=True, past=1, try_number=2))
    assert asked == [(0, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]), (0, [0, 1], [0, 1]), (5, [0], [5])]
    assert result.values["submitted"] == 3
