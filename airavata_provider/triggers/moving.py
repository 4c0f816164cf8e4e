"""Moves an experiment to another place, for a task that answers its job's end with an attempt there.

Where an experiment is, is its placement on record, which is saved together with the attempt's intent: whoever is
killed before goes on here, whoever is killed after goes on there. What comes before the submission is then done there
once more; every task of it finds what an earlier run left.

Imports no Airflow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airavata_provider.errors import DeadlineExceeded, ExperimentRefused, Fault
from airavata_provider.models.experiment import Experiment, Fitting, ResolvedExperiment, resolve
from airavata_provider.models.job import Job
from airavata_provider.models.placement import Placement
from airavata_provider.models.rules import NotAgain, Rule, Sizes, failed_places, grown, sizes_of
from airavata_provider.models.values import clock
from airavata_provider.tasks.base import Deadline, Elsewhere, TaskContext, TaskResult
from airavata_provider.tasks.job_request import fit
from airavata_provider.tasks.registry import task_type

if TYPE_CHECKING:
    from airavata_provider.triggers.host import Segment
    from airavata_provider.triggers.hosted import HostedTask


@dataclass(frozen=True)
class Move(Elsewhere):
    """See the module.

    :param task: the task that moves its experiment
    :param given: what a task is given where an experiment runs
    :param deadline: the task's
    """

    segment: Segment
    task: HostedTask
    experiment: Experiment
    given: Callable[[HostedTask, ResolvedExperiment], TaskContext[Any]]
    deadline: Deadline = field(default_factory=Deadline)

    async def choose(self, rule: Rule, number: int, attempts: Sequence[Job]) -> tuple[Placement, Sizes]:
        services, run, last = self.segment.services, self.segment.run, attempts[-1]
        now = await self._placement()
        if now is None:
            raise NotAgain(f"the request names {self.experiment.compute_resource} alone")
        for job in await services.store.jobs_of(run.dag_id, run.run_id, run.born):
            if job.ours and job.resource == last.resource and job.task_id != last.task_id:
                raise NotAgain(f"task {job.task_id} has a job on {job.resource}, too, whose files are there")
        here = self.given(self.task, self._resolved(now)).submission
        kept = kept_sizes(now.sizes, sizes_of(last), sizes_of_request(here))
        try:
            fitting = fit(self.experiment.model_copy(update=kept), services.catalog())
        except ExperimentRefused as refused:
            raise NotAgain("; ".join(fault.message for fault in refused.faults)) from refused
        found = narrowed(fitting, rule, number, attempts, kept)
        placement = await services.placer().choose(
            run.dag_id, run.run_id, run.born, found.fitting, services.placement_policy()
        )
        sizes = found.sizes[placement.resource]
        return replace(placement, revision=now.revision + 1, sizes=found.asked(placement.resource)), sizes

    async def at(self, placement: Placement | None) -> TaskContext[Any]:
        return self._there(self._resolved(placement or await self._placement()))

    async def prepare(self) -> TaskContext[Any]:
        services, run, log = self.segment.services, self.segment.run, self.segment.log
        resolved = self._resolved(await self._placement())
        records = await services.store.task_records(run.dag_id, run.run_id, run.born)
        for task in self.task.before or ():
            log.info("::group::%s, on %s", task.id, resolved.resource.name)
            try:
                result = await _in_time(task, self.given(task, resolved))
            finally:
                log.info("::endgroup::")
            self.segment.results[task.id] = result.values
            if (record := records.get((task.id, run.map_index))) is not None:
                # What later tasks are told of it is what it did here.
                now = datetime.now(UTC)
                await services.store.record_task(replace(record, ended_at=now, result=dict(result.values)))
        return self._there(resolved)

    async def _placement(self) -> Placement | None:
        """Where the experiment is; None where its request names that."""
        run = self.segment.run
        if self.experiment.compute_resource is not None:
            return None
        return await self.segment.services.store.placement(run.dag_id, run.run_id, run.born)

    def _resolved(self, placement: Placement | None) -> ResolvedExperiment:
        experiment = self.experiment if placement is None else placement.settled(self.experiment)
        return resolve(experiment, self.segment.services.catalog())

    def _there(self, resolved: ResolvedExperiment) -> TaskContext[Any]:
        return until(self.deadline, self.given(self.task, resolved))


def until(deadline: Deadline, context: TaskContext[Any]) -> TaskContext[Any]:
    """What a task is given, and what it hands on, with its deadline."""
    again, move = context.submission, context.elsewhere
    return replace(
        context,
        deadline=deadline,
        submission=again and replace(again, deadline=deadline),
        elsewhere=replace(move, deadline=deadline) if isinstance(move, Move) else move,
    )


async def _in_time(task: HostedTask, context: TaskContext[Any]) -> TaskResult:
    try:
        async with asyncio.timeout(task.deadline_s) as scope:
            return await task_type(task.type).run(replace(context, deadline=Deadline(scope)))
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"not done after {task.deadline_s or 0:g} s", where=f"{task.id} on {context.resource.name}"
        ) from error


@dataclass(frozen=True)
class Narrowed:
    """Where a rule's next attempt can go.

    :param fitting: the places, and why not the others
    :param sizes: what it asks for in each, by resource
    :param kept: what it asks for in any, by the experiment's field
    :param grows: the experiment's fields that the rule multiplies
    """

    fitting: Fitting
    sizes: Mapping[str, Sizes]
    kept: Mapping[str, Any]
    grows: frozenset[str]

    def asked(self, resource: str) -> dict[str, Any]:
        """What the experiment asks for there instead of what its request says."""
        values = asked_sizes(self.sizes[resource])
        return {name: values[name] for name in sorted({*self.kept, *self.grows}) if name in values}


def narrowed(fitting: Fitting, rule: Rule, number: int, attempts: Sequence[Job], kept: Mapping[str, Any]) -> Narrowed:
    """Of the places where an experiment fits, those that a rule's next attempt can go to. Pure.

    :param kept: what attempts before made of the request, see :func:`kept_sizes`
    :raises NotAgain: there is none
    """
    last, unfit = sizes_of(attempts[-1]), dict(fitting.unfit)
    failed = failed_places(rule, attempts)
    failed.setdefault(attempts[-1].resource, "the attempt before was there")
    grows = {name for name, factor in (("memory_mb", rule.memory), ("walltime", rule.walltime)) if factor}
    places, sizes = [], {}
    for place in fitting.places:
        name = place.resource.name
        if name in failed:
            unfit[name] = (Fault("compute_resource", failed[name]),)
            continue
        asked = Sizes(
            last.memory_mb if {"memory_mb"} & (grows | kept.keys()) else place.memory_mb,
            last.walltime_s if {"walltime"} & (grows | kept.keys()) else place.walltime_s,
        )
        try:
            most = Sizes(place.queue.max_memory_mb, place.queue.max_walltime)
            sizes[name] = grown(asked, rule, most, number)
        except NotAgain as why:
            unfit[name] = (Fault("compute_resource", str(why)),)
        else:
            places.append(place)
    if not places:
        told = (f"{name}: {'; '.join(fault.message for fault in faults)}" for name, faults in unfit.items())
        raise NotAgain(", ".join(told))
    return Narrowed(Fitting(tuple(places), unfit), sizes, kept, frozenset(grows))


def kept_sizes(placed: Mapping[str, Any], last: Sizes, usual: Sizes) -> dict[str, Any]:
    """What attempts before made of a request's sizes, by the experiment's field: that goes along. Pure.

    What follows from the place they were in does not.

    :param placed: what they asked for when they came to that place
    :param last: what the last one asked for
    :param usual: what an attempt asks for there that no rule changed
    """
    grew = {
        name: value
        for name, value in asked_sizes(last).items()
        if name in placed or value != asked_sizes(usual).get(name)
    }
    return {**placed, **grew}


def asked_sizes(sizes: Sizes) -> dict[str, Any]:
    """Sizes by the experiment's field; without what is not asked for."""
    values: dict[str, Any] = {} if sizes.memory_mb is None else {"memory_mb": sizes.memory_mb}
    return values if sizes.walltime_s is None else values | {"walltime": clock(sizes.walltime_s)}


def sizes_of_request(submission: TaskContext[Any] | None) -> Sizes:
    """What a submission asks for that no rule changed."""
    if submission is None:
        return Sizes()
    return Sizes(submission.parameters.memory_mb, submission.parameters.walltime_s)
