"""Ends the jobs of attempts that another one follows: of one piece of work a scheduler has one job at a time.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from airavata_provider.errors import JobCanceled
from airavata_provider.models.job import Job, SubmissionState
from airavata_provider.tasks.base import TaskContext

CANCEL_WAIT_S = 300.0
"""How long a submission waits for the job of an attempt before it to end."""


async def request_end(context: TaskContext[Any], job: Job) -> None:
    """Ask for a job's end, on record: the reconciler repeats it until the scheduler agrees."""
    if job.state is None or not job.state.terminal:
        await context.services.store.request_cancel(job.name, f"task {context.identity.task_id}")
        await context.services.watch()


async def end_attempts_before(
    context: TaskContext[Any], job: Job, places: Collection[int | None] = frozenset({None})
) -> None:
    """See every job of the attempts before this one ended, for certain, so that this one runs alone.

    One that was refused is called off as well: whoever still answers for it does not submit it once more.

    :param context: the submission's
    :param job: an attempt whose intent is saved, or its array
    :param places: of an array: of its elements; those that are in none of its attempts go on
    :raises JobCanceled: one did not end in time
    """
    if job.attempt <= 1:
        return
    store = context.services.store
    before = [each for each in await store.unended_before(context.identity, job.attempt) if each.place in places]
    for each in before:
        if each.cancel_requested_at is None:
            await request_end(context, each)
    for each in before:
        await _see_ended(context, each)


async def _see_ended(context: TaskContext[Any], job: Job) -> None:
    if over(job):
        return
    context.log.info("Ending job %s of the attempt before", job.native_id or job.name)
    # The reconciler may have been started with another process, which is gone.
    await context.services.watch()
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
