"""What a person is told of how a job ended, or of why it does not go on: its outcome, the scheduler's words, advice.

The same for errors, logs, the command line and REST. Words are those of the record alone, which has no secrets.
Pure; no Airflow.
"""

from __future__ import annotations

from collections.abc import Mapping

from airavata_provider.models.job import Job, JobState, SubmissionState
from airavata_provider.models.outcome import ADVICE, STANDSTILLS, Outcome

_OF_STATES: Mapping[JobState | None, Outcome] = {
    JobState.COMPLETE: Outcome.COMPLETED,
    JobState.FAILED: Outcome.FAILED,
    JobState.CANCELED: Outcome.CANCELED,
    JobState.SUSPENDED: Outcome.SUSPENDED,
}


def outcome_told(job: Job) -> Outcome | None:
    """How a job ended, or why it does not go on, also where no source named it; None while it goes on."""
    if job.outcome is not None:
        return job.outcome
    if job.state is JobState.FAILED and job.signal:
        return Outcome.SIGNALED
    if job.state in _OF_STATES:
        return _OF_STATES[job.state]
    if job.submission is SubmissionState.REFUSED:
        return Outcome.REFUSED
    return Outcome.UNKNOWN if job.ended_at is not None else None


def stands_still(job: Job) -> Outcome | None:
    """Why a job that has not ended does not go on; None: it does, or nothing more is awaited of it."""
    if job.ended_at is not None:
        return None
    if job.outcome in STANDSTILLS:
        return job.outcome
    return Outcome.SUSPENDED if job.state is JobState.SUSPENDED else None


def advice_on(job: Job) -> str:
    """What its user can do about a job that ended without success or does not go on; "" where there is nothing.

    Who asked for its end needs none, unless nobody can tell whether it ended.
    """
    outcome = stands_still(job) if job.ended_at is None else outcome_told(job)
    if outcome is None or (outcome is not Outcome.UNKNOWN and _end_was_asked_for(job)):
        return ""
    return ADVICE.get(outcome, "")


def _end_was_asked_for(job: Job) -> bool:
    # Whoever asks for the end of an ended job is agreed with in the same moment, by the same clock.
    return job.cancel_requested_at is not None and job.canceled_at != job.cancel_requested_at


def told_of(job: Job) -> dict[str, str | None]:
    """A job's outcome and the advice on it, as a report's values."""
    outcome = outcome_told(job)
    return {"outcome": None if outcome is None else outcome.value, "advice": advice_on(job) or None}


def words_on(job: Job) -> str:
    """The scheduler's own words, on one line: a terminal or a log viewer shall not obey them."""
    return " ".join("".join(c if c.isprintable() else " " for c in job.reason).split())
