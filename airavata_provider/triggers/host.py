"""Runs the tasks of one segment, one after the other, wherever they are hosted.

Always holds: a task that ended is on record before the next one starts, so that whoever is killed, the next
run goes on at the first unfinished task; every error leaves as an :class:`~airavata_provider.errors.AiravataError`;
deadlines are kept here, not by the host.

Imports no Airflow: the triggerer's and the worker's hosts hand everything in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from airavata_provider.errors import AiravataError, DeadlineExceeded, ExperimentRefused, Fault
from airavata_provider.models.experiment import Experiment, Fitting, ResolvedExperiment, resolve
from airavata_provider.models.identity import TaskIdentity, birth, experiment_directory
from airavata_provider.models.job import TaskRecord, TaskState
from airavata_provider.models.split import first_dag
from airavata_provider.models.template import render
from airavata_provider.tasks.base import Deadline, Parameters, TaskContext, TaskResult
from airavata_provider.tasks.job_request import fit
from airavata_provider.tasks.registry import task_type
from airavata_provider.triggers.services import HostServices


class HostedTask(BaseModel):
    """One task as a trigger carries it: JSON, made by the factory or by an operator.

    :param id: the task's id in the pattern; the Airflow task's id in a hand-written DAG
    :param type: the task type's word
    :param parameters: the pattern's parameters, templates and all
    :param resource: a compute resource's name; None for the experiment's own
    :param deadline_s: seconds the task may take, None for no limit
    :param submission: the submission whose job it may submit once more; None: it does not
    :param hands_over: its job's end starts the experiment's second run
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    type: str
    parameters: dict[str, Any] = {}
    resource: str | None = None
    deadline_s: float | None = None
    submission: HostedTask | None = None
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
        segment that had ended well and is started with a later try was cleared (see :func:`is_fresh`)
    """

    dag_id: str
    run_id: str
    map_index: int
    try_number: int
    conf: Mapping[str, Any] | None = None
    cleared_through: int | None = None
    born: str = ""


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
    ti: Any, dag_run: Any, *, experiment: bool, born: str | None = None, cleared_through: int | None = None
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
    )


@dataclass
class Segment:
    """What the host knows while it works; built once per run of a segment."""

    tasks: Sequence[HostedTask]
    run: Run
    services: HostServices
    log: logging.Logger
    results: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def is_fresh(tasks: Sequence[HostedTask], run: Run, records: Mapping[tuple[str, int], TaskRecord]) -> bool:
    """Whether a person asked for this segment's work anew, as opposed to a retry that goes on with it.

    A trigger that dies is started again with the same try number, and Airflow retries only what told of its
    failure, which leaves a record that is not COMPLETED. So a segment that is complete on record and begins
    again with a later try was cleared by a person. A worker can die after its work is recorded and before
    Airflow hears of it: there the host says which tries were cleared.
    """
    found = [records.get((task.id, run.map_index)) for task in tasks]
    complete = [record for record in found if record is not None and record.state is TaskState.COMPLETED]
    if len(complete) < len(tasks):
        return False
    last = max(record.try_number for record in complete)
    if run.cleared_through is not None:
        return last <= run.cleared_through
    return last < run.try_number


async def run_segment(segment: Segment) -> dict[str, Mapping[str, Any]]:
    """Run the tasks in order; return the results by task id.

    :raises AiravataError: the first task that failed; it is on record by then
    """
    run, services = segment.run, segment.services
    experiment = resolved = None
    if run.conf is not None:
        experiment = Experiment.from_conf(run.conf, experiment_id=run.run_id)
        resolved = await _placed(segment, experiment)
        # A request that fits nowhere is told so before it waits.
        fitting = fit(experiment, services.catalog()) if resolved is None else None
        await _until(experiment.not_before, segment.log)
        if fitting is not None:
            resolved = await _place(segment, fitting)
    records = await services.store.task_records(run.dag_id, run.run_id, run.born)
    fresh = is_fresh(segment.tasks, run, records)
    if fresh:
        await services.store.forget_tasks(
            run.dag_id, run.run_id, run.born, [(task.id, run.map_index) for task in segment.tasks]
        )
    segment.results.update(
        (task_id, record.result)
        for (task_id, map_index), record in records.items()
        if record.state is TaskState.COMPLETED and map_index in (-1, run.map_index)
    )
    for task in segment.tasks:
        record = records.get((task.id, run.map_index))
        if not fresh and record is not None and record.state is TaskState.COMPLETED:
            segment.log.info("%s: done by try %d already", task.id, record.try_number)
            continue
        result = await _run_task(segment, task, experiment, resolved, fresh)
        segment.results[task.id] = result.values
        if result.skipped:
            raise Skipped(task.id)
    for task in segment.tasks:
        # After whatever was done, by this try or an earlier one: the first run must not end without it.
        if task.hands_over:
            await services.store.handovers.wait(run.dag_id, run.run_id, run.born, task.id, run.try_number)
    return {task.id: segment.results[task.id] for task in segment.tasks}


class Skipped(Exception):
    """A task had nothing to do, and those after it need not run."""


async def cancel_segment(segment: Segment) -> None:
    """Let each task stop what it left running on the other side. Errors of one do not keep the others."""
    run = segment.run
    experiment = resolved = None
    if run.conf is not None:
        experiment = Experiment.from_conf(run.conf, experiment_id=run.run_id)
        resolved = await _placed(segment, experiment)
        if resolved is None:
            segment.log.info("It was not decided yet where this runs: nothing of it is anywhere")
            return
    # Parameters may use what earlier tasks returned.
    for (task_id, map_index), record in (
        await segment.services.store.task_records(run.dag_id, run.run_id, run.born)
    ).items():
        if record.state is TaskState.COMPLETED and map_index in (-1, run.map_index):
            segment.results.setdefault(task_id, record.result)
    for task in segment.tasks:
        try:
            context = make_context(segment, task, experiment, resolved, fresh=False)
            await task_type(task.type).cancel(context)
        except AiravataError as error:
            segment.log.warning("%s: could not be cancelled: %s", task.id, error)


async def _placed(segment: Segment, experiment: Experiment) -> ResolvedExperiment | None:
    """The experiment where it runs; None where nobody decided that yet."""
    catalog, run = segment.services.catalog(), segment.run
    if experiment.compute_resource is not None:
        return resolve(experiment, catalog)
    found = await segment.services.store.placement(run.dag_id, run.run_id, run.born)
    return None if found is None else resolve(found.settled(experiment), catalog)


async def _place(segment: Segment, fitting: Fitting) -> ResolvedExperiment:
    """Decide where the experiment runs, for all of its tasks and their retries."""
    run, services = segment.run, segment.services
    policy = services.placement_policy()
    found = await services.placer().place(run.dag_id, run.run_id, run.born, fitting, policy)
    for reason in found.reasons:
        segment.log.info("%s", reason)
    return resolve(found.settled(fitting.places[0].experiment), services.catalog())


async def _run_task(
    segment: Segment,
    task: HostedTask,
    experiment: Experiment | None,
    resolved: ResolvedExperiment | None,
    fresh: bool,
) -> TaskResult:
    run = segment.run
    started = datetime.now(UTC)
    if len(segment.tasks) > 1:
        segment.log.info("::group::%s", task.id)
    result: TaskResult | None = None
    message = ""
    try:
        context = make_context(segment, task, experiment, resolved, fresh)
        try:
            async with asyncio.timeout(task.deadline_s) as scope:
                result = await task_type(task.type).run(_until_then(context, Deadline(scope)))
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"not done after {task.deadline_s:g} s" if task.deadline_s else "timed out",
                where=f"{task.id} on {context.resource.name}",
                advice="raise the task's deadline in the pattern, or look at what it waited for in its log",
            ) from error
    except AiravataError as error:
        message = str(error)
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        # Cancellation is not an outcome of the task: it leaves no record, and the next run starts it again.
        if result is not None or message:
            await segment.services.store.record_task(
                TaskRecord(
                    dag_id=run.dag_id,
                    experiment_id=run.run_id,
                    task_id=task.id,
                    map_index=run.map_index,
                    try_number=run.try_number,
                    state=TaskState.COMPLETED if result is not None else TaskState.FAILED,
                    started_at=started,
                    ended_at=datetime.now(UTC),
                    result=dict(result.values) if result is not None else {},
                    error=message,
                    born=run.born,
                )
            )
        if len(segment.tasks) > 1:
            segment.log.info("::endgroup::")
    return result


def make_context(
    segment: Segment,
    task: HostedTask,
    experiment: Experiment | None,
    resolved: ResolvedExperiment | None,
    fresh: bool,
) -> TaskContext[Any]:
    """Everything one task is given, its parameters rendered and validated.

    :raises ExperimentRefused: parameters that make no sense once their templates are rendered
    :raises CatalogError: an unknown resource
    """
    run = segment.run
    kind = task_type(task.type)
    parameters: dict[str, Any] = task.parameters
    if resolved is not None:
        resource = segment.services.catalog().compute_resource(task.resource) if task.resource else resolved.resource
        directory = f"{resource.scratch}/{experiment_directory(run.dag_id, run.run_id, run.born)}"
        variables = {
            **resolved.variables(directory),
            "tasks": segment.results,
            "run": {"dag_id": run.dag_id, "id": run.run_id, "try_number": run.try_number},
        }
        parameters = {**kind.defaults(resolved), **render(parameters, variables)}
    else:
        if task.resource is None:
            raise ExperimentRefused(task.id, [Fault("resource", "no compute resource is named")])
        resource = segment.services.catalog().compute_resource(task.resource)
        directory = f"{resource.scratch}/{experiment_directory(run.dag_id, run.run_id, run.born)}"
    return TaskContext(
        identity=TaskIdentity(run.dag_id, run.run_id, task.id, run.map_index, run.born),
        try_number=run.try_number,
        fresh=fresh,
        parameters=_validate(kind.Parameters, parameters, task.id),
        experiment=experiment,
        resource=resource,
        directory=directory,
        services=segment.services,
        log=segment.log,
        submission=make_context(segment, task.submission, experiment, resolved, False) if task.submission else None,
    )


def _until_then(context: TaskContext[Any], deadline: Deadline) -> TaskContext[Any]:
    again = context.submission
    return replace(context, deadline=deadline, submission=again and replace(again, deadline=deadline))


def _validate(model: type[Parameters], parameters: Mapping[str, Any], task_id: str) -> Parameters:
    try:
        return model.model_validate(parameters)
    except ValidationError as error:
        raise ExperimentRefused(
            f"task {task_id}: its parameters make no sense",
            [
                Fault(".".join(str(part) for part in fault["loc"]), fault["msg"])
                for fault in error.errors(include_url=False, include_input=False)
            ],
        ) from None


async def _until(moment: datetime | None, log: logging.Logger) -> None:
    if moment is None:
        return
    told = False
    # In steps: one long sleep would follow the monotonic clock, which a suspended machine stops.
    while (delay := (moment - datetime.now(UTC)).total_seconds()) > 0:
        if not told:
            log.info("Not before %s: waiting", moment.isoformat())
            told = True
        await asyncio.sleep(min(delay, 60))
