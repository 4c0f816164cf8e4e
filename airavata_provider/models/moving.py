"""What a pattern has to be like for a rule of its to go elsewhere, and what is done there before the submission.

An experiment moves as a whole: what came before the submission is done once more at the new place, and what comes
after the job follows it there. So nothing else of the experiment may be where it was.

Pure; no Airflow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol


class Node(Protocol):
    """The part of a pattern's task that is needed here."""

    @property
    def id(self) -> str:
        """Unique in the pattern."""

    @property
    def type(self) -> str:
        """Its task type."""

    @property
    def after(self) -> tuple[str, ...]:
        """Ids of the tasks that it waits for."""

    @property
    def resource(self) -> str | None:
        """A compute resource; None: the experiment's."""


def all_before(after: Mapping[str, Collection[str]], task_id: str) -> tuple[str, ...]:
    """Ids of all tasks before one: breadth first, so the nearest come first; unknown names and cycles do no harm."""
    found: dict[str, None] = {}
    waiting = list(after.get(task_id, ()))
    for each in waiting:
        if each not in found and each in after:
            found[each] = None
            waiting.extend(after[each])
    return tuple(found)


def goes_elsewhere(rules: Any) -> bool:
    """Whether one of these rules, as a pattern has them, goes elsewhere."""
    found = rules if isinstance(rules, list | tuple) else ()
    return any(isinstance(each, Mapping) and each.get("answer") == "elsewhere" for each in found)


def moving_faults(tasks: Sequence[Node], answering: Node, submission: Node) -> Iterator[str]:
    """Why no rule of that task can go elsewhere."""
    for task in (submission, answering):
        if task.resource is not None:
            yield f"{task.id!r} is on {task.resource} always, so no rule goes elsewhere"
    after = {task.id: task.after for task in tasks}
    before = all_before(after, submission.id)
    for task in tasks:
        if task.resource is not None or task.id in (submission.id, answering.id):
            continue
        if task.id in before:
            if task.type == "submit":
                yield f"{task.id!r} submits a job before {submission.id!r}, which stays: so no rule goes elsewhere"
        elif answering.id not in all_before(after, task.id):
            yield f"{task.id!r} does not wait for {answering.id!r}, and stays: so no rule goes elsewhere"


def before_submission(tasks: Sequence[Node], submission: str, run_on: Mapping[str, str]) -> list[str]:
    """Ids of the tasks that are done once more before a submission that goes elsewhere, in their order: what comes
    before it and left something where the experiment was.

    Not what runs on a worker, which works in storage, and what only waits for a job.

    :param run_on: by task's id, ``triggerer`` or ``worker``
    """
    before = set(all_before({task.id: task.after for task in tasks}, submission))
    return [
        task.id
        for task in tasks
        if task.id in before and task.resource is None and task.type != "monitor" and run_on[task.id] == "triggerer"
    ]
