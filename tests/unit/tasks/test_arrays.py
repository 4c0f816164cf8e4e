from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.errors import AiravataError, JobCanceled, JobFailed
from airavata_provider.jobs.arrays import elements_of, split, to_retry
from airavata_provider.models.identity import TaskIdentity, job_name
from airavata_provider.models.job import Job, JobState, SubmissionState
from airavata_provider.models.outcome import ADVICE, Outcome
from airavata_provider.schedulers.request import Array, Element, JobRequest
from airavata_provider.tasks.arrays import (
    as_array,
    failure,
    intents,
    named,
    part,
    unsettled,
    wanted_again,
)
from airavata_provider.tasks.submit_parameters import SubmitElement, SubmitParameters
from tests.unit.jobs.factory import at, make_job

S = JobState
TASK = TaskIdentity("hpc_array", "e1", "submit")


def ended(*states: JobState, **values: object) -> list[Job]:
    rows = elements_of(make_job(offset=10), range(len(states)))
    return [replace(row, state=state, ended_at=at(1), **values) for row, state in zip(rows, states, strict=True)]  # type: ignore[arg-type]


@settings(max_examples=100)
@given(st.sets(st.integers(0, 5000), min_size=1, max_size=50), st.integers(1, 1001))
def test_every_place_is_in_one_array_below_its_limit(places: set[int], most: int) -> None:
    arrays = split(places, most)
    assert sorted(offset + index for offset, indices in arrays for index in indices) == sorted(places)
    assert all(0 <= index < most for _, indices in arrays for index in indices)
    assert len({offset for offset, _ in arrays}) == len(arrays)
    # One that is split again keeps its array: a retry's elements are where they were.
    assert all(
        split([offset + index], most) == [(offset, [index])] for offset, indices in arrays for index in indices
    )


def test_one_array_that_is_long_enough_has_places_as_indices() -> None:
    assert split([7, 1, 3], 8) == [(0, [1, 3, 7])]
    assert split([7, 1, 3], 4) == [(0, [1, 3]), (4, [3])]


def test_arrays_of_one_attempt_have_names_of_their_own() -> None:
    made = intents(make_job(attempt=2), TASK, range(5), 2)
    assert [(job.offset, job.attempt, indices) for job, indices in made] == [
        (0, 2, [0, 1]),
        (2, 2, [0, 1]),
        (4, 2, [0]),
    ]
    assert made[0][0].name == job_name(TASK, 2)
    assert len({job.name for job, _ in made}) == 3


def test_a_part_asks_for_its_own_elements_and_its_share() -> None:
    elements = tuple(Element(index, f"/d/{index}", (str(index),)) for index in range(6))
    request = JobRequest("all", "/d", "run", array=Array(elements, throttle=5))
    asked = part(request, "a1", 4, [0, 1], beside=2)
    assert asked.name == "a1"
    assert asked.array == Array(
        (Element(0, "/d/4", ("4",), place=4), Element(1, "/d/5", ("5",), place=5)), throttle=2
    )
    assert part(request, "a1", 0, [0], beside=9).array == Array((replace(elements[0], place=0),), throttle=1)
    with pytest.raises(JobFailed, match="no element 6"):
        part(request, "a1", 4, [2], beside=1)


def test_elements_work_in_directories_of_their_own() -> None:
    given = [SubmitElement(arguments=("a",)), SubmitElement(stdin="in", environment={"A": "b"})]
    assert as_array(given, "/d", 1) == Array(
        (Element(0, "/d/0", ("a",)), Element(1, "/d/1", (), {"A": "b"}, "in")), 1
    )
    assert as_array([], "/d", 1) is None


@pytest.mark.parametrize("field", [{"arguments": ("x",)}, {"stdin": "x"}])
def test_an_array_has_no_words_beside_its_elements(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="have their own"):
        SubmitParameters.model_validate({"executable": "run", "elements": [{}], **field})


def test_what_is_cleared_runs_again() -> None:
    some = ended(S.COMPLETE, S.FAILED, S.CANCELED)
    assert wanted_again(some, to_retry(some)) == [11, 12]
    running = [*ended(S.COMPLETE), replace(some[1], state=S.ACTIVE, ended_at=None)]
    assert wanted_again(running, to_retry(running)) == []
    good = ended(S.COMPLETE, S.COMPLETE)
    assert wanted_again(good, to_retry(good)) == [10, 11]


def test_what_is_still_to_be_submitted() -> None:
    lost = make_job("a", attempt=1, size=2)
    refused = make_job("b", attempt=1, size=2, submission=SubmissionState.REFUSED)
    there = make_job("c", attempt=1, size=2, native_id="17", submission=SubmissionState.SUBMITTED)
    assert unsettled([lost, refused, there]) == [lost, refused]
    again = make_job("d", attempt=2, size=2, submission=SubmissionState.REFUSED)
    assert unsettled([lost, refused, there, again]) == [lost, again]
    assert unsettled([]) == []


def test_places_for_people() -> None:
    assert named([3, 0, 4, 5, 17]) == "0, 3-5, 17"
    assert named(range(0, 100, 2)).endswith(", 36, 38, …")


def test_failures_are_told_by_index_and_end() -> None:
    bad = [
        *ended(S.COMPLETE),
        replace(ended(S.FAILED)[0], element=2, exit_code=3),
        replace(ended(S.FAILED)[0], element=4, outcome=Outcome.WALLTIME),
        replace(ended(S.FAILED)[0], element=3, exit_code=3),
    ]
    error = failure(bad, "array 17")
    assert isinstance(error, JobFailed)
    assert "3 of 4 elements did not complete: 12-13 with exit code 3; 14 (WALLTIME)" in str(error)
    assert failure(ended(S.COMPLETE, S.COMPLETE), "array 17") is None


def test_each_kind_of_failure_is_told_with_the_schedulers_words_and_advice() -> None:
    bad = [
        *ended(S.COMPLETE, S.COMPLETE),
        replace(ended(S.FAILED)[0], element=2, outcome=Outcome.WALLTIME, reason="TIMEOUT\nat 12:00"),
        replace(ended(S.FAILED)[0], element=3, outcome=Outcome.WALLTIME, reason="TIMEOUT at 13:00"),
        replace(ended(S.FAILED)[0], element=4, exit_code=3),
    ]
    error = failure(bad, "array 17")
    assert error is not None
    assert error.message.endswith("12-13 (WALLTIME): TIMEOUT at 12:00 …; 14 with exit code 3")
    assert error.advice is not None
    each = f"FAILED: {ADVICE[Outcome.FAILED]}; WALLTIME: {ADVICE[Outcome.WALLTIME]}; the next task"
    assert error.advice.startswith(each)


@pytest.mark.parametrize("outcome", sorted(ADVICE))
def test_elements_of_every_outcome_are_told_with_its_advice(outcome: Outcome) -> None:
    state = {Outcome.CANCELED: S.CANCELED, Outcome.UNKNOWN: S.UNKNOWN}.get(outcome, S.FAILED)
    bad = replace(ended(S.FAILED)[0], state=state, outcome=outcome)
    error = failure([bad, *ended(S.COMPLETE)], "array 17")
    assert error is not None
    assert f"{outcome}: {ADVICE[outcome]}" in (error.advice or "")


def test_cancelled_and_unknown_elements_are_no_failures() -> None:
    error = failure(ended(S.CANCELED, S.COMPLETE, cancel_requested_by="ada", cancel_requested_at=at(0)), "array 17")
    assert isinstance(error, JobCanceled)
    assert "cancelled by ada" in str(error)
    unknown = failure(ended(S.UNKNOWN, S.COMPLETE), "array 17")
    assert type(unknown) is AiravataError
