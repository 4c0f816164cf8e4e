"""Placement's hands: reads how things are where an experiment fits, lets the policy decide, puts that on record.

One placer per event loop and store. However many experiments begin at a time, the store is asked at most every
:data:`READ_AGAIN_S`; what was decided in between is counted on, so that a burst is spread.

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

from airavata_provider.jobs.admission import Limits
from airavata_provider.jobs.placing import PlaceLoad, Policy, Recent, candidates_of, decide, queue_state
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.experiment import Fitting
from airavata_provider.models.placement import Placement

READ_AGAIN_S = 5.0


class Placer:
    """See the module.

    :param store: where jobs and decisions are
    :param limits: what the catalog allows now
    """

    def __init__(self, store: JobStore, limits: Callable[[], Limits], *, read_again_s: float = READ_AGAIN_S) -> None:
        self._store = store
        self._limits = limits
        self._read_again_s = read_again_s
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._of: set[str] = set()
        self._known: tuple[Limits, Sequence[PlaceLoad], Recent] = (Limits(), (), Recent())
        self._since: Counter[tuple[str, str | None]] = Counter()

    async def place(self, dag_id: str, experiment_id: str, born: str, fitting: Fitting, policy: Policy) -> Placement:
        """Decide where that run's experiment goes, unless it is decided; what is on record.

        :raises ConfigurationError: the policy does not work
        """
        return await self._store.place(await self.choose(dag_id, experiment_id, born, fitting, policy))

    async def choose(self, dag_id: str, experiment_id: str, born: str, fitting: Fitting, policy: Policy) -> Placement:
        """The same, which nothing is put on record of: for who goes on from another decision.

        :raises ConfigurationError: the policy does not work
        """
        candidates = candidates_of(fitting.places)
        limits, loads, recent = await self._read({each.resource for each in candidates})
        now = datetime.now(UTC)
        candidates = [
            replace(each, state=queue_state(each, limits, loads, self._counted_on(recent), now))
            for each in candidates
        ]
        decision = decide(fitting.places[0].experiment, candidates, fitting.unfit, policy)
        chosen = decision.candidate
        self._since[chosen.resource, chosen.queue] += 1
        return Placement(
            dag_id, experiment_id, born, chosen.resource, chosen.queue, decided_at=now, reasons=decision.reasons
        )

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


def get_placer(store: JobStore, limits: Callable[[], Limits]) -> Placer:
    """That store's placer, made at the first call; it ends with the store."""
    placers = _PLACERS.setdefault(asyncio.get_running_loop(), {})
    found = placers.get(store)
    if found is None:
        found = placers[store] = Placer(store, limits)

        async def close() -> None:
            del placers[store]

        store.closers.append(close)
    return found
