"""How a waiting task answers a job's end by a pattern's rules: with another attempt, submitted as the first was.

Killed at any line and run again, it goes on with the same attempt: the intent's row says which rule made it and what
it asks for, and its name follows from its number.

Imports no Airflow, and neither asyncssh nor SQLAlchemy at its top.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airavata_provider.errors import AiravataError, JobFailed, StoreError, SubmissionRefused, SubmissionUncertain
from airavata_provider.jobs.state import is_backed
from airavata_provider.models.job import Job
from airavata_provider.models.resource import ComputeResource
from airavata_provider.models.rules import (
    Next,
    NotAgain,
    Rule,
    Sizes,
    failed,
    left_by,
    moved,
    next_attempt,
    outcome_of,
)
from airavata_provider.tasks.base import TaskContext
from airavata_provider.tasks.submission import Submit

if TYPE_CHECKING:
    from airavata_provider.models.placement import Placement

RECORD_S = 300.0
"""How long the scheduler's own record of an end is waited for: to a script, a job that lacked memory is one that was
killed."""

PAUSES_S = (10.0, 600.0)
"""Between two tries to submit while the host cannot be reached: the first pause, and the longest; each is twice the
one before."""


async def answer(
    context: TaskContext[Any], rules: Sequence[Rule], job: Job
) -> tuple[TaskContext[Any], Job, bool] | None:
    """The attempt that a rule makes after this job, its intent saved, whether this call saved it, and what the task
    is given where that attempt is; None where there is nothing to answer.

    :param job: of the submission that is waited for; nothing more is awaited of it
    :raises NotAgain: no rule makes another attempt
    """
    submission = context.submission
    if not rules or submission is None or not failed(job):
        return None
    store = context.services.store
    if not is_backed(job):
        context.log.info("Job %s has failed; waiting for the scheduler's own words", job.native_id)
        job = await _patiently(context, job)
        if not failed(job):
            return None
    attempts = [each for each in await store.attempts(submission.identity) if each.attempt < job.attempt]
    following, placement, there = await _following(context, rules, [*attempts, job])
    words = f" ({job.reason})" if job.reason else ""
    context.log.info("Job %s ended: %s%s. %s", job.native_id, outcome_of(job), words, following.words)
    for reason in placement.reasons if placement is not None else ():
        context.log.info("%s", reason)
    made, first = await Submit().attempt_again(_submission(there, job), job, following, placement)
    if made.name == job.name:
        context.log.info("Not again: %s asked for its end", made.cancel_requested_by)
        return None
    if context.elsewhere is not None and made.resource != there.resource.name:
        # Somebody else made it first, and chose another place.
        there = await context.elsewhere.at(None)
    return there, made, first


async def _following(
    context: TaskContext[Any], rules: Sequence[Rule], attempts: Sequence[Job]
) -> tuple[Next, Placement | None, TaskContext[Any]]:
    """What a rule answers; for an attempt that goes elsewhere, where that is and what the task is given there.

    :raises NotAgain: no rule makes another attempt
    """
    last = attempts[-1]
    most = bounds(_submission(context, last).resource, last)
    nowhere: dict[int, str] = {}
    while True:
        following = next_attempt(rules, attempts, most, nowhere)
        if not following.elsewhere:
            return following, None, context
        number = following.rule
        if context.elsewhere is None:
            nowhere[number] = "the task does not know what to do there first"
            continue
        try:
            placement, sizes = await context.elsewhere.choose(rules[number - 1], number, attempts)
        except NotAgain as why:
            nowhere[number] = str(why)
            continue
        there = await context.elsewhere.at(placement)
        return moved(following, last, placement.resource, sizes), placement, there


def _submission(context: TaskContext[Any], job: Job) -> TaskContext[Any]:
    if context.submission is None:
        raise JobFailed(
            "a rule made this attempt, and the task has no rules any more",
            where=job.name,
            advice="clear the submission and what follows it",
        )
    return context.submission


async def _prepared(context: TaskContext[Any], job: Job) -> TaskContext[Any]:
    """What the task is given, once all is done that has to be before an attempt is submitted."""
    if left_by(job) is None or job.cancel_requested_at is not None:
        return context
    if context.elsewhere is None or context.resource.name != job.resource:
        raise JobFailed(
            f"a rule sent this attempt to {job.resource}, and the task does not go there any more",
            where=job.name,
            advice="clear the experiment's tasks from its first one on",
        )
    return await context.elsewhere.prepare()


async def submit_again(context: TaskContext[Any], job: Job, *, first: bool) -> tuple[TaskContext[Any], Job]:
    """Submit an attempt whose intent is saved, or find it; waits through every trouble that time may cure.

    Of an attempt that goes elsewhere, what comes before the submission is done there first.

    :param first: this very caller saved the intent, just now
    :return: what the task is given where it is, and the job
    :raises AiravataError: the scheduler refused it, nobody can tell, or somebody asked for its end
    """
    pause, longest = PAUSES_S
    while True:
        try:
            context = await _prepared(context, job)
            native_id = await Submit().hand_over(_submission(context, job), job, first)
            context.log.info("Attempt %d is job %s on %s, named %s", job.attempt, native_id, job.resource, job.name)
            return context, await context.services.store.job(job.name) or job
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
                job = await context.services.store.job(job.name) or job


def bounds(resource: ComputeResource, job: Job) -> Sizes:
    """What the job's queue lets a job ask for. Pure."""
    named = (queue for queue in resource.queues.values() if queue.name == job.queue)
    queue = next(named, None) or resource.queue()
    return Sizes(queue.max_memory_mb, queue.max_walltime)


async def _patiently(context: TaskContext[Any], job: Job) -> Job:
    """The job, once the scheduler's own record tells its end, or as it is after :data:`RECORD_S`."""
    try:
        return await context.services.store.wait(job.name, timeout_s=RECORD_S, until=is_backed)
    except StoreError as error:
        context.log.warning("The job store does not answer: %s", error)
        return job
