"""Runs the tasks of one segment, each after those it waits for, wherever they are hosted.

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

from pydantic import ValidationError

from airavata_provider.errors import AiravataError, DeadlineExceeded, ExperimentRefused, Fault
from airavata_provider.jobs.state import ends_as
from airavata_provider.models.experiment import Experiment, Fitting, ResolvedExperiment, resolve
from airavata_provider.models.identity import TaskIdentity, experiment_directory
from airavata_provider.models.job import SKIPPED, Job, JobState, TaskRecord, TaskState
from airavata_provider.models.template import render
from airavata_provider.models.trigger_rules import End, verdict
from airavata_provider.tasks.base import Deadline, Parameters, TaskContext, TaskResult
from airavata_provider.tasks.job_request import fit
from airavata_provider.tasks.registry import task_type
from airavata_provider.triggers.clearing import begin_anew, mark, past_of, record_of
from airavata_provider.triggers.hosted import HostedTask, Run
from airavata_provider.triggers.moving import Move, until
from airavata_provider.triggers.progress import before, cleared, outcome, progress
from airavata_provider.triggers.services import HostServices


@dataclass
class Segment:
    """What the host knows while it works; built once per run of a segment."""

    tasks: Sequence[HostedTask]
    run: Run
    services: HostServices
    log: logging.Logger
    results: dict[str, Mapping[str, Any]] = field(default_factory=dict)


async def run_segment(segment: Segment) -> dict[str, Mapping[str, Any]]:
    """Run the tasks, each after those it waits for; return the results by task id.

    :raises AiravataError: the first failure that time may cure, at once; else, when the segment ended badly, the
        first one of all. It is on record by then
    :raises Skipped: there was nothing to do
    """
    run, tasks = segment.run, segment.tasks
    experiment, resolved = await _experiment(segment)
    records = await segment.services.store.task_records(run.dag_id, run.run_id, run.born)
    anew = [*await _to_resubmit(segment, records), *await _outdated(segment, records)]
    found = progress(tasks, run, records, anew)
    redone = [task for task in tasks if task.id not in found.kept]
    records = await begin_anew(segment.services.store, redone, run, records, found.fresh)
    segment.results.update(
        (task_id, record.result)
        for (task_id, map_index), record in records.items()
        if record.state is TaskState.COMPLETED and map_index in (-1, run.map_index)
    )
    upstreams, ends = before(tasks), dict(found.kept)
    failure: Exception | None = None
    for task in tasks:
        record = records.get((task.id, run.map_index))
        if task.id in ends and record is not None:
            segment.log.info("%s: ended by try %d already: %s", task.id, record.try_number, ends[task.id])
            if ends[task.id] == "failed":
                failure = failure or AiravataError(record.error)
            continue
        told = verdict(task.trigger_rule, [ends[upstream] for upstream in upstreams[task.id]])
        if told != "run":
            ends[task.id] = told
            await _record_unrun(segment, task, told, past_of(record))
            continue
        try:
            result = await _run_task(segment, task, experiment, resolved, past_of(record))
        except Exception as error:
            if not _for_good(error, run):
                await expect_retry(segment)
                raise
            if len(tasks) == 1:
                raise
            segment.log.error("%s: %s: %s", task.id, type(error).__name__, error)  # noqa: TRY400 -- for users
            ends[task.id], failure = "failed", failure or error
        else:
            ends[task.id] = "skipped" if result.skipped else "success"
            segment.results[task.id] = result.values
        if task.before is not None and experiment is not None:
            resolved = await _placed(segment, experiment)  # it may have moved the experiment
    end = outcome(tasks, ends)
    if failure is not None and end == "failed":
        raise failure
    if end == "skipped":
        raise Skipped(tasks[-1].id)
    await _hand_over(segment)
    return {task.id: segment.results[task.id] for task in tasks if task.id in segment.results}


async def _hand_over(segment: Segment) -> None:
    """After whatever was done, by this try or an earlier one: the first of two runs must not end without it."""
    run, store = segment.run, segment.services.store
    for task in segment.tasks:
        if task.hands_over:
            await store.handovers.wait(run.dag_id, run.run_id, run.born, task.id, run.try_number)


def _for_good(error: Exception, run: Run) -> bool:
    """Whether Airflow will not try again after that."""
    return not run.may_retry or (isinstance(error, AiravataError) and not error.transient)


async def expect_retry(segment: Segment) -> None:
    """Before Airflow is told of a failure that it answers with another try: whatever stands, stands for that, too."""
    run, store = segment.run, segment.services.store
    records = await store.task_records(run.dag_id, run.run_id, run.born)
    found = (records.get((task.id, run.map_index)) for task in segment.tasks)
    standing = [replace(each, stands_through=run.try_number + 1) for each in found if each and each.stands_through]
    if standing:
        await store.record_tasks(standing)


async def _experiment(segment: Segment) -> tuple[Experiment | None, ResolvedExperiment | None]:
    """The request, and what it means where it runs; waits until it may begin. None in a hand-written DAG."""
    run, services = segment.run, segment.services
    if run.conf is None:
        return None, None
    experiment = Experiment.from_conf(run.conf, experiment_id=run.run_id)
    resolved = await _placed(segment, experiment)
    # A request that fits nowhere is told so before it waits.
    fitting = fit(experiment, services.catalog()) if resolved is None else None
    await _not_before(experiment.not_before, segment.log)
    return experiment, resolved if fitting is None else await _place(segment, fitting)


async def _to_resubmit(segment: Segment, records: Mapping[tuple[str, int], TaskRecord]) -> list[str]:
    """Submissions whose job ended badly before a person, for certain, cleared the segment: another one is wanted."""
    run, store, found = segment.run, segment.services.store, []
    for task in segment.tasks:
        judged = task_type(task.type).judges
        submission = task.parameters.get(judged) if judged else None
        if submission not in {each.id for each in segment.tasks}:
            continue
        told, sent = (records.get((task_id, run.map_index)) for task_id in (task.id, str(submission)))
        ended = told if told is not None and told.state is TaskState.FAILED and told.stands_through else None
        # Who marks a waiting task failed leaves it without a record.
        if (last := ended or (sent if told is None else None)) is None or not cleared(run, last):
            continue
        identity = TaskIdentity(run.dag_id, run.run_id, str(submission), run.map_index, run.born)
        job = await store.latest(identity)
        if job is None or job.ended_at is None or (ended is None and job.cancel_requested_at is None):
            continue
        if await _ended_badly(store, identity, job):
            found.append(str(submission))
    return found


async def _outdated(segment: Segment, records: Mapping[tuple[str, int], TaskRecord]) -> list[str]:
    """Tasks that told how a job ended which another one of a submission in another segment, or run, has followed."""
    run, store, found = segment.run, segment.services.store, []
    for task in segment.tasks:
        judged = task_type(task.type).judges
        submission, told = task.parameters.get(judged) if judged else None, records.get((task.id, run.map_index))
        if told is None or told.ended_at is None or submission in {None, *(each.id for each in segment.tasks)}:
            continue
        job = await store.latest(TaskIdentity(run.dag_id, run.run_id, str(submission), run.map_index, run.born))
        if job is None or job.created_at is None:
            continue
        of = told.result.get("job")
        # Who failed names no job.
        if job.name != of if isinstance(of, str) else job.created_at > told.ended_at:
            found.append(task.id)
    return found


async def _ended_badly(store: Any, submission: TaskIdentity, job: Job) -> bool:
    if job.size is None:
        return ends_as(job) is not JobState.COMPLETE
    return any(ends_as(each) is not JobState.COMPLETE for each in await store.latest_elements(submission))


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
            context = make_context(segment, task, experiment, resolved)
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
    past: int | None,
) -> TaskResult:
    """:param past: see :func:`~airavata_provider.triggers.clearing.mark`"""
    run, store = segment.run, segment.services.store
    started = datetime.now(UTC)

    async def begun() -> None:
        nonlocal past
        if past is not None:
            await store.record_task(record_of(run, task.id, TaskState.EXECUTING, started))
            past = None

    if len(segment.tasks) > 1:
        segment.log.info("::group::%s", task.id)
    result: TaskResult | None = None
    failed: Exception | None = None
    try:
        context = replace(make_context(segment, task, experiment, resolved, past), begun=begun)
        try:
            async with asyncio.timeout(task.deadline_s) as scope:
                result = await task_type(task.type).run(until(Deadline(scope), context))
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"not done after {task.deadline_s:g} s" if task.deadline_s else "timed out",
                where=f"{task.id} on {context.resource.name}",
                advice="raise the task's deadline in the pattern, or look at what it waited for in its log",
            ) from error
    except Exception as error:
        failed = error
        raise
    finally:
        # Cancellation is not an outcome of the task: it leaves no record, and the next run starts it again.
        stands = segment.run.try_number
        if result is not None:
            values = {**result.values, SKIPPED: True} if result.skipped else dict(result.values)
            await _record(segment, task, TaskState.COMPLETED, started, result=values, stands_through=stands)
        elif failed is not None:
            through = stands if _for_good(failed, segment.run) else None
            message = str(failed) if isinstance(failed, AiravataError) else f"{type(failed).__name__}: {failed}"
            values = mark(past)
            await _record(
                segment, task, TaskState.FAILED, started, result=values, error=message, stands_through=through
            )
        if len(segment.tasks) > 1:
            segment.log.info("::endgroup::")
    return result


async def _record_unrun(segment: Segment, task: HostedTask, end: End, past: int | None) -> None:
    segment.log.info("%s: %s, by its trigger rule %s", task.id, end, task.trigger_rule)
    now = datetime.now(UTC)
    if end == "skipped":
        values = {SKIPPED: True, **mark(past)}
        await _record(segment, task, TaskState.COMPLETED, now, result=values, stands_through=segment.run.try_number)
    else:
        error = f"not run: what it waits for did not end as {task.trigger_rule} asks"
        await _record(segment, task, TaskState.CANCELED, now, result=mark(past), error=error)


async def _record(segment: Segment, task: HostedTask, state: TaskState, started: datetime, **values: Any) -> None:
    record = record_of(segment.run, task.id, state, started, ended_at=datetime.now(UTC), **values)
    await segment.services.store.record_task(record)


def make_context(
    segment: Segment,
    task: HostedTask,
    experiment: Experiment | None,
    resolved: ResolvedExperiment | None,
    past: int | None = None,
) -> TaskContext[Any]:
    """Everything one task is given, its parameters rendered and validated.

    :param past: see :func:`~airavata_provider.triggers.clearing.mark`

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
    context = TaskContext[Any](
        identity=TaskIdentity(run.dag_id, run.run_id, task.id, run.map_index, run.born),
        try_number=run.try_number,
        fresh=past is not None,
        past=past or 0,
        parameters=_validate(kind.Parameters, parameters, task.id),
        experiment=experiment,
        resource=resource,
        directory=directory,
        services=segment.services,
        log=segment.log,
        submission=make_context(segment, task.submission, experiment, resolved) if task.submission else None,
    )
    if task.before is None or experiment is None or resolved is None:
        return context

    def given(task: HostedTask, resolved: ResolvedExperiment) -> TaskContext[Any]:
        return make_context(segment, task, experiment, resolved)

    return replace(context, elsewhere=Move(segment, task, experiment, given))


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


async def _not_before(moment: datetime | None, log: logging.Logger) -> None:
    if moment is None:
        return
    told = False
    # In steps: one long sleep would follow the monotonic clock, which a suspended machine stops.
    while (delay := (moment - datetime.now(UTC)).total_seconds()) > 0:
        if not told:
            log.info("Not before %s: waiting", moment.isoformat())
            told = True
        await asyncio.sleep(min(delay, 60))
