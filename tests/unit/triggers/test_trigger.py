"""The trigger never harms its triggerer: it stores what it is given, and always ends with one event."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.triggers.base import TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from airavata_provider.errors import AiravataError, ConnectFailed, JobFailed
from airavata_provider.triggers import host
from airavata_provider.triggers import trigger as trigger_module
from airavata_provider.triggers.host import Skipped
from airavata_provider.triggers.trigger import MESSAGE_LIMIT, TaskTrigger


async def event_of(trigger: TaskTrigger) -> TriggerEvent:
    events = [event async for event in trigger.run()]
    assert len(events) == 1
    return events[0]


def hosting(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | None, *, retries: int = 3) -> TaskTrigger:
    """A trigger whose segment ends with that outcome."""

    async def run_segment(segment: Any) -> dict[str, Any]:
        if outcome is not None:
            raise outcome
        return {}

    trigger = TaskTrigger(tasks=[], experiment=True)
    monkeypatch.setattr(host, "run_segment", run_segment)
    monkeypatch.setattr(TaskTrigger, "_segment", lambda self: None)
    monkeypatch.setattr(TaskTrigger, "task", SimpleNamespace(retries=retries))
    return trigger


@pytest.mark.parametrize("fields", [{}, {"tasks": 1, "experiment": object()}, {"from": "a later version"}])
def test_whatever_it_is_given_it_only_stores(fields: dict[str, Any]) -> None:
    trigger = TaskTrigger(**fields)
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    assert (module, name) == (TaskTrigger.__module__, TaskTrigger.__name__)
    assert TaskTrigger(**kwargs).serialize() == (path, kwargs)


async def test_fields_that_make_no_sense_fail_the_task_not_the_triggerer() -> None:
    trigger = TaskTrigger(tasks=17)
    trigger._task_instance = SimpleNamespace(dag_id="d", run_id="r", map_index=-1, try_number=1)
    assert isinstance(await event_of(trigger), TaskFailedEvent)


async def test_success(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(await event_of(hosting(monkeypatch, None)), TaskSuccessEvent)


@pytest.mark.parametrize("error", [ConnectFailed("no route"), RuntimeError("a bug"), SystemExit(1)])
async def test_what_time_may_cure_is_a_failure_that_airflow_retries(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    assert isinstance(await event_of(hosting(monkeypatch, error)), TaskFailedEvent)


async def test_what_time_does_not_cure_is_failed_on_a_worker_without_a_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = await event_of(hosting(monkeypatch, JobFailed("exit code 3" + "!" * 10_000, where="job 1")))
    assert event.payload["error"].startswith("JobFailed: job 1: exit code 3")
    assert len(event.payload["error"]) == MESSAGE_LIMIT


async def test_without_retries_nothing_needs_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    trigger = hosting(monkeypatch, AiravataError("no"), retries=0)
    assert isinstance(await event_of(trigger), TaskFailedEvent)


async def test_nothing_to_do_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(await event_of(hosting(monkeypatch, Skipped("stage_in"))), TaskSkippedEvent)


async def test_a_shutdown_is_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(asyncio.CancelledError):
        await event_of(hosting(monkeypatch, asyncio.CancelledError()))


@pytest.mark.parametrize(
    ("state", "cancelled"),
    [("failed", True), ("success", False), ("deferred", False), (None, False), ("scheduled", False)],
)
async def test_only_a_task_marked_failed_ends_its_job(
    monkeypatch: pytest.MonkeyPatch, state: str | None, cancelled: bool
) -> None:
    trigger, asked = hosting(monkeypatch, None), []

    async def cancel_segment(segment: Any) -> None:
        asked.append(segment)

    async def state_of(self: TaskTrigger) -> str | None:
        return state

    monkeypatch.setattr(host, "cancel_segment", cancel_segment)
    monkeypatch.setattr(TaskTrigger, "_state", state_of)
    await trigger.on_kill()
    assert bool(asked) is cancelled


@pytest.mark.parametrize(("refusals", "ends"), [(2, TaskSuccessEvent), (3, TaskFailedEvent)])
async def test_an_xcom_that_is_not_taken_is_written_again(
    monkeypatch: pytest.MonkeyPatch, refusals: int, ends: type[TriggerEvent]
) -> None:
    """The job has completed: that Airflow's database is away for a moment must not make a failure of it."""
    left, written = refusals, {}

    async def aset(key: str, value: Any, **place: Any) -> None:
        nonlocal left
        if left:
            left -= 1
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))
        written[key] = value

    async def run_segment(segment: Any) -> dict[str, Any]:
        return {"monitor": {"state": "COMPLETE"}}

    async def expect_retry(segment: Any) -> None:
        pass

    monkeypatch.setattr(BaseXCom, "aset", aset)
    monkeypatch.setattr(trigger_module, "XCOM_AGAIN_S", (0.0, 0.0))
    trigger = hosting(monkeypatch, None)
    monkeypatch.setattr(host, "run_segment", run_segment)
    monkeypatch.setattr(host, "expect_retry", expect_retry)
    trigger._task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=None, try_number=1)
    assert isinstance(await event_of(trigger), ends)
    if ends is TaskSuccessEvent:
        assert written == {"state": "COMPLETE", "return_value": {"state": "COMPLETE"}}
