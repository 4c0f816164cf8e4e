"""Which tasks of a pattern become one Airflow task.

Pure; imports no Airflow.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airavata_provider.models.pattern import Pattern, TaskSpec

_MAX_ID = 250
"""Airflow's limit for a task's id (``airflow.sdk.definitions._internal.node.validate_key``)."""


@dataclass(frozen=True)
class Segment:
    """Tasks of a pattern in one Airflow task.

    :param id: the Airflow task's id: the tasks' ids joined by ``-``
    :param tasks: at least one, each after those it waits for; all but the first wait only for tasks in here
    :param after: ids of the segments that it waits for
    :param waited_for: ids of its tasks that other segments wait for
    :param run_on: ``triggerer`` or ``worker``
    :param queue: the worker queue
    :param retries: the largest of its tasks'
    :param retry_delay_s: the longest of its tasks'
    :param retry_backoff: whether one of its tasks wants it
    :param deadline_s: the sum of its tasks', None where one has none
    :param trigger_rule: its first task's
    """

    id: str
    tasks: tuple[TaskSpec, ...]
    after: tuple[str, ...]
    waited_for: tuple[str, ...]
    run_on: str
    queue: str | None
    retries: int
    retry_delay_s: float
    retry_backoff: bool
    deadline_s: float | None
    trigger_rule: str


def segments(pattern: Pattern, run_on: Mapping[str, str]) -> tuple[Segment, ...]:
    """Cut a pattern into what becomes its Airflow tasks; each comes after those it waits for.

    At granularity ``task``, each task is one. At granularity ``segment``, a task joins the segment of those it waits
    for, when they all are in one and all of it runs in the triggerer, on the same resource and worker queue. Whoever
    waits for a task of a segment has to wait for the segment: that changes nothing when it waits, with
    ``all_success``, for all of the segment's last tasks and for every task in it that anybody else waits for. And
    where the segment waits for others, so that it may never begin, all of it has to have the rule ``all_success``. A
    segment for which that does not hold is cut into chains of tasks that are each other's only neighbours.

    :param run_on: by task type, where it runs when the pattern does not say (missing: ``triggerer``)
    """

    def place(task: TaskSpec) -> str:
        return task.run_on or run_on.get(task.type, "triggerer")

    def alike(one: TaskSpec, other: TaskSpec) -> bool:
        same_room = (one.resource, one.queue) == (other.resource, other.queue)
        return pattern.granularity == "segment" and same_room and place(one) == place(other) == "triggerer"

    joined = [
        part
        for group in _groups(pattern.tasks, alike)
        for part in ([group] if _tells_all(group, pattern.tasks) else _chains(group, pattern.tasks))
    ]
    ids = {task.id: _segment_id(group) for group in joined for task in group}
    awaited = {before for task in pattern.tasks for before in task.after if ids[before] != ids[task.id]}
    found = {group[0].id: _segment(group, ids, awaited, place(group[0])) for group in joined}
    # In the order of their first tasks, which is an order in which each comes after those it waits for.
    return tuple(found[task.id] for task in pattern.tasks if task.id in found)


def linked(task: TaskSpec, before: TaskSpec | None, segment: Segment) -> dict[str, Any]:
    """How a task hangs together with the others of its segment, as far as that is not the usual: fields of what its
    host is given.

    :param before: the task ahead of it in the segment, None for the first
    """
    links: dict[str, Any] = {}
    if before is not None and task.after != (before.id,):
        links["after"] = list(task.after)
    if before is not None and task.trigger_rule != "all_success":
        links["trigger_rule"] = task.trigger_rule
    if task.id in segment.waited_for and len(segment.tasks) > 1:
        links["waited_for"] = True
    return links


def _groups(tasks: Sequence[TaskSpec], alike: Callable[[TaskSpec, TaskSpec], bool]) -> list[list[TaskSpec]]:
    """Each task with those it waits for, where these are all in one group already."""
    group_of: dict[str, list[TaskSpec]] = {}
    groups: list[list[TaskSpec]] = []
    for task in tasks:
        before = group_of[task.after[0]] if task.after else None
        if before is not None and alike(task, before[0]) and all(group_of[each] is before for each in task.after):
            before.append(task)
            group_of[task.id] = before
        else:
            group_of[task.id] = [task]
            groups.append(group_of[task.id])
    return groups


def _tells_all(group: Sequence[TaskSpec], tasks: Sequence[TaskSpec]) -> bool:
    """Whether those outside learn from the group's end what they would learn from the ends of its tasks."""
    inside = {task.id for task in group}
    outside = [task for task in tasks if task.id not in inside and inside & set(task.after)]
    ends = inside - {before for task in group for before in task.after}
    decisive = ends | {before for task in outside for before in task.after if before in inside}
    return _ends_with_its_first(group) and all(
        task.trigger_rule == "all_success" and decisive <= set(task.after) for task in outside
    )


def _ends_with_its_first(group: Sequence[TaskSpec]) -> bool:
    """Whether nothing in it runs when its first task does not: then the segment never begins."""
    return not group[0].after or all(task.trigger_rule == "all_success" for task in group[1:])


def _chains(group: Sequence[TaskSpec], tasks: Sequence[TaskSpec]) -> list[list[TaskSpec]]:
    """The group in pieces of which only the last task is waited for by others."""
    followers = Counter(before for task in tasks for before in task.after)
    # That rule alone tells one that failed from one that did not run; a piece that ends with the latter has failed.
    told_apart = {before for task in tasks if task.trigger_rule == "one_done" for before in task.after}
    chain_of: dict[str, list[TaskSpec]] = {}
    chains: list[list[TaskSpec]] = []
    for task in group:
        before = chain_of.get(task.after[0]) if len(task.after) == 1 and followers[task.after[0]] == 1 else None
        if before is None or task.id in told_apart or not _ends_with_its_first([*before, task]):
            chains.append(before := [])
        before.append(task)
        chain_of[task.id] = before
    return chains


def _segment(group: Sequence[TaskSpec], ids: Mapping[str, str], awaited: Collection[str], run_on: str) -> Segment:
    deadlines = [task.deadline_s for task in group if task.deadline_s is not None]
    first = group[0]
    return Segment(
        id=ids[first.id],
        tasks=tuple(group),
        after=tuple(dict.fromkeys(ids[upstream] for upstream in first.after)),
        waited_for=tuple(task.id for task in group if task.id in awaited),
        run_on=run_on,
        queue=first.queue,
        retries=max(task.retries for task in group),
        retry_delay_s=max(task.retry_delay_s for task in group),
        retry_backoff=any(task.retry_backoff for task in group),
        deadline_s=sum(deadlines) if len(deadlines) == len(group) else None,
        trigger_rule=first.trigger_rule,
    )


def _segment_id(group: Sequence[TaskSpec]) -> str:
    joined = "-".join(task.id for task in group)
    if len(joined) <= _MAX_ID:
        return joined
    # Ids of tasks hold no "-", so what ends with a digest of this length cannot be another segment's id.
    return f"{joined[: _MAX_ID - 65]}-{hashlib.sha256(joined.encode()).hexdigest()}"
