"""How far the tasks of a segment are by their records, and what their ends make of the segment's. Pure.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airavata_provider.models.job import SKIPPED, TaskRecord, TaskState
from airavata_provider.models.trigger_rules import BAD, End

if TYPE_CHECKING:
    from airavata_provider.triggers.hosted import HostedTask, Run

REMOVED = "removed"
"""In the result of a task that took the experiment's directory away."""


@dataclass(frozen=True)
class Progress:
    """What a segment finds when it begins.

    :param kept: how the tasks ended whose ends stand, the bad ones among them
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
    awaited = [ends[task.id] for task in tasks if task.waited_for]
    if any(end in BAD for end in (*last, *awaited)):
        return "failed"
    # Others wait with ``all_success`` for all of these.
    return "skipped" if "skipped" in awaited or all(end == "skipped" for end in last) else "success"


def progress(
    tasks: Sequence[HostedTask],
    run: Run,
    records: Mapping[tuple[str, int], TaskRecord],
    anew: Collection[str] = (),
) -> Progress:
    """What of the records stands.

    :param anew: submissions to be made anew, and tasks that told of another job than there is by now: with all that
        follows them
    """
    found = {task.id: records[key] for task in tasks if (key := (task.id, run.map_index)) in records}
    emptied = anew and any(record.result.get(REMOVED) is True for record in found.values())
    if emptied or _is_fresh(tasks, run, found):
        return Progress({}, {task.id for task in tasks})
    kept: dict[str, End] = {}
    fresh: set[str] = set()
    upstreams = before(tasks)
    for task in tasks:
        record = found.get(task.id)
        if task.id in anew or not fresh.isdisjoint(upstreams[task.id]):
            fresh.add(task.id)
        elif (
            record is not None
            and (record.state is TaskState.COMPLETED or (len(tasks) > 1 and _stands(run, record)))
            # What ran because another failed runs again when that is tried again.
            and all(upstream in kept for upstream in upstreams[task.id])
        ):
            kept[task.id] = end_on_record(record)
    return Progress(kept, fresh)


def cleared(run: Run, record: TaskRecord) -> bool | None:
    """Whether a person cleared the task since it ended like that; None: perhaps.

    A trigger or a worker that dies is started again with the same try number, or, a worker, with the next one.
    Airflow retries only what told of its failure. So a later try than the one through which an end stands may be a
    person's; it is one for certain when the run was started anew, which it is when a run that was over is cleared.
    """
    if run.started and record.run_started and run.started != record.run_started:
        return True
    last = record.try_number if record.stands_through is None else record.stands_through
    if run.cleared_through is not None:
        return last <= run.cleared_through
    return False if run.try_number <= last else None


def _stands(run: Run, record: TaskRecord) -> bool:
    """Whether a failure is one that this try finds as it is."""
    failed_for_good = record.state is TaskState.FAILED and record.stands_through is not None
    return failed_for_good and cleared(run, record) is False


def _is_fresh(tasks: Sequence[HostedTask], run: Run, found: Mapping[str, TaskRecord]) -> bool:
    """Whether a person asked for this segment's work anew: it had ended well, and begins again.

    A worker can die after its work is recorded and before Airflow hears of it: there the host says which tries were
    cleared.
    """
    if len(found) < len(tasks):
        return False
    if outcome(tasks, {task_id: end_on_record(record) for task_id, record in found.items()}) == "failed":
        return False
    return cleared(run, max(found.values(), key=lambda record: record.try_number)) is not False
