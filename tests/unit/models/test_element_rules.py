"""Rules and arrays: each element is answered as a job would be, and what needs the same goes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.jobs.arrays import elements_of
from airavata_provider.models.element_rules import STAYS, ElementAnswers, next_attempts
from airavata_provider.models.job import Job, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.rules import MADE_BY, NotAgain, Rule, Sizes, made_by, next_attempt, sizes_of
from tests.unit.jobs.factory import at, make_job

S = JobState
MOST = Sizes(6000, 3600)


def rule(outcome: Any, **values: Any) -> Rule:
    return Rule.model_validate({"outcome": outcome, **values})


MORE_MEMORY = rule("OUT_OF_MEMORY", memory="*2", at_most=2)
LONGER = rule("WALLTIME", walltime="*2")
TRY_LATER = rule("FAILED", exit_codes=[75, 76])
AWAY = rule("NODE_FAILURE", answer="elsewhere")


class Cluster:
    """A task's arrays and their elements, as their records are."""

    def __init__(self, size: int) -> None:
        self.arrays: list[Job] = []
        self.elements: dict[int, Job] = {}
        self.histories: dict[int, list[Job]] = {place: [] for place in range(size)}
        self.make(range(size), Sizes(1000, 600), None)

    def make(self, places: Sequence[int], sizes: Sizes, by: dict[str, Any] | None) -> None:
        number = len(self.arrays) + 1
        request: dict[str, Any] = {"memory_mb": sizes.memory_mb, **({MADE_BY: by} if by else {})}
        array = make_job(f"a{number}", attempt=number, size=len(places), request=request, walltime_s=sizes.walltime_s)
        self.arrays.append(array)
        self.elements.update({int(each.element or 0): each for each in elements_of(array, places)})

    def end(self, place: int, outcome: Outcome, **values: Any) -> None:
        state = {Outcome.COMPLETED: S.COMPLETE, Outcome.CANCELED: S.CANCELED, Outcome.UNKNOWN: S.UNKNOWN}
        told = {"state": state.get(outcome, S.FAILED), "outcome": outcome, "ended_at": at(1), **values}
        ended = replace(self.elements[place], **told)
        self.elements[place] = ended
        self.histories[place].append(replace(ended, request=self.arrays[ended.attempt - 1].request))

    def answers(self, *rules: Rule) -> ElementAnswers:
        elements = [self.elements[place] for place in sorted(self.elements)]
        return next_attempts(rules, self.arrays, elements, lambda job: MOST)

    def again(self, *rules: Rule) -> ElementAnswers:
        """What rules answer, done."""
        found = self.answers(*rules)
        for each in found.attempts:
            self.make(each.places, each.following.sizes, dict(each.following.made_by))
        return found


def ended(*ends: Outcome | int) -> Cluster:
    cluster = Cluster(len(ends))
    for place, end in enumerate(ends):
        if isinstance(end, Outcome):
            cluster.end(place, end)
        else:
            cluster.end(place, Outcome.FAILED, exit_code=end)
    return cluster


def told(found: ElementAnswers) -> list[tuple[int, tuple[int, ...], Sizes]]:
    return [(each.following.rule, each.places, each.following.sizes) for each in found.attempts]


def test_what_needs_the_same_is_one_attempt() -> None:
    cluster = ended(
        Outcome.OUT_OF_MEMORY, Outcome.COMPLETED, Outcome.WALLTIME, Outcome.OUT_OF_MEMORY, Outcome.SIGNALED
    )
    found = cluster.again(LONGER, MORE_MEMORY)
    assert told(found) == [(1, (2,), Sizes(1000, 1200)), (2, (0, 3), Sizes(2000, 600))]
    assert [each.of for each in found.attempts] == [1, 1]
    assert found.left == {}
    # Each goes on from what it had.
    for place in (0, 2):
        cluster.end(place, Outcome.OUT_OF_MEMORY)
    cluster.end(3, Outcome.COMPLETED)
    found = cluster.again(LONGER, MORE_MEMORY)
    assert told(found) == [(2, (2,), Sizes(2000, 1200)), (2, (0,), Sizes(4000, 600))]
    assert [each.of for each in found.attempts] == [2, 3]


def test_statuses_of_one_rule_go_together() -> None:
    assert told(ended(75, 1, 76, 75).answers(TRY_LATER)) == [(1, (0, 2, 3), Sizes(1000, 600))]


def test_how_often_is_counted_for_each_element() -> None:
    cluster = ended(*[Outcome.OUT_OF_MEMORY] * 2, Outcome.WALLTIME)
    cluster.again(LONGER, MORE_MEMORY)
    # The third needs memory for the first time when the others have needed it twice.
    for place in range(3):
        cluster.end(place, Outcome.OUT_OF_MEMORY)
    cluster.again(LONGER, MORE_MEMORY)
    for place in range(3):
        cluster.end(place, Outcome.OUT_OF_MEMORY)
    found = cluster.again(LONGER, MORE_MEMORY)
    assert [places for _, places, _ in told(found)] == [(2,)]
    assert found.left == {"rule 2 for OUT_OF_MEMORY has made its 2 attempts": [0, 1]}


def test_what_a_queue_does_not_allow_is_told() -> None:
    cluster = ended(Outcome.OUT_OF_MEMORY, Outcome.COMPLETED)
    more = rule("OUT_OF_MEMORY", memory="*6", at_most=9)
    cluster.again(more)
    cluster.end(0, Outcome.OUT_OF_MEMORY)
    (why,) = cluster.answers(more).left
    assert why == "rule 1 cannot ask for more memory: the job had 6000 MiB, and its queue allows 6000 MiB"


def test_elements_stay_where_they_are() -> None:
    cluster = ended(Outcome.NODE_FAILURE, Outcome.COMPLETED)
    assert cluster.answers(AWAY) == replace(
        cluster.answers(), left={f"rule 1 for NODE_FAILURE finds no other place: {STAYS}": [0]}
    )
    found = cluster.answers(AWAY, rule(["NODE_FAILURE", "PREEMPTED"]))
    assert told(found) == [(2, (0,), Sizes(1000, 600))]
    assert not found.attempts[0].following.elsewhere


@pytest.mark.parametrize("outcome", [Outcome.CANCELED, Outcome.UNKNOWN, Outcome.COMPLETED])
def test_which_ends_are_not_answered(outcome: Outcome) -> None:
    assert ended(outcome).answers(MORE_MEMORY, LONGER, TRY_LATER).attempts == ()


def test_an_element_whose_end_somebody_asked_for_stays_ended() -> None:
    cluster = ended(Outcome.OUT_OF_MEMORY, Outcome.OUT_OF_MEMORY)
    cluster.elements[0] = replace(cluster.elements[0], cancel_requested_at=at(0))
    found = cluster.answers(MORE_MEMORY)
    assert [places for _, places, _ in told(found)] == [(1,)]
    assert found.unless_ending == {"a1", "a1.1"}


def test_who_asks_for_an_arrays_end_wants_none_of_its_elements_again() -> None:
    cluster = ended(Outcome.OUT_OF_MEMORY, Outcome.WALLTIME)
    cluster.again(MORE_MEMORY, LONGER)
    for place, outcome in enumerate([Outcome.WALLTIME, Outcome.CANCELED]):
        cluster.end(place, outcome)
    cluster.arrays[2] = replace(cluster.arrays[2], cancel_requested_at=at(0))
    assert cluster.answers(MORE_MEMORY, LONGER) == ElementAnswers()
    # Who then clears the submission begins anew.
    cluster.make([0, 1], Sizes(1000, 600), None)
    for place in range(2):
        cluster.end(place, Outcome.WALLTIME)
    assert told(cluster.answers(MORE_MEMORY, LONGER)) == [(2, (0, 1), Sizes(1000, 1200))]


RULES = [MORE_MEMORY, LONGER, TRY_LATER, rule(["SIGNALED", "WALLTIME"], memory="*1.5", at_most=3), AWAY]
ENDS = st.sampled_from(
    [
        (Outcome.OUT_OF_MEMORY, None),
        (Outcome.WALLTIME, None),
        (Outcome.FAILED, 75),
        (Outcome.FAILED, 76),
        (Outcome.FAILED, 1),
        (Outcome.SIGNALED, None),
        (Outcome.NODE_FAILURE, None),
        (Outcome.COMPLETED, 0),
    ]
)


@settings(max_examples=100, deadline=None)
@given(
    rules=st.lists(st.sampled_from(RULES), min_size=1, max_size=4),
    ends=st.lists(st.lists(ENDS, min_size=1, max_size=12), min_size=1, max_size=6),
)
def test_an_element_is_answered_as_a_job_would_be(
    rules: list[Rule], ends: list[list[tuple[Outcome, int | None]]]
) -> None:
    """Whatever the others do: the same attempts, as often and asking for the same, until it completes or there is
    none."""
    cluster = Cluster(len(ends))
    running = list(range(len(ends)))
    for _ in range(30):
        for place in running:
            # An element whose list is over goes on failing as it did last.
            number = min(len(cluster.histories[place]), len(ends[place]) - 1)
            outcome, code = ends[place][number]
            cluster.end(place, outcome, exit_code=code)
        found = cluster.again(*rules)
        running = sorted(place for each in found.attempts for place in each.places)
        assert len(set(running)) == len(running)
        if not running:
            break
    assert not running
    nowhere = {number: STAYS for number, each in enumerate(rules, 1) if each.answer == "elsewhere"}
    for history in cluster.histories.values():
        for length in range(1, len(history) + 1):
            try:
                single = next_attempt(rules, history[:length], MOST, nowhere)
            except NotAgain:
                single = None
            if history[length - 1].outcome is Outcome.COMPLETED:
                single = None
            if length == len(history):
                assert single is None
            else:
                assert single is not None
                assert (sizes_of(history[length]), made_by(history[length])) == (single.sizes, single.made_by)
