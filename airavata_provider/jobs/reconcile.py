"""The reconciler: polls what no news came of, and repeats cancels until the scheduler agrees.

One in the deployment at a time, by a lease in the store; a second one at the same moment (a lease that changed
hands while work was under way) does no harm: events are idempotent, and so are cancels. Each resource is served
apart: one that does not answer is left alone for longer and longer, and holds nobody up.

:func:`ensure_reconciler` starts one in this process when there may be something to do; it ends by itself when there
is nothing left. Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from weakref import WeakKeyDictionary

from airavata_provider.errors import AiravataError
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Job, SubmissionState
from airavata_provider.monitors.poll import COMMAND_TIMEOUT_S, Look, Patience, Runs, look, news, refs
from airavata_provider.schedulers.base import Scheduler

log = logging.getLogger(__name__)

Connect = Callable[[str], Awaitable[tuple[Runs, Scheduler]]]
"""The way to a compute resource, by its name, and the adaptor of its scheduler."""

LEASE = "reconcile"


@dataclass(frozen=True)
class Pace:
    """How often things are done, in seconds.

    :param poll: between two status calls to one resource
    :param settle: the same while a job there has an end that only the scheduler can settle
    :param cancel: between two tries to cancel
    :param tick: between two looks for work
    :param lease: how long a dead reconciler holds the others off
    :param at_most: the longest pause after failures
    :param give_up_work: one round on one resource takes no longer
    :param unsubmitted: how long a cancelled job without an id is looked for when no submit was begun for certain
    :param uncertain: the same when its submission could not tell
    :param idle: without work, before the reconciler ends
    """

    poll: float = 30.0
    settle: float = 5.0
    cancel: float = 3.0
    tick: float = 1.0
    lease: float = 30.0
    at_most: float = 300.0
    give_up_work: float = 600.0
    unsubmitted: float = 60.0
    uncertain: float = 600.0
    idle: float = 60.0


@dataclass
class _Resource:
    """What the reconciler remembers of one resource."""

    poll_at: float = 0.0
    cancel_at: float = 0.0
    poll_failures: int = 0
    cancel_failures: int = 0
    polling: asyncio.Task[None] | None = None
    cancelling: asyncio.Task[None] | None = None
    missing_since: dict[str, datetime] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)


class Reconciler:
    """See the module.

    :param store: where jobs are
    :param connect: the way to a resource; its errors concern that resource alone
    """

    def __init__(
        self,
        store: JobStore,
        connect: Connect,
        *,
        pace: Pace | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._store = store
        self._connect = connect
        self._pace = pace or Pace()
        self._patience = patience or Patience()
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._resources: dict[str, _Resource] = {}

    async def run(self) -> None:
        """Work until there has been nothing to do for a while. Cancelling it is fine at any moment."""
        clock = asyncio.get_running_loop().time
        busy_at, renew_at, held = clock(), 0.0, False
        try:
            while clock() - busy_at < self._pace.idle:
                try:
                    if clock() >= renew_at:
                        held = await self._store.lease(LEASE, self._holder, self._pace.lease)
                        renew_at = clock() + self._pace.lease / 3
                    if await self._round(act=held):
                        busy_at = clock()
                except AiravataError as error:
                    log.warning("The reconciler cannot look for work: %s", error)
                    held, renew_at = False, 0.0
                    busy_at = clock()
                    await asyncio.sleep(self._pace.tick * 5)
                await asyncio.sleep(self._pace.tick)
        finally:
            await self._stop(held)

    async def _stop(self, held: bool) -> None:
        tasks = [
            task
            for state in self._resources.values()
            for task in (state.polling, state.cancelling)
            if task is not None
        ]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if held:
            try:
                await self._store.lease(LEASE, self._holder, 0)
            except AiravataError as error:
                log.info("The reconciler's lease runs out by itself: %s", error)

    async def _round(self, *, act: bool) -> bool:
        """Start what is due; True when there is work, whoever does it."""
        clock = asyncio.get_running_loop().time
        unsettled = await self._store.open_resources()
        cancels: dict[str, list[Job]] = {}
        for job in await self._store.cancel_requests():
            cancels.setdefault(job.resource, []).append(job)
        if not act:
            return bool(unsettled or cancels)
        for resource in unsettled.keys() | cancels.keys():
            if resource not in self._resources:
                # Not all resources at once, nor all processes after a common start.
                first = clock() + self._pace.poll * random.uniform(0.1, 1.0)  # noqa: S311
                self._resources[resource] = _Resource(poll_at=first)
        for resource, state in self._resources.items():
            if resource in unsettled:
                due = state.poll_at
                if unsettled[resource] and not state.poll_failures:
                    due = min(due, clock() + self._pace.settle)
                    state.poll_at = due
                if clock() >= due and (state.polling is None or state.polling.done()):
                    state.polling = asyncio.create_task(self._guard(resource, state, self._poll, "poll"))
            cancelling = state.cancelling is not None and not state.cancelling.done()
            if resource in cancels and clock() >= state.cancel_at and not cancelling:
                work = self._canceller(cancels[resource])
                state.cancelling = asyncio.create_task(self._guard(resource, state, work, "cancel"))
        return bool(unsettled or cancels)

    async def _guard(
        self,
        resource: str,
        state: _Resource,
        work: Callable[[str, _Resource], Awaitable[None]],
        kind: str,
    ) -> None:
        """Do the work; whatever goes wrong concerns this resource alone, and makes the next pause longer."""
        failures = getattr(state, f"{kind}_failures")
        try:
            async with asyncio.timeout(self._pace.give_up_work):
                await work(resource, state)
            failures = 0
        except AiravataError as error:
            failures += 1
            log.warning("%s: cannot %s, %d times now: %s", resource, kind, failures, error)
        except TimeoutError:
            failures += 1
            log.warning("%s: %s took longer than %g s", resource, kind, self._pace.give_up_work)
        except Exception:
            failures += 1
            log.exception("%s: %s failed in a way that it should not", resource, kind)
        pause = min(getattr(self._pace, kind) * 2 ** min(failures, 10), max(self._pace.at_most, self._pace.poll))
        setattr(state, f"{kind}_failures", failures)
        jittered = pause * random.uniform(0.9, 1.1)  # noqa: S311
        setattr(state, f"{kind}_at", asyncio.get_running_loop().time() + jittered)

    async def _poll(self, resource: str, state: _Resource) -> None:
        jobs = await self._store.open_jobs(resource)
        if not jobs:
            return
        names = {job.name for job in jobs}
        state.missing_since = {name: at for name, at in state.missing_since.items() if name in names}
        host, scheduler = await self._connect(resource)
        seen = await look(host, scheduler, jobs)
        await self._tell(jobs, seen, state)
        if seen.unreadable:
            log.warning("%s: its history cannot be read: %s", resource, seen.unreadable)

    async def _tell(self, jobs: Sequence[Job], seen: Look, state: _Resource) -> None:
        for job in jobs:
            if job.native_id in seen.missing:
                state.missing_since.setdefault(job.name, seen.at)
            elif job.native_id in seen.known:
                state.missing_since.pop(job.name, None)
        events = news(jobs, seen, state.missing_since, self._patience)
        await asyncio.gather(*(self._store.append(event) for event in events))

    def _canceller(self, jobs: list[Job]) -> Callable[[str, _Resource], Awaitable[None]]:
        async def work(resource: str, state: _Resource) -> None:
            host, scheduler = await self._connect(resource)
            arrays = {job.name for job in jobs if job.size is not None}
            there = [
                found
                for job in jobs
                # What has no id of its own is found, or not, with its array.
                if (job.native_id or job.array not in arrays)
                and (found := job if job.native_id else await self._find(host, scheduler, job)) is not None
            ]
            await self._cancel(host, scheduler, there, state)

        return work

    async def _find(self, host: Runs, scheduler: Scheduler, job: Job) -> Job | None:
        """A cancelled job without an id: it may have been submitted all the same."""
        now = datetime.now(UTC)
        result = await host.run(scheduler.find_command(job.name, None, job.directory), timeout=COMMAND_TIMEOUT_S)
        native_id = scheduler.parse_find(result, job.name)
        if native_id is not None:
            log.info("Job %s was cancelled before its id was known; it is %s", job.name, native_id)
            return await self._store.submitted(job.name, native_id, now, scheduler.element_id)
        doubtful = job.submission is SubmissionState.UNCERTAIN
        grace = timedelta(seconds=self._pace.uncertain if doubtful else self._pace.unsubmitted)
        if job.cancel_requested_at is not None and now - job.cancel_requested_at > grace:
            await self._store.canceled(job.name)
        return None

    async def _cancel(self, host: Runs, scheduler: Scheduler, jobs: Sequence[Job], state: _Resource) -> None:
        if not jobs:
            return
        # An array's id ends all its elements.
        arrays = {job.name for job in jobs if job.size is not None}
        asked = [job for job in jobs if job.array not in arrays]
        jobs = [job for job in jobs if job.size is None]
        result = await host.run(scheduler.cancel_command(refs(asked)), timeout=COMMAND_TIMEOUT_S)
        if result.exit_status != 0:
            words = " ".join((result.stderr or result.stdout).split())[:300]
            log.warning("Cancelling %d jobs ended with %d: %s", len(asked), result.exit_status, words)
        seen = await look(host, scheduler, jobs)
        await self._tell(jobs, seen, state)
        for job in jobs:
            # Once could be a controller that has not taken the job in yet.
            if job.native_id not in seen.missing:
                state.gone.discard(job.name)
            elif job.name in state.gone:
                state.gone.discard(job.name)
                await self._store.canceled(job.name)
            else:
                state.gone.add(job.name)


_RUNNING: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()


def ensure_reconciler(store: JobStore, connect: Connect, *, poll_interval_s: float = 30.0) -> None:
    """See to it that a reconciler runs in this event loop; it ends by itself when there is nothing to do.

    :param poll_interval_s: seconds between two status calls to one resource
    """
    loop = asyncio.get_running_loop()
    running = _RUNNING.get(loop)
    if running is not None and not running.done():
        return
    pace = Pace(poll=poll_interval_s, settle=min(Pace.settle, poll_interval_s))
    # A context of its own: it serves all, and what it says is not for the log of the task that happened to start it.
    _RUNNING[loop] = loop.create_task(
        _survive(Reconciler(store, connect, pace=pace)), name="airavata reconciler", context=Context()
    )


async def _survive(reconciler: Reconciler) -> None:
    try:
        await reconciler.run()
    except Exception:
        log.exception("The reconciler ended in a way that it should not; the next wait starts another")


async def stop_reconciler() -> None:
    """End this event loop's reconciler, if one runs; what it had asked for is on record."""
    running = _RUNNING.pop(asyncio.get_running_loop(), None)
    if running is not None:
        running.cancel()
        await asyncio.wait([running])
