"""Hears of people who mark tasks or runs as failed, and puts the end of their jobs on record.

The trigger of a task is told too, but only when its triggerer lives through it, and between two tasks of a run
there is no trigger at all. What is on record here, the reconciler repeats until the scheduler agrees. Who marked it,
``runs.asker`` knows.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from airflow.listeners import hookimpl

from airavata_provider.models.identity import birth
from airavata_provider.models.split import first_dag
from airavata_provider.runs import asker

_LOG = logging.getLogger(__name__)
_BY_HAND = "manually set"


@hookimpl
def on_dag_run_failed(dag_run: Any, msg: str) -> None:
    """A run was marked failed: all its jobs end."""
    if _BY_HAND in msg:
        _cancel(dag_run, None)


@hookimpl
def on_task_instance_failed(previous_state: Any, task_instance: Any, error: Any) -> None:
    """A task was marked failed: the jobs that it submitted or waits for end."""
    if isinstance(error, str) and _BY_HAND in error:
        _cancel(task_instance.dag_run, jobs_of_task(task_instance))


def jobs_of_task(task_instance: Any) -> set[str] | None:
    """Ids of the submission tasks whose jobs that Airflow task is about; None when it cannot be told.

    Read from the trigger's arguments, which are all that is left of an operator once it is serialized.
    """
    arguments = getattr(getattr(task_instance, "task", None), "start_trigger_args", None)
    kwargs = getattr(arguments, "trigger_kwargs", None) or {}
    kwargs = kwargs.get("__var", kwargs)
    tasks = kwargs.get("tasks")
    if not isinstance(tasks, list):
        return None
    found: set[str] = set()
    for task in tasks:
        task = task.get("__var", task)  # noqa: PLW2901 - the same dict without Airflow's wrapping
        parameters = task.get("parameters") or kwargs.get("parameters") or {}
        parameters = parameters.get("__var", parameters)
        if task.get("type") == "submit":
            found.add(task["id"])
        elif isinstance(parameters.get("job"), str):
            found.add(parameters["job"])
    return found


def _cancel(dag_run: Any, tasks: set[str] | None) -> None:
    from airavata_provider.jobs.store import close_store, get_store

    by = asker()

    async def work() -> None:
        try:
            store = get_store()
            # A second run's jobs are on record under the pattern's name.
            dags = dict.fromkeys((dag_run.dag_id, first_dag(dag_run.dag_id)))
            born = birth(dag_run.run_after)
            for job in [job for dag_id in dags for job in await store.jobs_of(dag_id, dag_run.run_id, born)]:
                if (
                    job.ours
                    and (job.state is None or not job.state.terminal)
                    and (tasks is None or job.task_id in tasks)
                ):
                    await store.request_cancel(job.name, by)
        finally:
            await close_store()

    try:
        asyncio.run(work())
    except Exception:
        _LOG.exception("The jobs of %s/%s could not be put on record for cancelling", dag_run.dag_id, dag_run.run_id)
