"""What people are told of a job's end, or of why it does not go on."""

from __future__ import annotations

from typing import Any

import pytest

from airavata_provider.models.advice import advice_on, outcome_told, stands_still, words_on
from airavata_provider.models.job import JobState, SubmissionState
from airavata_provider.models.outcome import ADVICE, Outcome
from tests.unit.jobs.factory import at, make_job

S = JobState


def test_every_outcome_but_success_has_advice() -> None:
    assert set(ADVICE) == set(Outcome) - {Outcome.COMPLETED}


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({"state": S.FAILED, "outcome": Outcome.WALLTIME, "signal": 15}, Outcome.WALLTIME),
        ({"state": S.FAILED, "signal": 11}, Outcome.SIGNALED),
        ({"state": S.FAILED, "exit_code": 3}, Outcome.FAILED),
        ({"state": S.CANCELED, "signal": 15}, Outcome.CANCELED),
        ({"state": S.COMPLETE}, Outcome.COMPLETED),
        ({"state": S.UNKNOWN, "ended_at": at(0)}, Outcome.UNKNOWN),
        ({"state": S.UNKNOWN}, None),
        ({"submission": SubmissionState.REFUSED, "ended_at": at(0)}, Outcome.REFUSED),
        ({"state": S.SUSPENDED}, Outcome.SUSPENDED),
        ({"state": S.QUEUED}, None),
        ({}, None),
    ],
)
def test_an_outcome_that_no_source_named_follows(values: dict[str, Any], outcome: Outcome | None) -> None:
    assert outcome_told(make_job(**values)) is outcome


@pytest.mark.parametrize(
    ("values", "still", "advised"),
    [
        ({"state": S.QUEUED, "outcome": Outcome.HELD}, Outcome.HELD, Outcome.HELD),
        ({"state": S.QUEUED, "outcome": Outcome.NEVER_STARTS}, Outcome.NEVER_STARTS, Outcome.NEVER_STARTS),
        ({"state": S.SUSPENDED}, Outcome.SUSPENDED, Outcome.SUSPENDED),
        ({"state": S.SUSPENDED, "outcome": Outcome.PREEMPTED}, Outcome.SUSPENDED, Outcome.SUSPENDED),
        ({"state": S.CANCELED, "outcome": Outcome.NEVER_STARTS, "ended_at": at(0)}, None, Outcome.NEVER_STARTS),
        ({"state": S.NON_CRITICAL_FAIL, "outcome": Outcome.NODE_FAILURE}, None, None),
        ({"state": S.ACTIVE}, None, None),
        ({"state": S.COMPLETE, "ended_at": at(0)}, None, None),
    ],
)
def test_only_what_has_not_ended_stands_still(
    values: dict[str, Any], still: Outcome | None, advised: Outcome | None
) -> None:
    job = make_job(**values)
    assert stands_still(job) is still
    assert advice_on(job) == ("" if advised is None else ADVICE[advised])


def test_advice_is_not_for_who_asked_for_the_end() -> None:
    end: dict[str, Any] = {"state": S.FAILED, "outcome": Outcome.SIGNALED, "ended_at": at(9)}
    asked: dict[str, Any] = {"cancel_requested_at": at(5), "cancel_requested_by": "ada"}
    assert advice_on(make_job(**end, **asked, canceled_at=at(9))) == ""
    # It had ended by itself.
    late = {**asked, "cancel_requested_at": at(20), "canceled_at": at(20)}
    assert advice_on(make_job(**end, **late)) == ADVICE[Outcome.SIGNALED]
    # Nobody can tell whether it ended at all.
    assert advice_on(make_job(**asked, state=S.UNKNOWN, ended_at=at(9))) == ADVICE[Outcome.UNKNOWN]


def test_words_stay_on_their_line() -> None:
    assert words_on(make_job(reason=" Job held\r\n\x1b[2J::group::by  admin\t")) == "Job held [2J::group::by admin"
    assert words_on(make_job()) == ""
