"""``monitor``: waits for a job's end, whoever brings the news.

Imports no Airflow, and neither asyncssh nor SQLAlchemy at its top.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from airavata_provider.errors import AiravataError, JobCanceled, JobFailed, StoreError
from airavata_provider.jobs.state import ends_as
from airavata_provider.models.job import Job, JobState
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult
from airavata_provider.tasks.submission import request_end

STORE_PAUSE_S = 5.0


class MonitorParameters(Parameters):
    """:param job: id of the submission task whose job to wait for"""

    job: str = Field(min_length=1, json_schema_extra={"refers_to": "upstream_task"})


class Monitor(Task[MonitorParameters]):
    """Waits until the job has ended; news come from the webhook, the poll, and whatever else appends events."""

    name: ClassVar[str] = "monitor"
    Parameters: ClassVar[type[Parameters]] = MonitorParameters
    boundary: ClassVar[bool] = True

    async def run(self, context: TaskContext[MonitorParameters]) -> TaskResult:
        """:raises JobFailed: with the scheduler's words
        :raises JobCanceled: by us or by somebody on the cluster
        """
        job = await self._job(context)
        if job is None:
            raise JobFailed(
                f"task {context.parameters.job} has submitted no job",
                advice="clear that task, so that it submits one",
            )
        await context.services.watch()
        context.log.info("Waiting for job %s (%s) on %s", job.native_id, job.name, job.resource)
        while True:
            try:
                job = await context.services.store.wait(job.name)
                break
            except StoreError as error:
                # The job goes on without us; so does the waiting.
                context.log.warning("The job store does not answer: %s", error)
                await asyncio.sleep(STORE_PAUSE_S)
        return self._end(context, job)

    def _end(self, context: TaskContext[Any], job: Job) -> TaskResult:
        where = f"job {job.native_id or job.name} on {job.resource}"
        end = ends_as(job)
        if end is JobState.COMPLETE:
            context.log.info("Job %s completed", job.native_id)
            return TaskResult(
                {
                    "job": job.name,
                    "native_id": job.native_id,
                    "state": job.state.value,
                    "exit_code": job.exit_code,
                    "submitted_at": _iso(job.submitted_at),
                    "started_at": _iso(job.started_at),
                    "ended_at": _iso(job.ended_at),
                }
            )
        # Who is being cancelled ends as cancelled, whatever the last words: without a scheduler they are "killed".
        if end is JobState.CANCELED:
            who = job.cancel_requested_by or "somebody on the cluster"
            raise JobCanceled(f"cancelled by {who}{_because(job)}", where=where)
        if end is JobState.FAILED:
            raise JobFailed(
                f"failed{_how(job)}{_because(job)}",
                where=where,
                advice="its standard output and error are fetched by the next task",
            )
        raise AiravataError(
            f"nobody can tell what became of it{_because(job)}",
            where=where,
            advice="look for it with the scheduler's own tools, then mark this task as it was",
        )

    async def cancel(self, context: TaskContext[MonitorParameters]) -> None:
        """Ask for the job's end."""
        job = await self._job(context)
        if job is not None:
            await request_end(context, job)

    async def _job(self, context: TaskContext[MonitorParameters]) -> Job | None:
        return await context.services.store.latest(replace(context.identity, task_id=context.parameters.job))


def _how(job: Job) -> str:
    if job.signal:
        return f" by signal {job.signal}"
    return f" with exit code {job.exit_code}" if job.exit_code is not None else ""


def _because(job: Job) -> str:
    return f": {job.reason}" if job.reason else ""


def _iso(moment: Any) -> str | None:
    return moment.isoformat() if moment is not None else None
