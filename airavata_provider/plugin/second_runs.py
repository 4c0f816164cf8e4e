"""Starts the second runs of experiments in two, when their jobs have ended; in the API server.

It is where Airflow lets a component both run for long and write to Airflow's database: a triggerer cannot make runs,
a worker's task cannot say which version of a DAG a run is of. One API server at a time does it, by a lease in the
job store. Two at the same moment do no harm (:mod:`airavata_provider.second_runs`), nor does a death between any two
lines: an experiment is done with when the store says so, after Airflow has the run.

Who brought the news of a job's end does not matter: this looks at what the store says of jobs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airavata_provider.errors import AiravataError
from airavata_provider.models.split import Handover
from airavata_provider.second_runs import Outcome, start_second_run

if TYPE_CHECKING:
    from airavata_provider.jobs.store import JobStore

_LOG = logging.getLogger(__name__)
LEASE = "second_runs"


@dataclass(frozen=True)
class Pace:
    """How often things are done, in seconds.

    :param look: between two looks for jobs that ended
    :param overlap: what is stamped earlier may be committed later by so much
    :param full: between two looks at everybody who waits, whatever the clocks say
    :param lease: how long a dead API server keeps the others off
    :param again: before the next try for one whose first run is not over, at first; doubled up to ``at_most``, as
        the pause between looks is while the store does not answer
    """

    look: float = 0.5
    overlap: float = 5.0
    full: float = 60.0
    lease: float = 10.0
    again: float = 0.5
    at_most: float = 60.0


@dataclass
class _Due:
    """An experiment whose jobs have ended."""

    known: Handover
    at: float
    tries: int = 0


class SecondRuns:
    """See the module.

    :param start: makes a second run; blocking
    """

    def __init__(self, store: JobStore, start: Callable[[Handover], Outcome], *, pace: Pace | None = None) -> None:
        self._store = store
        self._start = start
        self._pace = pace or Pace()
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._clock = asyncio.get_running_loop().time
        self._held = False
        self._lease_at = 0.0
        self._since: datetime | None = None
        self._full_at = 0.0
        self._due: dict[tuple[str, str, str], _Due] = {}

    async def run(self) -> None:
        """Work until cancelled, which is fine at any moment."""
        failures = 0
        try:
            while True:
                await asyncio.sleep(min(self._pace.look * 2.0 ** min(failures, 20), self._pace.at_most))
                try:
                    if await self._lease():
                        await self.round()
                    failures = 0
                    continue
                except AiravataError as error:
                    _LOG.warning("Cannot look for second runs: %s", error)
                except Exception:
                    _LOG.exception("Looking for second runs failed in a way that it should not")
                failures += 1
                self._held = False
        finally:
            if self._held:
                await self._give_back()

    async def _give_back(self) -> None:
        try:
            await self._store.lease(LEASE, self._holder, 0)
        except AiravataError as error:
            _LOG.info("The lease of second runs runs out by itself: %s", error)

    async def _lease(self) -> bool:
        """Whether it is for us to do; renewed in time."""
        if self._clock() >= self._lease_at:
            held = await self._store.lease(LEASE, self._holder, self._pace.lease)
            if held and not self._held:
                # Whatever was missed while another did it.
                self._full_at = 0.0
            self._held = held
            self._lease_at = self._clock() + self._pace.lease / 4 * random.uniform(0.8, 1.0)  # noqa: S311
        return self._held

    async def round(self) -> None:
        """Look once, and start what may start."""
        began = datetime.now(UTC)
        if self._since is None or self._clock() >= self._full_at:
            found = await self._store.handovers.due()
            self._due = {key: due for key, due in self._due.items() if key in {_key(each) for each in found}}
            self._full_at = self._clock() + self._pace.full
        else:
            found = await self._store.handovers.due(self._since - timedelta(seconds=self._pace.overlap))
        self._since = began
        for known in found:
            due = self._due.setdefault(_key(known), _Due(known, self._clock()))
            due.known = known
        for key, due in list(self._due.items()):
            if due.at <= self._clock() and await self._lease() and await self._settled(due):
                del self._due[key]

    async def _settled(self, due: _Due) -> bool:
        """Start an experiment's second run; False if that has to be tried again."""
        known = due.known
        try:
            outcome = await asyncio.to_thread(self._start, known)
        except Exception as error:
            # Airflow's errors are many; one experiment's keep no other from its second run.
            expected = isinstance(error, AiravataError)
            _LOG.warning(
                "%s/%s: no second run yet: %s", known.dag_id, known.experiment_id, error, exc_info=not expected
            )
            outcome = Outcome.NOT_YET
        if outcome is Outcome.STARTED:
            await self._store.handovers.started(known)
            _LOG.info("%s/%s: its second run is started", known.dag_id, known.experiment_id)
            return True
        if outcome is Outcome.GONE:
            await self._store.handovers.dropped(known)
            _LOG.info("%s/%s: no second run, as the first is no success", known.dag_id, known.experiment_id)
            return True
        due.at = self._clock() + min(self._pace.again * 2.0 ** min(due.tries, 20), self._pace.at_most)
        due.tries += 1
        return False


def _key(known: Handover) -> tuple[str, str, str]:
    return known.dag_id, known.experiment_id, known.born


def restore(bundle_name: str, version: str, dag_id: str) -> Any:
    """A pattern's DAG as a version of the bundle has it; None where it has none.

    :raises ConfigurationError: nobody keeps that version any more
    """
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    from dag_factories.bundle import dag_of

    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    bundle = manager.get_bundle(bundle_name, version=version)
    bundle.initialize()
    return dag_of(bundle.path, dag_id)


@asynccontextmanager
async def second_runs(store: JobStore) -> AsyncIterator[None]:
    """Start second runs meanwhile."""
    work = SecondRuns(store, lambda known: start_second_run(known, restore))
    running = asyncio.create_task(work.run(), name="airavata second runs")
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
