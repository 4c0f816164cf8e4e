"""Ends jobs on one resource: asks its scheduler until it agrees, quickly at first, then less often, and for ever.

What always holds: a cancel is asked for at once, and again after a pause that doubles each time, up to the poll's
interval. After each time the scheduler is asked what became of the job. As soon as the pause is no shorter than the
poll's floor, that question keeps to the floor, too. What is remembered is for its own use: whoever takes over begins
anew. Imports no Airflow.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from airavata_provider.jobs.poller import Connect, Poller, Way
from airavata_provider.models.job import Job, SubmissionState
from airavata_provider.monitors.poll import COMMAND_TIMEOUT_S, refs

log = logging.getLogger(__name__)


@dataclass
class Canceller:
    """One resource's cancels, one command at a time.

    :param poller: of the same resource
    :param first_s: the first pause
    :param unsubmitted_s: how long a job without an id is looked for
    :param uncertain_s: the same when its submission could not tell
    :param tries: how often an end was asked for, and when last; an array's elements have their array's
    :param gone: jobs that nobody knew at the last look
    """

    poller: Poller
    first_s: float
    unsubmitted_s: float
    uncertain_s: float
    tries: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def due(self, requests: Sequence[Job], now: datetime) -> list[Job]:
        """Those whose end the scheduler is to be asked for now.

        :param requests: all whose end was asked for here and that the scheduler has not agreed to
        """
        keys = _keys(requests)
        self.tries = {key: tried for key, tried in self.tries.items() if key in keys.values()}
        self.gone &= keys.keys()
        left = {key: self._left(key, now) for key in set(keys.values())}
        ready = [key for key, left_s in left.items() if left_s <= 0]
        if not ready or (self.poller.rest_s(now) > 0 and all(map(self._keeps_to_the_floor, ready))):
            return []
        return [job for job in requests if left[keys[job.name]] <= self.first_s]

    def _pause(self, key: str) -> float:
        """Seconds from the last try to the next; at most a little less than the poll's, which need not ask then."""
        times, _ = self.tries.get(key, (0, None))
        return min(self.first_s * 2.0 ** min(times - 1, 20), self._longest) if times else 0.0

    @property
    def _longest(self) -> float:
        return max(self.first_s, 0.85 * self.poller.rhythm.base)

    def _keeps_to_the_floor(self, key: str) -> bool:
        return self._pause(key) >= min(self.poller.rhythm.least, self._longest)

    def _left(self, key: str, now: datetime) -> float:
        if key not in self.tries:
            return 0.0
        elapsed = (now - self.tries[key][1]).total_seconds()
        # A clock that was set back is not waited for.
        return self._pause(key) - elapsed if elapsed >= 0 else 0.0

    async def cancel(self, connect: Connect, jobs: Sequence[Job]) -> None:
        """Ask for the jobs' end, and what became of them.

        :raises AiravataError: the cluster or the store does not answer; then it was no try
        """
        now = datetime.now(UTC)
        way = await connect(self.poller.resource)
        keys = _keys(jobs)
        there = [
            found
            for job in jobs
            # What has no id of its own is found, or not, with its array.
            if (job.native_id or keys[job.name] == job.name)
            and (found := job if job.native_id else await self._find(way, job)) is not None
        ]
        if there:
            await self._cancel(way, there)
        for key in set(keys.values()):
            times, _ = self.tries.get(key, (0, now))
            self.tries[key] = (times + 1, now)

    async def _find(self, way: Way, job: Job) -> Job | None:
        """A cancelled job without an id: it may have been submitted all the same."""
        now = datetime.now(UTC)
        command = way.scheduler.find_command(job.name, None, job.directory)
        result = await way.host.run(command, timeout=COMMAND_TIMEOUT_S)
        native_id = way.scheduler.parse_find(result, job.name)
        if native_id is not None:
            log.info("Job %s was cancelled before its id was known; it is %s", job.name, native_id)
            return await self.poller.store.submitted(job.name, native_id, now, way.scheduler.element_id)
        doubtful = job.submission is SubmissionState.UNCERTAIN
        grace = timedelta(seconds=self.uncertain_s if doubtful else self.unsubmitted_s)
        if job.cancel_requested_at is not None and now - job.cancel_requested_at > grace:
            await self.poller.store.canceled(job.name)
        return None

    async def _cancel(self, way: Way, jobs: Sequence[Job]) -> None:
        # An array's id ends all its elements.
        keys = _keys(jobs)
        asked = [job for job in jobs if keys[job.name] == job.name]
        jobs = [job for job in jobs if job.size is None]
        self.poller.reserve()
        result = await way.host.run(way.scheduler.cancel_command(refs(asked)), timeout=COMMAND_TIMEOUT_S)
        if result.exit_status != 0:
            words = " ".join((result.stderr or result.stdout).split())[:300]
            log.warning("Cancelling %d jobs ended with %d: %s", len(asked), result.exit_status, words)
        seen = await self.poller.ask_now(way, jobs)
        for job in jobs:
            # Once could be a controller that has not taken the job in yet.
            if job.native_id not in seen.missing:
                self.gone.discard(job.name)
            elif job.name in self.gone:
                self.gone.discard(job.name)
                await self.poller.store.canceled(job.name)
            else:
                self.gone.add(job.name)


def _keys(jobs: Sequence[Job]) -> dict[str, str]:
    """By job's name, what it is ended as: an element by its array's name where the array is among them."""
    arrays = {job.name for job in jobs if job.size is not None}
    return {job.name: job.array if job.array is not None and job.array in arrays else job.name for job in jobs}
