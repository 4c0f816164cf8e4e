"""How a waiting task answers the ends of an array's elements by a pattern's rules: with further attempts at those.

Killed at any line and run again, it goes on with the same attempts: their intents are saved all at once, each says
which rule made it, and an attempt that was not submitted is found by that.

Imports no Airflow, and neither asyncssh nor SQLAlchemy at its top.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from airavata_provider.errors import AiravataError
from airavata_provider.jobs.state import is_backed
from airavata_provider.models.element_rules import ElementAnswers, next_attempts
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.rules import Rule, failed, outcome_of
from airavata_provider.tasks import answers
from airavata_provider.tasks.answers import bounds, submit_again
from airavata_provider.tasks.arrays import named, unsubmitted
from airavata_provider.tasks.base import TaskContext
from airavata_provider.tasks.submission import Submit


class Elements:
    """The attempts that rules make at one task's elements, within one run of the task that waits for them.

    :param context: the waiting task's
    :param rules: the pattern's
    :param task: the submission
    """

    def __init__(self, context: TaskContext[Any], rules: Sequence[Rule], task: TaskIdentity) -> None:
        self._context = context
        self._rules = rules
        self._task = task
        self._store = context.services.store
        self._mine: set[str] = set()
        self._heard: set[str] = set()
        self.troubles: dict[str, AiravataError] = {}
        """Arrays that could not be submitted, by name: nobody waits for them here."""
        self.left: Mapping[str, Sequence[int]] = {}
        """Why no rule makes another attempt at some, and the places of those."""

    async def submit(self) -> None:
        """Submit the attempts that rules made, or find them; what cannot be submitted does not keep the others.

        :raises StoreError: the store does not answer; call it again
        """
        arrays = await self._store.attempts(self._task)
        for array in unsubmitted(arrays, await self._store.latest_elements(self._task)):
            if array.name in self.troubles:
                continue
            try:
                await submit_again(self._context, array, first=array.name in self._mine)
            except AiravataError as error:
                self._context.log.warning("Attempt %d cannot be submitted. %s", array.attempt, error)
                self.troubles[array.name] = error
            self._mine.discard(array.name)

    async def answer(self) -> bool:
        """Save the intents of the attempts that rules make, all or none; whether there is something to wait for.

        :raises StoreError: the store does not answer; call it again
        """
        submission = self._context.submission
        if not self._rules or submission is None:
            return False
        await self._hear()
        arrays, elements = await self._store.attempts(self._task), await self._store.latest_elements(self._task)
        if any(array.ended_at is None and array.name not in self.troubles for array in arrays):
            return True  # an end that was taken back, or somebody else's attempt
        found = next_attempts(self._rules, arrays, elements, lambda job: bounds(submission.resource, job))
        self._mine, made = await Submit().elements_again(submission, found, arrays)
        self.left = made.left
        self._tell(made)
        return bool(made.attempts)

    async def _hear(self) -> None:
        """Wait for the scheduler's own record of ends that are told by hearsay, for a while and once for each."""
        clock = asyncio.get_running_loop().time
        end = None
        while True:
            elements = await self._store.latest_elements(self._task)
            doubtful = [
                each for each in elements if failed(each) and not is_backed(each) and each.name not in self._heard
            ]
            if not doubtful:
                return
            if end is None:
                end = clock() + answers.RECORD_S
                places = named(each.place for each in doubtful if each.place is not None)
                self._context.log.info("Elements %s have failed; waiting for the scheduler's own words", places)
            # The poll tells of many at once.
            await self._store.wait(doubtful[0].name, timeout_s=max(0.0, end - clock()), until=is_backed)
            if clock() >= end:
                self._heard.update(each.name for each in doubtful)

    def _tell(self, found: ElementAnswers) -> None:
        for each in found.attempts:
            self._context.log.info(
                "Elements %s ended in attempt %d: %s. %s",
                named(each.places),
                each.of,
                outcome_of(each.elements[0]),
                each.following.words,
            )
