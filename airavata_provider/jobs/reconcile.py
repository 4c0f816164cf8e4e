"""The reconciler: polls what no news came of, and repeats cancels until the scheduler agrees.

One in the deployment for each resource at a time, by a lease in the store. Every process that waits for jobs runs
one; each takes one free resource at a time, so that they share them, and a dead one's are taken over when its leases
run out. Two at the same moment (a lease that changed hands while work was under way) do no harm: events are
idempotent, and so are cancels. Each resource is served apart: one that does not answer is left alone for longer and
longer, and holds nobody up.

:func:`ensure_reconciler` starts one in this process when there may be something to do; it ends by itself when there
is nothing left. Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from weakref import WeakKeyDictionary

from airavata_provider.errors import AiravataError
from airavata_provider.jobs.poller import Connect, Poller
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Job, SubmissionState
from airavata_provider.monitors.output import outputs
from airavata_provider.monitors.poll import COMMAND_TIMEOUT_S, Patience, Runs, look, refs
from airavata_provider.monitors.rhythm import Rhythm
from airavata_provider.schedulers.base import Scheduler

log = logging.getLogger(__name__)


def lease_of(resource: str) -> str:
    """Name of the lease of whoever serves that resource."""
    return f"reconcile:{hashlib.sha256(resource.encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class Pace:
    """How often things are done, in seconds.

    :param rhythm: between two status calls
    :param cancel: between two tries to cancel
    :param tick: between two looks for work
    :param lease: how long a dead reconciler holds the others off
    :param at_most: the longest pause after failures
    :param give_up_work: one round on one resource takes no longer
    :param unsubmitted: how long a cancelled job without an id is looked for: above what a submit command may take
        and its scheduler may need to show the job
    :param uncertain: the same when its submission could not tell
    :param idle: without work, before the reconciler ends
    :param show: between two looks at what jobs write for which somebody waits in this process; 0: nobody looks
    """

    rhythm: Rhythm = field(default_factory=Rhythm)
    cancel: float = 3.0
    tick: float = 1.0
    lease: float = 30.0
    at_most: float = 300.0
    give_up_work: float = 600.0
    unsubmitted: float = 240.0
    uncertain: float = 600.0
    idle: float = 60.0
    show: float = 15.0

    @property
    def linger(self) -> float:
        """How long a resource is served after its last job ended: the scheduler's own word on it is sought."""
        return 2 * self.rhythm.base + 2 * self.tick


@dataclass
class _Resource:
    """What the reconciler remembers of one resource."""

    poller: Poller
    try_lease_at: float = 0.0
    held: bool = False
    poll_at: float = 0.0
    cancel_at: float = 0.0
    poll_failures: int = 0
    cancel_failures: int = 0
    busy_at: float = 0.0
    polling: asyncio.Task[None] | None = None
    cancelling: asyncio.Task[None] | None = None
    gone: set[str] = field(default_factory=set)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return [task for task in (self.polling, self.cancelling) if task is not None and not task.done()]


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
        busy_at = clock()
        try:
            while clock() - busy_at < self._pace.idle:
                try:
                    if await self._round():
                        busy_at = clock()
                except AiravataError as error:
                    log.warning("The reconciler cannot look for work: %s", error)
                    for state in self._resources.values():
                        state.held = False
                    busy_at = clock()
                    await asyncio.sleep(self._pace.tick * 5)
                await asyncio.sleep(self._pace.tick)
        finally:
            await self._stop()

    async def _stop(self) -> None:
        tasks = [task for state in self._resources.values() for task in state.tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        try:
            await self._give_back([name for name, state in self._resources.items() if state.held])
        except AiravataError as error:
            log.info("The reconciler's leases run out by themselves: %s", error)

    async def _round(self) -> bool:
        """Start what is due; True when there is work, whoever does it."""
        clock = asyncio.get_running_loop().time
        unsettled = await self._store.open_resources()
        cancels: dict[str, list[Job]] = {}
        for job in await self._store.cancel_requests():
            cancels.setdefault(job.resource, []).append(job)
        busy = unsettled.keys() | cancels.keys()
        for resource in busy:
            if resource not in self._resources:
                poller = Poller(self._store, resource, self._pace.rhythm, self._patience, show_s=self._pace.show)
                self._resources[resource] = _Resource(poller)
            self._resources[resource].busy_at = clock()
        await self._forget(
            [
                name
                for name, state in self._resources.items()
                if name not in busy and not state.tasks and clock() - state.busy_at > self._pace.linger
            ]
        )
        await self._take_leases()
        for resource, state in self._resources.items():
            # What jobs write is for the logs of this process: it is looked at by whomever their states are asked for.
            if not state.held and not (self._pace.show and outputs().any(resource)):
                continue
            if unsettled.get(resource) and not state.poll_failures:
                state.poll_at = min(state.poll_at, clock() + self._pace.rhythm.settle)
            if clock() >= state.poll_at and (state.polling is None or state.polling.done()):
                state.polling = asyncio.create_task(self._guard(resource, state, self._poll, "poll"))
            cancelling = state.cancelling is not None and not state.cancelling.done()
            if state.held and resource in cancels and clock() >= state.cancel_at and not cancelling:
                work = self._canceller(cancels[resource])
                state.cancelling = asyncio.create_task(self._guard(resource, state, work, "cancel"))
        return bool(self._resources)

    async def _take_leases(self) -> None:
        """Renew what is held; of what is not, try one: who else is there gets a share."""
        clock = asyncio.get_running_loop().time
        due = [name for name, state in self._resources.items() if clock() >= state.try_lease_at]
        held = [name for name in due if self._resources[name].held]
        free = [name for name in due if not self._resources[name].held]
        if free:
            held.append(random.choice(free))  # noqa: S311
        taken = await asyncio.gather(
            *(self._store.lease(lease_of(name), self._holder, self._pace.lease) for name in held)
        )
        for name, yes in zip(held, taken, strict=True):
            state = self._resources[name]
            if yes and not state.held:
                # Not all resources at once, nor at once after a common start.
                state.poll_at = clock() + self._pace.rhythm.least * random.uniform(0.0, 0.5)  # noqa: S311
            state.held = yes
            state.try_lease_at = clock() + self._pace.lease / 3 * random.uniform(0.8, 1.0)  # noqa: S311

    async def _forget(self, names: Collection[str]) -> None:
        held = [name for name in names if self._resources[name].held]
        for name in names:
            del self._resources[name]
        await self._give_back(held)

    async def _give_back(self, names: Collection[str]) -> None:
        await asyncio.gather(*(self._store.lease(lease_of(name), self._holder, 0) for name in names))

    async def _guard(
        self,
        resource: str,
        state: _Resource,
        work: Callable[[str, _Resource], Awaitable[float]],
        kind: str,
    ) -> None:
        """Do the work, and again when it says; whatever goes wrong concerns this resource alone, and makes the next
        pause longer.
        """
        failures, next_s = getattr(state, f"{kind}_failures"), 0.0
        try:
            async with asyncio.timeout(self._pace.give_up_work):
                next_s = await work(resource, state)
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
        setattr(state, f"{kind}_failures", failures)
        usual = self._pace.cancel if kind == "cancel" else self._pace.rhythm.base
        if failures:
            next_s = min(usual * 2 ** min(failures, 10), max(self._pace.at_most, usual))
        next_s *= random.uniform(0.9, 1.0)  # noqa: S311
        setattr(state, f"{kind}_at", asyncio.get_running_loop().time() + next_s)

    async def _poll(self, resource: str, state: _Resource) -> float:
        return await state.poller.poll(self._connect, leads=state.held)

    def _canceller(self, jobs: list[Job]) -> Callable[[str, _Resource], Awaitable[float]]:
        async def work(resource: str, state: _Resource) -> float:
            way = await self._connect(resource)
            host, scheduler = way.host, way.scheduler
            arrays = {job.name for job in jobs if job.size is not None}
            there = [
                found
                for job in jobs
                # What has no id of its own is found, or not, with its array.
                if (job.native_id or job.array not in arrays)
                and (found := job if job.native_id else await self._find(host, scheduler, job)) is not None
            ]
            await self._cancel(host, scheduler, there, state)
            return self._pace.cancel

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
        await state.poller.tell(jobs, seen)
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


def ensure_reconciler(
    store: JobStore, connect: Connect, *, pace: Pace | None = None, patience: Patience | None = None
) -> None:
    """See to it that a reconciler runs in this event loop; it ends by itself when there is nothing to do.

    :param pace: how often things are done
    :param patience: how long jobs may be nowhere to be seen
    """
    loop = asyncio.get_running_loop()
    running = _RUNNING.get(loop)
    if running is not None and not running.done():
        return
    reconciler = Reconciler(store, connect, pace=pace, patience=patience)
    # A context of its own: it serves all, and what it says is not for the log of the task that happened to start it.
    _RUNNING[loop] = loop.create_task(_survive(reconciler), name="airavata reconciler", context=Context())


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
