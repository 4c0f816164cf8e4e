"""Polls one resource: asks about the jobs whose turn it is, collects what the relay has, and tells the store; and
looks at what the jobs write for which somebody waits in this process, in the same command.

What it remembers (when it asked, since when a job is missing) is for its own use: whoever takes over begins by
asking about everybody. An end that only a job's script told is looked up once more, so that the scheduler's own word
stands beside it: the time for that begins when it is told, and anew when the cluster answers again after it did not.
Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from airavata_provider.errors import AiravataError, AnswerUnreadable, JobUnknown, SSHError
from airavata_provider.jobs.history import last_words
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Effect, Job, JobEvent
from airavata_provider.monitors.output import Followed, outputs, tail_command
from airavata_provider.monitors.poll import Look, Patience, Runs, look, news, silence
from airavata_provider.monitors.relay import Left, collect_command, event_left
from airavata_provider.monitors.rhythm import SCRIPT_SOURCES, Hearing, Rhythm, Turn, turn
from airavata_provider.schedulers.base import Scheduler

log = logging.getLogger(__name__)

UNBACKED_S = 900.0
"""How long the scheduler's own word is sought on an end that the script told, while the scheduler answers."""

MOST_SOUGHT_S = 30 * 86400.0
"""The same while it does not answer, however patient people are."""

SLOWEST_SHOW_S = 600.0
"""The longest pause between two looks at what jobs write, after failures."""

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


def sought_s(patience: Patience) -> float:
    """How long the scheduler's own word is sought on an end that a script told, while the cluster does not answer."""
    return min(max(UNBACKED_S, patience.unreachable_s), MOST_SOUGHT_S)


@dataclass
class Poller:
    """One resource's polls, one at a time.

    :param began: since when this poller is there; before that it has seen nobody
    :param collected: the last of the relay's files that were read
    :param asked_at: when the last status call went
    :param answers_since: since when each status call was answered; None: the last was not, or there was none
    :param show_s: seconds between two looks at what jobs write; 0: nobody looks
    :param show_failures: how often in a row that went wrong; then the jobs are asked about without it
    """

    store: JobStore
    resource: str
    rhythm: Rhythm
    patience: Patience
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    known: dict[str, Job] = field(default_factory=dict)
    asked: dict[str, datetime] = field(default_factory=dict)
    seen: dict[str, datetime] = field(default_factory=dict)
    missing_since: dict[str, datetime] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)
    collected: str = ""
    relays: bool = False
    collected_at: datetime | None = None
    asked_at: datetime | None = None
    answers_since: datetime | None = None
    hearing: Hearing = field(default_factory=Hearing)
    show_s: float = 0.0
    shown_at: datetime | None = None
    show_failures: int = 0

    async def poll(self, connect: Connect, *, leads: bool = True) -> float:
        """Ask whoever is due; seconds to the next look.

        :param leads: False: another process asks about the jobs, and here is only looked at what they write
        :raises AiravataError: the cluster or the store does not answer
        """
        now = datetime.now(UTC)
        next_s = await self._poll(connect, now) if leads else self.rhythm.least
        await self._show(connect, now)
        if self._shows():
            next_s = min(next_s, self._show_in(now))
        return max(0.0, next_s - (datetime.now(UTC) - now).total_seconds())

    async def _poll(self, connect: Connect, now: datetime) -> float:
        jobs = await self._jobs(now)
        self.hearing = await self.store.hearing(self.resource, SCRIPT_SOURCES)
        names = {job.name for job in jobs}
        for memory in (self.asked, self.seen, self.missing_since):
            for gone in memory.keys() - names:
                del memory[gone]
        along = self._shows() and not self.show_failures
        show_in = self._show_in(now)
        due = self._turn(jobs, now, along=along and show_in <= 0, rest_s=self.rest_s(now))
        open_ = any(job.ended_at is None for job in jobs)
        collect = self._collects(now) and open_
        if due.jobs or collect:
            # A command that goes in any case brings what was written, too, unless that was looked at just now.
            files = outputs().next(self.resource) if along and show_in <= self.show_s / 2 else []
            readable = False
            try:
                readable = await self._ask(await connect(self.resource), due.jobs, now, files)
            except (SSHError, AnswerUnreadable) as error:
                await self._give_up(due.jobs, silence(due.jobs, now, self._since(jobs), str(error), self.patience))
                raise
            finally:
                self.answers_since = (self.answers_since or now) if readable else None
        next_s = due.after_s
        if open_ and self.relays and self.collected_at is not None:
            next_s = min(next_s, self.rhythm.base - (now - self.collected_at).total_seconds())
        return next_s

    def _turn(self, jobs: Sequence[Job], now: datetime, *, along: bool, rest_s: float = 0.0) -> Turn:
        jitter = random.uniform(0.85, 1.0)  # noqa: S311
        return turn(jobs, self.asked, now, self.rhythm, self.hearing, jitter=jitter, along=along, rest_s=rest_s)

    def rest_s(self, now: datetime) -> float:
        """Seconds until a status call is no closer to the last one than the floor."""
        elapsed = None if self.asked_at is None else (now - self.asked_at).total_seconds()
        # A clock that was set back is not waited for.
        return 0.0 if elapsed is None or elapsed < 0 else max(0.0, self.rhythm.least - elapsed)

    async def _jobs(self, now: datetime) -> list[Job]:
        """Those to ask about at some time. Records are read once per version: thousands wait for hours unchanged."""
        back = timedelta(seconds=UNBACKED_S)
        if self.answers_since is None or now - self.answers_since < back:
            back = timedelta(seconds=sought_s(self.patience))
        versions = await self.store.versions_to_poll(self.resource, now - back)
        known = {name: job for name, job in self.known.items() if versions.get(name) == job.version}
        changed = await self.store.jobs_named([name for name in versions if name not in known])
        known.update((job.name, job) for job in changed)
        self.known = known
        return [known[name] for name in versions if name in known]

    def _shows(self) -> bool:
        """Whether somebody here wants to see what jobs write."""
        return self.show_s > 0 and outputs().any(self.resource)

    def _show_in(self, now: datetime) -> float:
        """Seconds until what jobs write is looked at again."""
        if self.shown_at is None:
            return 0.0
        pause = min(self.show_s * 2.0 ** min(self.show_failures, 10), max(SLOWEST_SHOW_S, self.show_s))
        return 0.85 * pause - (now - self.shown_at).total_seconds()

    async def _show(self, connect: Connect, now: datetime) -> None:
        """Look at what jobs write when it is time for that alone; what goes wrong concerns nothing else."""
        if not self._shows() or self._show_in(now) > 0:
            return
        files = outputs().next(self.resource)
        self.shown_at, self.show_failures = now, self.show_failures + 1
        try:
            way = await connect(self.resource)
            self._shown(files, await look(way.host, way.scheduler, [], tail=_tail(files)))
        except AiravataError as error:
            log.info("%s: what its jobs write cannot be read: %s", self.resource, error)

    def _shown(self, files: Sequence[Followed], answer: Look) -> None:
        self.show_failures = 0
        outputs().take_in(self.resource, files, answer.tails)

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

    async def _ask(self, way: Way, jobs: Sequence[Job], now: datetime, files: Sequence[Followed]) -> bool:
        """Whether all of the answer could be read."""
        self.asked_at = now if jobs else self.asked_at
        self.relays = way.relay is not None
        collect = collect_command(way.relay, self.done, self.collected) if way.relay is not None else ""
        if files:
            self.shown_at, self.show_failures = now, self.show_failures + 1
        answer = await look(way.host, way.scheduler, jobs, collect, _tail(files))
        self.done.clear()
        if files:
            self._shown(files, answer)
        if collect:
            self.collected_at = now
            await self._take_in(answer.left)
            self.collected = answer.left[-1].file if answer.left else ""
        await self._tell(jobs, answer)
        self.asked.update((job.name, now) for job in jobs)
        if answer.unreadable:
            log.warning("%s: its history cannot be read: %s", self.resource, answer.unreadable)
        return not answer.unreadable

    def reserve(self) -> None:
        """A status call goes in a moment, or as good as one."""
        self.asked_at = datetime.now(UTC)

    async def ask_now(self, way: Way, jobs: Sequence[Job]) -> Look:
        """Ask about those jobs at once, whoever was asked about when, and about all whose turn it nearly is: theirs
        comes no later for that.
        """
        now = datetime.now(UTC)
        names = {job.name for job in jobs}
        soon = self._turn(await self._jobs(now), now, along=True).jobs
        jobs = [*jobs, *(job for job in soon if job.name not in names)]
        self.reserve()
        answer = await look(way.host, way.scheduler, jobs)
        await self._tell(jobs, answer)
        self.asked.update((job.name, now) for job in jobs)
        return answer

    async def _tell(self, jobs: Sequence[Job], answer: Look) -> None:
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


def _tail(files: Sequence[Followed]) -> str:
    return tail_command([(file.path, file.known) for file in files]) if files else ""
