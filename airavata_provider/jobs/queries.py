"""What the job store can be asked about jobs and their news: reads alone, nothing is locked or changed.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select, tuple_

from airavata_provider.jobs import tables
from airavata_provider.jobs.gather import Gatherer
from airavata_provider.jobs.records import Records
from airavata_provider.jobs.rows import StoredEvent, job_from, stored_event
from airavata_provider.jobs.state import RECORDS
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.job import TERMINAL, EventSource, Job, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.rhythm import Hearing

# Names in one statement: far below every database's limit of bound values.
_CHUNK = 400

UNBACKED_MOST = 2000
"""Ends that one look seeks the scheduler's word on, at most: as many as one command asks about."""

_THERE = (tables.job.c.native_id.is_not(None), tables.job.c.size.is_(None))
"""What a scheduler can be asked about."""


class Queries(Records):
    """See the module; :class:`~airavata_provider.jobs.store.JobStore` is the whole."""

    def __init__(self, url: str, pool_size: int, patience_s: float) -> None:
        super().__init__(url, pool_size, patience_s)
        self._attempts = Gatherer[TaskIdentity, list[Job]](self._attempts_of, list)

    async def close(self) -> None:
        """Finish writes and reads, close connections."""
        await self._attempts.close()
        await super().close()

    async def job(self, name: str) -> Job | None:
        """The job of that name, None when there is none."""
        return next(iter(await self.jobs_named([name])), None)

    async def jobs_named(self, names: Collection[str]) -> list[Job]:
        """The jobs of those names that there are."""
        return [
            job
            for chunk in _chunks(names)
            for job in await self._jobs(select(tables.job).where(tables.job.c.name.in_(chunk)))
        ]

    async def jobs_told_of(self, native_ids: Collection[str], names: Collection[str]) -> list[Job]:
        """Jobs that have one of those ids of a scheduler, or one of those names; one query for a batch of news."""
        column = tables.job.c
        query = select(tables.job).where(or_(column.native_id.in_(set(native_ids)), column.name.in_(set(names))))
        return await self._jobs(query) if native_ids or names else []

    async def latest(self, task: TaskIdentity) -> Job | None:
        """The job, or an array, of that submission task's highest attempt."""
        return next(iter((await self.attempts(task))[-1:]), None)

    async def attempts(self, task: TaskIdentity) -> list[Job]:
        """The jobs, or the arrays, of that submission task, by attempt and offset."""
        return await self._attempts.get(task)

    async def _attempts_of(self, tasks: list[TaskIdentity]) -> dict[TaskIdentity, list[Job]]:
        column = tables.job.c
        key = tuple_(column.dag_id, column.experiment_id, column.task_id, column.map_index, column.born)
        wanted = [(task.dag_id, task.experiment_id, task.task_id, task.map_index, task.born) for task in tasks]
        query = (
            select(tables.job).where(key.in_(wanted), column.array.is_(None)).order_by(column.attempt, column.offset)
        )
        found: dict[TaskIdentity, list[Job]] = {}
        for job in await self._jobs(query):
            found.setdefault(job.task, []).append(job)
        return found

    async def unended_before(self, task: TaskIdentity, attempt: int) -> list[Job]:
        """Jobs of that submission task's attempts before that one, plain ones and elements, that have not ended for
        certain: those that were refused or given up as UNKNOWN are among them."""
        column = tables.job.c
        return await self._jobs(
            select(tables.job)
            .where(column.dag_id == task.dag_id, column.experiment_id == task.experiment_id)
            .where(column.born == task.born, column.task_id == task.task_id, column.map_index == task.map_index)
            .where(column.attempt > 0, column.attempt < attempt, column.size.is_(None))
            .where(or_(column.state.is_(None), column.state.not_in(sorted(TERMINAL))))
            .order_by(column.attempt, column.offset, column.element)
        )

    async def jobs_of(self, dag_id: str, experiment_id: str, born: str) -> list[Job]:
        """All jobs of an experiment, by task, map index and attempt; arrays without their elements."""
        column = tables.job.c
        return await self._jobs(
            select(tables.job)
            .where(column.dag_id == dag_id, column.experiment_id == experiment_id, column.born == born)
            .where(column.array.is_(None))
            .order_by(column.task_id, column.map_index, column.attempt, column.offset)
        )

    async def jobs_called(self, word: str, resource: str | None = None) -> list[Job]:
        """Jobs of that name or of that scheduler's id, the latest first.

        :param resource: only there
        """
        column = tables.job.c
        query = select(tables.job).where((column.name == word) | (column.native_id == word))
        if resource is not None:
            query = query.where(column.resource == resource)
        return await self._jobs(query.order_by(column.created_at.desc(), column.name))

    async def elements(self, array: str) -> list[Job]:
        """An array's elements, by index; none of a plain job."""
        column = tables.job.c
        return await self._jobs(select(tables.job).where(column.array == array).order_by(column.element))

    async def latest_elements(self, task: TaskIdentity) -> list[Job]:
        """Each element of that submission task's arrays as its last attempt left it, by place."""
        column = tables.job.c
        query = (
            select(tables.job)
            .where(column.dag_id == task.dag_id, column.experiment_id == task.experiment_id)
            .where(column.born == task.born, column.task_id == task.task_id, column.map_index == task.map_index)
            .where(column.array.is_not(None))
            .order_by(column.offset + column.element, column.attempt)
        )
        return list({job.place: job for job in await self._jobs(query)}.values())

    async def open_resources(self) -> set[str]:
        """Resources with open jobs."""
        column = tables.job.c
        query = select(column.resource).where(column.ended_at.is_(None), *_THERE).distinct()
        return {row["resource"] for row in await self._read("looking for open jobs", query)}

    async def unbacked_resources(self, since: datetime) -> set[str]:
        """Resources with jobs whose end was told since then by hearsay alone."""
        query = select(tables.job.c.resource).where(_unbacked(since), *_THERE).distinct()
        return {row["resource"] for row in await self._read("looking for ends to look up", query)}

    async def versions_to_poll(self, resource: str, since: datetime) -> dict[str, int]:
        """Names and versions of a resource's jobs that its scheduler has something to tell about.

        News of them is awaited; or their end was told since then by hearsay alone: it is not
        :func:`~.state.is_backed` yet. Of these there are :data:`UNBACKED_MOST` at most, the latest.
        Elements of arrays are among them; arrays' own rows, which nobody can ask about, are not.
        """
        column = tables.job.c
        query = select(column.name, column.version).where(column.resource == resource, *_THERE)
        open_ = query.where(column.ended_at.is_(None)).order_by(column.created_at, column.name)
        ended = query.where(_unbacked(since)).order_by(column.changed_at.desc(), column.name).limit(UNBACKED_MOST)
        rows = await self._read("looking for jobs to ask about", open_)
        told = await self._read("looking for ends to look up", ended)
        return {row["name"]: row["version"] for row in [*told, *rows]}

    async def hearing(self, resource: str, sources: Collection[str], last: int = 20) -> Hearing:
        """Whether jobs' own scripts are heard from a resource, by its open jobs and the last that ended."""
        job, event = tables.job.c, tables.job_event.c
        heard = exists().where(event.job == job.name, event.source.in_(sorted(sources)))
        there = (job.resource == resource, job.native_id.is_not(None), job.size.is_(None), job.attempt > 0)
        ended = (
            select(job.name, heard.label("heard"))
            .where(job.ended_at.is_not(None), *there)
            .order_by(job.ended_at.desc())
        )
        rows = await self._read("looking whether jobs are heard", ended.limit(last))
        open_ = select(job.name).where(job.ended_at.is_(None), *there, heard)
        names = await self._read("looking whether jobs are heard", open_)
        return Hearing(len(rows), sum(bool(row["heard"]) for row in rows), frozenset(row["name"] for row in names))

    async def versions_since(self, at: datetime) -> dict[str, int]:
        """Names and versions of the jobs whose record changed at that moment or later."""
        column = tables.job.c
        rows = await self._read(
            "looking for changed jobs", select(column.name, column.version).where(column.changed_at >= at)
        )
        return {row["name"]: row["version"] for row in rows}

    async def versions_of(self, names: Collection[str]) -> dict[str, int]:
        """Versions of those jobs' records; of a job that is not there, none."""
        column = tables.job.c
        return {
            row["name"]: row["version"]
            for chunk in _chunks(names)
            for row in await self._read(
                "looking for changed jobs", select(column.name, column.version).where(column.name.in_(chunk))
            )
        }

    async def cancel_requests(self) -> list[Job]:
        """Jobs whose end was asked for and that the scheduler has not agreed to yet, oldest request first.

        An array is among them beside its elements as long as one of them is.
        """
        column = tables.job.c
        return await self._jobs(
            select(tables.job)
            .where(column.cancel_requested_at.is_not(None), column.canceled_at.is_(None))
            .order_by(column.cancel_requested_at, column.name)
        )

    async def events(self, name: str) -> list[StoredEvent]:
        """A job's news in the order in which it was stored."""
        query = select(tables.job_event).where(tables.job_event.c.job == name).order_by(tables.job_event.c.id)
        return [stored_event(row) for row in await self._read("reading a job's news", query)]

    async def news_of_jobs(self, since: datetime | None = None) -> list[StoredEvent]:
        """All news of the jobs of which any was stored since then, in the order in which it was stored.

        :param since: None: of all jobs
        """
        column = tables.job_event.c
        query = select(tables.job_event).order_by(column.id)
        if since is not None:
            heard = tables.job_event.alias()
            query = query.where(column.job.in_(select(heard.c.job).where(heard.c.received_at >= since)))
        return [stored_event(row) for row in await self._read("reading jobs' news", query)]

    async def _jobs(self, query: Select[Any]) -> list[Job]:
        return [job_from(row) for row in await self._read("reading jobs", query)]


def _unbacked(since: datetime) -> ColumnElement[bool]:
    """Jobs whose end somebody told since then, by our own clock, and not the scheduler's record, or not why."""
    column = tables.job.c
    by_signal = or_(
        and_(column.state == JobState.FAILED, column.outcome == Outcome.SIGNALED),
        and_(column.state == JobState.CANCELED, column.signal.is_not(None)),
    )
    return and_(
        # Never before the end was told; the moment of the end itself is by a clock that may stray.
        column.changed_at >= since,
        column.state.in_(sorted(TERMINAL)),
        or_(
            column.state_source.not_in(sorted(RECORDS)),
            and_(by_signal, column.state_source == EventSource.MAIL),
        ),
    )


def _chunks(names: Iterable[str]) -> list[list[str]]:
    names = list(names)
    return [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
