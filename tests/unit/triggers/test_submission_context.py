"""A task that may submit a job once more is given what its submission was given."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airavata_provider.models.resource import ComputeResource
from airavata_provider.tasks.base import TaskContext, TaskResult
from airavata_provider.tasks.monitoring import Monitor
from airavata_provider.tasks.registry import task_type
from airavata_provider.tasks.submit_parameters import SubmitParameters
from airavata_provider.triggers import host
from airavata_provider.triggers.host import Segment, run_segment
from airavata_provider.triggers.hosted import HostedTask, Run
from airavata_provider.triggers.services import HostServices

RUN = Run("d", "r", 3, 2, born="2031-05-06T12:00:00+00:00")
SUBMIT = HostedTask(id="send", type="submit", resource="there", parameters={"executable": "solve", "memory_mb": 5})


class Records:
    async def task_records(self, *_: str) -> dict[Any, Any]:
        return {}

    async def record_task(self, record: Any) -> None:
        pass


def services() -> HostServices:
    def compute_resource(name: str) -> ComputeResource:
        return ComputeResource(name=name, connection="c", scheduler="fork", scratch=f"/{name}")

    catalog = SimpleNamespace(compute_resource=compute_resource)
    return cast(HostServices, SimpleNamespace(store=Records(), catalog=lambda: catalog))


async def given(task: HostedTask) -> TaskContext[Any]:
    """The context that the monitor runs with."""
    seen: list[TaskContext[Any]] = []

    class Seeing(Monitor):
        async def run(self, context: TaskContext[Any]) -> TaskResult:
            seen.append(context)
            return TaskResult()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "task_type", lambda name: Seeing() if name == "monitor" else task_type(name))
        async with asyncio.timeout(10):
            await run_segment(Segment([task], RUN, services(), logging.getLogger("test")))
    return seen[0]


async def test_the_submission_is_told_with_its_own_identity_and_place() -> None:
    monitor = HostedTask(
        id="wait", type="monitor", resource="here", deadline_s=5, parameters={"job": "send"}, submission=SUBMIT
    )
    context = await given(HostedTask.model_validate_json(monitor.model_dump_json()))
    again = context.submission
    assert again is not None
    assert (again.identity.task_id, again.identity.map_index, again.identity.born) == ("send", 3, RUN.born)
    assert (again.resource.name, again.directory.partition("/r-")[0]) == ("there", "/there")
    assert isinstance(again.parameters, SubmitParameters)
    assert (again.parameters.executable, again.parameters.memory_mb) == ("solve", 5)
    # What waits for others stops the deadline of whoever really runs.
    assert again.deadline is context.deadline


async def test_without_rules_there_is_none() -> None:
    context = await given(HostedTask(id="wait", type="monitor", resource="here", parameters={"job": "send"}))
    assert context.submission is None
