"""``monitor``: waits for a job's end, whoever brings the news.

Imports no Airflow, and neither asyncssh nor SQLAlchemy at its top.
"""

from __future__ import annotations

import asyncio
import logging
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from airavata_provider.errors import AiravataError, JobCanceled, JobFailed, StoreError, SubmissionRefused
from airavata_provider.jobs.state import ends_as
from airavata_provider.models.advice import advice_on, outcome_told, words_on
from airavata_provider.models.identity import TaskIdentity, job_name
from airavata_provider.models.job import Job, JobState, SubmissionState
from airavata_provider.models.rules import NotAgain, Rule, made_by
from airavata_provider.monitors.output import outputs
from airavata_provider.tasks.answers import answer, submit_again
from airavata_provider.tasks.arrays import failure
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult
from airavata_provider.tasks.element_answers import Elements
from airavata_provider.tasks.ending import request_end
from airavata_provider.tasks.standstill import Standstill, over

if TYPE_CHECKING:
    from airavata_provider.models.resolved import ResolvedExperiment

STORE_PAUSE_S = 5.0


class MonitorParameters(Parameters):
    """Which job to wait for: a submission task's, or one that somebody else submitted."""

    job: str | None = Field(
        default=None, min_length=1, json_schema_extra={"refers_to": "upstream_task", "unless": "native_id"}
    )
    native_id: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
    name: str | None = Field(default=None, min_length=1, max_length=200)
    directory: str | None = Field(default=None, pattern=r"^/")
    walltime_s: int | None = Field(default=None, ge=1)
    output: str | None = Field(default="stdout.txt", min_length=1)
    on_outcome: tuple[Rule, ...] = Field(default=(), json_schema_extra={"answers": "upstream_task"})

    @model_validator(mode="after")
    def _one_job(self) -> MonitorParameters:
        if (self.job is None) == (self.native_id is None):
            raise ValueError("either job or native_id tells which job to wait for")
        return self


class Monitor(Task[MonitorParameters]):
    """Waits until the job has ended; news come from the webhook, the poll, and whatever else appends events.

    What the job writes meanwhile is shown in the task's log, and so is that it is held, suspended or can never start.
    A job that somebody else submitted gets a row in the job store here, so that the poll and every other source serve
    it too; it is never cancelled.
    """

    name: ClassVar[str] = "monitor"
    Parameters: ClassVar[type[Parameters]] = MonitorParameters
    judges: ClassVar[str | None] = "job"

    def defaults(self, experiment: ResolvedExperiment) -> Mapping[str, Any]:
        """The output that the application names."""
        return {"output": experiment.application.stdout}

    async def run(self, context: TaskContext[MonitorParameters]) -> TaskResult:
        """:raises JobFailed: with the outcome, the scheduler's words, and what to do
        :raises JobCanceled: by us or by somebody on the cluster
        :raises SubmissionRefused: the scheduler never took it
        """
        job = await (self._job(context) if context.parameters.job is not None else self._others(context))
        if job is None:
            raise JobFailed(
                f"task {context.parameters.job} has submitted no job",
                advice="clear that task, so that it submits one",
            )
        await context.services.watch()
        if job.size is not None:
            return await self._array_end(context)
        first = False
        while True:
            if made_by(job) is not None and job.native_id is None:
                context, job = await submit_again(context, job, first=first)
            job = await self._wait(context, job)
            if not context.parameters.on_outcome:
                return self._end(context, job)
            note = ""
            try:
                following = await answer(context, context.parameters.on_outcome, job)
            except StoreError as error:
                context.log.warning("The job store does not answer: %s", error)
                await asyncio.sleep(STORE_PAUSE_S)
                continue
            except NotAgain as why:
                following, note = None, str(why)
            if following is None:
                # As the scheduler's own words have it by now.
                return self._end(context, await self._wait(context, job), note)
            context, job, first = following

    async def _wait(self, context: TaskContext[Any], job: Job) -> Job:
        if job.ended_at is None:
            context.log.info("Waiting for job %s (%s) on %s", job.native_id, job.name, job.resource)
        standstill = Standstill(context.services.store, context.log)
        while True:
            try:
                return await self._over(context, job, standstill)
            except StoreError as error:
                # The job goes on without us; so does the waiting.
                context.log.warning("The job store does not answer: %s", error)
                await asyncio.sleep(STORE_PAUSE_S)

    async def _array_end(self, context: TaskContext[MonitorParameters]) -> TaskResult:
        """Wait for all elements, of earlier attempts' arrays too: those are not submitted again while they run.

        When all have ended, rules may make further attempts at some, which are waited for as well.
        """
        store, task = context.services.store, self._task(context)
        again = Elements(context, context.parameters.on_outcome, task)
        while True:
            try:
                await again.submit()
                for array in await store.attempts(task):
                    if array.ended_at is None and array.name not in again.troubles:
                        await self._wait(context, array)
                if not await again.answer():
                    break
            except StoreError as error:
                context.log.warning("The job store does not answer: %s", error)
                await asyncio.sleep(STORE_PAUSE_S)
        arrays, elements = await store.attempts(task), await store.latest_elements(task)
        for array in arrays:
            if array.ended_at is None and array.name in again.troubles:
                raise again.troubles[array.name]
        where = f"array {', '.join(array.native_id or array.name for array in arrays)} on {arrays[-1].resource}"
        if (failed := failure(elements, where, again.left)) is not None:
            raise failed
        context.log.info("All %d elements of %s completed", len(elements), where)
        return TaskResult(
            {
                "job": arrays[-1].name,
                "native_id": arrays[-1].native_id,
                "state": JobState.COMPLETE.value,
                "exit_code": 0,
                "elements": len(elements),
                "submitted_at": _iso(min((each.submitted_at for each in arrays if each.submitted_at), default=None)),
                "started_at": _iso(min((each.started_at for each in elements if each.started_at), default=None)),
                "ended_at": _iso(max((each.ended_at for each in elements if each.ended_at), default=None)),
            }
        )

    async def _over(self, context: TaskContext[MonitorParameters], job: Job, standstill: Standstill) -> Job:
        path = log_file(context.parameters, job)
        if path is not None and job.resource == context.resource.name:
            job = await standstill.wait(job.name, _runs_or_over)
            if not over(job):
                with outputs().followed(job.resource, path, _shown(context.log)):
                    return await standstill.wait(job.name)
        return await standstill.wait(job.name)

    def _end(self, context: TaskContext[Any], job: Job, note: str = "") -> TaskResult:
        """:param note: why no rule made another attempt"""
        where = f"job {job.native_id or job.name} on {job.resource}"
        end = ends_as(job)
        if job.state is not None and end is JobState.COMPLETE:
            context.log.info("Job %s completed", job.native_id)
            return TaskResult(
                {
                    "job": job.name,
                    "native_id": job.native_id,
                    "attempt": job.attempt,
                    "state": job.state.value,
                    "exit_code": job.exit_code,
                    "submitted_at": _iso(job.submitted_at),
                    "started_at": _iso(job.started_at),
                    "ended_at": _iso(job.ended_at),
                }
            )
        told, advice = _told(job), advice_on(job)
        # Who is being cancelled ends as cancelled, whatever the last words: without a scheduler they are "killed".
        if end is JobState.CANCELED:
            who = job.cancel_requested_by or "somebody on the cluster"
            raise JobCanceled(f"cancelled by {who}{told}", where=where, advice=advice)
        if end is JobState.FAILED:
            fetched = "its standard output and error are fetched by the next task" if job.ours else ""
            raise JobFailed(
                f"failed{_how(job)}{told}{f'; {note}' if note else ''}",
                where=where,
                advice="; ".join(filter(None, [advice, fetched])),
            )
        if job.submission is SubmissionState.REFUSED:
            raise SubmissionRefused(f"the scheduler did not take it{told}", where=where, advice=advice)
        raise AiravataError(f"nobody can tell what became of it{told}", where=where, advice=advice)

    async def cancel(self, context: TaskContext[MonitorParameters]) -> None:
        """Ask for the job's end."""
        for job in await context.services.store.attempts(self._task(context)):
            if job.ended_at is None:
                await request_end(context, job)

    async def _job(self, context: TaskContext[MonitorParameters]) -> Job | None:
        return None if context.parameters.job is None else await context.services.store.latest(self._task(context))

    def _task(self, context: TaskContext[MonitorParameters]) -> TaskIdentity:
        """The submission task whose job is waited for."""
        return replace(context.identity, task_id=context.parameters.job or "")

    async def _others(self, context: TaskContext[MonitorParameters]) -> Job:
        """The row of a job that somebody else submitted, made unless an earlier try did."""
        store, me, wanted = context.services.store, context.identity, context.parameters
        assert wanted.native_id is not None  # noqa: S101 -- one of the two is there
        mine = [
            job
            for job in await store.jobs_of(me.dag_id, me.experiment_id, me.born)
            if (job.task_id, job.map_index) == (me.task_id, me.map_index)
        ]
        # A row without an id was made by a try that was killed before it was saved.
        for job in mine:
            if job.native_id == wanted.native_id:
                return job
        attempt = min([1, *(job.attempt for job in mine if job.native_id is not None)]) - 1
        now = datetime.now(UTC)
        job = await store.intend(
            Job(
                name=job_name(me, attempt),
                dag_id=me.dag_id,
                experiment_id=me.experiment_id,
                task_id=me.task_id,
                map_index=me.map_index,
                attempt=attempt,
                gateway=context.experiment.gateway if context.experiment else "",
                user=context.experiment.user if context.experiment else "",
                resource=context.resource.name,
                directory=wanted.directory or context.directory,
                walltime_s=wanted.walltime_s,
                try_number=context.try_number,
                created_at=now,
                submitting_at=now,
                request={"name": wanted.name} if wanted.name else None,
                born=me.born,
            )
        )
        return await store.submitted(job.name, wanted.native_id, now)


def log_file(wanted: MonitorParameters, job: Job) -> str | None:
    """The file to show while the job runs; None shows nothing. Pure."""
    if wanted.output is None or job.size is not None or (not job.ours and wanted.directory is None):
        return wanted.output if wanted.output and wanted.output.startswith("/") else None
    return posixpath.join(job.directory, wanted.output)


def _shown(log: logging.Logger) -> Callable[[list[str]], None]:
    def show(lines: list[str]) -> None:
        log.info("The job wrote:\n%s", "\n".join(f"| {line}" for line in lines))

    return show


def _runs_or_over(job: Job) -> bool:
    return over(job) or job.state is JobState.ACTIVE


def _how(job: Job) -> str:
    if job.signal:
        return f" by signal {job.signal}"
    return f" with exit code {job.exit_code}" if job.exit_code is not None else ""


def _told(job: Job) -> str:
    """The outcome, and the scheduler's words where they are others."""
    outcome, words = outcome_told(job), words_on(job)
    return f" ({outcome}){f': {words}' if words and words != outcome else ''}"


def _iso(moment: Any) -> str | None:
    return moment.isoformat() if moment is not None else None
