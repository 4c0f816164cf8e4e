"""A segment's tasks run as their trigger rules say, whatever fails, whoever is killed, and whoever clears it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import pytest_asyncio

from airavata_provider.errors import AiravataError, ConnectFailed, JobFailed
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Job, JobState, TaskState
from airavata_provider.models.resource import ComputeResource
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult
from airavata_provider.triggers import host
from airavata_provider.triggers.host import Segment, Skipped, expect_retry, run_segment
from airavata_provider.triggers.hosted import HostedTask, Run
from airavata_provider.triggers.services import HostServices

pytestmark = pytest.mark.slow

RUN = Run("d", "r", -1, 1, started="first")
AGAIN = replace(RUN, try_number=2)
CLEARED = replace(AGAIN, started="second")


class StepParameters(Parameters):
    job: str | None = None


class Step(Task[StepParameters]):
    """Does what the test has planned for it, and tells that it ran."""

    name: ClassVar[str] = "step"
    Parameters: ClassVar[type[Parameters]] = StepParameters
    judges: ClassVar[str | None] = "job"
    plan: ClassVar[dict[str, BaseException]] = {}
    ran: ClassVar[list[str]] = []

    async def run(self, context: TaskContext[StepParameters]) -> TaskResult:
        me = context.identity.task_id
        self.ran.append(f"{me} anew" if context.fresh else me)
        if (error := self.plan.get(me)) is not None:
            raise error
        values: dict[str, Any] = {"by": me}
        if context.parameters.job is not None:
            job = await context.services.store.latest(replace(context.identity, task_id=context.parameters.job))
            values["job"] = job and job.name
        return TaskResult(values, skipped=me.startswith("idle"))


@pytest_asyncio.fixture
async def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HostServices]:
    store = JobStore(f"sqlite:///{tmp_path}/a.db")
    await store.create_tables()
    resource = ComputeResource(name="cluster", connection="c", scheduler="fork", scratch="/scratch")
    monkeypatch.setattr(host, "task_type", lambda name: Step())
    monkeypatch.setattr(Step, "plan", {})
    monkeypatch.setattr(Step, "ran", [])
    catalog = SimpleNamespace(compute_resource=lambda name: resource)
    yield cast(HostServices, SimpleNamespace(store=store, catalog=lambda: catalog))
    await store.close()


def step(name: str, **fields: Any) -> HostedTask:
    return HostedTask(id=name, type="step", resource="cluster", **fields)


WHOLE = [
    step("bring"),
    step("submit"),
    step("monitor", parameters={"job": "submit"}),
    step("fetch", after=("submit", "monitor"), trigger_rule="all_done_min_one_success"),
    step("clean", after=("monitor", "fetch")),
]


async def ran(services: HostServices, tasks: Sequence[HostedTask] = WHOLE, run: Run = RUN) -> list[str]:
    """What ran this time; whatever the segment raised is raised."""
    Step.ran.clear()
    await run_segment(Segment(tasks, run, services, logging.getLogger("test")))
    return list(Step.ran)


async def states(services: HostServices) -> dict[str, TaskState]:
    return {name: record.state for (name, _), record in (await services.store.task_records("d", "r", "")).items()}


async def test_all_well(services: HostServices) -> None:
    assert await ran(services) == ["bring", "submit", "monitor", "fetch", "clean"]
    assert set((await states(services)).values()) == {TaskState.COMPLETED}
    assert await ran(services) == []  # the triggerer died before Airflow heard of it
    anew = await ran(services, run=AGAIN)
    assert anew == ["bring anew", "submit anew", "monitor anew", "fetch anew", "clean anew"]


async def test_a_failure_for_good_lets_the_rules_have_their_say_and_fails_the_segment(services: HostServices) -> None:
    Step.plan["monitor"] = JobFailed("exit code 4")
    with pytest.raises(JobFailed, match="exit code 4"):
        await ran(services)
    assert Step.ran == ["bring", "submit", "monitor", "fetch"]
    assert await states(services) == {
        "bring": TaskState.COMPLETED,
        "submit": TaskState.COMPLETED,
        "monitor": TaskState.FAILED,
        "fetch": TaskState.COMPLETED,
        "clean": TaskState.CANCELED,
    }


async def test_what_time_may_cure_waits_for_airflows_next_try(services: HostServices) -> None:
    Step.plan["monitor"] = ConnectFailed("no route")
    with pytest.raises(ConnectFailed):
        await ran(services)
    assert Step.ran == ["bring", "submit", "monitor"]
    with pytest.raises(ConnectFailed):
        await ran(services, run=AGAIN)
    assert Step.ran == ["monitor"]
    # Airflow tries no more: the failure is final.
    with pytest.raises(ConnectFailed):
        await ran(services, run=replace(RUN, born="2", may_retry=False))
    assert Step.ran == ["bring", "submit", "monitor", "fetch"]


async def test_the_first_failure_is_what_is_told(services: HostServices) -> None:
    Step.plan |= {"monitor": JobFailed("exit code 4"), "fetch": AiravataError("no such file")}
    with pytest.raises(JobFailed, match="exit code 4"):
        await ran(services)


async def test_a_failure_that_is_answered_within_is_none_of_the_segments(services: HostServices) -> None:
    tasks = [step("try"), step("else", trigger_rule="one_failed")]
    Step.plan["try"] = JobFailed("no")
    assert await ran(services, tasks) == ["try", "else"]


async def test_what_a_rule_skips_is_skipped(services: HostServices) -> None:
    tasks = [step("try"), step("else", trigger_rule="one_failed"), step("last", after=("try",))]
    assert await ran(services, tasks) == ["try", "last"]
    with pytest.raises(Skipped):
        await ran(services, [step("idle"), step("next")], replace(RUN, born="2"))
    assert Step.ran == ["idle"]
    # Killed before Airflow heard of it, it ends the same.
    with pytest.raises(Skipped):
        await ran(services, [step("idle"), step("next")], replace(RUN, born="2"))
    assert Step.ran == []


@pytest.mark.parametrize("killed", ["bring", "submit", "monitor", "fetch", "clean"])
@pytest.mark.parametrize("failing", [False, True])
async def test_killed_in_any_task_it_ends_the_same(services: HostServices, killed: str, failing: bool) -> None:
    end: dict[str, BaseException] = {"monitor": JobFailed("exit code 4")} if failing else {}
    Step.plan |= end | {killed: asyncio.CancelledError()}
    with pytest.raises((asyncio.CancelledError, JobFailed)):
        await ran(services)
    Step.plan.clear()
    Step.plan |= end
    if failing:
        with pytest.raises(AiravataError, match="exit code 4"):
            await ran(services)
    else:
        await ran(services)
    expected = TaskState.CANCELED if failing else TaskState.COMPLETED
    assert (await states(services))["clean"] is expected


async def has_job(services: HostServices, state: JobState, number: int = 1, **values: Any) -> None:
    now = datetime.now(UTC)
    await services.store.intend(
        Job(
            name=f"j{number}",
            dag_id="d",
            experiment_id="r",
            task_id="submit",
            map_index=-1,
            attempt=number,
            resource="cluster",
            directory="/scratch/d",
            created_at=now,
            state=state,
            ended_at=now,
            **values,
        )
    )


async def job_failed(services: HostServices) -> None:
    Step.plan["monitor"] = JobFailed("exit code 4")
    with pytest.raises(JobFailed):
        await ran(services)
    await has_job(services, JobState.FAILED)


async def test_the_same_try_finds_the_same_end(services: HostServices) -> None:
    await job_failed(services)
    Step.plan.clear()
    with pytest.raises(AiravataError, match="exit code 4"):
        await ran(services)
    assert Step.ran == []


async def test_who_clears_a_segment_whose_job_failed_gets_another_job(services: HostServices) -> None:
    await job_failed(services)
    Step.plan.clear()
    assert await ran(services, run=CLEARED) == ["submit anew", "monitor anew", "fetch anew", "clean anew"]


async def test_a_later_try_of_the_same_run_is_no_proof_of_a_clearing(services: HostServices) -> None:
    """A worker that dies while it fails the task for good makes Airflow try again: no other job for that."""
    await job_failed(services)
    with pytest.raises(JobFailed):
        await ran(services, run=AGAIN)
    assert Step.ran == ["monitor", "fetch"]


async def test_a_retry_for_another_reason_submits_nothing(services: HostServices) -> None:
    Step.plan |= {"monitor": JobFailed("exit code 4"), "fetch": ConnectFailed("no route")}
    with pytest.raises(ConnectFailed):
        await ran(services)
    await has_job(services, JobState.FAILED)
    with pytest.raises(ConnectFailed):
        await ran(services, run=AGAIN)
    assert Step.ran == ["fetch"]
    del Step.plan["fetch"]
    with pytest.raises(AiravataError, match="exit code 4"):
        await ran(services, run=replace(RUN, try_number=3))
    assert Step.ran == ["fetch"]


async def test_a_monitor_that_is_tried_again_submits_nothing_though_its_job_ended_badly(
    services: HostServices,
) -> None:
    Step.plan["monitor"] = ConnectFailed("the store")
    with pytest.raises(ConnectFailed):
        await ran(services)
    await has_job(services, JobState.FAILED)
    Step.plan["monitor"] = JobFailed("exit code 4")
    with pytest.raises(JobFailed):
        await ran(services, run=AGAIN)
    assert Step.ran == ["monitor", "fetch"]


async def test_a_job_that_runs_is_not_made_anew_because_its_monitor_failed(services: HostServices) -> None:
    Step.plan["monitor"] = AiravataError("the catalog has faults")
    with pytest.raises(AiravataError):
        await ran(services)
    Step.plan.clear()
    assert await ran(services, run=CLEARED) == ["monitor", "fetch", "clean"]


async def test_what_a_failure_left_is_done_again_though_the_triggerer_dies_in_between(services: HostServices) -> None:
    Step.plan["monitor"] = AiravataError("the catalog has faults")
    with pytest.raises(AiravataError):
        await ran(services)
    Step.plan.clear()
    Step.plan["fetch"] = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await ran(services, run=CLEARED)
    Step.plan.clear()
    assert await ran(services, run=CLEARED) == ["fetch", "clean"]


async def test_who_marks_it_failed_and_clears_it_gets_another_job(services: HostServices) -> None:
    Step.plan["monitor"] = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await ran(services)
    await has_job(services, JobState.CANCELED, cancel_requested_at=datetime.now(UTC), cancel_requested_by="ann")
    Step.plan.clear()
    assert await ran(services, run=CLEARED) == ["submit anew", "monitor anew", "fetch anew", "clean anew"]


async def test_a_clearing_outlasts_a_failure_before_the_submission(services: HostServices) -> None:
    await ran(services)
    Step.plan["bring"] = AiravataError("no such input")
    with pytest.raises(AiravataError):
        await ran(services, run=CLEARED)
    Step.plan.clear()
    again = await ran(services, run=replace(CLEARED, try_number=3, started="third"))
    assert again == ["bring anew", "submit anew", "monitor anew", "fetch anew", "clean anew"]


async def test_what_was_done_stands_though_airflow_was_told_of_a_failure(services: HostServices) -> None:
    await ran(services)
    await expect_retry(Segment(WHOLE, RUN, services, logging.getLogger("test")))
    assert await ran(services, run=AGAIN) == []


AFTER = [
    step("monitor", parameters={"job": "submit"}),
    step("fetch", trigger_rule="none_skipped"),
    step("clean", after=("monitor", "fetch")),
]
"""The second of two runs; or what follows a submission whose segment ends with it."""


@pytest.mark.parametrize("failing", ["monitor", "clean"])
async def test_the_end_of_a_job_is_not_that_of_the_next_one(services: HostServices, failing: str) -> None:
    await has_job(services, JobState.COMPLETE)
    Step.plan[failing] = AiravataError("no")
    with pytest.raises(AiravataError):
        await ran(services, AFTER)
    with pytest.raises(AiravataError):
        await ran(services, AFTER, CLEARED)
    assert Step.ran == (["monitor", "fetch"] if failing == "monitor" else ["clean"])
    await has_job(services, JobState.COMPLETE, 2)
    Step.plan.clear()
    third = replace(CLEARED, try_number=3, started="third")
    assert await ran(services, AFTER, third) == ["monitor anew", "fetch anew", "clean anew"]
    assert await ran(services, AFTER, third) == []
