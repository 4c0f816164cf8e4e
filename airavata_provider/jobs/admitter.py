"""Admission's hands: whoever has a job to submit waits here until it may go.

One admitter per process and store. However many wait, it runs one round (``jobs.rounds``) when something happened
that could let somebody go (a job came, ended, was refused for now) and at a slow tick; those that were let go, by
this process' round or by another's, are woken by the store's watcher. Who waits costs a coroutine: no worker, no
connection, no query.

A job that nothing can keep back is let go by the very intent (:meth:`Admitter.stamp`).

Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

from airavata_provider.errors import AiravataError, StoreError, SubmissionRefused
from airavata_provider.jobs.admission import Hold, Limits, Place, Waiting, too_big, unlimited
from airavata_provider.jobs.rounds import Call
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.availability import Availability
from airavata_provider.models.job import Job

log = logging.getLogger(__name__)
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


@dataclass(frozen=True)
class Pace:
    """How often things are done, in seconds.

    :param tick: between two rounds when nothing is heard of
    :param least: between two rounds at least; where one takes longer than that, as long as it took
    :param said: how old what is said of resources may be
    :param step: see ``jobs.admission.full``; each time a little more or less
    :param word: after that long the first word in a waiter's log; then after the next
    :param at_most: between two words at most; each pause is twice the one before
    """

    tick: float = 5.0
    least: float = 0.1
    said: float = 5.0
    step: float = 30.0
    word: tuple[float, float] = (2.0, 60.0)
    at_most: float = 3600.0


@dataclass(eq=False)
class _Waiter:
    job: Job
    log: Log
    next_word: float
    pause: float
    context: contextvars.Context = field(default_factory=contextvars.copy_context)


class Admitter:
    """See the module.

    :param store: where jobs are
    :param limits: what the catalog allows now
    """

    def __init__(self, store: JobStore, limits: Callable[[], Limits], *, pace: Pace | None = None) -> None:
        self.holder = uuid.uuid4().hex
        self._store = store
        self._limits = limits
        self._pace = pace or Pace()
        self._waiters: dict[str, _Waiter] = {}
        self._adopt: set[str] = set()
        self._release: set[str] = set()
        self._refused: dict[Place, str] = {}
        self._held: dict[tuple[str, str, str, str, int], Hold] = {}
        self._said: list[Availability] = []
        self._said_at = float("-inf")
        self._reading = asyncio.Lock()
        self._kick = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._next = float("-inf")

    @property
    def waiting(self) -> int:
        """How many wait here."""
        return len(self._waiters)

    async def stamp(self, job: Job) -> Job:
        """A job that is to be intended, let go where nothing can keep it back, else as one that waits here.

        :raises SubmissionRefused: an array larger than what is allowed at a time
        """
        limits = replace(self._limits(), said=await self._what_is_said())
        asked = waiting_of(job, limits)
        if (why := too_big(limits, asked)) is not None:
            raise SubmissionRefused(why, where=job.name, advice="ask for fewer elements, or raise that limit")
        now = datetime.now(UTC)
        if unlimited(limits, asked, now):
            return replace(job, admitted_at=now, waiter="")
        return replace(job, admitted_at=None, waiter=self.holder)

    async def again(self, job: Job, reason: str) -> Job:
        """A job that certainly is not with the scheduler is to be submitted once more: it waits as before.

        :raises SubmissionRefused: as :meth:`stamp`
        """
        stamped = await self.stamp(job)
        return await self._store.readmit(job.name, stamped.admitted_at, stamped.waiter, reason)

    async def later(self, job: Job, words: str) -> Job:
        """The scheduler takes no more for now: the job waits again, and its place counts as full for a while."""
        if job.native_id is None:  # before it can be chosen again
            self._refused[job.resource, job.queue or ""] = words[:500]
        return await self._store.readmit(job.name, None, self.holder, f"later: {words}")

    async def leave(self, job: Job) -> None:
        """A job that was let go was certainly not submitted, and nobody tries now: its room is others'."""
        await self._store.readmit(job.name, None, "", "not tried to the end")

    async def wait(self, job: Job, log: Log) -> Job:
        """The job, once it may go; or once its end was asked for.

        :raises StoreError: the store was closed
        """
        if let_go(job):
            return job
        waiter = _Waiter(job, log, self._now() + self._pace.word[0], self._pace.word[1])
        self._waiters[job.name] = waiter
        self._release.discard(job.name)
        # Also what is ours on record: a round may be about to release it, for the task that waited before.
        self._adopt.add(job.name)
        self._start()
        try:
            return await self._store.wait(job.name, until=let_go)
        except asyncio.CancelledError:
            # Killed, or the process ends: nobody waits for it now, unless another task does already.
            if self._waiters.get(job.name) is waiter:
                self._release.add(job.name)
            raise
        finally:
            if self._waiters.get(job.name) is waiter:
                del self._waiters[job.name]
                self._adopt.discard(job.name)
            self._kick.set()

    async def close(self) -> None:
        """End the rounds; who still waits is on record."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # --- within

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _what_is_said(self) -> list[Availability]:
        async with self._reading:
            if self._now() - self._said_at > self._pace.said:
                self._said = await self._store.availabilities()
                self._said_at = self._now()
            return self._said

    def _start(self) -> None:
        self._kick.set()
        if self._task is None or self._task.done():
            # A context of its own: it serves all, and what it says is not for one task's log.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name="airavata admitter", context=contextvars.Context()
            )

    async def _run(self) -> None:
        failures = 0
        self._store.listeners.add(self._kick.set)
        try:
            while self._waiters or self._release:
                with contextlib.suppress(TimeoutError):
                    # Not all processes at the same moment.
                    tick = self._pace.tick * random.uniform(0.8, 1.2)  # noqa: S311
                    # Not wait_for, which in Python 3.11 can swallow a cancel.
                    async with asyncio.timeout(tick):
                        await self._kick.wait()
                await asyncio.sleep(max(0.0, self._next - self._now()))
                self._kick.clear()
                began = self._now()
                try:
                    await self._round()
                    # A busy database has as much time for others as for this.
                    self._next = self._now() + max(self._pace.least, self._now() - began)
                    await self._say()
                    failures = 0
                except AiravataError as error:
                    failures += 1
                    pause = min(self._pace.tick * failures, 12 * self._pace.tick)
                    log.warning("Nobody can be admitted; again in %g s. %s", pause, error)
                    if isinstance(error, StoreError) and not self._waiters:
                        return
                    await asyncio.sleep(pause)
                    self._kick.set()
                except Exception:
                    log.exception("A round of admission failed in a way that it should not")
                    await asyncio.sleep(self._pace.tick)
        finally:
            self._store.listeners.discard(self._kick.set)

    async def _round(self) -> None:
        adopt, release = frozenset(self._adopt), frozenset(self._release)
        refused = dict(self._refused)
        done = await self._store.admit(
            Call(
                holder=self.holder,
                limits=self._limits(),
                adopt=adopt,
                release=release - adopt,
                refused=refused,
                step_s=self._pace.step * random.uniform(0.75, 1.25),  # noqa: S311
            )
        )
        self._adopt -= adopt
        self._release -= release
        for place, words in refused.items():
            if self._refused.get(place) == words:
                del self._refused[place]
        self._held = dict(done.held)
        self._said, self._said_at = list(done.said), self._now()
        self._store.look_at(done.granted)
        if done.more:
            self._kick.set()

    async def _say(self) -> None:
        """A word for those whose turn it is, in their own logs."""
        now = self._now()
        due = [waiter for waiter in self._waiters.values() if waiter.next_word <= now]
        if not due:
            return
        numbers = await self._store.positions(self.holder)
        limits = self._limits()
        for waiter in due:
            waiter.next_word = now + waiter.pause
            waiter.pause = min(waiter.pause * 2, self._pace.at_most)
            number = numbers.get(waiter.job.name)
            if number is None:  # let go just now
                continue
            asked = waiting_of(waiter.job, limits)
            where = f"{asked.resource}'s queue {asked.queue}" if asked.queue else asked.resource
            why = self._held.get(asked.line) or "others go first"
            waiter.context.run(waiter.log.info, "Waiting for %s, number %d there: %s", where, number, why)


def let_go(job: Job) -> bool:
    """Whether nothing is waited for any more: it may go, or shall not."""
    over = job.ended_at is not None or job.native_id is not None
    return over or job.admitted_at is not None or job.cancel_requested_at is not None


def waiting_of(job: Job, limits: Limits) -> Waiting:
    """A job as admission sees it."""
    queue = job.queue or ""
    one = job.size is None or (job.resource, queue) in limits.arrays_as_one
    since = job.created_at or datetime.now(UTC)
    cost = 1 if one or job.size is None else job.size
    return Waiting(job.name, job.resource, queue, job.gateway, job.user, job.priority, since, cost)


_ADMITTERS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[JobStore, Admitter]] = WeakKeyDictionary()


def get_admitter(store: JobStore, limits: Callable[[], Limits]) -> Admitter:
    """That store's admitter, made at the first call; it ends with the store.

    :param limits: what the catalog allows now
    """
    admitters = _ADMITTERS.setdefault(asyncio.get_running_loop(), {})
    found = admitters.get(store)
    if found is None:
        found = admitters[store] = Admitter(store, limits)

        async def close() -> None:
            await admitters.pop(store).close()

        store.closers.append(close)
    return found
