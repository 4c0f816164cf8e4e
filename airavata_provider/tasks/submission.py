"""``submit``: hands the experiment's job to the resource's scheduler, once.

Imports no Airflow, and neither asyncssh nor SQLAlchemy at its top.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from airavata_provider.errors import (
    AiravataError,
    ExperimentRefused,
    JobCanceled,
    StoreError,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.models.experiment import Priority
from airavata_provider.models.identity import job_name
from airavata_provider.models.job import Job, SubmissionState
from airavata_provider.models.resource import Unsupported
from airavata_provider.models.rules import MADE_BY, Next, made_by
from airavata_provider.schedulers.request import JobRequest, recorded
from airavata_provider.tasks.arrays import called_off, intents, named, part, unsettled, wanted_again
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult
from airavata_provider.tasks.ending import end_attempts_before, request_end
from airavata_provider.tasks.job_request import job_fields, unsupported
from airavata_provider.tasks.submit_parameters import SubmitParameters, as_intended, request_of

if TYPE_CHECKING:
    from airavata_provider.models.placement import Placement
    from airavata_provider.models.resolved import ResolvedExperiment


class Submit(Task[SubmitParameters]):
    """Submits one job, or finds the one that an earlier try submitted.

    A person who clears the task after it had ended wants a new job, under a name of its own. Its intent is saved
    first; then the jobs of all attempts before it are ended; it is submitted when they have, for certain.
    """

    name: ClassVar[str] = "submit"
    Parameters: ClassVar[type[Parameters]] = SubmitParameters

    def defaults(self, experiment: ResolvedExperiment) -> Mapping[str, Any]:
        """The application's deployment on that resource, with what the experiment asked for."""
        return job_fields(experiment)

    async def run(self, context: TaskContext[SubmitParameters]) -> TaskResult:
        """:raises SubmissionRefused: in the scheduler's words
        :raises SubmissionUncertain: nobody can tell yet; the next try looks again
        :raises JobCanceled: somebody asked for the job's end before it was submitted
        """
        request = self._request(context)
        self._tell_unsupported(context, request)
        if request.array is not None:
            return await self._run_arrays(context, request)
        job, first = await self._job(context, request)
        native_id = await self._submit(context, as_intended(request, job), job, first)
        resource = context.resource
        context.log.info("Job %s on %s, named %s", native_id, resource.name, job.name)
        return TaskResult(
            {"job": job.name, "native_id": native_id, "resource": resource.name, "attempt": job.attempt}
        )

    async def attempt_again(
        self,
        context: TaskContext[SubmitParameters],
        last: Job,
        following: Next,
        placement: Placement | None = None,
    ) -> tuple[Job, bool]:
        """Save the intent of the attempt that a rule makes, or find it; and whether this call saved it.

        What its script does follows from the task's parameters, as on the first attempt.

        :param context: the submission's where the attempt goes
        :param last: the attempt that it follows; returned when somebody asked for its end
        :param placement: of an attempt that goes elsewhere: where the experiment runs from here on
        """
        request = self._request(context)
        request = replace(request, memory_mb=following.sizes.memory_mb, walltime_s=following.sizes.walltime_s)
        intent = self._intent(context, last.attempt + 1, request)
        asked = {**(intent.request or {}), MADE_BY: dict(following.made_by)}
        reason = f"after attempt {last.attempt}: {following.words}"
        intent = await context.services.admitter().stamp(replace(intent, request=asked, reason=reason))
        if placement is not None:
            # It takes no room there before its files are.
            intent = replace(intent, admitted_at=None, waiter="")
        job = await context.services.store.intend(intent, after=last.name, placement=placement)
        return job, job.created_at == intent.created_at

    async def hand_over(self, context: TaskContext[SubmitParameters], job: Job, first: bool) -> str:
        """Submit one job whose intent is saved, through admission, or find it; the scheduler's id.

        :param first: this very caller saved the intent, just now
        """
        return await self._submit(context, as_intended(self._request(context), job), job, first)

    def _request(self, context: TaskContext[SubmitParameters]) -> JobRequest:
        return request_of(
            context.parameters,
            context.resource,
            name=job_name(context.identity),
            directory=context.directory,
            comment=f"{context.identity.dag_id}/{context.identity.experiment_id}",
        )

    async def _submit(
        self,
        context: TaskContext[SubmitParameters],
        request: JobRequest,
        job: Job,
        first: bool,
        places: Collection[int | None] = frozenset({None}),
    ) -> str:
        """The scheduler's id of one job or array whose intent is saved; it is submitted when it is alone.

        :param places: of an array: its elements'
        """
        from airavata_provider.jobs.submission import submit
        from airavata_provider.schedulers.registry import scheduler
        from airavata_provider.schedulers.script import Webhook

        services, resource = context.services, context.resource
        url = services.webhook_url(resource, job.name) if context.parameters.webhook else None

        async def send() -> str:
            return await submit(
                await services.host(resource),
                scheduler(resource.scheduler),
                request,
                store=services.store,
                job=job,
                first=first,
                webhook=Webhook(url, services.webhook_token(job.name)) if url else None,
                log=context.log,
            )

        admitter = services.admitter()
        # Of a job that an earlier run may have submitted nobody knows that it is not there.
        ours = first or job.admitted_at is None
        if job.native_id is None:
            try:
                await end_attempts_before(context, job, places)
            except JobCanceled:
                # Others may go until this task is cleared.
                if ours:
                    await admitter.leave(job)
                raise
        if job.submission is SubmissionState.REFUSED and job.cancel_requested_at is None:
            job = await admitter.again(job, "tried again")
            ours = ours or job.admitted_at is None
        while True:
            with context.deadline.paused():
                job = await admitter.wait(job, context.log)
            if job.cancel_requested_at is not None and job.submission is not SubmissionState.SUBMITTED:
                raise JobCanceled(
                    f"its end was asked for by {job.cancel_requested_by} before it was submitted", where=job.name
                )
            try:
                return await send()
            except SubmissionRefused as refusal:
                if not refusal.transient:
                    raise
                context.log.info("Not now, says the scheduler: %s. Waiting until there is room", refusal.message)
                job, first = await admitter.later(job, refusal.message), False
            except (SubmissionUncertain, StoreError):
                raise
            except AiravataError:
                # Nothing was submitted: while this task waits for its next try, others may go.
                if ours:
                    await admitter.leave(job)
                raise

    async def _run_arrays(self, context: TaskContext[SubmitParameters], request: JobRequest) -> TaskResult:
        """Submit the arrays of this attempt, or find them; of a cleared task, arrays of what did not complete."""
        from airavata_provider.jobs.arrays import to_retry

        services, resource = context.services, context.resource
        store = services.store
        attempts = await store.attempts(context.identity)
        places: Sequence[int] = ()
        attempt = attempts[-1].attempt if attempts else 0
        if not attempts:
            places = range(len(context.parameters.elements))
        elif _another_is_wanted(context, attempts):
            elements = await store.latest_elements(context.identity)
            places = wanted_again(elements, set(to_retry(elements)))
            context.log.info("Elements to do again: %s", named(places) or "none")
        first: set[str] = set()
        if places:
            job = self._intent(context, attempt + 1, request)
            arrays = intents(job, context.identity, places, resource.max_array_size, self._sayable(context, request))
            for number, (each, indices) in enumerate(arrays):
                asked = part(request, each.name, each.offset, indices, beside=len(arrays))
                self._tell_unsupported(context, asked)
                stamped = await services.admitter().stamp(replace(each, size=len(indices)))
                arrays[number] = replace(stamped, request=recorded(asked)), indices
            made = await store.intend_arrays(arrays)
            first = {array.name for array in made if array.created_at == job.created_at}
            attempts = await store.attempts(context.identity)
        for array in unsettled(attempts):
            elements = await store.elements(array.name)
            indices = [each.element for each in elements if each.element is not None]
            # What was only given up as UNKNOWN may run yet.
            places_of = {each.place for each in elements}
            beside = sum(each.attempt == array.attempt for each in attempts)
            asked = part(request, array.name, array.offset, indices, beside=beside)
            native_id = await self._submit(context, asked, array, array.name in first, places_of)
            context.log.info(
                "Array %s on %s, named %s: elements %s",
                native_id,
                resource.name,
                array.name,
                named(array.offset + index for index in indices),
            )
        last = (await store.attempts(context.identity))[-1]
        return TaskResult(
            {
                "job": last.name,
                "native_id": last.native_id,
                "resource": resource.name,
                "attempt": last.attempt,
                "elements": len(context.parameters.elements),
                "submitted": len(places),
            }
        )

    def _sayable(
        self, context: TaskContext[SubmitParameters], request: JobRequest
    ) -> Callable[[int, Sequence[int]], bool]:
        from airavata_provider.schedulers.registry import scheduler

        adaptor = scheduler(context.resource.scheduler)
        return lambda offset, indices: (
            "array" not in adaptor.unsupported(part(request, request.name, offset, indices, beside=1))
        )

    def _tell_unsupported(self, context: TaskContext[SubmitParameters], request: JobRequest) -> None:
        """:raises ExperimentRefused: the scheduler cannot express what is asked for, and the resource minds."""
        faults = list(unsupported(context.resource, request))
        # Elements cannot be left out.
        minds = context.resource.unsupported_options is Unsupported.ERROR
        if faults and (minds or any(fault.where == "array" for fault in faults)):
            raise ExperimentRefused(f"task {context.identity.task_id} asks for what cannot be had", faults)
        for fault in faults:
            context.log.warning("%s is left out: %s", fault.where, fault.message)

    async def cancel(self, context: TaskContext[SubmitParameters]) -> None:
        """Ask for the end of this task's jobs, if this very try made the latest one.

        Those before it were to end for its sake.
        """
        attempts = await context.services.store.attempts(context.identity)
        latest = [job for job in attempts if job.attempt == attempts[-1].attempt]
        if any(job.try_number == context.try_number for job in latest):
            for job in reversed(attempts):
                await request_end(context, job)

    async def _job(self, context: TaskContext[SubmitParameters], request: JobRequest) -> tuple[Job, bool]:
        """The job to submit or to find, its intent saved, and whether this call saved it.

        That is the last attempt's job, or a new one when there is none or a person wants another. Its intent comes
        before the end of the jobs before it: who is killed while those are being ended goes on with it.
        """
        store = context.services.store
        while True:
            attempts = await store.attempts(context.identity)
            if attempts and not _another_is_wanted(context, attempts):
                return attempts[-1], False
            attempt = attempts[-1].attempt + 1 if attempts else 1
            intent = await context.services.admitter().stamp(self._intent(context, attempt, request))
            job = await store.intend(intent)
            # Equal to the microsecond: nobody else saved it before us. Somebody else's may be a rule's.
            if job.created_at == intent.created_at:
                return job, True

    def _intent(self, context: TaskContext[SubmitParameters], attempt: int, request: JobRequest) -> Job:
        identity, experiment = context.identity, context.experiment
        return Job(
            name=job_name(identity, attempt),
            dag_id=identity.dag_id,
            experiment_id=identity.experiment_id,
            task_id=identity.task_id,
            map_index=identity.map_index,
            attempt=attempt,
            gateway=experiment.gateway if experiment else "",
            user=experiment.user if experiment else "",
            resource=context.resource.name,
            queue=_queue(context),
            priority=(experiment.priority if experiment else Priority.NORMAL).level,
            directory=context.directory,
            walltime_s=request.walltime_s,
            try_number=context.try_number,
            created_at=datetime.now(UTC),
            request=recorded(request),
            born=identity.born,
        )


def _another_is_wanted(context: TaskContext[Any], attempts: Sequence[Job]) -> bool:
    """Whether a person wants another attempt after these; at least one. Pure.

    Who cleared the task does: all attempts are of the time before that, or a rule made the later ones of one that is.
    So does a later try, after a job that was called off before it was submitted: that holds up only the try in which
    it happened.
    """
    if context.fresh:
        begun = [job.attempt for job in attempts if made_by(job) is None]
        if max(begun, default=0) <= context.past:
            return True
    latest = [job for job in attempts if job.attempt == attempts[-1].attempt]
    return any(called_off(job) and job.try_number < context.try_number for job in latest)


def _queue(context: TaskContext[SubmitParameters]) -> str | None:
    """The queue as the scheduler knows it, also where it is the default one."""
    return context.parameters.queue or context.resource.queue().name
