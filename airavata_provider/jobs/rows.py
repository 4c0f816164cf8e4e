"""Between the tables' rows and ``models.job``'s dataclasses; columns and fields share their names. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping

from airavata_provider.models.job import Effect, Job, JobEvent, JobState, SubmissionState, TaskRecord

_JOB_FIELDS = tuple(field.name for field in fields(Job))
_TASK_FIELDS = tuple(field.name for field in fields(TaskRecord))
_EVENT_FIELDS = tuple(field.name for field in fields(JobEvent))


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
        "state": job.state.value if job.state is not None else None,
        "submission": job.submission.value,
    }


def job_from(row: RowMapping) -> Job:
    """The job in a row."""
    state = row["state"]
    values = {name: row[name] for name in _JOB_FIELDS}
    values |= {
        "state": JobState(state) if state is not None else None,
        "submission": SubmissionState(row["submission"]),
    }
    return Job(**values)


def event_values(event: JobEvent, *, received_at: datetime, effect: Effect) -> dict[str, Any]:
    """The row of an event."""
    values = {name: getattr(event, name) for name in _EVENT_FIELDS}
    return values | {
        "source": str(event.source),
        "reason": storable(event.reason),
        "state": event.state.value,
        "received_at": received_at,
        "effect": effect.value,
    }


def stored_event(row: RowMapping) -> StoredEvent:
    """The event in a row."""
    values = {name: row[name] for name in _EVENT_FIELDS}
    event = JobEvent(**{**values, "state": JobState(row["state"])})
    return StoredEvent(event, row["received_at"], Effect(row["effect"]))


def task_values(record: TaskRecord) -> dict[str, Any]:
    """The row of a task's checkpoint."""
    values = {name: getattr(record, name) for name in _TASK_FIELDS}
    return values | {"state": record.state.value, "result": dict(record.result), "error": storable(record.error)}
