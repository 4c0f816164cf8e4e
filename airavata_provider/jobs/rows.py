"""Between the tables' rows and ``models.job``'s dataclasses; columns and fields share their names. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import RowMapping

from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.job import Effect, Job, JobEvent, JobState, SubmissionState, TaskRecord
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.placement import Placement

_JOB_FIELDS = tuple(field.name for field in fields(Job))
_TASK_FIELDS = tuple(field.name for field in fields(TaskRecord))
_EVENT_FIELDS = tuple(field.name for field in fields(JobEvent))
_PLACEMENT_FIELDS = tuple(field.name for field in fields(Placement))
_AVAILABILITY_FIELDS = tuple(field.name for field in fields(Availability))
_NO_ELEMENT = -1

_Word = TypeVar("_Word", JobState, Outcome)


@dataclass(frozen=True)
class StoredEvent:
    """An event as it lies in the store.

    :param received_at: when it was stored, by our clock
    :param effect: what it did to the job
    """

    event: JobEvent
    received_at: datetime
    effect: Effect


def storable(text: str) -> str:
    """Text that every database takes: no NUL, no half of a surrogate pair. Remote words can hold both."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def job_values(job: Job) -> dict[str, Any]:
    """The row of a job."""
    values = {name: getattr(job, name) for name in _JOB_FIELDS}
    return values | {
        "reason": storable(job.reason),
        "state": _value(job.state),
        "submission": job.submission.value,
        "outcome": _value(job.outcome),
        "element": _NO_ELEMENT if job.element is None else job.element,
        "tally": None if job.tally is None else dict(job.tally),
        "request": None if job.request is None else dict(job.request),
    }


def job_from(row: RowMapping) -> Job:
    """The job in a row."""
    values = {name: row[name] for name in _JOB_FIELDS}
    values |= {
        "state": _word(JobState, row["state"]),
        "submission": SubmissionState(row["submission"]),
        "outcome": _word(Outcome, row["outcome"]),
        "element": None if row["element"] == _NO_ELEMENT else row["element"],
    }
    return Job(**values)


def event_values(event: JobEvent, *, received_at: datetime, effect: Effect) -> dict[str, Any]:
    """The row of an event."""
    values = {name: getattr(event, name) for name in _EVENT_FIELDS}
    return values | {
        "source": str(event.source),
        "reason": storable(event.reason),
        "state": event.state.value,
        "outcome": _value(event.outcome),
        "received_at": received_at,
        "effect": effect.value,
    }


def stored_event(row: RowMapping) -> StoredEvent:
    """The event in a row."""
    values = {name: row[name] for name in _EVENT_FIELDS}
    event = JobEvent(**{**values, "state": JobState(row["state"]), "outcome": _word(Outcome, row["outcome"])})
    return StoredEvent(event, row["received_at"], Effect(row["effect"]))


def task_values(record: TaskRecord) -> dict[str, Any]:
    """The row of a task's checkpoint."""
    values = {name: getattr(record, name) for name in _TASK_FIELDS}
    return values | {"state": record.state.value, "result": dict(record.result), "error": storable(record.error)}


def placement_values(placement: Placement) -> dict[str, Any]:
    """The row of a placement."""
    values = {name: getattr(placement, name) for name in _PLACEMENT_FIELDS}
    return values | {
        "sizes": dict(placement.sizes),
        "reasons": [storable(reason) for reason in placement.reasons],
    }


def placement_from(row: RowMapping) -> Placement:
    """The placement in a row."""
    values = {name: row[name] for name in _PLACEMENT_FIELDS}
    return Placement(**{**values, "reasons": tuple(row["reasons"])})


def availability_values(availability: Availability) -> dict[str, Any]:
    """The row of what somebody said about a resource."""
    values = {name: getattr(availability, name) for name in _AVAILABILITY_FIELDS}
    return values | {"state": availability.state.value, "reason": storable(availability.reason)}


def availability_from(row: RowMapping) -> Availability:
    """What somebody said about a resource, from its row."""
    values = {name: row[name] for name in _AVAILABILITY_FIELDS}
    return Availability(**{**values, "state": AvailabilityState(row["state"])})


def _value(word: JobState | Outcome | None) -> str | None:
    return None if word is None else word.value


def _word(kind: type[_Word], value: str | None) -> _Word | None:
    return None if value is None else kind(value)
