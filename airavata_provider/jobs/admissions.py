"""The part of the job store that admission needs: rounds, going back to waiting, what is where.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime

from airavata_provider.jobs.cancels import call_off, canceled_news
from airavata_provider.jobs.engine import WRITES, persist, translated
from airavata_provider.jobs.grants import begun
from airavata_provider.jobs.limits import Limits
from airavata_provider.jobs.placing import PlaceLoad, Recent
from airavata_provider.jobs.recent import read_recent
from airavata_provider.jobs.records import Records
from airavata_provider.jobs.rounds import Call, Round, held_by, lease_of, place_loads, positions, run_round, sums
from airavata_provider.jobs.unit import Unit, Work
from airavata_provider.models.job import Job, SubmissionState


class Admissions(Records):
    """See the module; :class:`~airavata_provider.jobs.store.JobStore` is the whole."""

    async def admit(self, call: Call) -> Round:
        """One round of admission, see ``jobs.rounds``; committed when it returns."""

        async def work() -> Round:
            with translated("admitting jobs"):
                async with self._engine.execution_options(**{WRITES: True}).begin() as connection:
                    return await run_round(connection, call)

        return await self._unbroken.run(work())

    async def readmit(self, name: str, admitted_at: datetime | None, waiter: str, reason: str) -> Job:
        """A job that certainly is not with its scheduler waits for admission, again; a job of which that is not
        certain stays as it is. One whose end was asked for has it by this.

        :param admitted_at: when it was let go all the same, and its submission began
        :param waiter: the admitter where a task waits for it, "" for nobody
        :raises JobUnknown: no such job
        """

        def do(unit: Unit) -> Job:
            job = unit.job(name)
            over = job.state is not None and job.state.terminal
            unsure = job.native_id is not None or job.submission is SubmissionState.UNCERTAIN
            if over or unsure:
                return job
            if job.cancel_requested_at is not None:
                return job if job.ended_at is not None else call_off(unit, name)
            for element in unit.elements(name):
                unit.save(_back(element, reason))
            job = _back(unit.job(name), reason)
            job = replace(job, admitted_at=admitted_at, submitting_at=admitted_at, waiter=waiter)
            unit.write_journal(job, reason)
            return unit.save(job)

        events = (canceled_news(name),)
        return await self._writer.write(Work("putting a job back", do, jobs=(name,), arrays=(name,), events=events))

    async def begin(self, name: str, *, free: bool = False) -> Job:
        """A job's submission begins, or goes on; one that was taken back, or that is to end, stays as it is.

        :param free: nothing can keep it back: it need not have been let go
        :raises JobUnknown: no such job
        """

        def do(unit: Unit) -> Job:
            job = unit.job(name)
            after = begun(job, unit.now, free=free)
            return job if after is job else unit.save(after)

        return await self._writer.write(Work("beginning a submission", do, jobs=(name,)))

    async def leave_admission(self, holder: str) -> None:
        """Nobody waits by that admitter any more, which others need not wait to find out."""
        # A round of its own that is under way may renew it.
        await self._unbroken.close()
        await self.lease(lease_of(holder), holder, 0)

    async def held_by(self, holder: str) -> list[str]:
        """Names of the jobs that wait by that admitter, or were let go there and did not begin."""
        return [row["name"] for row in await self._read("looking at who waits here", held_by(holder))]

    async def positions(self, holder: str) -> dict[str, int]:
        """Of the jobs that wait by that admitter: which number each one is among those that wait for its place."""
        rows = await self._read("looking at who waits", positions(holder, datetime.now(UTC)))
        return {row["name"]: row["number"] for row in rows}

    async def place_loads(self, limits: Limits) -> list[PlaceLoad]:
        """What runs and waits in each place where anything does.

        :param limits: how arrays count
        """
        rows = await self._read("looking at what is where", sums(datetime.now(UTC)))
        return place_loads(rows, limits)

    async def recent(self, resources: Collection[str]) -> Recent:
        """What is known of those resources' queues of late."""

        async def look() -> Recent:
            async with self._engine.connect() as connection:
                return await read_recent(connection, resources, datetime.now(UTC))

        async def work() -> Recent:
            with translated("looking at how queues are"):
                return await persist(look, self._patience_s)

        return await self._unbroken.run(work())


def _back(job: Job, reason: str) -> Job:
    return replace(job, submission=SubmissionState.INTENDED, ended_at=None, outcome=None, reason=reason)
