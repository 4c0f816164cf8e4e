"""Tells in a waiting task's log that its job does not go on, why and what to do, and that it does again.

What always holds: each change is told once, however often somebody looks. Imports no Airflow.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from airavata_provider.models.advice import advice_on, stands_still, words_on
from airavata_provider.models.job import TERMINAL, Job
from airavata_provider.models.outcome import STANDSTILLS, Outcome
from airavata_provider.tasks.arrays import named, said_of

if TYPE_CHECKING:
    from airavata_provider.jobs.store import JobStore

Reasons: TypeAlias = "frozenset[tuple[Outcome, str]]"


def reasons(job: Job) -> Reasons:
    """Why a job does not go on: an outcome and the scheduler's words; none while it does.

    Of an array, the outcomes of those of its elements that do not, without words. Pure.
    """
    if job.tally is not None:
        parts = (word.partition("/") for word, count in job.tally.items() if count > 0)
        living = {outcome or state for state, _, outcome in parts if state not in TERMINAL}
        return frozenset((outcome, "") for outcome in STANDSTILLS if outcome in living)
    outcome = stands_still(job)
    return frozenset() if outcome is None else frozenset({(outcome, words_on(job))})


def over(job: Job) -> bool:
    """Whether nothing more is awaited of it."""
    return job.ended_at is not None


class Standstill:
    """Waits for one job, and tells."""

    def __init__(self, store: JobStore, log: logging.Logger) -> None:
        self._store = store
        self._log = log
        self._told: Reasons = frozenset()

    async def wait(self, name: str, until: Callable[[Job], bool] = over) -> Job:
        """The job, as soon as that is true of it.

        :raises StoreError: the store does not answer; call it again
        """
        while True:
            job = await self._store.wait(name, until=lambda each: until(each) or reasons(each) != self._told)
            if not over(job):
                await self._tell(job)
            if until(job):
                return job

    async def _tell(self, job: Job) -> None:
        now = reasons(job)
        if now == self._told:
            return
        name = job.native_id or job.name
        if job.tally is not None:
            await self._tell_of_elements(job, now)
        elif not now:
            self._log.info("Job %s goes on: it is %s", name, job.state)
        else:
            for outcome, words in now:
                self._log.warning("Job %s does not go on: %s", name, _why(outcome, words, job))
        self._told = now

    async def _tell_of_elements(self, array: Job, now: Reasons) -> None:
        found: defaultdict[Outcome, list[Job]] = defaultdict(list)
        for element in await self._store.elements(array.name):
            if (outcome := stands_still(element)) is not None:
                found[outcome].append(element)
        name = array.native_id or array.name
        for outcome, _ in sorted(now - self._told):
            if elements := found[outcome]:
                places = named(each.place for each in elements if each.place is not None)
                why = _why(outcome, said_of(elements), elements[0])
                which = (
                    f"Elements {places} of array {name} do"
                    if elements[1:]
                    else f"Element {places} of array {name} does"
                )
                self._log.warning("%s not go on: %s", which, why)
        for outcome, _ in sorted(self._told - now):
            self._log.info("No element of array %s is %s any more", name, outcome)


def _why(outcome: Outcome, words: str, job: Job) -> str:
    advice = advice_on(job)
    return f"{outcome}{f' ({words})' if words else ''}{f'; {advice}' if advice else ''}"
