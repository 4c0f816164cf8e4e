"""For tests of tasks that submit: a store, an admitter, a pretended cluster, and a killer at the n-th point."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from airavata_provider.jobs.admission import Limits
from airavata_provider.jobs.admitter import Admitter
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.job import EventSource, Job, JobEvent, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.resource import ComputeResource
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.tasks.base import TaskContext
from airavata_provider.tasks.monitoring import MonitorParameters
from airavata_provider.tasks.submit_parameters import SubmitParameters
from airavata_provider.triggers.services import HostServices
from tests.unit.jobs.admitter_contract import FAST

CLUSTER = ComputeResource.model_validate(
    {
        "name": "cluster",
        "connection": "c",
        "scheduler": "slurm",
        "scratch": "/s",
        "queues": {"debug": {"max_memory_mb": 6000}},
    }
)
TASK = TaskIdentity("dag", "e", "submit", -1, "born")


class Killed(BaseException):
    """The process is gone."""


class Killer:
    """Kills at the n-th point that is passed."""

    def __init__(self) -> None:
        self.left: int | None = None

    def point(self) -> None:
        if self.left is None:
            return
        if self.left == 0:
            self.left = None
            raise Killed
        self.left -= 1

    def wrap(self, owner: Any, name: str, *, before: bool = True) -> None:
        """Points before and after a method.

        :param before: without it there is one less where methods follow each other
        """
        method = getattr(owner, name)

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            if before:
                self.point()
            result = await method(*args, **kwargs)
            self.point()
            return result

        setattr(owner, name, wrapped)


class World(HostServices):
    """A store, an admitter, and a cluster on which jobs need a certain memory."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.killer = Killer()
        self._admitter = Admitter(store, Limits, pace=FAST)
        store.closers.append(self._admitter.close)
        self.needs_mb = 4000
        self.accepted: dict[str, JobRequest] = {}
        self.tried: list[str] = []
        self.troubles: list[Exception] = []

    def admitter(self) -> Admitter:
        return self._admitter

    def catalog(self) -> Catalog:
        return cast(Catalog, SimpleNamespace(compute_resource=lambda name: CLUSTER))

    async def host(self, resource: ComputeResource) -> Any:
        return None

    async def storage(self, name: str) -> Any:
        raise NotImplementedError

    def webhook_url(self, resource: ComputeResource, job: str) -> str | None:
        return f"https://here/{job}"

    def webhook_token(self, job: str) -> str:
        return f"token of {job}"

    async def watch(self) -> None:
        self.killer.point()

    async def submit(
        self, _host: Any, _scheduler: Any, request: JobRequest, *, job: Job, first: bool, webhook: Any, **_: Any
    ) -> str:
        """In the place of ``jobs.submission.submit``, with its promise: at most one job of a name."""
        assert request.name == job.name
        assert webhook.token == f"token of {job.name}"
        assert not (first and job.name in self.tried), "somebody may have submitted it"
        self.killer.point()
        self.tried.append(job.name)
        if self.troubles:
            raise self.troubles.pop(0)
        self.accepted.setdefault(job.name, request)
        self.killer.point()
        native_id = f"id-{job.name}"
        await self.store.submitted(job.name, native_id, datetime.now(UTC))
        self.killer.point()
        await self.news()
        return native_id

    async def news(self) -> None:
        """The ends of the jobs that the cluster has."""
        for name, request in self.accepted.items():
            job = (await self.store.jobs_named([name]))[0]
            if job.native_id is None or job.ended_at is not None:
                continue
            if (request.memory_mb or 0) >= self.needs_mb:
                await self.end(name, JobState.COMPLETE, Outcome.COMPLETED, exit_code=0)
            else:
                await self.end(name, JobState.FAILED, Outcome.OUT_OF_MEMORY, reason="OUT_OF_MEMORY")

    async def end(
        self, name: str, state: JobState, outcome: Outcome | None, source: str = EventSource.POLL, **values: Any
    ) -> None:
        event = JobEvent(name, source, f"{state}", state, datetime.now(UTC), outcome=outcome, **values)
        await self.store.append(event)

    def submission(self) -> TaskContext[SubmitParameters]:
        parameters = SubmitParameters(executable="solve", queue="debug", memory_mb=1000, walltime_s=60)
        return self._context(TASK, parameters)

    def monitor(self, *rules: dict[str, Any]) -> TaskContext[MonitorParameters]:
        parameters = MonitorParameters.model_validate({"job": "submit", "output": None, "on_outcome": rules})
        identity = TaskIdentity("dag", "e", "monitor", -1, "born")
        return self._context(identity, parameters, submission=self.submission())

    def _context(self, identity: TaskIdentity, parameters: Any, **values: Any) -> TaskContext[Any]:
        return TaskContext(
            identity=identity,
            try_number=1,
            fresh=False,
            parameters=parameters,
            experiment=None,
            resource=CLUSTER,
            directory="/s/e",
            services=self,
            log=logging.getLogger("tests.answers"),
            **values,
        )

    async def attempts(self) -> list[Job]:
        return await self.store.attempts(TASK)

    async def asked(self) -> list[int]:
        return [(job.request or {})["memory_mb"] for job in await self.attempts()]
