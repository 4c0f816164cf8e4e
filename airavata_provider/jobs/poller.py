"""Polls one resource: asks about the jobs whose turn it is, collects what the relay has, and tells the store.

What it remembers (when it asked, since when a job is missing) is for its own use: whoever takes over begins by
asking about everybody. An end that only a job's script told is looked up once more, so that the scheduler's own word
stands beside it. Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from airavata_provider.errors import AnswerUnreadable, JobUnknown, SSHError
from airavata_provider.jobs.history import last_words
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Effect, Job, JobEvent
from airavata_provider.monitors.poll import Look, Patience, Runs, look, news, silence
from airavata_provider.monitors.relay import Left, collect_command, event_left
from airavata_provider.monitors.rhythm import SCRIPT_SOURCES, Rhythm, turn
from airavata_provider.schedulers.base import Scheduler

log = logging.getLogger(__name__)

UNBACKED_S = 900.0
"""How long the scheduler's own word is sought after an end that the script told."""

_REASON_LIMIT = 2000


@dataclass(frozen=True)
class Way:
    """The way to a compute resource.

    :param host: its login node
    :param scheduler: the adaptor of its scheduler
    :param relay: its scratch directory, where its jobs' scripts leave their news; None where they call
    """

    host: Runs
    scheduler: Scheduler
    relay: str | None = None


Connect = Callable[[str], Awaitable[Way]]
"""The way to a compute resource, by its name."""


@dataclass
class Poller:
    """One resource's polls, one at a time.

    :param began: since when this poller is there; before that it has seen nobody
    """

    store: JobStore
    resource: str
    rhythm: Rhythm
    patience: Patience
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    asked: dict[str, datetime] = field(default_factory=dict)
    seen: dict[str, datetime] = field(default_factory=dict)
    missing_since: dict[str, datetime] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)
    relays: bool = False
    collected_at: datetime | None = None

    async def poll(self, connect: Connect) -> float:
        """Ask whoever is due; seconds to the next look.

        :raises AiravataError: the cluster or the store does not answer
        """
        now = datetime.now(UTC)
        jobs = await self.store.open_jobs(self.resource)
        jobs += await self.store.unbacked_jobs(self.resource, now - timedelta(seconds=UNBACKED_S))
        hearing = await self.store.hearing(self.resource, SCRIPT_SOURCES)
        names = {job.name for job in jobs}
        for memory in (self.asked, self.seen, self.missing_since):
            for gone in memory.keys() - names:
                del memory[gone]
        jitter = random.uniform(0.85, 1.0)  # noqa: S311
        due = turn(jobs, self.asked, now, self.rhythm, hearing, jitter=jitter)
        collect = self._collects(now) and any(job.ended_at is None for job in jobs)
        if due.jobs or collect:
            try:
                await self._ask(await connect(self.resource), due.jobs, now)
            except (SSHError, AnswerUnreadable) as error:
                await self._give_up(due.jobs, silence(due.jobs, now, self._since(jobs), str(error), self.patience))
                raise
        next_s = due.after_s
        if self.relays and self.collected_at is not None:
            next_s = min(next_s, self.rhythm.base - (now - self.collected_at).total_seconds())
        return max(0.0, next_s - (datetime.now(UTC) - now).total_seconds())

    def _collects(self, now: datetime) -> bool:
        """Whether it is time to look for what the relay has."""
        at = self.collected_at
        return self.relays and (at is None or now - at >= timedelta(seconds=self.rhythm.base * 0.85))

    def _since(self, jobs: Sequence[Job]) -> dict[str, datetime]:
        """Since when nobody could tell about each job."""
        return {
            job.name: max(moment for moment in (job.changed_at, self.seen.get(job.name), self.began) if moment)
            for job in jobs
        }

    async def _ask(self, way: Way, jobs: Sequence[Job], now: datetime) -> None:
        self.relays = way.relay is not None
        collect = collect_command(way.relay, self.done) if way.relay is not None else ""
        answer = await look(way.host, way.scheduler, jobs, collect)
        self.done.clear()
        if collect:
            self.collected_at = now
            await self._take_in(answer.left)
        await self.tell(jobs, answer)
        self.asked.update((job.name, now) for job in jobs)
        if answer.unreadable:
            log.warning("%s: its history cannot be read: %s", self.resource, answer.unreadable)

    async def tell(self, jobs: Sequence[Job], answer: Look) -> None:
        """Store what an answer tells about the jobs."""
        silent = []
        for job in jobs:
            if job.native_id in answer.missing:
                self.missing_since.setdefault(job.name, answer.at)
            elif job.native_id in answer.known:
                self.missing_since.pop(job.name, None)
            else:
                silent.append(job)
                continue
            self.seen[job.name] = answer.at
        events = news(jobs, answer, self.missing_since, self.patience)
        events += silence(silent, answer.at, self._since(silent), answer.unreadable, self.patience)
        await self._give_up(jobs, [event for event in events if event.given_up])
        await asyncio.gather(*(self.store.append(event) for event in events if not event.given_up))

    async def _give_up(self, jobs: Sequence[Job], events: Sequence[JobEvent]) -> None:
        """For a person, with what every source said last."""
        for event in events:
            said = last_words(kept.event for kept in await self.store.events(event.job))
            log.warning("%s: job %s is given up: %s", self.resource, event.job, event.reason)
            reason = f"{event.reason}. Last words: {said or 'none'}"
            await self.store.append(replace(event, reason=reason[:_REASON_LIMIT]))

    async def _take_in(self, left: Sequence[Left]) -> None:
        """Store what the relay brought. What is stored is removed with the next question."""
        known = {job.name: job for job in await self.store.jobs_named({each.job for each in left})}
        await asyncio.gather(*(self._take_in_one(each, known.get(each.job)) for each in left))

    async def _take_in_one(self, left: Left, job: Job | None) -> None:
        if left.file in self.ignored:
            return
        if left.call is None or job is None or job.resource != self.resource:
            self.ignored.add(left.file)
            log.warning("%s: %s in the relay is no news of a job here; it stays", self.resource, ascii(left.file))
            return
        try:
            effect = await self.store.append(event_left(job, left.call, datetime.now(UTC)))
        except JobUnknown:
            return
        if effect is Effect.IMPOSSIBLE:
            log.warning("%s: %s in the relay has another id than its job", self.resource, ascii(left.file))
        self.done.append(left.file)
