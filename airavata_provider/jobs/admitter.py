"""Admission's hands: whoever has a job to submit waits here until it may go.

One admitter per process and store. However many wait, it runs one round (``jobs.rounds``) when something happened
that could let somebody go (a job came, ended, was refused for now) and at a slow tick; those that were let go, by
this process' round or by another's, are woken by the store's watcher. Who waits costs a coroutine: no worker, no
connection, no query.

A job's end is heard by all processes, and one round is enough: whoever hears of another's before it began its own
leaves it. Rounds come one after the other, so a round that is heard of after the end has either seen it, or is that
of a process that heard of the end during it and runs another.

A job that nothing can keep back is let go, and its submission begins, by the very intent (:meth:`Admitter.stamp`).
Any other begins before :meth:`Admitter.wait` returns: what was let go and taken back meanwhile waits again
(``jobs.grants``).

An array that its scheduler refuses as too many, while nothing else of ours is there, again and again, is refused for
good.

Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

from airavata_provider.errors import AiravataError, StoreError, SubmissionRefused
from airavata_provider.jobs.admission import too_big, unlimited, waiting_of
from airavata_provider.jobs.grants import going, let_go
from airavata_provider.jobs.limits import Hold, Limits, Place
from airavata_provider.jobs.rounds import LEASE_S, Call, Refusal
from airavata_provider.jobs.store import JobStore
from airavata_provider.jobs.unit import ROOM, ROUND
from airavata_provider.models.availability import Availability
from airavata_provider.models.job import Job
from airavata_provider.schedulers.base import SHORTER

log = logging.getLogger(__name__)
_FEWER = "ask for fewer elements, or raise that limit"
_ALONE_TIMES = 3
"""How often an array has to be refused while nothing else of ours is there."""
_WORDS = 100
"""Waiters that are told in a second how it stands."""
_AT_ONCE = 5
"""Of them one after the other, before whatever else is to happen in the loop has its turn."""
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


@dataclass(frozen=True)
class Pace:
    """How often things are done, in seconds.

    :param tick: between two rounds when nothing is heard of
    :param least: between two rounds at least; where one takes more than twice that, half of what it took
    :param said: how old what is said of resources may be
    :param step: see ``jobs.admission.full``; each time a little more or less
    :param word: after that long the first word in a waiter's log; then after the next
    :param at_most: between two words at most; each pause is twice the one before
    :param sweep: between two looks for what is on record as waiting here, and for which no task waits
    :param alone: how long an array that is refused while nothing else of ours is there is tried again
    """

    tick: float = 5.0
    least: float = 0.02
    said: float = 5.0
    step: float = 30.0
    word: tuple[float, float] = (2.0, 60.0)
    at_most: float = 3600.0
    sweep: float = 30.0
    alone: float = 600.0


@dataclass(eq=False)
class _Waiter:
    job: Job
    log: Log
    next_word: float
    pause: float
    never: str | None = None
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
        self._refused: dict[Place, Refusal] = {}
        self._alone: dict[str, tuple[float, int]] = {}
        self._swept_at = self._renewed_at = self._say_at = float("-inf")
        self._held: dict[tuple[str, str, str, str, int], Hold] = {}
        self._said: list[Availability] = []
        self._said_at = float("-inf")
        self._reading = asyncio.Lock()
        self._kick = asyncio.Event()
        self._needed = False
        self._task: asyncio.Task[None] | None = None
        self._saying: asyncio.Task[None] | None = None
        self._next = float("-inf")

    @property
    def waiting(self) -> int:
        """How many wait here."""
        return len(self._waiters)

    async def stamp(self, job: Job) -> Job:
        """A job that is to be intended: its submission begins where nothing can keep it back, else it waits here.

        :raises SubmissionRefused: an array larger than what is allowed at a time
        """
        limits = await self._limits_now()
        if (why := too_big(limits, waiting_of(job, limits))) is not None:
            raise SubmissionRefused(why, where=job.name, advice=_FEWER)
        if self._free(job, limits):
            now = datetime.now(UTC)
            return replace(job, admitted_at=now, submitting_at=now, waiter="")
        return replace(job, admitted_at=None, submitting_at=None, waiter=self.holder)

    async def stamp_for_later(self, job: Job) -> Job:
        """One that is to be intended beside another, or before the end of another, and is submitted when its turn
        comes: nobody waits for it yet.

        :raises SubmissionRefused: as :meth:`stamp`
        """
        return replace(await self.stamp(job), admitted_at=None, submitting_at=None, waiter="")

    async def again(self, job: Job, reason: str) -> Job:
        """A job that certainly is not with the scheduler is to be submitted once more: it waits as before.

        :raises SubmissionRefused: as :meth:`stamp`
        """
        stamped = await self.stamp(job)
        return await self._store.readmit(job.name, stamped.admitted_at, stamped.waiter, reason)

    async def later(self, job: Job, words: str) -> Job:
        """The scheduler takes no more for now: the job waits again, and its place counts as full for a while.

        :raises SubmissionRefused: an array that the scheduler does not take even alone
        """
        cost = waiting_of(job, self._limits()).cost
        place = (job.resource, job.queue or "")
        if job.native_id is None:  # before it can be chosen again
            known = self._refused.get(place)
            if known is None or cost <= known.cost:
                self._refused[place] = Refusal(words[:500], cost)
        job = await self._store.readmit(job.name, None, self.holder, f"later: {words}")
        if cost > 1 and job.cancel_requested_at is None and await self._never_taken(job):
            why = f"the scheduler refuses an array of {cost} even while nothing else of ours is there: {words}"
            await self._store.refused(job.name, why)
            raise SubmissionRefused(why, where=job.name, advice=SHORTER)
        return job

    async def leave(self, job: Job) -> None:
        """A job that was let go was certainly not submitted, and nobody tries now: its room is others'."""
        await self._store.readmit(job.name, None, "", "not tried to the end")

    async def wait(self, job: Job, log: Log) -> Job:
        """The job, once it may go and its submission began; or once its end was asked for.

        :raises SubmissionRefused: an array; meanwhile the limits became too low for it
        :raises StoreError: the store was closed
        """
        while not going(job, datetime.now(UTC)):
            free = self._free(job, await self._limits_now())
            if not free and not let_go(job, datetime.now(UTC)):
                job = await self._turn(job, log)
                continue
            try:
                # It may have been taken back meanwhile.
                job = await self._store.begin(job.name, free=free)
            except asyncio.CancelledError:
                self._release.add(job.name)
                self._start()
                raise
        return job

    async def _turn(self, job: Job, log: Log) -> Job:
        """The job, once it is let go."""
        waiter = _Waiter(job, log, self._now() + self._pace.word[0], self._pace.word[1])
        self._waiters[job.name] = waiter
        self._release.discard(job.name)
        # Also what is ours on record: a round may be about to release it, for the task that waited before.
        self._adopt.add(job.name)
        self._start()
        try:
            job = await self._store.wait(
                job.name, until=lambda each: waiter.never is not None or let_go(each, datetime.now(UTC))
            )
        except asyncio.CancelledError:
            # Killed, or the process ends: nobody waits for it now, unless another task does already.
            if self._waiters.get(job.name) is waiter:
                self._release.add(job.name)
            raise
        finally:
            if self._waiters.get(job.name) is waiter:
                del self._waiters[job.name]
                self._adopt.discard(job.name)
            if self._release or not self._waiters:
                self._need()
        if waiter.never is not None and not let_go(job, datetime.now(UTC)):
            await self._store.refused(job.name, waiter.never)
            raise SubmissionRefused(waiter.never, where=job.name, advice=_FEWER)
        return job

    async def close(self) -> None:
        """End the rounds; who still waits is on record, and is not let go here any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            with contextlib.suppress(StoreError):  # then it runs out by itself
                await self._store.leave_admission(self.holder)

    # --- within

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _limits_now(self) -> Limits:
        return replace(self._limits(), said=await self._what_is_said())

    def _free(self, job: Job, limits: Limits) -> bool:
        """Whether nothing can keep that job back; a refusal that no round has heard of yet does."""
        known = (job.resource, job.queue or "") not in self._refused
        return known and unlimited(limits, waiting_of(job, limits), datetime.now(UTC))

    async def _what_is_said(self) -> list[Availability]:
        async with self._reading:
            if self._now() - self._said_at > self._pace.said:
                self._said = await self._store.availabilities()
                self._said_at = self._now()
            return self._said

    def _need(self) -> None:
        """A round of our own, whatever others do."""
        self._needed = True
        self._kick.set()

    def _heard(self, words: Collection[str]) -> None:
        if ROOM in words:
            self._kick.set()
        elif not self._needed and any(word[:1] == ROUND and word[1:] != self.holder for word in words):
            self._kick.clear()

    def _start(self) -> None:
        self._need()
        if self._task is None or self._task.done():
            # A context of its own: it serves all, and what it says is not for one task's log.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name="airavata admitter", context=contextvars.Context()
            )

    async def _run(self) -> None:
        failures = 0
        self._store.listeners.add(self._heard)
        self._swept_at = max(self._swept_at, self._now() - self._pace.sweep / 2)
        try:
            while self._waiters or self._release:
                ticked = True
                with contextlib.suppress(TimeoutError):
                    # Not all processes at the same moment.
                    tick = self._pace.tick * random.uniform(0.8, 1.2)  # noqa: S311
                    # Not wait_for, which in Python 3.11 can swallow a cancel.
                    async with asyncio.timeout(tick):
                        await self._kick.wait()
                    ticked = False
                # What all heard at once, one begins first.
                some = 0.0 if self._needed else self._pace.least * random.uniform(0.0, 0.5)  # noqa: S311
                await asyncio.sleep(max(some, self._next - self._now()))
                others_did = not ticked and not self._kick.is_set()
                if others_did or not (self._waiters or self._release):
                    continue
                self._kick.clear()
                self._needed = False
                began = self._now()
                try:
                    await self._round()
                    # A busy database has time for others as well.
                    self._next = self._now() + max(self._pace.least, (self._now() - began) / 2)
                    failures = 0
                except AiravataError as error:
                    # Once is a lost connection, or a deadlock that the database has solved.
                    pause = max(self._pace.least, min(self._pace.tick * failures, 12 * self._pace.tick))
                    failures += 1
                    log.warning("Nobody can be admitted; again in %g s. %s", pause, error)
                    if isinstance(error, StoreError) and not self._waiters:
                        return
                    await asyncio.sleep(pause)
                    self._need()
                except Exception:
                    log.exception("A round of admission failed in a way that it should not")
                    await asyncio.sleep(self._pace.tick)
                if self._saying is None or self._saying.done():
                    # Beside the rounds: who is let go does not wait for words to others.
                    self._saying = asyncio.create_task(self._say(), name="airavata admitter's words")
        finally:
            self._store.listeners.discard(self._heard)
            if self._saying is not None:
                self._saying.cancel()

    async def _round(self) -> None:
        adopt, release = frozenset(self._adopt), frozenset(self._release)
        refused = dict(self._refused)
        began = self._now()
        renew = began - self._renewed_at > LEASE_S / 4
        done = await self._store.admit(
            Call(
                holder=self.holder,
                limits=self._limits(),
                renew=renew,
                adopt=adopt,
                release=release - adopt,
                here=frozenset(self._waiters),
                refused=refused,
                step_s=self._pace.step * random.uniform(0.75, 1.25),  # noqa: S311
            )
        )
        if renew:
            self._renewed_at = began
        self._adopt -= adopt
        self._release -= release
        for place, words in refused.items():
            if self._refused.get(place) == words:
                del self._refused[place]
        self._refuse_what_never_fits()
        self._held = dict(done.held)
        self._said, self._said_at = list(done.said), self._now()
        self._store.deliver(done.granted)
        if done.more:
            self._need()
        if self._now() - self._swept_at > self._pace.sweep:
            # A task that was killed between its intent and its waiting.
            self._release.update(set(await self._store.held_by(self.holder)) - self._waiters.keys())
            self._swept_at = self._now()

    def _refuse_what_never_fits(self) -> None:
        """Limits change while arrays wait."""
        limits = self._limits()
        for name, waiter in self._waiters.items():
            if waiter.job.size is not None:
                waiter.never = too_big(limits, waiting_of(waiter.job, limits))
                if waiter.never is not None:
                    self._store.look_at([name])

    async def _never_taken(self, array: Job) -> bool:
        """Whether an array that was refused just now is too large for its scheduler, by all signs."""
        place = (array.resource, array.queue or "")
        loads = await self._store.place_loads(self._limits())
        now = self._now()
        if any(load.running for load in loads if (load.resource, load.queue) == place):
            self._alone.pop(array.name, None)
            return False
        since, times = self._alone.pop(array.name, (now, 0))
        if times + 1 >= _ALONE_TIMES and now - since >= self._pace.alone:
            return True
        self._alone[array.name] = (since, times + 1)
        return False

    async def _say(self) -> None:
        """A word for those whose turn it is, in their own logs."""
        now = self._now()
        if now < self._say_at:
            return
        due = [waiter for waiter in self._waiters.values() if waiter.next_word <= now]
        if not due:
            return
        # However they came, one after the other.
        self._say_at = now + min(1.0, self._pace.tick)
        try:
            numbers, limits = await self._store.positions(self.holder), self._limits()
        except AiravataError as error:
            log.warning("Nobody can be told how many are before him. %s", error)
            return
        for told, waiter in enumerate(due[:_WORDS], 1):
            if told % _AT_ONCE == 0:
                await asyncio.sleep(0)
            waiter.next_word = now + waiter.pause
            waiter.pause = min(waiter.pause * 2, self._pace.at_most)
            number = numbers.get(waiter.job.name)
            if number is None or waiter.job.name not in self._waiters:  # let go just now
                continue
            asked = waiting_of(waiter.job, limits)
            where = f"{asked.resource}'s queue {asked.queue}" if asked.queue else asked.resource
            why = self._held.get(asked.line) or "others go first"
            waiter.context.run(waiter.log.info, "Waiting for %s, number %d there: %s", where, number, why)


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
