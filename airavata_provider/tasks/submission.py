"""``submit``: hands the experiment's job to the resource's scheduler, once.

Imports no Airflow, and neither asyncssh nor SQLAlchemy at its top.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from airavata_provider.errors import (
    AiravataError,
    ExperimentRefused,
    JobCanceled,
    StoreError,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.models.experiment import Priority
from airavata_provider.models.identity import TaskIdentity, job_name
from airavata_provider.models.job import Job, SubmissionState
from airavata_provider.models.resource import ComputeResource, Unsupported
from airavata_provider.models.rules import MADE_BY, Next, sizes_of
from airavata_provider.schedulers.request import Container, Dependency, JobRequest, MailEvent, recorded
from airavata_provider.tasks.arrays import as_array, called_off, intents, named, part, unsettled, wanted_again
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult
from airavata_provider.tasks.job_request import job_fields, unsupported

if TYPE_CHECKING:
    from airavata_provider.jobs.store import JobStore
    from airavata_provider.models.resolved import ResolvedExperiment

CANCEL_WAIT_S = 300.0
"""How long a cleared submission waits for its old job to end before it makes a new one."""


class SubmitElement(Parameters):
    """What differs between the elements of an array; each works in a directory of its own.

    :param arguments: of the executable
    :param environment: on top of what all have
    :param stdin: file in its directory
    """

    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    stdin: str | None = None


class SubmitParameters(Parameters):
    """What the job script is written from; see :class:`~airavata_provider.schedulers.base.JobRequest`."""

    executable: str = Field(min_length=1)
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    module_init: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    pre_commands: tuple[str, ...] = ()
    post_commands: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    stdin: str | None = None
    stdout: str = "stdout.txt"
    stderr: str = "stderr.txt"
    queue: str | None = None
    nodes: int = Field(default=1, ge=1)
    tasks: int = Field(default=1, ge=1)
    cpus_per_task: int = Field(default=1, ge=1)
    memory_mb: int | None = Field(default=None, ge=1)
    gpus: int = Field(default=0, ge=0)
    walltime_s: int | None = Field(default=None, ge=1)
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    tasks_per_node: int | None = Field(default=None, ge=1)
    gpu_type: str | None = None
    exclusive: bool = False
    constraint: str | None = None
    licenses: tuple[str, ...] = ()
    after: tuple[Dependency, ...] = Field(default=(), description="Jobs that it waits for: native_id and kind")
    mail_to: str | None = None
    mail_events: frozenset[MailEvent] = frozenset()
    export: tuple[str, ...] | None = None
    container: Container | None = None
    site_words: dict[str, str] = Field(default_factory=dict)
    signal_before_end_s: int = Field(default=60, ge=0)
    directives: tuple[str, ...] = ()
    webhook: bool = Field(default=True, description="Let the job script tell us of its start and end")
    elements: tuple[SubmitElement, ...] = Field(default=(), description="The job is an array of these")
    max_running: int | None = Field(default=None, ge=1, description="Elements that run at a time, at most")

    @model_validator(mode="after")
    def _of_elements(self) -> SubmitParameters:
        for name in ("arguments", "stdin"):
            if self.elements and getattr(self, name):
                raise ValueError(f"{name}: the elements of an array have their own")
        return self


class Submit(Task[SubmitParameters]):
    """Submits one job, or finds the one that an earlier try submitted.

    A person who clears the task after it had ended wants a new job: the old one is cancelled if it still
    runs, and the next attempt gets a name of its own.
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
        self, context: TaskContext[SubmitParameters], last: Job, following: Next
    ) -> tuple[Job, bool]:
        """Save the intent of the attempt that a rule makes, or find it; and whether this call saved it.

        What its script does follows from the task's parameters, as on the first attempt.

        :param last: the attempt that it follows; returned when somebody asked for its end
        """
        request = self._request(context)
        request = replace(request, memory_mb=following.sizes.memory_mb, walltime_s=following.sizes.walltime_s)
        intent = self._intent(context, last.attempt + 1, request)
        asked = {**(intent.request or {}), MADE_BY: dict(following.made_by)}
        reason = f"after attempt {last.attempt}: {following.words}"
        intent = await context.services.admitter().stamp(replace(intent, request=asked, reason=reason))
        job = await context.services.store.intend(intent, after=last.name)
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
        self, context: TaskContext[SubmitParameters], request: JobRequest, job: Job, first: bool
    ) -> str:
        """The scheduler's id of one job or array whose intent is saved."""
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
        if job.submission is SubmissionState.REFUSED and job.cancel_requested_at is None:
            job = await admitter.again(job, "tried again")
        # Of a job that an earlier run may have submitted nobody knows that it is not there.
        ours = first or job.admitted_at is None
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
        elif context.fresh or any(called_off(array) and array.try_number < context.try_number for array in attempts):
            elements = await store.latest_elements(context.identity)
            again = set(to_retry(elements))
            # What was only given up as UNKNOWN may run yet.
            ending = [element for element in elements if element.place in again and not _over(element)]
            for element in ending:
                await request_end(context, element)
            for element in ending:
                await end_and_wait(context, element)
            places = wanted_again(elements, again)
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
            indices = [each.element for each in await store.elements(array.name) if each.element is not None]
            beside = sum(each.attempt == array.attempt for each in attempts)
            asked = part(request, array.name, array.offset, indices, beside=beside)
            native_id = await self._submit(context, asked, array, array.name in first)
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
        """Ask for the end of this task's latest job, if this very try made it."""
        for job in await latest_jobs(context.services.store, context.identity):
            if job.try_number == context.try_number:
                await request_end(context, job)

    async def _job(self, context: TaskContext[SubmitParameters], request: JobRequest) -> tuple[Job, bool]:
        """The job to submit or to find, its intent saved, and whether this call saved it.

        That is the last attempt's job, or a new one when there is none or a person wants another.
        """
        store = context.services.store
        last = await store.latest(context.identity)
        # One that was called off before it was submitted holds up only the try in which that happened.
        again = last is not None and called_off(last) and last.try_number < context.try_number
        if last is not None and not context.fresh and not again:
            return last, False
        if last is not None:
            await end_and_wait(context, last)
        attempt = last.attempt + 1 if last is not None else 1
        intent = await context.services.admitter().stamp(self._intent(context, attempt, request))
        job = await store.intend(intent)
        # Equal to the microsecond: nobody else saved it before us.
        return job, job.created_at == intent.created_at

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


async def latest_jobs(store: JobStore, task: TaskIdentity) -> list[Job]:
    """The job of a submission task's highest attempt, or its arrays."""
    attempts = await store.attempts(task)
    return [job for job in attempts if job.attempt == attempts[-1].attempt]


def _queue(context: TaskContext[SubmitParameters]) -> str | None:
    """The queue as the scheduler knows it, also where it is the default one."""
    return context.parameters.queue or context.resource.queue().name


def request_of(
    parameters: SubmitParameters, resource: ComputeResource, *, name: str, directory: str, comment: str
) -> JobRequest:
    """What a scheduler is asked for."""
    own = {"webhook", "elements", "max_running"}
    values = {field: getattr(parameters, field) for field in SubmitParameters.model_fields if field not in own}
    return JobRequest(
        name=name,
        directory=directory,
        comment=comment,
        shell=f"{resource.shell} -l" if resource.module_system.login_shell else resource.shell,
        array=as_array(parameters.elements, directory, parameters.max_running),
        **values,
    )


def as_intended(request: JobRequest, job: Job) -> JobRequest:
    """The request under a job's name, with the sizes that its intent says: a rule's attempt has its own. Pure."""
    if job.request is None or MADE_BY not in job.request:
        return replace(request, name=job.name)
    sizes = sizes_of(job)
    return replace(request, name=job.name, memory_mb=sizes.memory_mb, walltime_s=sizes.walltime_s)


async def request_end(context: TaskContext[Any], job: Job) -> None:
    """Ask for a job's end, on record: the reconciler repeats it until the scheduler agrees."""
    if job.state is None or not job.state.terminal:
        await context.services.store.request_cancel(job.name, f"task {context.identity.task_id}")
        await context.services.watch()


async def end_and_wait(context: TaskContext[Any], job: Job) -> None:
    """See a cleared attempt's job ended before a new one is made.

    :raises JobCanceled: it did not end in time, so that a new job would run beside it
    """
    if _over(job):
        return
    context.log.info("Ending job %s of the attempt before", job.native_id or job.name)
    await request_end(context, job)
    # Not "nothing is awaited of it any more", which is true of a job that was given up as UNKNOWN.
    ended = await context.services.store.wait(job.name, timeout_s=CANCEL_WAIT_S, until=_over)
    if not _over(ended):
        raise JobCanceled(
            f"the job of the attempt before still runs after {CANCEL_WAIT_S:g} s",
            where=f"{job.native_id or job.name} on {job.resource}",
            advice="end it on the cluster, then clear this task again",
        )


def _over(job: Job) -> bool:
    """Certainly no job: ended, refused, or gone by the scheduler's own word."""
    ended = job.state is not None and job.state.terminal
    return ended or job.submission is SubmissionState.REFUSED or job.canceled_at is not None
