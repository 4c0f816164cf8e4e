from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.jobs.grants import (
    CLOCKS_S,
    GRANT_S,
    RENEW_S,
    adopted,
    begun,
    going,
    granted,
    left,
    let_go,
    unsent,
    waits,
)
from airavata_provider.jobs.submission import DEADLINE_S
from airavata_provider.models.job import Job, SubmissionState
from tests.unit.jobs.factory import NOON, at, make_job

moments = st.none() | st.sampled_from([-2 * GRANT_S, -GRANT_S, -GRANT_S + CLOCKS_S / 2, -RENEW_S, -1.0]).map(at)
jobs = st.builds(
    make_job,
    submission=st.sampled_from([SubmissionState.INTENDED, SubmissionState.UNCERTAIN, SubmissionState.REFUSED]),
    admitted_at=moments,
    submitting_at=moments,
    waiter=st.sampled_from(["", "here", "there"]),
    cancel_requested_at=st.none() | st.just(at(-1)),
    native_id=st.none() | st.just("7"),
)


def counts(job: Job) -> bool:
    """Whether a round counts an intent, see ``jobs.rounds``."""
    began = job.submitting_at is not None and job.submitting_at > NOON - timedelta(seconds=GRANT_S)
    return began or (unsent(job) and job.admitted_at is not None)


def test_a_submission_is_over_before_it_is_taken_for_lost() -> None:
    assert RENEW_S + DEADLINE_S + CLOCKS_S < GRANT_S


@given(jobs)
def test_what_goes_counts_and_what_waits_does_not(job: Job) -> None:
    if job.native_id or job.submission is not SubmissionState.INTENDED or job.cancel_requested_at is not None:
        assert going(job, NOON) and let_go(job, NOON) and not waits(job, NOON)
        assert begun(job, NOON) is job
        return
    if job.submitting_at is not None and job.admitted_at is None:
        return  # no such row
    assert not (waits(job, NOON) and let_go(job, NOON))
    assert not (waits(job, NOON) and counts(job))
    if let_go(job, NOON):
        assert counts(job)
        assert going(begun(job, NOON), NOON)
    else:
        assert begun(job, NOON) is job
        assert going(begun(job, NOON, free=True), NOON)


@given(jobs, st.sampled_from(["here", "there"]))
def test_nothing_makes_a_job_unsent_that_may_be_there(job: Job, holder: str) -> None:
    if unsent(job):
        return
    for after in (adopted(job, holder, NOON), left(job, holder), granted(job, NOON), begun(job, NOON)):
        assert not unsent(after)


def test_what_nobody_went_on_with_is_let_go_again_and_goes_on() -> None:
    lost = make_job(admitted_at=at(-GRANT_S), submitting_at=at(-GRANT_S))
    assert not let_go(lost, NOON) and not waits(lost, NOON)
    waiting = adopted(lost, "here", NOON)
    assert waits(waiting, NOON)
    again = granted(waiting, NOON)
    assert going(again, NOON) and not unsent(again)


def test_what_was_let_go_and_left_is_taken_back() -> None:
    job = granted(adopted(make_job(), "here", NOON), NOON)
    assert let_go(job, NOON) and not going(job, NOON)
    assert left(job, "there") is job
    assert not let_go(left(job, "here"), NOON)
    assert left(begun(job, NOON), "here") == begun(job, NOON)
    assert adopted(begun(job, NOON), "here", NOON) == replace(job, submitting_at=NOON, waiter="")
