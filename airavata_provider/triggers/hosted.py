"""What a host is given: which tasks, for which attempt at which Airflow task.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from airavata_provider.models.identity import birth
from airavata_provider.models.split import first_dag


class HostedTask(BaseModel):
    """One task as a trigger carries it: JSON, made by the factory or by an operator.

    :param id: the task's id in the pattern; the Airflow task's id in a hand-written DAG
    :param type: the task type's word
    :param parameters: the pattern's parameters, templates and all
    :param resource: a compute resource's name; None for the experiment's own
    :param deadline_s: seconds the task may take, None for no limit
    :param after: ids of the tasks of its segment that it waits for; None: the one before it
    :param trigger_rule: Airflow's, for those
    :param waited_for: whether a task of another segment waits for it
    :param submission: the submission whose job it may submit once more; None: it does not
    :param before: where it may do that at another place: what it has to do there first; None: it may not
    :param hands_over: its job's end starts the experiment's second run
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    type: str
    parameters: dict[str, Any] = {}
    resource: str | None = None
    deadline_s: float | None = None
    after: tuple[str, ...] | None = None
    trigger_rule: str = "all_success"
    waited_for: bool = False
    submission: HostedTask | None = None
    before: tuple[HostedTask, ...] | None = None
    hands_over: bool = False


@dataclass(frozen=True)
class Run:
    """Which attempt at which Airflow task this is.

    :param dag_id: the DAG; in an experiment the pattern's name, also for its second run's DAG
    :param run_id: the DAG run, which is the experiment's id
    :param map_index: -1 when not mapped
    :param try_number: from 1
    :param conf: the run's ``conf``: the experiment, when a pattern's DAG runs
    :param born: when the run was made; part of its jobs' identity
    :param cleared_through: the last try that a person cleared, where the host knows it, else None: then a
        segment that had ended well and is started with a later try was cleared (see :mod:`.progress`)
    :param started: when Airflow started the run, as text: another moment once a person has cleared a run that was
        over; empty where the host is not told
    :param may_retry: whether Airflow may answer a failure with another try
    """

    dag_id: str
    run_id: str
    map_index: int
    try_number: int
    conf: Mapping[str, Any] | None = None
    cleared_through: int | None = None
    born: str = ""
    started: str = ""
    may_retry: bool = True


def hosted_tasks(
    tasks: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any] | None,
    resource: str | None,
    *,
    experiment: bool,
) -> list[HostedTask]:
    """The tasks of a trigger's fields; without an experiment there is one, and Airflow rendered what it takes."""
    found = [HostedTask.model_validate(task) for task in tasks]
    if experiment:
        return found
    override = {"parameters": dict(parameters or {}), "resource": resource}
    return [task.model_copy(update=override) for task in found]


def run_of(
    ti: Any,
    dag_run: Any,
    *,
    experiment: bool,
    born: str | None = None,
    cleared_through: int | None = None,
    may_retry: bool = True,
) -> Run:
    """The attempt that a task instance of Airflow is.

    :param ti: Airflow's task instance
    :param dag_run: Airflow's DAG run; not looked at when ``born`` is told and ``experiment`` False
    :param born: as told by another host of the same run
    """
    return Run(
        # Both runs of an experiment share everything: names, directories, records.
        dag_id=first_dag(ti.dag_id) if experiment else ti.dag_id,
        run_id=ti.run_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
        conf=(dag_run.conf or {}) if experiment else None,
        cleared_through=cleared_through,
        born=born or birth(dag_run.run_after),
        started=_text(getattr(dag_run, "start_date", None)),
        may_retry=may_retry,
    )


def _text(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat()
