"""What a pattern answers to elements of an array that did not complete: for each what it would answer to a job.

Elements that need the same are one attempt together, those that need something else another one. So all elements of
an attempt that a rule made have the attempts before it in common, and how often a rule has answered an element is
counted along those: by the records of the arrays alone.

Pure; no Airflow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from airavata_provider.models.job import Job
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.rules import Next, NotAgain, Rule, Sizes, failed, made_by, next_attempt, outcome_of

STAYS = "an array stays where its elements' files are"
"""Why no rule takes elements elsewhere: the outputs of those that completed are there."""


@dataclass(frozen=True)
class Again:
    """An attempt that a rule makes of some elements.

    :param following: what it asks for, and by which rule
    :param elements: as their last attempt left them, by place
    """

    following: Next
    elements: tuple[Job, ...]

    @property
    def of(self) -> int:
        """The number of the attempt that it follows."""
        return int(self.following.made_by["of"])

    @property
    def places(self) -> tuple[int, ...]:
        """Of its elements."""
        return tuple(each.place for each in self.elements if each.place is not None)


@dataclass(frozen=True)
class ElementAnswers:
    """What rules answer when all elements have ended.

    :param attempts: those to make, in the order of their numbers
    :param left: why the rules for their ends have no further attempt for some, and the places of those
    :param unless_ending: names of arrays and elements: who asks for the end of one wants none of the attempts
    """

    attempts: tuple[Again, ...] = ()
    left: Mapping[str, Sequence[int]] = field(default_factory=dict)
    unless_ending: frozenset[str] = frozenset()


def next_attempts(
    rules: Sequence[Rule], arrays: Sequence[Job], elements: Sequence[Job], most: Callable[[Job], Sizes]
) -> ElementAnswers:
    """What to do about the elements that have ended and did not complete.

    :param arrays: of one submission task, of all its attempts
    :param elements: of these, each as its last attempt left it
    :param most: what an element may ask for where it was
    """
    begun = max((array.attempt for array in arrays if made_by(array) is None), default=0)
    since = [array for array in arrays if array.attempt >= begun]
    if any(array.cancel_requested_at is not None for array in since):
        return ElementAnswers()
    ending = {array.name for array in arrays if array.cancel_requested_at is not None}
    alike: defaultdict[tuple[int, Outcome | None, int | None], list[Job]] = defaultdict(list)
    for element in elements:
        if failed(element) and element.array not in ending:
            alike[element.attempt, outcome_of(element), element.exit_code].append(element)
    by_number = {array.attempt: array for array in arrays}
    nowhere = {number: STAYS for number, rule in enumerate(rules, 1) if rule.answer == "elsewhere"}
    attempts: dict[tuple[int, int, str], tuple[Next, list[Job]]] = {}
    left: defaultdict[str, list[int]] = defaultdict(list)
    for group in alike.values():
        history = _attempts_of(group[0], by_number)
        try:
            following = next_attempt(rules, history, most(history[-1]), nowhere)
        except NotAgain as why:
            if str(why):
                left[str(why)].extend(each.place for each in group if each.place is not None)
            continue
        made = following.made_by
        attempts.setdefault((made["of"], made["rule"], made["outcome"]), (following, []))[1].extend(group)
    found = tuple(
        Again(following, tuple(sorted(some, key=lambda each: each.place or 0)))
        for _, (following, some) in sorted(attempts.items(), key=lambda item: item[0])
    )
    again = [element for each in found for element in each.elements]
    watched = {*(array.name for array in since), *(each.name for each in again), *(str(each.array) for each in again)}
    return ElementAnswers(found, {why: sorted(places) for why, places in left.items()}, frozenset(watched))


def _attempts_of(element: Job, by_number: Mapping[int, Job]) -> list[Job]:
    """An element's last attempt, and before it the attempts that rules made it follow, from the one on that no rule
    made."""
    array = by_number.get(element.attempt)
    found = [replace(element, request=array.request if array is not None else None)]
    while (made := made_by(found[0])) is not None and (before := by_number.get(made["of"])) is not None:
        found.insert(0, before)
    return found
