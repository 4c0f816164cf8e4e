"""Patterns in two runs: the first ends with the submission, the job's end starts the second.

Between the two there is no run of Airflow's that its scheduler would have to look at. Which tasks belong to which
run, what such a pattern may not say, and how the two DAGs are called. Pure; imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from airavata_provider.errors import Fault
from airavata_provider.models.template import is_template

if TYPE_CHECKING:
    from airavata_provider.models.pattern import Pattern, TaskSpec
    from airavata_provider.models.source import Document

SUFFIX = "__after"
"""What the second run's DAG has behind the pattern's name; no pattern's own name may end so."""

_RULES: Mapping[str, str] = {
    "all_success": "all_success",
    "all_done": "all_done",
    "all_done_min_one_success": "none_skipped",
    "none_failed": "none_failed",
    "none_failed_min_one_success": "none_failed",
    "none_skipped": "none_skipped",
    "one_failed": "one_failed",
    "always": "always",
}
"""Trigger rules that may look at both runs' tasks, and what means the same when tasks that succeeded are left out."""


def second_dag(pattern: str) -> str:
    """Id of the DAG of a pattern's second run."""
    return pattern + SUFFIX


def first_dag(dag_id: str) -> str:
    """The pattern's name, which is its first DAG's id, from the id of either DAG."""
    return dag_id.removesuffix(SUFFIX)


def version_text(file: str, sha256: str) -> str:
    """What the DAGs of a pattern tell of its file, by which two DAGs of the same text are known."""
    return f"Execution pattern `{file}`, SHA-256 `{sha256}`."


@dataclass(frozen=True)
class Handover:
    """An experiment of such a pattern, from its submission on; the store keeps one for each.

    :param dag_id: the pattern's DAG
    :param experiment_id: the DAG run's id, of both runs
    :param born: when the first run was made (:class:`~airavata_provider.models.identity.TaskIdentity`)
    :param task_id: the submission whose jobs' end starts the second run
    :param try_number: the submission's; a later one asks for the second run anew
    :param state: a word of :class:`HandoverState`
    :param starts: how often the second run was started
    """

    dag_id: str
    experiment_id: str
    born: str
    task_id: str
    try_number: int
    state: str
    starts: int = 0


class HandoverState:
    """What a :class:`Handover` waits for."""

    WAITING = "WAITING"
    """The end of its jobs, and of the first run."""
    STARTED = "STARTED"
    """Nothing: the second run was started."""
    DROPPED = "DROPPED"
    """Nothing: the first run failed, was cancelled or deleted, so there is no second."""


def parts(pattern: Pattern) -> tuple[Pattern, Pattern | None]:
    """What the first run does and what the second; None where the pattern is not split.

    What the second run's tasks wait for of the first's has succeeded by then, and is left out.
    """
    if pattern.split_at is None:
        return pattern, None
    second = {task.id for task in pattern.tasks if pattern.split_at in (task.id, *pattern.upstream(task.id))}
    before = tuple(task for task in pattern.tasks if task.id not in second)
    after = tuple(_without_first(task, second) for task in pattern.tasks if task.id in second)
    return (
        replace(pattern, tasks=before),
        replace(pattern, name=second_dag(pattern.name), tasks=after),
    )


def _without_first(task: TaskSpec, second: Collection[str]) -> TaskSpec:
    after = tuple(each for each in task.after if each in second)
    rule = task.trigger_rule if after == task.after else _RULES[task.trigger_rule]
    return replace(task, after=after, trigger_rule=rule)


class _Task(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def after(self) -> Sequence[str]: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...
    @property
    def trigger_rule(self) -> str: ...


def split_faults(
    split_at: str | None, tasks: Sequence[_Task], document: Document, upstream: Mapping[str, Collection[str]]
) -> Iterator[Fault]:
    """Why a pattern cannot be split there.

    :param upstream: by task, all that end before it starts, the nearest first
    """
    if split_at is None:
        return
    by_id = {task.id: task for task in tasks}
    monitor = by_id.get(split_at)
    if monitor is None or monitor.type != "monitor":
        named = "there is no task" if monitor is None else f"{split_at!r} is of type {monitor.type}"
        yield document.fault(
            ("split_at",), f"should be the id of a monitor; {named}{'' if monitor else ' of that id'}"
        )
        return
    place = [task.id for task in tasks].index(split_at)
    if monitor.trigger_rule != "all_success":
        message = "the second run starts when the first succeeded: no other rule than all_success can hold"
        yield document.fault(("tasks", place, "trigger_rule"), message)
    job = monitor.parameters.get("job")
    written = isinstance(job, str) and not is_template(job)
    if monitor.parameters.get("native_id") or not (written or job is None):
        message = f"{split_at!r} should wait for the job of a submission before it, which it names or leaves out"
        yield document.fault(("split_at",), message)
        return
    submissions = [each for each in upstream[split_at] if by_id[each].type == "submit" and job in (None, each)]
    if not submissions:
        yield document.fault(("split_at",), f"no task before {split_at!r} submits the job that it waits for")
        return
    submission = submissions[0]
    second = {task.id for task in tasks if split_at in (task.id, *upstream[task.id])}
    succeeded = _succeeded(submission, by_id)
    for index, task in enumerate(tasks):
        if task.id not in second:
            if task.id != submission and task.id not in upstream[submission]:
                message = (
                    f"{task.id!r} should come before {submission!r}, which ends the first run, or after {split_at!r}"
                )
                yield document.fault(("tasks", index, "after"), message)
            continue
        theirs = [each for each in task.after if each in by_id and each not in second]
        if unsure := [each for each in theirs if each not in succeeded]:
            message = (
                f"{', '.join(map(repr, unsure))} may have failed, or been skipped, in a first run that succeeded:"
                f" what comes after it and up to {submission!r} should have the trigger rule all_success"
            )
            yield document.fault(("tasks", index, "after"), message)
        elif theirs and task.id != split_at and task.trigger_rule not in _RULES:
            message = (
                f"{task.trigger_rule} cannot look at {', '.join(map(repr, theirs))}, which the first run did;"
                f" use one of {', '.join(sorted(_RULES))}, or leave that out of after"
            )
            yield document.fault(("tasks", index, "trigger_rule"), message)


def _succeeded(submission: str, by_id: Mapping[str, _Task]) -> set[str]:
    """Tasks that succeeded, for certain, when that submission did."""
    found: set[str] = set()
    waiting = [submission]
    for each in waiting:
        if each in by_id and each not in found:
            found.add(each)
            if by_id[each].trigger_rule == "all_success":
                waiting.extend(by_id[each].after)
    return found
