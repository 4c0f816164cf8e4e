"""Experiments as Airflow's DAG runs: make one, read one, end one. For the API server and the CLI.

Talks to Airflow's own database, in the calling thread; so never in a triggerer, a task or a DAG file. What
Airflow cannot know of an experiment (jobs, their news, each step's record) comes from the job store, in
:func:`experiment_report`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airavata_provider.errors import AiravataError, ExperimentRefused, Fault
from airavata_provider.models.advice import told_of
from airavata_provider.models.identity import birth
from airavata_provider.models.job import Job, SubmissionState, TaskRecord
from airavata_provider.models.split import Handover, HandoverState, first_dag, second_dag

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

    from airavata_provider.jobs.rows import StoredEvent
    from airavata_provider.jobs.store import JobStore
    from airavata_provider.models.placement import Placement
    from airavata_provider.models.resolved import ResolvedExperiment

CANCEL_NOTE = "Cancelled by "
"""How the note on a run that was cancelled on purpose begins."""

FINISHED = frozenset({"success", "failed"})
"""Airflow's states of a run that is over."""

_ASKER: ContextVar[str] = ContextVar("airavata_asker", default="marked failed in Airflow")


class ExperimentExists(AiravataError):
    """An experiment of that id is there already."""


class ExperimentState(StrEnum):
    """What became of a request so far; Apache Airavata's words."""

    SCHEDULED = "SCHEDULED"
    LAUNCHED = "LAUNCHED"
    EXECUTING = "EXECUTING"
    CANCELING = "CANCELING"
    CANCELED = "CANCELED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class AirflowTask:
    """One Airflow task of a run: a step of the experiment, or a segment of several.

    :param id: task id
    :param state: Airflow's word; None before it was looked at
    """

    id: str
    map_index: int
    state: str | None
    try_number: int
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class Run:
    """An experiment's DAG run as Airflow knows it; of an experiment in two runs, both as one.

    :param dag_id: the pattern's DAG, whose run is the first
    :param state: Airflow's word; the second run's where there is one and the first succeeded
    :param run_after: it starts no earlier
    :param tasks: of both runs
    :param second_dag_id: the DAG of the second run; None while there is none
    :param first_state: Airflow's word for the first of two runs that are there; None: there is one
    """

    dag_id: str
    id: str
    state: str
    conf: Mapping[str, Any]
    note: str
    run_after: datetime | None
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    tasks: tuple[AirflowTask, ...]
    second_dag_id: str | None = None
    first_state: str | None = None

    @property
    def over(self) -> bool:
        """Whether it will not change by itself any more."""
        return self.state in FINISHED

    @property
    def born(self) -> str:
        """What tells it from another run of the same id in the job store."""
        return birth(self.run_after) if self.run_after is not None else ""


def create_run(resolved: ResolvedExperiment, *, via: str, by: str | None) -> Run:
    """Make an experiment's DAG run, as Airflow's own trigger does.

    :param via: Airflow's ``DagRunTriggeredByType``: ``cli`` or ``rest_api``
    :param by: the user's name
    :raises ExperimentRefused: there is no such DAG yet, or it does not take the request
    :raises ExperimentExists: there is a run of that id
    """
    from airflow.api.common.trigger_dag import trigger_dag
    from airflow.exceptions import DagNotFound, DagRunAlreadyExists, ParamValidationError
    from airflow.utils.types import DagRunTriggeredByType

    experiment, dag_id = resolved.experiment, resolved.pattern
    try:
        made = trigger_dag(
            dag_id=dag_id,
            triggered_by=DagRunTriggeredByType(via),
            triggering_user_name=by,
            run_id=experiment.id,
            run_after=experiment.not_before,
            conf=experiment.to_conf(),
        )
    except DagNotFound as error:
        message = f"{dag_id} is not among Airflow's DAGs: it is new, or has import errors"
        raise _refused(resolved, "pattern", message) from error
    except DagRunAlreadyExists as error:
        raise ExperimentExists(f"{dag_id} has an experiment {experiment.id!r} already") from error
    except (ParamValidationError, ValueError) as error:
        raise _refused(resolved, "", str(error)) from error
    if made is None:
        raise _refused(resolved, "pattern", f"Airflow made no run of {dag_id}")
    found = read_run(dag_id, made.run_id)
    if found is None:
        raise _refused(resolved, "", "the run went away as soon as it was made")
    return found


def _refused(resolved: ResolvedExperiment, where: str, message: str) -> ExperimentRefused:
    title = f"experiment {resolved.experiment.id or 'without an id'} cannot run"
    return ExperimentRefused(title, [Fault(where, message)])


def dags_with_run(experiment_id: str) -> list[str]:
    """Ids of the DAGs that have a run of that id, second runs' left out."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(DagRun.dag_id).where(DagRun.run_id == experiment_id).order_by(DagRun.dag_id)
        found = list(session.scalars(query))
    return [dag_id for dag_id in found if first_dag(dag_id) == dag_id or first_dag(dag_id) not in found]


def read_run(dag_id: str, experiment_id: str) -> Run | None:
    """An experiment's DAG run, or both of them; None when there is none.

    :param dag_id: the pattern's, or that of its second run
    """
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = _rows(dag_id, experiment_id, session)
        if not found:
            return None
        first, second = found[0], found[1] if len(found) > 1 else None
        # Of a first run that a person cleared, the second is a thing of the past.
        last = second if second is not None and str(first.state) == "success" else first
        columns = (
            TaskInstance.task_id,
            TaskInstance.map_index,
            TaskInstance.state,
            TaskInstance.try_number,
            TaskInstance.start_date,
            TaskInstance.end_date,
        )
        dags = [row.dag_id for row in found]
        query = select(*columns).where(TaskInstance.dag_id.in_(dags), TaskInstance.run_id == experiment_id)
        tasks = [AirflowTask(*values) for values in session.execute(query)]
        return Run(
            dag_id=first.dag_id,
            id=experiment_id,
            state=str(last.state),
            conf=first.conf or {},
            note=last.note or first.note or "",
            run_after=first.run_after,
            queued_at=first.queued_at,
            started_at=first.start_date,
            ended_at=last.end_date,
            tasks=tuple(sorted(tasks, key=_begin)),
            second_dag_id=second.dag_id if second is not None else None,
            first_state=str(first.state) if second is not None else None,
        )


def _rows(dag_id: str, experiment_id: str, session: Session, *, lock: bool = False) -> list[DagRun]:
    """An experiment's first run, and its second if there is one.

    :param lock: lock the first
    """
    from airflow.models.dagrun import DagRun
    from sqlalchemy import select

    def run(dag_id: str) -> DagRun | None:
        query = select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == experiment_id)
        return session.scalar(query.with_for_update() if lock and dag_id == pattern else query)

    # Locked before the second is looked for: then that cannot be made meanwhile.
    pattern = first_dag(dag_id)
    first = run(pattern)
    second = run(second_dag(pattern))
    if first is None:  # somebody's own DAG may be called like that
        return [second] if second is not None and dag_id != pattern else []
    return [first, second] if second is not None and second.run_after == first.run_after else [first]


def _begin(task: AirflowTask) -> tuple[bool, float, str, int]:
    """Order of the tasks: as they began, those that have not begun last."""
    began = task.started_at.timestamp() if task.started_at else 0.0
    return (task.started_at is None, began, task.id, task.map_index)


@contextmanager
def asked_by(words: str) -> Iterator[None]:
    """What is marked as failed in this context meanwhile was asked for by that one, in the words of the record.

    Airflow tells its listeners what was marked, and not by whom.
    """
    token = _ASKER.set(words)
    try:
        yield
    finally:
        _ASKER.reset(token)


def asker() -> str:
    """Who asks for the end of what is being marked as failed, as far as anybody knows."""
    return _ASKER.get()


def fail_run(dag_id: str, experiment_id: str, *, by: str, between: bool = False) -> bool:
    """Mark a run as failed the way Airflow's API does: its tasks stop, its triggers hear of it.

    Of an experiment in two runs, whichever is not over.

    :param by: goes into the run's note, and is who asks for the end of its jobs
    :param between: where both are, the first is marked although it succeeded: no second is made then, or begins anew
    :returns: False when there is no such run or it was over already
    """
    from airflow.api_fastapi.core_api.datamodels.dag_run import DagRunMutableStates
    from airflow.api_fastapi.core_api.services.public.dag_run import patch_dag_run_state
    from airflow.models.dagbag import DBDagBag
    from airflow.utils.session import create_session

    with asked_by(by), create_session() as session:
        found = _rows(dag_id, experiment_id, session, lock=True)
        open_ = [row for row in found if str(row.state) not in FINISHED]
        if not open_ and between:
            open_ = [row for row in found[:1] if str(row.state) == "success"]
        for row in open_:
            dag = DBDagBag().get_dag_for_run(row, session=session)
            if dag is None:
                raise AiravataError(f"Airflow has no DAG {row.dag_id} for the run {experiment_id} any more")
            if not row.note:
                row.note = (f"{CANCEL_NOTE}{by}", None)
            patch_dag_run_state(dag=dag, dag_run=row, state=DagRunMutableStates.FAILED, session=session)
        return bool(open_)


def between_runs(run: Run, handover: Handover | None) -> bool:
    """Whether an experiment's first run is over and its second still to come, or to begin anew. Pure."""
    waits = handover is not None and handover.state == HandoverState.WAITING
    return waits and (run.first_state or run.state) == "success"


def experiment_state(
    run: Run, jobs: Sequence[Job], now: datetime, handover: Handover | None = None
) -> ExperimentState:
    """An experiment's state from its run and its jobs. Pure.

    Cancelling is over only when every job's scheduler agreed, which may be after the run's end.

    :param handover: of an experiment in two runs
    """
    canceling = any(job.cancel_requested_at and not job.canceled_at for job in jobs)
    if between_runs(run, handover):
        return ExperimentState.CANCELING if canceling else ExperimentState.EXECUTING
    if run.state == "success":
        return ExperimentState.COMPLETED
    if canceling:
        return ExperimentState.CANCELING
    if run.state == "failed":
        wanted = run.note.startswith(CANCEL_NOTE) or any(job.cancel_requested_at for job in jobs)
        return ExperimentState.CANCELED if wanted else ExperimentState.FAILED
    if run.state == "running":
        return ExperimentState.EXECUTING
    later = run.run_after is not None and run.run_after > now
    return ExperimentState.SCHEDULED if later else ExperimentState.LAUNCHED


async def cancel_experiment(run: Run, store: JobStore, *, by: str) -> list[Job]:
    """End an experiment: every job's end is on record, for the reconciler to repeat, and its run fails.

    The record first: who dies in between leaves no job that nobody ends. And once more when the run has failed, for
    a job that its last step made meanwhile.

    :returns: the jobs that the cluster still had to give up
    """
    asked: dict[str, Job] = {}

    async def put_on_record() -> None:
        for job in await store.jobs_of(run.dag_id, run.id, run.born):
            if job.ours and not job_over(job) and job.name not in asked:
                asked[job.name] = await store.request_cancel(job.name, by)

    handover = await store.handovers.of(run.dag_id, run.id, run.born)
    await put_on_record()
    await asyncio.to_thread(fail_run, run.dag_id, run.id, by=by, between=between_runs(run, handover))
    await put_on_record()
    return list(asked.values())


def job_over(job: Job) -> bool:
    """Whether a job will not run any more: it ended, or never was accepted."""
    ended = job.state is not None and job.state.terminal
    return ended or job.submission is SubmissionState.REFUSED


async def experiment_report(run: Run, store: JobStore, *, now: datetime) -> dict[str, Any]:
    """Everything there is to tell about an experiment, as JSON values but for its moments."""
    handover = await store.handovers.of(run.dag_id, run.id, run.born)
    if handover is not None and handover.state == HandoverState.STARTED and run.second_dag_id is None:
        # It was started since the run was read.
        again: Run | None = await asyncio.to_thread(read_run, run.dag_id, run.id)
        run = again or run
    jobs = await store.jobs_of(run.dag_id, run.id, run.born)
    records = await store.task_records(run.dag_id, run.id, run.born)
    placement = await store.placement(run.dag_id, run.id, run.born)
    histories = {job.name: [_event(event) for event in await store.events(job.name)] for job in jobs}
    return {
        "id": run.id,
        "dag_id": run.dag_id,
        "state": experiment_state(run, jobs, now, handover).value,
        "run_state": run.state,
        "over": run.over and not between_runs(run, handover),
        "second_run": None if handover is None else {"dag_id": run.second_dag_id, "state": handover.state},
        "experiment": dict(run.conf),
        "run_after": run.run_after,
        "queued_at": run.queued_at,
        "started_at": run.started_at,
        "ended_at": None if between_runs(run, handover) else run.ended_at,
        "placement": None if placement is None else _placement(placement),
        "airflow_tasks": [asdict(task) for task in run.tasks],
        "tasks": [_record(record) for record in sorted(records.values(), key=lambda each: each.started_at)],
        "jobs": [{**_job(job), "events": histories[job.name]} for job in jobs],
        "outputs": outputs(records.values()),
    }


def _placement(placement: Placement) -> dict[str, Any]:
    return {
        "resource": placement.resource,
        "queue": placement.queue,
        "decided_at": placement.decided_at,
        "reasons": list(placement.reasons),
    }


def _record(record: TaskRecord) -> dict[str, Any]:
    return {
        "id": record.task_id,
        "map_index": record.map_index,
        "state": record.state.value,
        "try_number": record.try_number,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "result": dict(record.result),
        "error": record.error,
    }


def _job(job: Job) -> dict[str, Any]:
    hidden = {"dag_id", "experiment_id", "version"}
    return {name: value for name, value in asdict(job).items() if name not in hidden} | told_of(job)


def _event(stored: StoredEvent) -> dict[str, Any]:
    return {**asdict(stored.event), "received_at": stored.received_at, "effect": stored.effect}


def outputs(records: Iterable[TaskRecord]) -> dict[str, Any]:
    """Addresses of the files that came back, by output: what the tasks' results call ``outputs``."""
    found: dict[str, Any] = {}
    for record in sorted(records, key=lambda each: each.started_at):
        value = record.result.get("outputs")
        if isinstance(value, Mapping):
            found.update(value)
    return found
