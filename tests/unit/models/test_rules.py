"""Rules: what they may say, whose turn it is, and that what they ask for grows and stays within bounds."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from airavata_provider.models.job import Job
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.rules import (
    ANSWERABLE,
    LEFT,
    MADE_BY,
    NotAgain,
    Rule,
    Sizes,
    failed_places,
    grown,
    moved,
    next_attempt,
    outcome_of,
)
from tests.unit.jobs.factory import make_job

NO_BOUNDS = Sizes()


def rule(outcome: Any, **values: Any) -> Rule:
    return Rule.model_validate({"outcome": outcome, **values})


MORE_MEMORY = rule("OUT_OF_MEMORY", memory="*2", at_most=2)
LONGER = rule("WALLTIME", walltime="*1.5")
ON_ANOTHER_NODE = rule(["NODE_FAILURE", "PREEMPTED"], at_most=3)
TRY_LATER = rule("FAILED", exit_codes=[75])


def ended(outcome: Outcome | None, attempt: int = 1, by: int | None = None, **values: Any) -> Job:
    request: dict[str, Any] = {"memory_mb": 1000}
    if by is not None:
        request[MADE_BY] = {"rule": by, "of": attempt - 1, "outcome": "OUT_OF_MEMORY"}
    defaults: dict[str, Any] = {"request": request, "walltime_s": 600}
    return make_job(f"a{attempt}", attempt=attempt, outcome=outcome, **{**defaults, **values})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"outcome": "OUT_OF_MEMRY"}, r"did you mean 'OUT_OF_MEMORY'"),
        ({"outcome": "CANCELED"}, "no outcome that a rule can answer"),
        ({"outcome": ["FAILED", "UNKNOWN"]}, "'UNKNOWN' is no outcome"),
        ({"outcome": []}, "at least 1"),
        ({"outcome": 3}, "3 is no outcome"),
        ({"outcome": "FAILED", "memory": 2}, "should be a factor"),
        ({"outcome": "FAILED", "memory": "2"}, "should be a factor"),
        ({"outcome": "FAILED", "memory": "*1"}, "should be a factor above 1"),
        ({"outcome": "FAILED", "walltime": "*101"}, "at most 100"),
        ({"outcome": "FAILED", "walltime": "*-2"}, "should be a factor"),
        ({"outcome": "FAILED", "at_most": 0}, "greater than or equal to 1"),
        ({"outcome": "FAILED", "at_most": 101}, "less than or equal to 100"),
        ({"outcome": "FAILED", "exit_codes": [0]}, "greater than or equal to 1"),
        ({"outcome": "WALLTIME", "exit_codes": [75]}, "only with outcome: FAILED"),
        ({"outcome": ["FAILED", "WALLTIME"], "exit_codes": [75]}, "only with outcome: FAILED"),
        ({"outcome": "FAILED", "answer": "there"}, "'again' or 'elsewhere'"),
        ({"memory": "*2"}, "Field required"),
        ({"outcome": "FAILED", "memroy": "*2"}, "Extra inputs"),
    ],
)
def test_what_no_rule_may_say(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Rule.model_validate(values)


def test_what_a_rule_may_say() -> None:
    assert rule("walltime", walltime=" * 1.50 ") == rule(["WALLTIME"], walltime="*1.50", at_most="1")
    assert {rule(each).outcome for each in ANSWERABLE} == {(each,) for each in ANSWERABLE}


def test_more_memory_twice_and_no_more() -> None:
    rules = [LONGER, MORE_MEMORY]
    first = next_attempt(rules, [ended(Outcome.OUT_OF_MEMORY)], NO_BOUNDS)
    assert first.sizes == Sizes(2000, 600)
    assert first.made_by == {"rule": 2, "of": 1, "outcome": "OUT_OF_MEMORY"}
    assert first.words == "rule 2 for OUT_OF_MEMORY (attempt 1 of 2 by it): again, with memory 1000 → 2000 MiB"
    attempts = [ended(Outcome.OUT_OF_MEMORY), ended(Outcome.OUT_OF_MEMORY, 2, by=2)]
    assert next_attempt(rules, attempts, NO_BOUNDS).words.startswith("rule 2 for OUT_OF_MEMORY (attempt 2 of 2")
    with pytest.raises(NotAgain, match="rule 2 for OUT_OF_MEMORY has made its 2 attempts"):
        next_attempt(rules, [*attempts, ended(Outcome.OUT_OF_MEMORY, 3, by=2)], NO_BOUNDS)


def test_each_rule_counts_its_own() -> None:
    attempts = [ended(Outcome.OUT_OF_MEMORY), ended(Outcome.WALLTIME, 2, by=2)]
    found = next_attempt([LONGER, MORE_MEMORY], attempts, NO_BOUNDS)
    assert found.sizes == Sizes(1000, 900)
    assert found.words.endswith("again, with walltime 00:10:00 → 00:15:00")


def test_a_second_rule_takes_over() -> None:
    rules = [rule("OUT_OF_MEMORY", memory="*2"), rule("OUT_OF_MEMORY", memory="*4")]
    attempts = [ended(Outcome.OUT_OF_MEMORY), ended(Outcome.OUT_OF_MEMORY, 2, by=1)]
    assert next_attempt(rules, attempts, NO_BOUNDS).made_by["rule"] == 2


def test_who_clears_the_submission_begins_anew() -> None:
    attempts = [
        ended(Outcome.OUT_OF_MEMORY),
        ended(Outcome.OUT_OF_MEMORY, 2, by=1),
        ended(Outcome.OUT_OF_MEMORY, 3, by=1),
        ended(Outcome.OUT_OF_MEMORY, 4),
    ]
    assert "attempt 1 of 2" in next_attempt([MORE_MEMORY], attempts, NO_BOUNDS).words


@pytest.mark.parametrize(
    ("job", "answered"),
    [
        (ended(Outcome.NODE_FAILURE), True),
        (ended(Outcome.PREEMPTED), True),
        (ended(Outcome.FAILED, exit_code=75), True),
        (ended(None, exit_code=75), True),
        (ended(Outcome.FAILED, exit_code=1), False),
        (ended(Outcome.FAILED), False),
        (ended(None), False),
        (ended(Outcome.SIGNALED, signal=11), False),
        (ended(Outcome.UNKNOWN), False),
    ],
)
def test_which_ends_are_answered(job: Job, answered: bool) -> None:
    rules = [ON_ANOTHER_NODE, TRY_LATER]
    if answered:
        assert next_attempt(rules, [job], NO_BOUNDS).sizes == Sizes(1000, 600)
    else:
        with pytest.raises(NotAgain, match=r"^$"):
            next_attempt(rules, [job], NO_BOUNDS)


def test_an_outcome_that_nobody_named() -> None:
    assert outcome_of(ended(None, signal=9)) is Outcome.SIGNALED
    assert outcome_of(ended(None, exit_code=3)) is Outcome.FAILED
    assert outcome_of(ended(None, exit_code=0)) is None


def test_what_cannot_grow_is_told() -> None:
    with pytest.raises(
        NotAgain, match=r"rule 1 cannot ask for more memory: the job had 1000 MiB, .* allows 1000 MiB"
    ):
        next_attempt([MORE_MEMORY], [ended(Outcome.OUT_OF_MEMORY)], Sizes(1000, None))
    with pytest.raises(NotAgain, match="more walltime: none was asked for"):
        next_attempt([LONGER], [ended(Outcome.WALLTIME, walltime_s=None)], NO_BOUNDS)
    # The last step to the bound is still made.
    assert next_attempt([MORE_MEMORY], [ended(Outcome.OUT_OF_MEMORY)], Sizes(1001, None)).sizes.memory_mb == 1001


def test_tenths_are_exact() -> None:
    assert grown(Sizes(10), rule("FAILED", memory="*1.1"), NO_BOUNDS).memory_mb == 11


@settings(max_examples=100)
@given(
    value=st.integers(1, 2**31 - 2),
    most=st.none() | st.integers(1, 2**31 - 1),
    factor=st.decimals("1.000001", 100, places=6).map(lambda number: f"{number:f}"),
)
def test_what_is_asked_for_grows_and_stays_within_bounds(value: int, most: int | None, factor: str) -> None:
    growing = rule("FAILED", memory=f"*{factor}")
    try:
        after = grown(Sizes(value), growing, Sizes(most)).memory_mb
    except NotAgain:
        assert most is not None and value >= most
        return
    assert after is not None
    assert value < after <= (most or 2**31 - 1)
    wanted = value * Fraction(factor)
    assert after == most or after == 2**31 - 1 or wanted <= after < wanted + 1


@settings(max_examples=50)
@given(value=st.integers(1, 10**7), most=st.integers(1, 10**8), at_most=st.integers(1, 12))
def test_a_chain_ends(value: int, most: int, at_most: int) -> None:
    rules = [rule("WALLTIME", walltime="*2", at_most=at_most)]
    attempts = [ended(Outcome.WALLTIME, walltime_s=value)]
    while True:
        try:
            found = next_attempt(rules, attempts, Sizes(None, most))
        except NotAgain:
            break
        attempts.append(ended(Outcome.WALLTIME, len(attempts) + 1, by=1, walltime_s=found.sizes.walltime_s))
    asked = [job.walltime_s or 0 for job in attempts]
    assert len(attempts) <= at_most + 1
    assert asked == sorted(set(asked))
    assert all(seconds <= most for seconds in asked[1:])


AWAY = rule(["NODE_FAILURE", "PREEMPTED"], answer="elsewhere", at_most=2)


def test_a_rule_that_goes_elsewhere_leaves_what_is_asked_for_to_the_place() -> None:
    found = next_attempt([AWAY], [ended(Outcome.PREEMPTED)], Sizes(1, 1))
    assert (found.elsewhere, found.rule, found.sizes) == (True, 1, Sizes(1000, 600))
    there = moved(found, ended(Outcome.PREEMPTED), "beta", Sizes(2000, 600))
    assert there.made_by == {"rule": 1, "of": 1, "outcome": "PREEMPTED", LEFT: "cluster"}
    assert there.words == (
        "rule 1 for PREEMPTED (attempt 1 of 2 by it): elsewhere, on beta instead of cluster,"
        " with memory 1000 → 2000 MiB"
    )


def test_a_rule_without_another_place_leaves_the_turn_to_the_next() -> None:
    attempts = [ended(Outcome.PREEMPTED)]
    found = next_attempt([AWAY, ON_ANOTHER_NODE], attempts, NO_BOUNDS, {1: "all are full"})
    assert (found.elsewhere, found.made_by["rule"]) == (False, 2)
    assert found.words.endswith("again; rule 1 for PREEMPTED finds no other place: all are full")
    with pytest.raises(NotAgain, match="rule 1 for PREEMPTED finds no other place: all are full"):
        next_attempt([AWAY], attempts, NO_BOUNDS, {1: "all are full"})


def test_where_it_failed_so_since_a_person_submitted() -> None:
    attempts = [
        ended(Outcome.NODE_FAILURE, 1, resource="before the clear"),
        ended(Outcome.NODE_FAILURE, 2, resource="alpha"),
        ended(Outcome.WALLTIME, 3, by=1, resource="beta"),
        ended(Outcome.PREEMPTED, 4, by=1, resource="gamma"),
        ended(Outcome.NODE_FAILURE, 5, by=1, resource="gamma"),
    ]
    assert failed_places(AWAY, attempts) == {
        "alpha": "attempt 2 ended there: NODE_FAILURE",
        "gamma": "attempt 5 ended there: NODE_FAILURE",
    }
