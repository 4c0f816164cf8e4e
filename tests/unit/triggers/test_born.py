"""A run that was deleted and made again under its id finds nothing of the first: no checkpoint, no directory."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import pytest_asyncio

from airavata_provider.jobs.store import JobStore
from airavata_provider.models.resource import ComputeResource
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult
from airavata_provider.triggers import host
from airavata_provider.triggers.host import Segment, run_segment
from airavata_provider.triggers.hosted import HostedTask, Run
from airavata_provider.triggers.services import HostServices

FIRST = Run("d", "r", -1, 1, born="2031-05-06T12:00:00+00:00")
SECOND = replace(FIRST, born="2031-05-07T12:00:00+00:00")


class TellParameters(Parameters):
    """None."""


class Tell(Task[TellParameters]):
    """Tells where it works."""

    name: ClassVar[str] = "tell"
    Parameters: ClassVar[type[Parameters]] = TellParameters

    async def run(self, context: TaskContext[TellParameters]) -> TaskResult:
        return TaskResult({"directory": context.directory, "born": context.identity.born})


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncIterator[HostServices]:
    store = JobStore(f"sqlite:///{tmp_path}/a.db")
    await store.create_tables()
    resource = ComputeResource(name="cluster", connection="c", scheduler="fork", scratch="/scratch")
    catalog = SimpleNamespace(compute_resource=lambda name: resource)
    yield cast(HostServices, SimpleNamespace(store=store, catalog=lambda: catalog))
    await store.close()


async def test_another_run_of_the_same_id_starts_from_nothing(
    services: HostServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "task_type", lambda name: Tell())

    async def directory(run: Run) -> Any:
        task = HostedTask(id="t", type="tell", resource="cluster")
        told = (await run_segment(Segment([task], run, services, logging.getLogger("test"))))["t"]
        assert told["born"] == run.born
        return told["directory"]

    first = await directory(FIRST)
    assert await directory(FIRST) == first
    assert await directory(SECOND) != first
    assert set(await services.store.task_records("d", "r", SECOND.born)) == {("t", -1)}
    assert await services.store.task_records("d", "r", "another") == {}
