"""What a person cleared: seen by the checkpoints, put on record, and kept there until it is done.

Airflow does not say that a task was cleared; it starts it with a later try. So a segment that was complete and begins
again is marked, all of its tasks at once, before anything else is done; a mark stays through kills, failures and
retries until its task has completed, or has begun anew and said so.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airavata_provider.models.job import TaskRecord, TaskState

if TYPE_CHECKING:
    from airavata_provider.jobs.store import JobStore
    from airavata_provider.triggers.host import HostedTask, Run

Records = Mapping[tuple[str, int], TaskRecord]

_CLEARED = "cleared_after_attempt"


def is_fresh(tasks: Sequence[HostedTask], run: Run, records: Records) -> bool:
    """Whether a person asked for this segment's work anew, as opposed to a retry that goes on with it.

    A trigger that dies is started again with the same try number, and Airflow retries only what told of its
    failure, which leaves a record that is not COMPLETED. So a segment that is complete on record and begins
    again with a later try was cleared by a person. A worker can die after its work is recorded and before
    Airflow hears of it: there the host says which tries were cleared.
    """
    found = [records.get((task.id, run.map_index)) for task in tasks]
    complete = [record for record in found if record is not None and record.state is TaskState.COMPLETED]
    if len(complete) < len(tasks):
        return False
    last = max(record.try_number for record in complete)
    if run.cleared_through is not None:
        return last <= run.cleared_through
    return last < run.try_number


async def mark_cleared(store: JobStore, tasks: Sequence[HostedTask], run: Run, records: Records) -> Records:
    """Put on record that a person cleared these tasks; all records as they are then."""
    attempts: dict[tuple[str, int], int] = {}
    for job in await store.jobs_of(run.dag_id, run.run_id, run.born):
        key = job.task_id, job.map_index
        attempts[key] = max(job.attempt, attempts.get(key, 0))
    now = datetime.now(UTC)
    marks = [
        record_of(run, task.id, TaskState.CREATED, now, result=mark(attempts.get((task.id, run.map_index), 0)))
        for task in tasks
    ]
    await store.record_tasks(marks)
    return {**records, **{(each.task_id, each.map_index): each for each in marks}}


def mark(past: int | None) -> dict[str, Any]:
    """What the result of a task that has not completed says: the last attempt at a job of its that was there when it
    was cleared; nothing when it was not."""
    return {} if past is None else {_CLEARED: past}


def past_of(record: TaskRecord | None) -> int | None:
    """What :func:`mark` made."""
    if record is None or record.state is TaskState.COMPLETED:
        return None
    found = record.result.get(_CLEARED)
    return found if isinstance(found, int) else None


def record_of(run: Run, task_id: str, state: TaskState, started_at: datetime, **values: Any) -> TaskRecord:
    """A checkpoint of this run's."""
    return TaskRecord(
        dag_id=run.dag_id,
        experiment_id=run.run_id,
        task_id=task_id,
        map_index=run.map_index,
        try_number=run.try_number,
        state=state,
        started_at=started_at,
        born=run.born,
        **values,
    )
