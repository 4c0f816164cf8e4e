"""For tests of answers to an array's elements: a cluster on which each needs memory and time of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airavata_provider.errors import SubmissionRefused
from airavata_provider.jobs.admitter import Admitter
from airavata_provider.jobs.limits import Limits
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Job, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.tasks.base import TaskContext
from airavata_provider.tasks.submit_parameters import SubmitParameters
from tests.unit.jobs.admitter_contract import FAST
from tests.unit.tasks.world import CLUSTER, TASK, World

TWICE = {"outcome": "OUT_OF_MEMORY", "memory": "*2", "at_most": 2}
LONGER = {"outcome": "WALLTIME", "walltime": "*2"}
NEEDS = [(1000, 60), (2000, 60), (1000, 120), (4000, 60), (2000, 120)]
"""MiB and seconds, by place."""


class Many(World):
    """A cluster on which each element needs memory and time of its own."""

    def __init__(self, store: JobStore, needs: list[tuple[int, int]]) -> None:
        super().__init__(store)
        self.needs = needs
        self.ends = True
        self.resource = CLUSTER
        self._limits = Limits()
        self._admitter = Admitter(store, lambda: self._limits, pace=FAST)
        store.closers.append(self._admitter.close)
        self.max_running: int | None = None

    def limit(self, most: int) -> None:
        """From now on the cluster has at most that many elements at a time."""
        self._limits = Limits(resources={CLUSTER.name: most})

    async def submit(
        self, _host: Any, _scheduler: Any, request: JobRequest, *, job: Job, first: bool, webhook: Any, **_: Any
    ) -> str:
        """In the place of ``jobs.submission.submit``, with its promise: at most one array of a name."""
        assert request.name == job.name
        assert request.array is not None
        assert not (first and job.name in self.accepted), "somebody may have submitted it"
        self.killer.point()
        self.tried.append(job.name)
        if self.troubles:
            trouble = self.troubles.pop(0)
            if isinstance(trouble, SubmissionRefused):
                await self.store.refused(job.name, trouble.message)
            raise trouble
        self.accepted.setdefault(job.name, request)
        self.killer.point()
        await self.store.submitted(job.name, f"id-{job.name}", datetime.now(UTC), lambda name, n: f"{name}_{n}")
        self.killer.point()
        await self.news()
        return f"id-{job.name}"

    async def news(self) -> None:
        """The ends of the elements that the cluster has."""
        for name, request in self.accepted.items() if self.ends else []:
            for element in await self.store.elements(name):
                if element.native_id is None or element.ended_at is not None or element.place is None:
                    continue
                memory_mb, walltime_s = self.needs[element.place]
                if (request.memory_mb or 0) < memory_mb:
                    outcome = Outcome.OUT_OF_MEMORY
                elif (request.walltime_s or 0) < walltime_s:
                    outcome = Outcome.WALLTIME
                else:
                    await self.end(element.name, JobState.COMPLETE, Outcome.COMPLETED, exit_code=0)
                    continue
                await self.end(element.name, JobState.FAILED, outcome)

    def submission(self) -> TaskContext[SubmitParameters]:
        parameters = SubmitParameters.model_validate(
            {
                "executable": "solve",
                "queue": "debug",
                "memory_mb": 1000,
                "walltime_s": 60,
                "elements": [{"arguments": (str(place),)} for place in range(len(self.needs))],
                "max_running": self.max_running,
            }
        )
        return replace(self._context(TASK, parameters), resource=self.resource)

    def ran(self) -> list[tuple[list[int], int | None, int | None]]:
        """What each submission asked for: the elements by their arguments, memory, walltime."""
        return [
            ([int(each.arguments[0]) for each in request.array.elements], request.memory_mb, request.walltime_s)
            for request in self.accepted.values()
            if request.array is not None
        ]


async def many(
    folder: Path, monkeypatch: pytest.MonkeyPatch, needs: list[tuple[int, int]], name: str = "jobs"
) -> Many:
    store = JobStore(f"sqlite:///{folder}/{name}.db", watch_interval=0.02)
    await store.create_tables()
    made = Many(store, needs)
    monkeypatch.setattr("airavata_provider.jobs.submission.submit", made.submit)
    return made
