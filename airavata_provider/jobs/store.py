"""The job store: jobs, their news, their submissions; with ``jobs.records``, the one door to the tables.

What always holds: moments are timezone-aware UTC; what a method that writes returns is committed;
:meth:`~JobStore.append` is idempotent and safe beside other processes; the database's errors become ``StoreError``.

One store per event loop and URL (:func:`get_store`). Imports Airflow only to learn the URL, and only then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Select, case, func, or_, select

from airavata_provider.errors import DeadlineExceeded, JobUnknown
from airavata_provider.jobs import tables
from airavata_provider.jobs.mail_folders import MailFolders
from airavata_provider.jobs.records import Records
from airavata_provider.jobs.rows import StoredEvent, job_from, stored_event
from airavata_provider.jobs.unit import Unit, Work
from airavata_provider.jobs.watch import Watcher, listen
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.job import (
    Effect,
    EventSource,
    Job,
    JobEvent,
    JobState,
    SubmissionState,
)

_LOG = logging.getLogger(__name__)
_SETTLED = frozenset({SubmissionState.SUBMITTED, SubmissionState.REFUSED})
# Names in one statement: far below every database's limit of bound values.
_CHUNK = 400


class JobStore(Records):
    """The store of one event loop. Opens nothing before the first call.

    :param url: ``sqlite:///…`` or ``postgresql://…``
    :param watch_interval: seconds between two looks for changed jobs while someone waits
    :param pool_size: connections to the database at most, one more for its notifications
    :raises ConfigurationError: another kind of URL
    """

    def __init__(self, url: str, *, watch_interval: float = 0.5, pool_size: int = 5) -> None:
        super().__init__(url, pool_size)
        postgres = self._engine.dialect.name == "postgresql"
        self.mail_folders = MailFolders(self._engine)
        self._watcher = Watcher(
            self.jobs_named,
            self.versions_since,
            interval_s=watch_interval,
            listen=(lambda: listen(self._engine.url)) if postgres else None,
        )

    async def close(self) -> None:
        """Finish writes, let waiters go with an error, close connections."""
        await self._watcher.close()
        await self.mail_folders.close()
        await super().close()

    # --- jobs and their submission

    async def intend(self, job: Job) -> Job:
        """Save the intent to submit that job, unless a job of its name is there; return what is stored."""

        def do(unit: Unit) -> Job:
            found = unit.find(job.name)
            if found is not None:
                return found
            unit.write_journal(job, job.reason)
            return unit.add(job)

        return await self._writer.write(Work("saving an intent", do, jobs=(job.name,)))

    async def submitted(self, name: str, native_id: str, at: datetime) -> Job:
        """The scheduler accepted the job under that id. A second, other id is kept out, journaled and logged.

        :raises JobUnknown: no such job
        """
        told = JobEvent(
            job=name,
            source=EventSource.SUBMISSION,
            event_id=f"submitted:{native_id}",
            state=JobState.SUBMITTED,
            at=at,
            native_id=native_id,
        )

        def do(unit: Unit) -> Job:
            job = unit.job(name)
            if job.native_id is not None:
                if job.native_id != native_id:
                    unit.write_journal(replace(job, native_id=native_id), "a second id for this job")
                return job
            job = replace(
                job,
                submission=SubmissionState.SUBMITTED,
                native_id=native_id,
                submitted_at=at,
                # A refusal that was none: news is awaited again.
                ended_at=None if job.submission is SubmissionState.REFUSED else job.ended_at,
                # Nothing was found to cancel, because it was not there yet: now it is.
                canceled_at=None,
            )
            unit.write_journal(job, "")
            return unit.save(unit.append(job, told)[1])

        job = await self._writer.write(Work("saving a job's id", do, jobs=(name,), events=(told,)))
        if job.native_id != native_id:
            _LOG.error("Job %s is %s and now, it is said, also %s", name, job.native_id, native_id)
        return job

    async def refused(self, name: str, reason: str) -> Job:
        """The scheduler certainly did not accept the job. Nothing is awaited of it any more.

        :raises JobUnknown: no such job
        """
        return await self._unsettled(name, SubmissionState.REFUSED, reason)

    async def uncertain(self, name: str, reason: str) -> Job:
        """Nobody can tell yet whether the scheduler accepted the job. A settled submission stays as it is.

        :raises JobUnknown: no such job
        """
        return await self._unsettled(name, SubmissionState.UNCERTAIN, reason)

    async def _unsettled(self, name: str, state: SubmissionState, reason: str) -> Job:
        def do(unit: Unit) -> Job:
            job = unit.job(name)
            if job.submission in _SETTLED:
                return job
            job = replace(job, submission=state, reason=reason)
            if state is SubmissionState.REFUSED:
                agreed = unit.now if job.cancel_requested_at is not None else None
                job = replace(job, ended_at=unit.now, canceled_at=agreed)
            unit.write_journal(job, reason)
            return unit.save(job)

        return await self._writer.write(Work("saving a submission's outcome", do, jobs=(name,)))

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
        """The job, or the array, of that submission task's highest attempt."""
        column = tables.job.c
        query = (
            select(tables.job)
            .where(column.dag_id == task.dag_id, column.experiment_id == task.experiment_id)
            .where(column.born == task.born, column.task_id == task.task_id, column.map_index == task.map_index)
            .where(column.array.is_(None))
            .order_by(column.attempt.desc())
            .limit(1)
        )
        return next(iter(await self._jobs(query)), None)

    async def jobs_of(self, dag_id: str, experiment_id: str, born: str) -> list[Job]:
        """All jobs of an experiment, by task, map index and attempt; arrays without their elements."""
        column = tables.job.c
        return await self._jobs(
            select(tables.job)
            .where(column.dag_id == dag_id, column.experiment_id == experiment_id, column.born == born)
            .where(column.array.is_(None))
            .order_by(column.task_id, column.map_index, column.attempt)
        )

    async def open_jobs(self, resource: str | None = None) -> list[Job]:
        """Jobs with a scheduler's id of which news is awaited, oldest first; of all resources or one."""
        column = tables.job.c
        query = select(tables.job).where(column.ended_at.is_(None), column.native_id.is_not(None))
        if resource is not None:
            query = query.where(column.resource == resource)
        return await self._jobs(query.order_by(column.created_at, column.name))

    async def open_resources(self) -> dict[str, bool]:
        """Resources with open jobs; True where one of them has an end that only the scheduler can settle."""
        column = tables.job.c
        unsettled = func.max(case((column.state == JobState.NON_CRITICAL_FAIL.value, 1), else_=0))
        query = (
            select(column.resource, unsettled.label("unsettled"))
            .where(column.ended_at.is_(None), column.native_id.is_not(None))
            .group_by(column.resource)
        )
        rows = await self._read("looking for open jobs", query)
        return {row["resource"]: bool(row["unsettled"]) for row in rows}

    async def versions_since(self, at: datetime) -> dict[str, int]:
        """Names and versions of the jobs whose record changed at that moment or later."""
        column = tables.job.c
        rows = await self._read(
            "looking for changed jobs", select(column.name, column.version).where(column.changed_at >= at)
        )
        return {row["name"]: row["version"] for row in rows}

    # --- news

    async def append(self, event: JobEvent) -> Effect:
        """Store a piece of news and do to its job what ``jobs.state`` decides; the same again is
        ``DUPLICATE``.

        :raises JobUnknown: no such job
        """

        def do(unit: Unit) -> Effect:
            job = unit.job(event.job)
            effect, after = unit.append(job, event)
            if after is not job:
                unit.save(after)
            return effect

        effect = await self._writer.write(Work("storing a job's news", do, jobs=(event.job,), events=(event,)))
        if effect in (Effect.CONTRADICTED, Effect.IMPOSSIBLE):
            _LOG.warning("Job %s: %s from %s is %s", event.job, event.state, event.source, effect)
        return effect

    async def events(self, name: str) -> list[StoredEvent]:
        """A job's news in the order in which it was stored."""
        query = select(tables.job_event).where(tables.job_event.c.job == name).order_by(tables.job_event.c.id)
        return [stored_event(row) for row in await self._read("reading a job's news", query)]

    async def wait(
        self, name: str, timeout_s: float | None = None, until: Callable[[Job], bool] | None = None
    ) -> Job:
        """The job, as soon as nothing more is awaited of it: ended, refused, or given up as UNKNOWN.

        :param timeout_s: after that many seconds return the job as it is then; None: wait for ever
        :param until: wait for this to be true of the job instead; evaluated at each change
        :raises JobUnknown: no such job
        """
        try:
            return await self._watcher.wait(name, until or _over, timeout_s)
        except DeadlineExceeded:
            job = await self.job(name)
            if job is None:
                raise JobUnknown(f"no job {name!r}", where="job store") from None
            return job

    # --- cancelling

    async def request_cancel(self, name: str, by: str) -> Job:
        """Note that someone wants the job's end; who asked first stays. An ended job has nothing left to
        cancel.

        :raises JobUnknown: no such job
        """

        def do(unit: Unit) -> Job:
            job = unit.job(name)
            if job.cancel_requested_at is not None:
                return job
            over = job.submission is SubmissionState.REFUSED or (job.state is not None and job.state.terminal)
            return unit.save(
                replace(
                    job,
                    cancel_requested_at=unit.now,
                    cancel_requested_by=by[:250],
                    canceled_at=unit.now if over else job.canceled_at,
                )
            )

        return await self._writer.write(Work("asking for a cancel", do, jobs=(name,)))

    async def cancel_requests(self) -> list[Job]:
        """Jobs whose end was asked for and that the scheduler has not agreed to yet, oldest request first."""
        column = tables.job.c
        return await self._jobs(
            select(tables.job)
            .where(column.cancel_requested_at.is_not(None), column.canceled_at.is_(None))
            .order_by(column.cancel_requested_at, column.name)
        )

    async def canceled(self, name: str) -> Job:
        """The scheduler has the job no more. One that ended by itself meanwhile keeps its end.

        :raises JobUnknown: no such job
        """

        told = JobEvent(name, EventSource.CANCEL, "canceled", JobState.CANCELED, datetime.now(UTC))

        def do(unit: Unit) -> Job:
            job = unit.job(name)
            if job.canceled_at is not None:
                return job
            if job.state is None or not job.state.terminal:
                job = unit.append(job, told)[1]
            return unit.save(replace(job, canceled_at=job.canceled_at or unit.now))

        return await self._writer.write(Work("saving a cancel", do, jobs=(name,), events=(told,)))

    # --- within

    async def _jobs(self, query: Select[Any]) -> list[Job]:
        return [job_from(row) for row in await self._read("reading jobs", query)]


_STORES: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, JobStore]] = WeakKeyDictionary()


def get_store(url: str | None = None) -> JobStore:
    """The running event loop's store of that URL, made at the first call.

    :param url: None: the deployment's, ``[airavata] sql_alchemy_conn``
    :raises ConfigurationError: neither SQLite nor PostgreSQL
    """
    stores = _STORES.setdefault(asyncio.get_running_loop(), {})
    if url is not None:
        if url not in stores:
            stores[url] = JobStore(url)
        return stores[url]

    from airavata_provider.settings import get_settings

    settings = get_settings()
    if settings.sql_alchemy_conn not in stores:
        stores[settings.sql_alchemy_conn] = JobStore(
            settings.sql_alchemy_conn,
            watch_interval=settings.watch_interval,
            pool_size=settings.sql_alchemy_pool_size,
        )
    return stores[settings.sql_alchemy_conn]


async def close_store() -> None:
    """Close the running event loop's stores; for whoever ends it."""
    for store in _STORES.pop(asyncio.get_running_loop(), {}).values():
        await store.close()


def _over(job: Job) -> bool:
    return job.ended_at is not None


def _chunks(names: Iterable[str]) -> list[list[str]]:
    names = list(names)
    return [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
