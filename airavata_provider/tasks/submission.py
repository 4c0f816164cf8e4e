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
from airavata_provider.tasks.submit_parameters import SubmitParameters, as_intended, part_as_intended, request_of

if TYPE_CHECKING:
    from airavata_provider.models.element_rules import Again, ElementAnswers
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
        admitter = context.services.admitter()
        # Elsewhere it takes no room before its files are there.
        stamp = admitter.stamp if placement is None else admitter.stamp_for_later
        intent = await stamp(replace(intent, request=asked, reason=reason))
        job = await context.services.store.intend(intent, after=last.name, placement=placement)
        return job, job.created_at == intent.created_at

    async def elements_again(
        self, context: TaskContext[SubmitParameters], answers: ElementAnswers, before: Sequence[Job]
    ) -> tuple[set[str], ElementAnswers]:
        """Save the intents of the attempts that rules make of an array's elements, all or none.

        Each of their arrays runs one element at least, so there are as many at a time as elements may run. Those
        after them are left to the next round.

        None are saved, and none named, when somebody made another attempt meanwhile, or asked for an end.

        :param before: the task's arrays so far
        :return: the names of what this call saved, and the answers with the attempts that can be made by now: what
            cannot be submitted at all is left, with the reason
        """
        most = context.parameters.max_running
        arrays: list[tuple[Job, list[int], JobRequest]] = []
        attempts: list[Again] = []
        left = dict(answers.left)
        for each in answers.attempts:
            sizes = each.following.sizes
            request = replace(self._request(context), memory_mb=sizes.memory_mb, walltime_s=sizes.walltime_s)
            job = replace(
                self._intent(context, before[-1].attempt + 1 + len(attempts), request),
                request={MADE_BY: dict(each.following.made_by)},
                reason=f"after attempt {each.of}: {each.following.words}",
            )
            try:
                its = await self._arrays(context, job, request, each.places, later=True)
            except (SubmissionRefused, ExperimentRefused) as refused:
                why = f"no other attempt: {refused}"
                left[why] = sorted([*left.get(why, ()), *each.places])
                continue
            if most is not None and arrays and len(arrays) + len(its) > most:
                break
            arrays += its
            attempts.append(each)
        saved = await self._intend_arrays(context, arrays, before, answers.unless_ending) if arrays else set()
        return saved, replace(answers, attempts=tuple(attempts), left=left)

    async def hand_over(self, context: TaskContext[SubmitParameters], job: Job, first: bool) -> str:
        """Submit one job, or array, whose intent is saved, through admission, or find it; the scheduler's id.

        :param first: this very caller saved the intent, just now
        """
        if job.size is not None:
            return await self._submit_array(context, self._request(context), job, first)
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

        async def send(*, first: bool) -> str:
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
        if job.native_id is None:
            try:
                await end_attempts_before(context, job, places)
            except JobCanceled:
                # Others may go until this task is cleared.
                if first or job.submitting_at is None:
                    await admitter.leave(job)
                raise
        if job.submission is SubmissionState.REFUSED and job.cancel_requested_at is None:
            job = await admitter.again(job, "tried again")
        while True:
            # Of a job that an earlier run began to submit nobody knows that it is not there.
            ours = first or job.submitting_at is None
            with context.deadline.paused():
                job = await admitter.wait(job, context.log)
            if job.cancel_requested_at is not None and job.submission is not SubmissionState.SUBMITTED:
                raise JobCanceled(
                    f"its end was asked for by {job.cancel_requested_by} before it was submitted", where=job.name
                )
            try:
                return await send(first=ours)
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

        store, resource = context.services.store, context.resource
        first: set[str] = set()
        places: Sequence[int]
        while True:
            attempts = await store.attempts(context.identity)
            if not attempts:
                places = range(len(context.parameters.elements))
            elif _another_is_wanted(context, attempts):
                elements = await store.latest_elements(context.identity)
                places = wanted_again(elements, set(to_retry(elements)))
                context.log.info("Elements to do again: %s", named(places) or "none")
                if not places:
                    # What is on its way goes on. A later try may find it ended, and would do everything again.
                    await context.begun()
            else:
                places = ()
            if not places:
                break
            job = self._intent(context, attempts[-1].attempt + 1 if attempts else 1, request)
            arrays = await self._arrays(context, job, request, places, later=bool(attempts))
            first = await self._intend_arrays(context, arrays, attempts)
            if first:
                attempts = await store.attempts(context.identity)
                break
            # Somebody else made an attempt meanwhile, maybe a rule.
        for array in unsettled(attempts):
            await self._submit_array(context, request, array, array.name in first)
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

    async def _arrays(
        self,
        context: TaskContext[SubmitParameters],
        job: Job,
        request: JobRequest,
        places: Collection[int],
        *,
        later: bool,
    ) -> list[tuple[Job, list[int], JobRequest]]:
        """The arrays of one attempt, to be intended: each with its elements' indices, and with what is asked for.

        :param job: what they have in common
        :param places: of their elements
        :param later: the attempt is submitted after, or beside, another
        :raises SubmissionRefused: one is larger than what is allowed at a time
        :raises ExperimentRefused: see :meth:`_tell_unsupported`
        """
        admitter, most = context.services.admitter(), context.resource.max_array_size
        found: list[tuple[Job, list[int], JobRequest]] = []
        for array, indices in intents(job, context.identity, places, most, self._sayable(context, request)):
            self._tell_unsupported(context, part(request, array.name, array.offset, indices, beside=1))
            # One after the other, and after the end of those before: what is let go and waits for that would hold
            # room that they need.
            stamp = admitter.stamp_for_later if found or later else admitter.stamp
            found.append((await stamp(replace(array, size=len(indices))), indices, request))
        return found

    async def _intend_arrays(
        self,
        context: TaskContext[SubmitParameters],
        arrays: Sequence[tuple[Job, list[int], JobRequest]],
        before: Sequence[Job],
        unless_ending: Collection[str] = (),
    ) -> set[str]:
        """Save the intents of arrays, all or none; names of what this call saved.

        :param arrays: as :meth:`_arrays` has them, of one attempt or several beside each other
        :param before: the task's arrays so far; where there is a later attempt by now, nothing is saved
        :param unless_ending: names of those, and of elements, of which nobody may have asked for the end
        """
        saving: list[tuple[Job, Collection[int]]] = []
        for array, indices, request in arrays:
            asked = part(request, array.name, array.offset, indices, beside=len(arrays))
            rule = {} if (made := made_by(array)) is None else {MADE_BY: dict(made)}
            saving.append((replace(array, request={**recorded(asked), **rule}), indices))
        made_at = {array.name: array.created_at for array, _ in saving}
        stored = await context.services.store.intend_arrays(saving, after=before, unless_ending=unless_ending)
        return {array.name for array in stored if array.created_at == made_at[array.name]}

    async def _submit_array(
        self, context: TaskContext[SubmitParameters], request: JobRequest, array: Job, first: bool
    ) -> str:
        """The scheduler's id of an array whose intent is saved.

        :param request: with all elements, each under its place
        """
        elements = await context.services.store.elements(array.name)
        indices = [each.element for each in elements if each.element is not None]
        # What was only given up as UNKNOWN may run yet.
        places = {each.place for each in elements}
        native_id = await self._submit(context, part_as_intended(request, array, indices), array, first, places)
        context.log.info(
            "Array %s on %s, named %s: elements %s",
            native_id,
            context.resource.name,
            array.name,
            named(array.offset + index for index in indices),
        )
        return native_id

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
            admitter = context.services.admitter()
            # One that others have to end for takes no room before they have.
            stamp = admitter.stamp_for_later if attempts else admitter.stamp
            intent = await stamp(self._intent(context, attempt, request))
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
