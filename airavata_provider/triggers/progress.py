"""How far the tasks of a segment are by their records, and what their ends make of the segment's. Pure.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airavata_provider.models.job import TaskRecord, TaskState
from airavata_provider.models.trigger_rules import BAD, End

if TYPE_CHECKING:
    from airavata_provider.triggers.hosted import HostedTask, Run

SKIPPED = "skipped"
"""In the result of a task that ended without having had anything to do."""


@dataclass(frozen=True)
class Progress:
    """What a segment finds when it begins.

    :param kept: how the tasks ended whose work stands
    :param fresh: tasks that a person asked for anew: what they did before does not count
    """

    kept: Mapping[str, End]
    fresh: Collection[str]


def before(tasks: Sequence[HostedTask]) -> dict[str, tuple[str, ...]]:
    """Which tasks of the segment each of them waits for."""
    ids = [task.id for task in tasks]
    return {
        task.id: tuple(ids[number - 1 : number] if task.after is None else (e for e in task.after if e in ids))
        for number, task in enumerate(tasks)
    }


def end_on_record(record: TaskRecord) -> End:
    """How a task ended."""
    match record.state:
        case TaskState.COMPLETED:
            return "skipped" if record.result.get(SKIPPED) is True else "success"
        case TaskState.CANCELED:
            return "upstream_failed"
        case _:
            return "failed"


def outcome(tasks: Sequence[HostedTask], ends: Mapping[str, End]) -> End:
    """How the segment ends: badly when one of its last tasks did, or one that others wait for; as a DAG run does."""
    followed = {upstream for upstreams in before(tasks).values() for upstream in upstreams}
    last = [ends[task.id] for task in tasks if task.id not in followed]
    decisive = [*last, *(ends[task.id] for task in tasks if task.waited_for)]
    if any(end in BAD for end in decisive):
        return "failed"
    return "skipped" if all(end == "skipped" for end in last) else "success"


def progress(
    tasks: Sequence[HostedTask],
    run: Run,
    records: Mapping[tuple[str, int], TaskRecord],
    resubmit: Collection[str] = (),
) -> Progress:
    """What of the records stands.

    :param resubmit: submissions to be made anew, with all that follows them
    """
    found = {task.id: records[key] for task in tasks if (key := (task.id, run.map_index)) in records}
    if _is_fresh(tasks, run, found):
        return Progress({}, {task.id for task in tasks})
    kept: dict[str, End] = {}
    fresh: set[str] = set()
    upstreams = before(tasks)
    for task in tasks:
        if task.id in resubmit or not fresh.isdisjoint(upstreams[task.id]):
            fresh.add(task.id)
        elif (
            task.id in found
            and found[task.id].state is TaskState.COMPLETED
            # What ran because another failed runs again when that is tried again.
            and all(upstream in kept for upstream in upstreams[task.id])
        ):
            kept[task.id] = end_on_record(found[task.id])
    return Progress(kept, fresh)


def was_cleared(run: Run, last: int) -> bool:
    """Whether a person cleared what ended with that try, where Airflow itself would not have tried again."""
    return last < run.try_number if run.cleared_through is None else last <= run.cleared_through


def _is_fresh(tasks: Sequence[HostedTask], run: Run, found: Mapping[str, TaskRecord]) -> bool:
    """Whether a person asked for this segment's work anew, as opposed to a retry that goes on with it.

    A trigger that dies is started again with the same try number, and Airflow retries only what told of its
    failure. So a segment that has ended well on record and begins again with a later try was cleared by a person. A
    worker can die after its work is recorded and before Airflow hears of it: there the host says which tries were
    cleared.
    """
    if len(found) < len(tasks):
        return False
    if outcome(tasks, {task_id: end_on_record(record) for task_id, record in found.items()}) == "failed":
        return False
    return was_cleared(run, max(record.try_number for record in found.values()))
