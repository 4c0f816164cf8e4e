"""``submit``: hands the experiment's job to the resource's scheduler, once.

Imports no Airflow, and neither asyncssh nor SQLAlchemy at its top.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from airavata_provider.errors import (
    JobCanceled,
    SchedulerError,
    SSHError,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.models.application import Parallelism
from airavata_provider.models.experiment import Priority
from airavata_provider.models.identity import job_name
from airavata_provider.models.job import Job, SubmissionState
from airavata_provider.models.resolved import command_arguments
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult

if TYPE_CHECKING:
    from airavata_provider.models.resolved import ResolvedExperiment

CANCEL_WAIT_S = 300.0
"""How long a cleared submission waits for its old job to end before it makes a new one."""


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
    signal_before_end_s: int = Field(default=60, ge=0)
    directives: tuple[str, ...] = ()
    webhook: bool = Field(default=True, description="Let the job script tell us of its start and end")


class Submit(Task[SubmitParameters]):
    """Submits one job, or finds the one that an earlier try submitted.

    A person who clears the task after it had ended wants a new job: the old one is cancelled if it still
    runs, and the next attempt gets a name of its own.
    """

    name: ClassVar[str] = "submit"
    Parameters: ClassVar[type[Parameters]] = SubmitParameters

    def defaults(self, experiment: ResolvedExperiment) -> Mapping[str, Any]:
        """The application's deployment on that resource, with what the experiment asked for."""
        deployment, queue = experiment.deployment, experiment.queue
        tasks, cpus_per_task = layout(deployment.parallelism, experiment.nodes, experiment.cpus)
        environment = dict(deployment.environment)
        if deployment.parallelism in (Parallelism.OPENMP, Parallelism.OPENMP_MPI):
            environment.setdefault("OMP_NUM_THREADS", str(cpus_per_task))
        resource = experiment.resource
        return {
            "executable": deployment.executable,
            "arguments": command_arguments(experiment),
            "environment": environment,
            "modules": tuple(deployment.modules),
            "module_init": resource.module_system.commands(bool(deployment.modules)),
            "pre_commands": tuple(deployment.pre_commands),
            "post_commands": tuple(deployment.post_commands),
            "launcher": tuple(deployment.launcher),
            "stdin": experiment.stdin,
            "stdout": experiment.application.stdout,
            "stderr": experiment.application.stderr,
            "queue": queue.name,
            "nodes": experiment.nodes,
            "tasks": tasks,
            "cpus_per_task": cpus_per_task,
            "memory_mb": experiment.memory_mb,
            "gpus": experiment.gpus,
            "walltime_s": experiment.walltime_s,
            "account": experiment.account,
            "qos": queue.qos,
            "reservation": queue.reservation,
            "directives": (*queue.directives, *deployment.directives),
        }

    async def run(self, context: TaskContext[SubmitParameters]) -> TaskResult:
        """:raises SubmissionRefused: in the scheduler's words
        :raises SubmissionUncertain: nobody can tell yet; the next try looks again
        :raises JobCanceled: somebody asked for the job's end before it was submitted
        """
        from airavata_provider.jobs.submission import submit
        from airavata_provider.schedulers.registry import scheduler
        from airavata_provider.schedulers.script import Webhook

        job, first = await self._job(context)
        services, resource = context.services, context.resource
        url = services.webhook_url(resource, job.name) if context.parameters.webhook else None
        request = JobRequest(
            name=job.name,
            directory=context.directory,
            comment=f"{context.identity.dag_id}/{context.identity.experiment_id}",
            shell=f"{resource.shell} -l" if resource.module_system.login_shell else resource.shell,
            **context.parameters.model_dump(exclude={"webhook"}),
        )

        async def attempt(job: Job, first: bool) -> str:
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

        native_id = await self._admitted(context, job, first, attempt)
        context.log.info("Job %s on %s, named %s", native_id, resource.name, job.name)
        return TaskResult(
            {"job": job.name, "native_id": native_id, "resource": resource.name, "attempt": job.attempt}
        )

    async def _admitted(
        self,
        context: TaskContext[SubmitParameters],
        job: Job,
        first: bool,
        attempt: Callable[[Job, bool], Awaitable[str]],
    ) -> str:
        """Submit as soon as admission lets it; what the scheduler refuses as one too many waits again."""
        admitter = context.services.admitter()
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
                return await attempt(job, first)
            except SubmissionRefused as refusal:
                if not refusal.transient:
                    raise
                context.log.info("Not now, says the scheduler: %s. Waiting until there is room", refusal.message)
                job, first = await admitter.later(job, refusal.message), False
            except SubmissionUncertain:
                raise
            except (SSHError, SchedulerError):
                # Nothing was submitted: while this task waits for its next try, others may go.
                if ours:
                    await admitter.leave(job)
                raise

    async def cancel(self, context: TaskContext[SubmitParameters]) -> None:
        """Ask for the end of this task's latest job, if this very try made it."""
        job = await context.services.store.latest(context.identity)
        if job is not None and job.try_number == context.try_number:
            await request_end(context, job)

    async def _job(self, context: TaskContext[SubmitParameters]) -> tuple[Job, bool]:
        """The job to submit or to find, its intent saved, and whether this call saved it.

        That is the last attempt's job, or a new one when there is none or a person wants another.
        """
        store, identity, experiment = context.services.store, context.identity, context.experiment
        last = await store.latest(identity)
        if last is not None and not context.fresh:
            return last, False
        if last is not None:
            await end_and_wait(context, last)
        attempt = last.attempt + 1 if last is not None else 1
        now = datetime.now(UTC)
        intent = await context.services.admitter().stamp(
            Job(
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
                walltime_s=context.parameters.walltime_s,
                try_number=context.try_number,
                created_at=now,
                born=identity.born,
            )
        )
        job = await store.intend(intent)
        # Equal to the microsecond: nobody else saved it before us.
        return job, job.created_at == now


def _queue(context: TaskContext[SubmitParameters]) -> str | None:
    """The queue as the scheduler knows it, also where it is the default one."""
    return context.parameters.queue or context.resource.queue().name


def layout(parallelism: Parallelism, nodes: int, cpus: int) -> tuple[int, int]:
    """Processes in all, and cores for each, from the cores asked for in all.

    :param cpus: cores in all, over all nodes
    """
    if parallelism is Parallelism.MPI:
        return cpus, 1
    if parallelism is Parallelism.OPENMP_MPI:
        return nodes, max(1, cpus // nodes)
    return 1, cpus


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
