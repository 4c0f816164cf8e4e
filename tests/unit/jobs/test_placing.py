"""Where experiments go: what holds for every policy, and what the one that is there unless another is named does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.errors import ConfigurationError, Fault
from airavata_provider.jobs.limits import Hold, Limits
from airavata_provider.jobs.placing import (
    Candidate,
    PlaceLoad,
    QueueState,
    Recent,
    decide,
    preferred,
    queue_state,
    soonest,
)
from airavata_provider.jobs.policies import placement_policy
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.experiment import Experiment
from tests.unit.jobs.factory import NOON, at

ASKED = Experiment(application="solver")
SHUT = Hold("shut")

numbers = st.integers(0, 3000)
seconds = st.none() | st.floats(0, 10**6)
shut = st.none() | st.builds(Hold, st.just("shut"), st.none() | st.integers(0, 5).map(at))
ends = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda pair: {"failed": min(pair), "ended": max(pair)})
states = st.builds(
    lambda end, **rest: QueueState(**end, **rest),
    ends,
    jobs=numbers,
    waiting=numbers,
    limit=st.none() | st.integers(0, 500),
    wait_s=seconds,
    oldest_s=seconds,
    shut=shut,
)


def candidates(*states: QueueState) -> list[Candidate]:
    return [Candidate(n, f"r{n}", None, (f"r{n}", ""), state) for n, state in enumerate(states)]


def first(*states: QueueState) -> str:
    return decide(ASKED, candidates(*states), {}, soonest).candidate.resource


@given(st.lists(states, min_size=1, max_size=6), st.sampled_from([soonest, preferred]))
@settings(max_examples=100)
def test_one_that_fits_is_taken_and_every_place_is_told_of(found: list[QueueState], policy: object) -> None:
    some = candidates(*found)
    decision = decide(ASKED, some, {"other": [Fault("cpus", "too many")]}, policy)  # type: ignore[arg-type]
    assert decision.candidate in some
    assert decision.reasons[0].startswith(f"{decision.candidate}: chosen")
    assert sorted(reason.split(":")[0] for reason in decision.reasons) == sorted(["other", *map(str, some)])
    assert decide(ASKED, some[::-1], {}, policy).candidate == decision.candidate  # type: ignore[arg-type]
    opened = [each for each in some if each.state.shut is None]
    if opened:
        assert decision.candidate in opened
    else:
        untils = [each.state.shut.until for each in some if each.state.shut is not None]
        known = [until for until in untils if until is not None]
        assert decision.candidate.state.shut is not None
        assert decision.candidate.state.shut.until == (min(known) if known else None)


@given(st.lists(states.map(lambda each: replace(each, shut=None)), min_size=2, max_size=5), st.data())
@settings(max_examples=100)
def test_what_gets_worse_is_never_preferred_for_it(found: list[QueueState], data: st.DataObject) -> None:
    at_worst = data.draw(st.integers(0, len(found) - 1))
    before = found[at_worst]
    worse = data.draw(
        st.sampled_from(
            [
                replace(before, jobs=before.jobs + 100),
                replace(before, waiting=before.waiting + 100),
                replace(before, wait_s=(before.wait_s or 0) * 2 + 100),
                replace(before, oldest_s=(before.oldest_s or 0) * 2 + 100),
                replace(before, failed=before.failed + 1, ended=before.ended + 1),
                replace(before, limit=(1000 if before.limit is None else before.limit) // 2),
            ]
        )
    )
    if first(*found) != f"r{at_worst}":
        changed = [worse if n == at_worst else each for n, each in enumerate(found)]
        assert first(*changed) != f"r{at_worst}"


def test_the_signs_count_in_their_order() -> None:
    calm = QueueState()
    assert first(calm, calm) == "r0"
    assert first(QueueState(jobs=5, wait_s=20), calm) == "r0"  # small differences do not count
    assert first(QueueState(jobs=30), calm) == "r1"
    assert first(QueueState(wait_s=600), QueueState(jobs=30)) == "r1"
    assert first(QueueState(oldest_s=600), QueueState(wait_s=60)) == "r1"
    assert first(QueueState(jobs=50, limit=50), QueueState(wait_s=3600)) == "r1"
    assert first(QueueState(jobs=50, limit=50, waiting=60), QueueState(jobs=50, limit=50)) == "r1"
    assert first(QueueState(ended=4, failed=3), QueueState(jobs=50, limit=50, wait_s=9000)) == "r1"
    assert first(QueueState(ended=9, failed=3), calm) == "r0"  # most were well
    assert first(QueueState(jobs=1, limit=0), calm) == "r1"


def test_reasons_read_well() -> None:
    full = QueueState(jobs=50, limit=50, waiting=7, wait_s=600, oldest_s=7300, ended=9, failed=3)
    drained = QueueState(shut=Hold("r2 is draining (new file system)", NOON))
    decision = decide(
        ASKED, candidates(full, QueueState(), drained), {"gamma": (Fault("cpus", "9 is more than 8"),)}, soonest
    )
    assert decision.reasons == (
        "r1: chosen; 0 jobs there, 0 wait with us",
        "r0: after it; 50 of at most 50 jobs there, 7 wait with us, jobs waited 10 min of late, "
        "one has been waiting for 2 h, 3 of 9 jobs failed there of late",
        "r2: r2 is draining (new file system), until 2031-05-06T12:00+00:00",
        "gamma: 9 is more than 8",
    )


def test_a_queues_state_is_what_is_known_of_it() -> None:
    one = Candidate(0, "cluster", "fast", ("cluster", "q"))
    said = [
        Availability("cluster", AvailabilityState.FULL, at(-10), "q", at(1000), jobs=7),
        Availability("cluster", AvailabilityState.DOWN, at(-10), "other"),
    ]
    loads = [PlaceLoad("cluster", "q", 3, 2), PlaceLoad("cluster", "other", 4, 9), PlaceLoad("else", "q", 99, 99)]
    recent = Recent(
        waits={("cluster", "q"): [10.0, 30.0, 500.0]},
        oldest={("cluster", "q"): at(-60)},
        ended={("cluster", "q"): (4, 1)},
        chosen={("cluster", "fast"): 5, ("cluster", "q"): 50},
    )
    limits = Limits({("cluster", "q"): 20}, {"cluster": 10}, said=said)
    assert queue_state(one, limits, loads, recent, NOON) == QueueState(3, 7, 6, 30.0, 60.0, 4, 1)
    assert queue_state(one, replace(limits, resources={}), loads, recent, NOON).limit == 7
    assert queue_state(one, Limits({("cluster", "q"): 20}), [], Recent(), NOON) == QueueState(limit=20)
    down = replace(said[1], queue="", ends_at=NOON + timedelta(hours=1))
    state = queue_state(one, replace(limits, said=[down]), loads, recent, NOON)
    assert state.shut == Hold("cluster is down", NOON + timedelta(hours=1))


def test_a_policy_that_does_not_work_is_not_passed_over() -> None:
    def broken(experiment: Experiment, some: Sequence[Candidate]) -> Sequence[Candidate]:
        raise KeyError("x")

    with pytest.raises(ConfigurationError, match=r"policy fails: KeyError: 'x'"):
        decide(ASKED, candidates(QueueState()), {}, broken)
    for nonsense in ([], [Candidate(0, "else", None, ("else", ""))]):

        def takes(
            experiment: Experiment, some: Sequence[Candidate], found: list[Candidate] = nonsense
        ) -> Sequence[Candidate]:
            return found

        with pytest.raises(ConfigurationError, match="none of the places"):
            decide(ASKED, candidates(QueueState()), {}, takes)


def test_a_policy_may_leave_places_out() -> None:
    decision = decide(ASKED, candidates(QueueState(), QueueState()), {}, lambda _, some: some[1:])
    assert decision.candidate.resource == "r1"
    assert decision.reasons[1].startswith("r0: left out by the policy; ")


def test_policies_are_found_by_their_names() -> None:
    assert placement_policy("soonest") is soonest
    assert placement_policy("preferred") is preferred
    with pytest.raises(ConfigurationError, match="preferred, soonest"):
        placement_policy("nonsense")
