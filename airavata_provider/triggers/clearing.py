"""What a person cleared: put on record, and kept there until it is done.

Airflow does not say that a task was cleared; it starts it with a later try (see :mod:`.progress`). So what is to be
done anew is marked, all tasks at once, before anything else is done; a mark stays through kills, failures and
retries until its task has completed, or has begun anew and said so.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airavata_provider.models.job import SKIPPED, TaskRecord, TaskState

if TYPE_CHECKING:
    from airavata_provider.jobs.store import JobStore
    from airavata_provider.triggers.hosted import HostedTask, Run

Records = Mapping[tuple[str, int], TaskRecord]

_CLEARED = "cleared_after_attempt"


async def begin_anew(
    store: JobStore, tasks: Sequence[HostedTask], run: Run, records: Records, fresh: Collection[str]
) -> Records:
    """Put on record that what these tasks did does not count any more; all records as they are then.

    :param fresh: ids of those that a person cleared
    """
    attempts: dict[tuple[str, int], int] = {}
    if fresh:
        for job in await store.jobs_of(run.dag_id, run.run_id, run.born):
            key = job.task_id, job.map_index
            attempts[key] = max(job.attempt, attempts.get(key, 0))
    now, marks = datetime.now(UTC), []
    for task in tasks:
        record = records.get(key := (task.id, run.map_index))
        if task.id in fresh:
            marks.append(record_of(run, task.id, TaskState.CREATED, now, result=mark(attempts.get(key, 0))))
        elif record is not None and record.state in (TaskState.COMPLETED, TaskState.CANCELED):
            marks.append(record_of(run, task.id, TaskState.CREATED, now, result=mark(past_of(record))))
    if marks:
        await store.record_tasks(marks)
    return {**records, **{(each.task_id, each.map_index): each for each in marks}}


def mark(past: int | None) -> dict[str, Any]:
    """What the result of a task that has not completed says: the last attempt at a job of its that was there when it
    was cleared; nothing when it was not."""
    return {} if past is None else {_CLEARED: past}


def past_of(record: TaskRecord | None) -> int | None:
    """What :func:`mark` made."""
    if record is None or (record.state is TaskState.COMPLETED and record.result.get(SKIPPED) is not True):
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
        run_started=run.started,
        **values,
    )
