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
from collections.abc import Awaitable, Callable, Collection
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from weakref import WeakKeyDictionary

from airavata_provider.errors import AiravataError
from airavata_provider.jobs.canceller import Canceller
from airavata_provider.jobs.poller import Connect, Poller, sought_s
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Job
from airavata_provider.monitors.output import outputs
from airavata_provider.monitors.poll import Patience
from airavata_provider.monitors.rhythm import Rhythm

log = logging.getLogger(__name__)


def lease_of(resource: str) -> str:
    """Name of the lease of whoever serves that resource."""
    return f"reconcile:{hashlib.sha256(resource.encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class Pace:
    """How often things are done, in seconds.

    :param rhythm: between two status calls
    :param cancel: between two commands that cancel, and between the first two tries to cancel a job; each later pause
        is twice the one before, up to the rhythm's base
    :param tick: between two looks for work, at most
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
        """How long a resource is served after its last job ended: above the time between two looks for ends on which
        the scheduler's own word is sought.
        """
        return 2 * self.rhythm.base + 2 * self.tick


@dataclass
class _Resource:
    """What the reconciler remembers of one resource."""

    poller: Poller
    canceller: Canceller
    try_lease_at: float = 0.0
    held: bool = False
    poll_at: float = 0.0
    cancel_at: float = 0.0
    poll_failures: int = 0
    cancel_failures: int = 0
    busy_at: float = 0.0
    polling: asyncio.Task[None] | None = None
    cancelling: asyncio.Task[None] | None = None

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
        self._unbacked: set[str] = set()
        self._unbacked_at = 0.0

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
                await asyncio.sleep(self._nap())
        finally:
            await self._stop()

    def _nap(self) -> float:
        """Seconds to the next round: a tick, or less where a poll's time comes before."""
        now, tick = asyncio.get_running_loop().time(), self._pace.tick
        left = [state.poll_at - now for state in self._resources.values()]
        return max(tick / 4, min([tick, *(each for each in left if each > 0)]))

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
        open_ = await self._store.open_resources()
        cancels: dict[str, list[Job]] = {}
        for job in await self._store.cancel_requests():
            cancels.setdefault(job.resource, []).append(job)
        if clock() >= self._unbacked_at:
            since = datetime.now(UTC) - timedelta(seconds=sought_s(self._patience))
            self._unbacked = await self._store.unbacked_resources(since)
            self._unbacked_at = clock() + self._pace.rhythm.base
        busy = open_ | cancels.keys() | self._unbacked
        for resource in busy:
            if resource not in self._resources:
                self._resources[resource] = self._new(resource)
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
            cancelling = state.cancelling is not None and not state.cancelling.done()
            if state.held and resource in cancels and clock() >= state.cancel_at and not cancelling:
                due = state.canceller.due(cancels[resource], datetime.now(UTC))
                if due:
                    work = self._cancel(due)
                    state.cancelling = asyncio.create_task(self._guard(resource, state, work, "cancel"))
                    # It asks about whoever's turn it is, too.
                    continue
            if clock() >= state.poll_at and (state.polling is None or state.polling.done()):
                state.polling = asyncio.create_task(self._guard(resource, state, self._poll, "poll"))
        return bool(self._resources)

    def _new(self, resource: str) -> _Resource:
        pace = self._pace
        poller = Poller(self._store, resource, pace.rhythm, self._patience, show_s=pace.show)
        return _Resource(poller, Canceller(poller, pace.cancel, pace.unsubmitted, pace.uncertain))

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
                # Whether it answered meanwhile, only whoever served it knows.
                state.poller.answers_since = None
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

    def _cancel(self, jobs: list[Job]) -> Callable[[str, _Resource], Awaitable[float]]:
        async def work(resource: str, state: _Resource) -> float:
            await state.canceller.cancel(self._connect, jobs)
            return self._pace.cancel

        return work


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
