"""Which tasks of a pattern become one Airflow task.

Pure; imports no Airflow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airavata_provider.models.pattern import Pattern, TaskSpec

_MAX_ID = 250
"""Airflow's limit for a task's id (``airflow.sdk.definitions._internal.node.validate_key``)."""


@dataclass(frozen=True)
class Segment:
    """Tasks that follow each other in one Airflow task.

    :param id: the Airflow task's id: the tasks' ids joined by ``-``
    :param tasks: in their order, at least one
    :param after: ids of the segments that it waits for
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
    run_on: str
    queue: str | None
    retries: int
    retry_delay_s: float
    retry_backoff: bool
    deadline_s: float | None
    trigger_rule: str


def segments(pattern: Pattern, boundary: Collection[str], run_on: Mapping[str, str]) -> tuple[Segment, ...]:
    """Cut a pattern into what becomes its Airflow tasks; each comes after those it waits for.

    At granularity ``task``, each task is one. At granularity ``segment``, a task joins the one before it when
    they are each other's only neighbour there, both run in the triggerer, on the same resource and worker
    queue, neither is of a boundary type, and it starts when the other succeeded.

    :param boundary: task types that stay alone
    :param run_on: by task type, where it runs when the pattern does not say (missing: ``triggerer``)
    """
    followers: dict[str, list[str]] = {task.id: [] for task in pattern.tasks}
    for task in pattern.tasks:
        for upstream in task.after:
            followers[upstream].append(task.id)

    def place(task: TaskSpec) -> str:
        return task.run_on or run_on.get(task.type, "triggerer")

    def joins(task: TaskSpec, before: TaskSpec) -> bool:
        return (
            task.after == (before.id,)
            and followers[before.id] == [task.id]
            and place(task) == place(before) == "triggerer"
            and (task.resource, task.queue) == (before.resource, before.queue)
            and not {task.type, before.type} & set(boundary)
            and task.trigger_rule == "all_success"
        )

    chains: list[list[TaskSpec]] = []
    chain_of: dict[str, list[TaskSpec]] = {}
    for task in pattern.tasks:
        before = chain_of[task.after[0]] if len(task.after) == 1 else None
        if pattern.granularity == "segment" and before is not None and joins(task, before[-1]):
            before.append(task)
            chain_of[task.id] = before
        else:
            chain_of[task.id] = [task]
            chains.append(chain_of[task.id])
    ids = {task_id: _segment_id(chain) for task_id, chain in chain_of.items()}
    return tuple(_segment(chain, ids, place(chain[0])) for chain in chains)


def _segment(chain: list[TaskSpec], ids: Mapping[str, str], run_on: str) -> Segment:
    deadlines = [task.deadline_s for task in chain if task.deadline_s is not None]
    first = chain[0]
    return Segment(
        id=ids[first.id],
        tasks=tuple(chain),
        after=tuple(dict.fromkeys(ids[upstream] for upstream in first.after)),
        run_on=run_on,
        queue=first.queue,
        retries=max(task.retries for task in chain),
        retry_delay_s=max(task.retry_delay_s for task in chain),
        retry_backoff=any(task.retry_backoff for task in chain),
        deadline_s=sum(deadlines) if len(deadlines) == len(chain) else None,
        trigger_rule=first.trigger_rule,
    )


def _segment_id(chain: list[TaskSpec]) -> str:
    joined = "-".join(task.id for task in chain)
    if len(joined) <= _MAX_ID:
        return joined
    # Ids of tasks hold no "-", so what ends with a digest of this length cannot be another segment's id.
    return f"{joined[: _MAX_ID - 65]}-{hashlib.sha256(joined.encode()).hexdigest()}"
