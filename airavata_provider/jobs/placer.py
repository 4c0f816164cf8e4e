"""Placement's hands: reads how things are where an experiment fits, lets the policy decide, puts that on record.

One placer per event loop and store. However many experiments begin at a time, the store is asked at most every
:data:`READ_AGAIN_S`; what was decided in between is counted on, so that a burst is spread. The clusters are asked
more seldom yet (:mod:`~.loads`), only where there is a choice, and not those that are drained or down.

What always holds: an experiment has one decision, the first that reached the store; who decides at the same moment,
here or elsewhere, gets that one.

Imports no Airflow.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

from airavata_provider.jobs.limits import Limits, Place
from airavata_provider.jobs.loads import Loads, Told
from airavata_provider.jobs.placing import (
    Candidate,
    PlaceLoad,
    Policy,
    Recent,
    candidates_of,
    decide,
    preferred,
    queue_state,
)
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.experiment import Fitting
from airavata_provider.models.placement import Placement

READ_AGAIN_S = 5.0


class Placer:
    """See the module.

    :param store: where jobs and decisions are
    :param limits: what the catalog allows now
    :param loads: how full clusters' queues are; None: they are not asked
    """

    def __init__(
        self,
        store: JobStore,
        limits: Callable[[], Limits],
        loads: Loads | None = None,
        *,
        read_again_s: float = READ_AGAIN_S,
    ) -> None:
        self._store = store
        self._limits = limits
        self._loads = loads
        self._read_again_s = read_again_s
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._of: set[str] = set()
        self._known: tuple[Limits, Sequence[PlaceLoad], Recent] = (Limits(), (), Recent())
        self._since: Counter[tuple[str, str | None]] = Counter()
        self._counted: dict[Place, tuple[float, int]] = {}

    async def place(self, dag_id: str, experiment_id: str, born: str, fitting: Fitting, policy: Policy) -> Placement:
        """Decide where that run's experiment goes, unless it is decided; what is on record.

        :raises ConfigurationError: the policy does not work
        """
        return await self._store.place(await self.choose(dag_id, experiment_id, born, fitting, policy))

    async def choose(self, dag_id: str, experiment_id: str, born: str, fitting: Fitting, policy: Policy) -> Placement:
        """The same, which nothing is put on record of: for who goes on from another decision.

        :raises ConfigurationError: the policy does not work
        """
        candidates = await self._looked_at(candidates_of(fitting.places))
        able = [each.place for each in candidates if each.state.shut is None]
        if self._loads is not None and len(able) > 1 and policy is not preferred:
            told = await self._loads.of(able)
            # That may have taken a while, and others were decided meanwhile.
            candidates = [
                self._with(each, found) if (found := told.get(each.place)) is not None else each
                for each in await self._looked_at(candidates)
            ]
        now = datetime.now(UTC)
        decision = decide(fitting.places[0].experiment, candidates, fitting.unfit, policy)
        chosen = decision.candidate
        self._since[chosen.resource, chosen.queue] += 1
        return Placement(
            dag_id, experiment_id, born, chosen.resource, chosen.queue, decided_at=now, reasons=decision.reasons
        )

    def _with(self, candidate: Candidate, told: Told) -> Candidate:
        """The candidate with what its cluster tells, which counts those of our jobs that were there when it told."""
        known = self._counted.get(candidate.place)
        if known is None or known[0] != told.at:
            known = self._counted[candidate.place] = told.at, candidate.state.jobs
        return replace(
            candidate,
            state=replace(candidate.state, load=told.load, untold=told.fault, askable=told.askable, counted=known[1]),
        )

    async def _looked_at(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with their states, as far as the store tells."""
        limits, loads, recent = await self._read({each.resource for each in candidates})
        recent, now = self._counted_on(recent), datetime.now(UTC)
        return [replace(each, state=queue_state(each, limits, loads, recent, now)) for each in candidates]

    def _counted_on(self, recent: Recent) -> Recent:
        return replace(recent, chosen=Counter(recent.chosen) + self._since)

    async def _read(self, resources: set[str]) -> tuple[Limits, Sequence[PlaceLoad], Recent]:
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if now - self._read_at > self._read_again_s or not resources <= self._of:
                known = resources | self._of
                limits = replace(self._limits(), said=await self._store.availabilities())
                loads = await self._store.place_loads(limits)
                recent = await self._store.recent(known)
                self._known, self._of, self._read_at = (limits, loads, recent), known, now
                self._since.clear()
            return self._known


_PLACERS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[JobStore, Placer]] = WeakKeyDictionary()


def get_placer(
    store: JobStore, limits: Callable[[], Limits], loads: Callable[[], Loads | None] = lambda: None
) -> Placer:
    """That store's placer, made at the first call; it ends with the store."""
    placers = _PLACERS.setdefault(asyncio.get_running_loop(), {})
    found = placers.get(store)
    if found is None:
        asked = loads()
        found = placers[store] = Placer(store, limits, asked)

        async def close() -> None:
            del placers[store]
            if asked is not None:
                await asked.close()

        store.closers.append(close)
    return found
