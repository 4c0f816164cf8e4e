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
from airavata_provider.schedulers.load import QueueLoad
from tests.unit.jobs.factory import NOON, at

ASKED = Experiment(application="solver")
SHUT = Hold("shut")

numbers = st.integers(0, 3000)
seconds = st.none() | st.floats(0, 10**6)
shut = st.none() | st.builds(Hold, st.just("shut"), st.none() | st.integers(0, 5).map(at))
ends = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda pair: {"failed": min(pair), "ended": max(pair)})
cpus = st.tuples(numbers, st.floats(0, 1)).map(lambda pair: (pair[0], int(pair[0] * pair[1])))
loads = st.builds(
    lambda waiting, running, size: QueueLoad(waiting, running, *size),
    st.none() | numbers,
    st.none() | numbers,
    st.just((None, None)) | cpus,
)
states = st.builds(
    lambda end, load, **rest: QueueState(**end, **load, **rest),
    ends,
    st.just({})
    | loads.map(lambda load: {"load": load})
    | st.sampled_from([{"untold": "it hangs"}, {"askable": False}]),
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


def fuller(before: QueueState) -> list[QueueState]:
    """The same with more jobs of others, or closed."""
    if (load := before.load) is None:
        return []
    full = load if load.cpus is None or not load.running else replace(load, busy=load.cpus)
    more = load if load.waiting is None else replace(load, waiting=load.waiting + 100)
    return [replace(before, load=each) for each in (more, full, replace(load, closed=True))]


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
                # Where no job of ours tells how long it waits, that is guessed.
                replace(before, wait_s=max(before.wait_s or 0, before.guessed_s) * 2 + 100),
                replace(before, oldest_s=(before.oldest_s or 0) * 2 + 100),
                replace(before, failed=before.failed + 1, ended=before.ended + 1),
                replace(before, limit=(1000 if before.limit is None else before.limit) // 2),
                *fuller(before),
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


def test_everybody_s_jobs_count_where_ours_do_not_tell() -> None:
    full, idle = QueueLoad(120, 40, 512, 512), QueueLoad(0, 40, 512, 100)
    assert first(QueueState(load=full), QueueState(load=idle)) == "r1"
    assert first(QueueState(load=full, wait_s=60), QueueState(load=idle, wait_s=900)) == "r0"
    assert first(QueueState(load=full, wait_s=70), QueueState(load=idle, wait_s=80)) == "r1"  # the same magnitude
    assert first(QueueState(load=full), QueueState(load=idle, wait_s=1200)) == "r1"
    assert first(QueueState(load=idle, wait_s=1200), QueueState(load=idle)) == "r1"
    assert first(QueueState(load=idle, jobs=50, limit=50), QueueState(load=full)) == "r1"
    assert first(QueueState(load=full), QueueState(load=idle, jobs=300)) == "r1"


def test_a_queue_is_as_full_as_it_is_slow_to_empty() -> None:
    assert first(QueueState(load=QueueLoad(120, 40)), QueueState(load=QueueLoad(120, 4000))) == "r1"
    assert first(QueueState(load=QueueLoad(120, None, None, 40)), QueueState(load=QueueLoad(120, busy=4000))) == "r1"
    assert first(QueueState(load=QueueLoad(3, 4000)), QueueState(load=QueueLoad(0, 4000))) == "r0"  # next to nothing
    # Nobody waits: there is room, or there is none.
    room = QueueState(load=QueueLoad(0, 4, 64, 4))
    assert first(QueueState(load=QueueLoad(0, 4, 64, 64)), room) == "r1"
    assert first(QueueState(load=QueueLoad(0, 0, 0, 0)), room) == "r1"
    # What we are about to send takes room, too.
    assert first(QueueState(waiting=8, load=QueueLoad(0, 0, 4, 0)), room) == "r1"
    assert first(QueueState(waiting=3, load=QueueLoad(0, 0, 4, 0)), room) == "r0"


def test_what_is_not_told_is_not_none() -> None:
    good = QueueState(load=QueueLoad(3, 40, 64, 64))
    assert first(QueueState(load=QueueLoad(cpus=5000, busy=5000)), good) == "r1"
    assert first(QueueState(load=QueueLoad(running=40)), good) == "r1"
    assert first(QueueState(load=QueueLoad(cpus=5000, busy=40)), good) == "r0"  # there is room, whoever waits


@pytest.mark.parametrize("load", [QueueLoad(0, 0, 0, 0), QueueLoad(0, 9, closed=True)])
def test_where_nothing_starts_comes_after_queues_that_work(load: QueueLoad) -> None:
    assert first(QueueState(load=load), QueueState(load=QueueLoad(120, 10, 64, 64))) == "r1"
    assert first(QueueState(load=load), QueueState(load=QueueLoad(3000, 1, 64, 64))) == "r0"
    assert first(QueueState(wait_s=5, load=load), QueueState(wait_s=900)) == "r1"  # it did start them, an hour ago


def test_our_own_burst_counts_where_nobody_tells_how_large_a_queue_is() -> None:
    room = QueueState(load=QueueLoad(2, 4, 64, 64))
    assert first(QueueState(load=QueueLoad(0, 4)), room) == "r0"
    assert first(QueueState(waiting=300, load=QueueLoad(0, 4)), room) == "r1"


def test_jobs_that_were_sent_since_the_cluster_told_still_count() -> None:
    told = QueueLoad(0, 40, 64, 40)
    full = QueueState(load=QueueLoad(60, 40, 64, 64))
    # 300 were sent there, and have gone from us into its queue, which its figures do not tell yet.
    assert first(QueueState(waiting=300, counted=5, jobs=5, load=told), full) == "r1"
    assert first(QueueState(jobs=305, counted=5, load=told), full) == "r1"
    assert first(QueueState(jobs=305, counted=305, load=told), full) == "r0"
    assert QueueState(jobs=2, counted=5, load=told).guessed_s == 0


def test_a_large_cluster_that_is_idle_takes_a_large_burst() -> None:
    working = QueueState(load=QueueLoad(60, 40, 64, 64))
    for load in (QueueLoad(0, 0, 5000, 0), QueueLoad(0, 1, 5000, 1)):
        assert first(QueueState(waiting=5100, load=load), working) == "r0"


def test_a_place_that_nobody_can_ask_is_neither_the_best_nor_the_worst() -> None:
    mute = QueueState(askable=False)
    assert first(mute, QueueState(load=QueueLoad(0, 4, 64, 4))) == "r1"
    assert first(mute, QueueState(load=QueueLoad(120, 40))) == "r0"
    assert first(replace(mute, wait_s=5), QueueState(load=QueueLoad(40, 40))) == "r0"  # ours tell
    assert first(replace(mute, wait_s=9000), QueueState(load=QueueLoad(40, 40))) == "r1"
    # It does not take a whole burst, however soon those that are there started.
    assert first(replace(mute, jobs=300), QueueState(load=QueueLoad(120, 40))) == "r1"
    assert first(replace(mute, jobs=300, wait_s=5), QueueState(load=QueueLoad(120, 40))) == "r1"
    assert first(replace(mute, waiting=300, wait_s=5), QueueState(load=QueueLoad(120, 40))) == "r1"


def test_a_cluster_that_does_not_tell_comes_after_those_that_do() -> None:
    silent = QueueState(untold="no answer in 15 s")
    assert first(silent, QueueState(load=QueueLoad(120, 40))) == "r1"
    assert first(silent, QueueState(load=QueueLoad(3000, 1))) == "r0"  # but not after every one
    assert first(silent, QueueState()) == "r1"  # nobody could ask it
    assert first(replace(silent, wait_s=60), QueueState(load=QueueLoad(120, 40))) == "r0"


def test_reasons_read_well() -> None:
    load = QueueLoad(120, 35, 512, 480)
    full = QueueState(jobs=50, limit=50, waiting=7, wait_s=600, oldest_s=7300, ended=9, failed=3, load=load)
    drained = QueueState(shut=Hold("r2 is draining (new file system)", NOON))
    decision = decide(
        ASKED,
        candidates(full, QueueState(untold="it hangs"), drained),
        {"gamma": (Fault("cpus", "9 is more than 8"),)},
        soonest,
    )
    assert decision.reasons == (
        "r1: chosen; 0 jobs there, 0 wait with us, everybody's jobs are not known (it hangs)",
        "r0: after it; 50 of at most 50 jobs there, 7 wait with us, jobs waited 10 min of late, "
        "one has been waiting for 2 h, 3 of 9 jobs failed there of late, 120 jobs of everybody wait, 35 run, "
        "480 of 512 CPUs are busy",
        "r2: r2 is draining (new file system), until 2031-05-06T12:00+00:00",
        "gamma: 9 is more than 8",
    )


def test_an_answer_that_is_not_new_says_so() -> None:
    state = QueueState(load=QueueLoad(3, 4), untold="told 3 min ago; since then: no answer in 15 s")
    assert str(state).endswith("3 jobs of everybody wait, 4 run (told 3 min ago; since then: no answer in 15 s)")
    assert state.guessed_s == replace(state, untold="").guessed_s


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
