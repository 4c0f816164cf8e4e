"""The job store: jobs, their news, their submissions; with ``jobs.records``, the one door to the tables.

What always holds: moments are timezone-aware UTC; what a method that writes returns is committed;
:meth:`~JobStore.append` is idempotent and safe beside other processes; the database's errors become ``StoreError``.

One store per event loop and URL (:func:`get_store`). Imports Airflow only to learn the URL, and only then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from datetime import datetime
from weakref import WeakKeyDictionary

from airavata_provider.errors import DeadlineExceeded, JobUnknown, StoreError
from airavata_provider.jobs.admissions import Admissions
from airavata_provider.jobs.arrays import elements_of
from airavata_provider.jobs.cancels import ask_for_end, canceled_news
from airavata_provider.jobs.engine import PATIENCE_S
from airavata_provider.jobs.handovers import Handovers
from airavata_provider.jobs.host_uses import HostUses
from airavata_provider.jobs.mail_folders import MailFolders
from airavata_provider.jobs.queries import Queries
from airavata_provider.jobs.unit import Unit, Work, place_of
from airavata_provider.jobs.watch import Watcher, listen
from airavata_provider.models.identity import array_name
from airavata_provider.models.job import (
    Effect,
    EventSource,
    Job,
    JobEvent,
    JobState,
    SubmissionState,
)
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.placement import Placement

_LOG = logging.getLogger(__name__)
_SETTLED = frozenset({SubmissionState.SUBMITTED, SubmissionState.REFUSED})


class JobStore(Queries, Admissions):
    """The store of one event loop. Opens nothing before the first call.

    :param url: ``sqlite:///…`` or ``postgresql://…``
    :param watch_interval: seconds between two looks for changed jobs while someone waits and the database does not
        tell of them
    :param pool_size: connections to the database at most, one more for its notifications
    :param patience_s: how long reads and writes are tried again when the database does not answer
    :raises ConfigurationError: another kind of URL
    """

    def __init__(
        self, url: str, *, watch_interval: float = 0.25, pool_size: int = 5, patience_s: float = PATIENCE_S
    ) -> None:
        super().__init__(url, pool_size, patience_s)
        postgres = self._engine.dialect.name == "postgresql"
        self.mail_folders = MailFolders(self._engine)
        self.handovers = Handovers(self._engine, patience_s)
        self.host_uses = HostUses(self._engine)
        self._watcher = Watcher(
            self.jobs_named,
            self.versions_since,
            self.versions_of,
            interval_s=watch_interval,
            listen=(lambda: listen(self._engine.url)) if postgres else None,
        )
        self.listeners = self._watcher.listeners
        """Called with the words of each notice (``jobs.unit``) for as long as somebody waits for a job; where the
        database tells nothing (SQLite), with ``ROOM`` when any job changed."""
        self.closers: list[Callable[[], Awaitable[None]]] = []
        """What has to end before the store does."""

    async def close(self) -> None:
        """Finish writes, let waiters go with an error, close connections."""
        for each in self.closers:
            await each()
        await self._watcher.close()
        await self.mail_folders.close()
        await self.handovers.close()
        await self.host_uses.close()
        await super().close()

    # --- jobs and their submission

    async def intend(self, job: Job, *, after: str | None = None, placement: Placement | None = None) -> Job:
        """Save the intent to submit that job, unless a job of its name is there; return what is stored.

        :param after: the job that it is another attempt at: when somebody asked for that one's end, nothing is saved
            and that one is returned
        :param placement: where its experiment runs from here on; the one is saved with the other, or neither
        :raises StoreError: somebody else placed the experiment meanwhile
        """

        def do(unit: Unit) -> Job:
            found = unit.find(job.name)
            if found is not None:
                return found
            if after is not None and (before := unit.job(after)).cancel_requested_at is not None:
                return before
            if placement is not None and unit.place(placement) is not placement:
                raise StoreError("the experiment was moved meanwhile", where=job.name)
            unit.write_journal(job, job.reason)
            return unit.add(job)

        names = (job.name,) if after is None else (job.name, after)
        places = () if placement is None else (place_of(placement),)
        return await self._writer.write(Work("saving an intent", do, jobs=names, placements=places))

    async def intend_array(self, job: Job, indices: Collection[int]) -> Job:
        """Save the intent to submit an array of elements with those indices; return the array as it is stored.

        Each element is what the array is, under its own key, and a job of its own from here on. The next attempt's
        array may have fewer: those of the elements that have to be done again (``arrays.to_retry``).

        :param job: the array
        :raises ValueError: no indices
        """
        (array,) = await self.intend_arrays([(job, indices)])
        return array

    async def intend_arrays(
        self,
        arrays: Iterable[tuple[Job, Collection[int]]],
        *,
        after: Collection[Job] = (),
        unless_ending: Collection[str] = (),
    ) -> list[Job]:
        """:meth:`intend_array` for several at once: all intents are saved, or none.

        :param after: their task's arrays so far, as the caller knows them: where there is a later attempt by now,
            nothing is saved, and nothing returned
        :param unless_ending: names of arrays and elements of those: the same where somebody asked for the end of one
        """
        wanted = [(job, sorted(set(indices))) for job, indices in arrays]
        for job, indices in wanted:
            if not indices:
                raise ValueError(f"array {job.name} has no elements")
        names = tuple(job.name for job, _ in wanted)
        known = max((job.attempt for job in after), default=0)
        tasks = tuple({job.task for job in after})
        asked = {name: array_name(name) for name in unless_ending}
        touched = tuple({array for name, array in asked.items() if name != array})

        def do(unit: Unit) -> list[Job]:
            if any(unit.last_attempt(task) > known for task in tasks):
                return []
            before = (unit.find(name) for name in unless_ending)
            if any(job is not None and job.cancel_requested_at is not None for job in before):
                return []
            for job, indices in wanted:
                if unit.find(job.name) is not None:
                    continue
                array = replace(job, size=len(indices), tally={})
                unit.write_journal(array, array.reason)
                unit.add(array)
                for element in elements_of(array, indices):
                    unit.add(element)
            return [unit.job(name) for name in names]

        rows = (*names, *(job.name for job in after), *asked.values())
        work = Work("saving an array's intent", do, jobs=rows, arrays=touched, tasks=tasks)
        return await self._writer.write(work)

    async def submitted(
        self, name: str, native_id: str, at: datetime, element_id: Callable[[str, int], str] | None = None
    ) -> Job:
        """The scheduler accepted the job, or the array and with it every element, under that id.

        A second, other id is kept out, journaled and logged.

        :param element_id: an element's id from the array's and its index (``Scheduler.element_id``)
        :raises JobUnknown: no such job
        :raises ValueError: an array, and no way to its elements' ids
        """
        told = _submitted_as(name, native_id, at)

        def do(unit: Unit) -> Job:
            job = unit.job(name)
            if job.native_id is not None:
                if job.native_id != native_id:
                    unit.write_journal(replace(job, native_id=native_id), "a second id for this job")
                return job
            id_of = element_id
            if job.size is not None and id_of is None:
                raise ValueError(f"{name} is an array: its elements' ids are needed")
            job = _accepted(job, native_id, at)
            unit.write_journal(job, "")
            unit.save(unit.append(job, told)[1])
            for element in unit.elements(name):
                if element.native_id is None and element.element is not None and id_of is not None:
                    own = id_of(native_id, element.element)
                    accepted = _accepted(element, own, at)
                    unit.save(unit.append(accepted, _submitted_as(element.name, own, at))[1])
            return unit.job(name)

        work = Work("saving a job's id", do, jobs=(name,), arrays=(name,), events=(told,))
        job = await self._writer.write(work)
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
            for each in [job, *unit.elements(name)]:
                changed = replace(each, submission=state, reason=reason)
                if state is SubmissionState.REFUSED:
                    agreed = unit.now if each.cancel_requested_at is not None else None
                    changed = replace(changed, ended_at=unit.now, canceled_at=agreed, outcome=Outcome.REFUSED)
                unit.save(changed)
            job = unit.job(name)
            unit.write_journal(job, reason)
            return job

        return await self._writer.write(Work("saving a submission's outcome", do, jobs=(name,), arrays=(name,)))

    # --- news

    async def append(self, event: JobEvent, *, check: Callable[[Job], None] | None = None) -> Effect:
        """Store a piece of news and do to its job what ``jobs.state`` decides; the same again is
        ``DUPLICATE``.

        :param check: looks at the job first, within the transaction; what it raises keeps the news out
        :raises JobUnknown: no such job; or an array, of which there is no news but its elements'
        """

        def do(unit: Unit) -> Effect:
            job = unit.job(event.job)
            if job.size is not None:
                raise JobUnknown(f"{event.job} is an array: news is told of its elements", where="job store")
            if check is not None:
                check(job)
            effect, after = unit.append(job, event)
            if after is not job:
                unit.save(after)
            return effect

        effect = await self._writer.write(Work("storing a job's news", do, jobs=(event.job,), events=(event,)))
        if effect in (Effect.CONTRADICTED, Effect.IMPOSSIBLE):
            _LOG.warning("Job %s: %s from %s is %s", event.job, event.state, event.source, effect)
        return effect

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

    def look_at(self, names: Iterable[str]) -> None:
        """Those of the jobs that somebody waits for have changed: look at once."""
        self._watcher.look_at(names)

    def deliver(self, jobs: Iterable[Job]) -> None:
        """Jobs as they are on record now: whoever waits for one of them need not look."""
        self._watcher.deliver(jobs)

    # --- cancelling

    async def request_cancel(self, name: str, by: str) -> Job:
        """Note that someone wants the job's end, or the array's and so that of every element; who asked first
        stays. An ended job has nothing left to cancel; one that certainly was never sent ends by this.

        :raises JobUnknown: no such job
        """
        work = Work(
            "asking for a cancel",
            lambda unit: ask_for_end(unit, name, by),
            jobs=(name,),
            arrays=(name,),
            events=(canceled_news(name),),
        )
        return await self._writer.write(work)

    async def canceled(self, name: str) -> Job:
        """The scheduler has the job, or nothing of the array, any more. What ended by itself keeps its end.

        :raises JobUnknown: no such job
        """

        def do(unit: Unit) -> Job:
            array = unit.job(name)
            for job in unit.elements(name) if array.size is not None else [array]:
                if job.canceled_at is not None:
                    continue
                # An ended element has no such event: nothing but an end that was lost could bring it here.
                if job.state is None or not job.state.terminal:
                    job = unit.append(job, canceled_news(job.name))[1]  # noqa: PLW2901
                unit.save(replace(job, canceled_at=job.canceled_at or unit.now))
            return unit.job(name)

        work = Work("saving a cancel", do, jobs=(name,), arrays=(name,), events=(canceled_news(name),))
        return await self._writer.write(work)


_STORES: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, JobStore]] = WeakKeyDictionary()


def get_store(url: str | None = None, *, patience_s: float = PATIENCE_S) -> JobStore:
    """The running event loop's store of that URL, made at the first call.

    :param url: None: the deployment's, ``[airavata] sql_alchemy_conn``
    :param patience_s: what it is made with
    :raises ConfigurationError: neither SQLite nor PostgreSQL
    """
    stores = _STORES.setdefault(asyncio.get_running_loop(), {})
    if url is not None:
        if url not in stores:
            stores[url] = JobStore(url, patience_s=patience_s)
        return stores[url]

    from airavata_provider.settings import get_settings

    settings = get_settings()
    if settings.sql_alchemy_conn not in stores:
        stores[settings.sql_alchemy_conn] = JobStore(
            settings.sql_alchemy_conn,
            watch_interval=settings.watch_interval,
            pool_size=settings.sql_alchemy_pool_size,
            patience_s=patience_s,
        )
    return stores[settings.sql_alchemy_conn]


async def close_store() -> None:
    """Close the running event loop's stores; for whoever ends it."""
    for store in _STORES.pop(asyncio.get_running_loop(), {}).values():
        await store.close()


def _submitted_as(name: str, native_id: str, at: datetime) -> JobEvent:
    """News that the scheduler accepted a job."""
    return JobEvent(
        job=name,
        source=EventSource.SUBMISSION,
        event_id=f"submitted:{native_id}",
        state=JobState.SUBMITTED,
        at=at,
        native_id=native_id,
    )


def _accepted(job: Job, native_id: str, at: datetime) -> Job:
    refused = job.submission is SubmissionState.REFUSED
    return replace(
        job,
        submission=SubmissionState.SUBMITTED,
        native_id=native_id,
        submitted_at=at,
        # A refusal that was none: news is awaited again.
        ended_at=None if refused else job.ended_at,
        outcome=None if refused else job.outcome,
        # Nothing was found to cancel, because it was not there yet: now it is.
        canceled_at=None,
    )


def _over(job: Job) -> bool:
    return job.ended_at is not None
