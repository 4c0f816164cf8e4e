"""How a waiting task answers a job's end by a pattern's rules: with another attempt, submitted as the first was.

Killed at any line and run again, it goes on with the same attempt: the intent's row says which rule made it and what
it asks for, and its name follows from its number.

Imports no Airflow, and neither asyncssh nor SQLAlchemy at its top.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from airavata_provider.errors import AiravataError, JobFailed, StoreError, SubmissionRefused, SubmissionUncertain
from airavata_provider.jobs.state import is_backed
from airavata_provider.models.job import Job, JobState
from airavata_provider.models.resource import ComputeResource
from airavata_provider.models.rules import Rule, Sizes, next_attempt, outcome_of
from airavata_provider.tasks.base import TaskContext
from airavata_provider.tasks.submission import Submit

RECORD_S = 300.0
"""How long the scheduler's own record of an end is waited for: to a script, a job that lacked memory is one that was
killed."""

PAUSES_S = (10.0, 600.0)
"""Between two tries to submit while the host cannot be reached: the first pause, and the longest; each is twice the
one before."""


async def answer(context: TaskContext[Any], rules: Sequence[Rule], job: Job) -> tuple[Job, bool] | None:
    """The attempt that a rule makes after this job, its intent saved, and whether this call saved it; None where
    there is nothing to answer.

    :param job: of the submission that is waited for; nothing more is awaited of it
    :raises NotAgain: no rule makes another attempt
    """
    submission = context.submission
    if not rules or submission is None or not _failed(job):
        return None
    store = context.services.store
    if not is_backed(job):
        context.log.info("Job %s has failed; waiting for the scheduler's own words", job.native_id)
        job = await _patiently(context, job)
        if not _failed(job):
            return None
    attempts = [each for each in await store.attempts(submission.identity) if each.attempt < job.attempt]
    following = next_attempt(rules, [*attempts, job], bounds(submission.resource, job))
    words = f" ({job.reason})" if job.reason else ""
    context.log.info("Job %s ended: %s%s. %s", job.native_id, outcome_of(job), words, following.words)
    made, first = await Submit().attempt_again(submission, job, following)
    if made.name == job.name:
        context.log.info("Not again: %s asked for its end", made.cancel_requested_by)
        return None
    return made, first


async def submit_again(context: TaskContext[Any], job: Job, *, first: bool) -> Job:
    """Submit an attempt whose intent is saved, or find it; waits through every trouble that time may cure.

    :param first: this very caller saved the intent, just now
    :raises AiravataError: the scheduler refused it, nobody can tell, or somebody asked for its end
    """
    submission = context.submission
    if submission is None:
        raise JobFailed(
            "a rule made this attempt, and the task has no rules any more",
            where=job.name,
            advice="clear the submission and what follows it",
        )
    pause, longest = PAUSES_S
    while True:
        try:
            native_id = await Submit().hand_over(submission, job, first)
            context.log.info("Attempt %d is job %s on %s, named %s", job.attempt, native_id, job.resource, job.name)
            return await submission.services.store.job(job.name) or job
        except (SubmissionRefused, SubmissionUncertain):
            raise
        except AiravataError as error:
            if not error.transient:
                raise
            context.log.warning("Attempt %d cannot be submitted; again in %g s. %s", job.attempt, pause, error)
            await asyncio.sleep(pause)
            pause, first = min(2 * pause, longest), False
            with contextlib.suppress(StoreError):
                # It may wait for its admission again.
                job = await submission.services.store.job(job.name) or job


def bounds(resource: ComputeResource, job: Job) -> Sizes:
    """What the job's queue lets a job ask for. Pure."""
    named = (queue for queue in resource.queues.values() if queue.name == job.queue)
    queue = next(named, None) or resource.queue()
    return Sizes(queue.max_memory_mb, queue.max_walltime)


def _failed(job: Job) -> bool:
    """Whether it ended without success, and nobody asked for that."""
    over = job.state is not None and job.state.terminal
    return over and job.state is not JobState.COMPLETE and job.cancel_requested_at is None


async def _patiently(context: TaskContext[Any], job: Job) -> Job:
    """The job, once the scheduler's own record tells its end, or as it is after :data:`RECORD_S`."""
    try:
        return await context.services.store.wait(job.name, timeout_s=RECORD_S, until=is_backed)
    except StoreError as error:
        context.log.warning("The job store does not answer: %s", error)
        return job
