from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.jobs.arrays import GIVEN_UP, derived, elements_of, follow, standing, summary, to_retry
from airavata_provider.jobs.state import decide
from airavata_provider.models.job import Job, JobState, SubmissionState
from airavata_provider.models.outcome import Outcome
from tests.unit.jobs.factory import at, make_event, make_job

S = JobState


def tally_of(elements: list[Job]) -> dict[str, int]:
    return dict(Counter(map(standing, elements)))


@st.composite
def elements(draw: st.DrawFn) -> Job:
    """An element as news, in whatever order, can leave it."""
    job = make_job("a1.0", array="a1", element=0)
    if draw(st.booleans()):
        job = replace(job, submission=SubmissionState.SUBMITTED, state=S.SUBMITTED, native_id="17_0")
    elif draw(st.booleans()):
        return replace(job, submission=SubmissionState.REFUSED, ended_at=at(0), outcome=Outcome.REFUSED)
    for number in range(draw(st.integers(0, 3))):
        event = make_event(
            draw(st.sampled_from(S)),
            draw(st.integers(0, 9)),
            job=job.name,
            event_id=str(number),
            outcome=draw(st.none() | st.sampled_from(Outcome)),
            given_up=draw(st.booleans()),
        )
        job = decide(job, event).job
    return job


@settings(max_examples=100)
@given(st.lists(elements(), min_size=1, max_size=6))
def test_the_arrays_state_is_what_its_elements_say(found: list[Job]) -> None:
    array = derived(tally_of(found))
    states = {job.state for job in found}
    assert array.over == all(job.ended_at is not None for job in found)
    if not array.over:
        assert array.outcome is None
        assert array.state in {job.state for job in found if job.ended_at is None}
        return
    assert (array.state is S.COMPLETE) == (states == {S.COMPLETE})
    assert (array.state is None) == (states == {None})
    if S.FAILED in states:
        assert array.state is S.FAILED
    elif states == {S.CANCELED}:
        assert array.state is S.CANCELED
    assert array.outcome is not None


@settings(max_examples=100)
@given(st.lists(st.lists(elements(), min_size=3, max_size=3), min_size=2, max_size=5))
def test_a_row_that_follows_step_by_step_is_where_its_elements_are(steps: list[list[Job]]) -> None:
    """Whatever the way there: only the moments remember it."""
    array = replace(make_job(), size=3, tally={})
    for number, step in enumerate(steps):
        array = follow(array, tally_of(step), at(number))
    direct = derived(tally_of(steps[-1]))
    assert (array.state, array.outcome) == (direct.state, direct.outcome)
    assert (array.ended_at is not None) == direct.over
    assert array.tally == tally_of(steps[-1])
    assert all(left <= right for left, right in pairwise(sorted(array.tally)))


def test_an_empty_tally_says_nothing() -> None:
    assert derived({}) == derived({"COMPLETE": 0})
    assert not derived({}).over


def test_unsuccessful_elements_that_agree_name_the_outcome() -> None:
    assert derived({"COMPLETE": 9, "FAILED/WALLTIME": 1}).outcome is Outcome.WALLTIME
    assert derived({"FAILED/OUT_OF_MEMORY": 9, "FAILED/WALLTIME": 1}).outcome is Outcome.FAILED
    assert derived({"FAILED": 9, "CANCELED": 1}).outcome is Outcome.FAILED
    assert derived({GIVEN_UP: 1, "COMPLETE": 1}).outcome is Outcome.UNKNOWN


def test_elements_that_do_not_go_on_are_counted_as_such_and_the_array_waits() -> None:
    queued = make_job("a1.0", array="a1", element=0, state=S.QUEUED)
    rows = [replace(queued, outcome=outcome) for outcome in (None, Outcome.HELD, Outcome.NEVER_STARTS, Outcome.HELD)]
    rows.append(replace(queued, state=S.SUSPENDED, outcome=Outcome.SUSPENDED))
    tally = tally_of(rows)
    assert tally == {"QUEUED": 1, "QUEUED/HELD": 2, "QUEUED/NEVER_STARTS": 1, "SUSPENDED": 1}
    assert (derived(tally).state, derived(tally).over, derived(tally).outcome) == (S.QUEUED, False, None)


def test_an_array_whose_end_was_asked_for_has_it_when_all_elements_have() -> None:
    array = replace(make_job(), size=2, cancel_requested_at=at(0))
    assert follow(array, {"CANCELED": 1, "ACTIVE": 1}, at(1)).canceled_at is None
    assert follow(array, {"CANCELED": 2}, at(2)).canceled_at == at(2)


def test_words_for_people() -> None:
    assert summary({"FAILED": 3, "COMPLETE": 997, "ACTIVE": 0}) == "of 1000: 997 COMPLETE, 3 FAILED"


def test_what_has_to_be_done_again() -> None:
    ends = [S.COMPLETE, S.FAILED, S.ACTIVE, S.CANCELED]
    rows = elements_of(make_job(), range(4))
    told = [decide(row, make_event(state, 1, job=row.name)).job for row, state in zip(rows, ends, strict=True)]
    assert to_retry(told) == (1, 3)
