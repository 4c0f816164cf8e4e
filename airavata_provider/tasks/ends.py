"""The end of a job that a task asks for, and whether it came. Imports no Airflow, asyncssh or SQLAlchemy."""

from __future__ import annotations

from typing import Any

from airavata_provider.errors import JobCanceled
from airavata_provider.models.job import Job, SubmissionState
from airavata_provider.tasks.base import TaskContext

CANCEL_WAIT_S = 300.0
"""How long a cleared submission waits for its old job to end before it makes a new one."""


async def request_end(context: TaskContext[Any], job: Job) -> None:
    """Ask for a job's end, on record: the reconciler repeats it until the scheduler agrees."""
    if job.state is None or not job.state.terminal:
        await context.services.store.request_cancel(job.name, f"task {context.identity.task_id}")
        await context.services.watch()


async def end_and_wait(context: TaskContext[Any], job: Job) -> None:
    """See a cleared attempt's job ended before a new one is made.

    :raises JobCanceled: it did not end in time, so that a new job would run beside it
    """
    if over(job):
        return
    context.log.info("Ending job %s of the attempt before", job.native_id or job.name)
    await request_end(context, job)
    # Not "nothing is awaited of it any more", which is true of a job that was given up as UNKNOWN.
    ended = await context.services.store.wait(job.name, timeout_s=CANCEL_WAIT_S, until=over)
    if not over(ended):
        raise JobCanceled(
            f"the job of the attempt before still runs after {CANCEL_WAIT_S:g} s",
            where=f"{job.native_id or job.name} on {job.resource}",
            advice="end it on the cluster, then clear this task again",
        )


def over(job: Job) -> bool:
    """Certainly no job: ended, refused, or gone by the scheduler's own word."""
    ended = job.state is not None and job.state.terminal
    return ended or job.submission is SubmissionState.REFUSED or job.canceled_at is not None
