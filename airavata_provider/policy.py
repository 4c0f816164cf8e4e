"""Airflow policy: an experiment's priority becomes the priority weight of its tasks.

The scheduler hands tasks to triggerers and workers by priority weight, then by age. Airflow's own strategies
cannot see what a run was asked for; this hook can.

Imported while Airflow itself is being imported: nothing but the standard library and pluggy before the hook
is defined. The hook runs inside the scheduler's transaction: it reads what is already in memory, opens no
session, and never raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance

hookimpl = pluggy.HookimplMarker("airflow.policy")

WEIGHTS: Mapping[str, int] = MappingProxyType({"LOW": 1, "NORMAL": 10, "HIGH": 100, "URGENT": 1000})
"""Priority weight of each priority. Airflow gives other DAGs' tasks 1 plus the number of tasks after them."""


def weight(conf: object) -> int | None:
    """Priority weight that a run's ``conf`` asks for, None when it is no experiment or says nonsense."""
    if not isinstance(conf, Mapping) or "application" not in conf:
        return None
    return WEIGHTS.get(str(conf.get("priority") or "NORMAL").upper())


@hookimpl
def task_instance_mutation_hook(task_instance: TaskInstance, dag_run: DagRun | None) -> None:
    """Give a task of an experiment the weight of the experiment's priority."""
    run = dag_run if dag_run is not None else vars(task_instance).get("dag_run")
    if run is None or not is_experiment_task(task_instance):
        return
    found = weight(run.conf)
    if found is not None:
        task_instance.priority_weight = found


def is_experiment_task(task_instance: TaskInstance) -> bool:
    """Whether the task is one of ours: its operator's class comes from this package.

    In the scheduler the task is the serialized one, which keeps the module's name of the operator it was.
    """
    task = getattr(task_instance, "task", None)
    return str(getattr(task, "_task_module", None) or type(task).__module__).startswith("airavata_provider.")


def _take_effect() -> None:
    """Tell Airflow that the hook does something.

    Airflow's scheduler leaves this hook out unless a flag says otherwise, and it sets the flag only for hooks
    in ``airflow_local_settings``, not for those of installed packages (seen in 3.3.2).
    """
    from airflow import settings

    settings.task_instance_mutation_hook.is_noop = False  # type: ignore[attr-defined]


_take_effect()
