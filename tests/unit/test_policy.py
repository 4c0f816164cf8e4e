"""Priority becomes priority weight, for our tasks only, and Airflow heeds the hook."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow import settings
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider import policy
from airavata_provider.models.experiment import Priority


def task_instance(module: str = "airavata_provider.operators.pattern", **kwargs: Any) -> Any:
    return SimpleNamespace(task=SimpleNamespace(_task_module=module), priority_weight=7, **kwargs)


def run(conf: Any) -> Any:
    return SimpleNamespace(conf=conf)


@pytest.mark.parametrize(
    ("priority", "expected"),
    [("LOW", 1), ("NORMAL", 10), ("HIGH", 100), ("URGENT", 1000), (None, 10), ("", 10), ("high", 100), ("?", 7)],
)
def test_the_weight(priority: str | None, expected: int) -> None:
    task = task_instance()
    policy.task_instance_mutation_hook(task, run({"application": "echo", "priority": priority}))
    assert task.priority_weight == expected


def test_every_priority_has_a_weight() -> None:
    assert set(policy.WEIGHTS) == {priority.value for priority in Priority}


def test_others_tasks_are_left_alone() -> None:
    task = task_instance("airflow.providers.standard.operators.bash")
    policy.task_instance_mutation_hook(task, run({"application": "echo", "priority": "URGENT"}))
    assert task.priority_weight == 7


@pytest.mark.parametrize("conf", [None, {}, {"priority": "URGENT"}, [], "text"])
def test_runs_that_are_no_experiments_are_left_alone(conf: Any) -> None:
    task = task_instance()
    policy.task_instance_mutation_hook(task, run(conf))
    assert task.priority_weight == 7


def test_a_run_in_memory_is_used_and_none_is_fetched() -> None:
    task = task_instance(dag_run=run({"application": "echo", "priority": "LOW"}))
    policy.task_instance_mutation_hook(task, cast("Any", None))
    assert task.priority_weight == 1
    bare = task_instance()
    policy.task_instance_mutation_hook(bare, cast("Any", None))
    assert bare.priority_weight == 7


@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
def test_nothing_in_a_conf_makes_it_raise(conf: Any) -> None:
    policy.task_instance_mutation_hook(task_instance(), run(conf))
    policy.task_instance_mutation_hook(task_instance(), run({"application": conf, "priority": conf}))


def test_airflow_is_told_that_the_hook_acts() -> None:
    assert settings.task_instance_mutation_hook.is_noop is False  # type: ignore[attr-defined]
    task = task_instance()
    settings.task_instance_mutation_hook(task, dag_run=run({"application": "echo", "priority": "HIGH"}))
    assert task.priority_weight == 100
