"""The end of a job that somebody asked for and that no scheduler has, any more or yet. Imports no Airflow."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from airavata_provider.jobs.grants import unsent
from airavata_provider.jobs.unit import Unit
from airavata_provider.models.identity import array_name
from airavata_provider.models.job import EventSource, Job, JobEvent, JobState, SubmissionState
from airavata_provider.models.outcome import Outcome


def canceled_news(name: str) -> JobEvent:
    """News that no scheduler has a job, any more or yet, whose end was asked for."""
    at = datetime.now(UTC)
    return JobEvent(name, EventSource.CANCEL, "canceled", JobState.CANCELED, at, outcome=Outcome.CANCELED)


def ask_for_end(unit: Unit, name: str, by: str) -> Job:
    """Note that someone wants the end of a job, or of an array and so of every element; who asked first stays. What
    certainly was never sent has it by this.
    """
    # An element was sent when its array was.
    never_sent = unsent(unit.find(array_name(name)) or unit.job(name))
    for job in [unit.job(name), *unit.elements(name)]:
        over = job.submission is SubmissionState.REFUSED or (job.state is not None and job.state.terminal)
        # An element that ended has nothing to do with the array's end.
        if job.cancel_requested_at is not None or (over and job.array == name):
            continue
        if never_sent and job.size is None:  # an array's row follows its elements
            job, over = unit.append(job, canceled_news(job.name))[1], True  # noqa: PLW2901
        unit.save(
            replace(
                job,
                cancel_requested_at=unit.now,
                cancel_requested_by=by[:250],
                canceled_at=unit.now if over else job.canceled_at,
            )
        )
    return unit.job(name)


def call_off(unit: Unit, name: str) -> Job:
    """The end of a job, or an array, that was asked for while it was being sent; now it certainly is not there."""
    for job in [unit.job(name), *unit.elements(name)]:
        if job.size is None and job.canceled_at is None and job.ended_at is None:
            unit.save(replace(unit.append(job, canceled_news(job.name))[1], canceled_at=unit.now))
    return unit.job(name)
