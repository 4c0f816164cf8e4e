"""How far a job is between its intent and its scheduler, by its row alone. Pure.

=============  ==============  ==========  =================================================================
admitted_at    submitting_at   waiter
=============  ==============  ==========  =================================================================
none           none            none        nobody tries now: a task between two tries
none           none            admitter    a task waits for its admission there
set            none            admitter    it is **let go**: its task there is about to begin
set            set             none        its submission **began**: the scheduler may have it
set            long ago        admitter    it began, nobody went on with it, and now a task waits once more
=============  ==============  ==========  =================================================================

Up to the third line certainly nobody has sent the job: its end needs no word from the host, and what was let go is
taken back when its admitter is not heard of any more. Whoever submits begins first, in a transaction
(:func:`begun`), so nobody sends what was taken back. From then on it counts until its end is known, or until nothing
was heard of its submission for :data:`GRANT_S`; then it is let go again before somebody goes on.

Imports no Airflow.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from airavata_provider.models.job import Job, SubmissionState

GRANT_S = 1800.0
"""How long a submission that began counts while nothing is heard of it; well above ``jobs.submission.DEADLINE_S``."""

RENEW_S = 300.0
"""Whoever goes on with a submission that began longer ago says so first; with the deadline well below the above."""

CLOCKS_S = 60.0
"""How far processes' clocks may be apart, with what a round takes: what is nearly over is taken for over."""


def unsent(job: Job) -> bool:
    """Whether certainly no scheduler has heard of it, and nothing keeps it from being submitted."""
    return _open(job) and job.submitting_at is None


def let_go(job: Job, now: datetime) -> bool:
    """Whether nothing is waited for any more: its task may begin, or go on, or shall not."""
    if not _open(job) or job.cancel_requested_at is not None:
        return True
    return job.admitted_at is not None and not _silent(job, now, GRANT_S - CLOCKS_S)


def going(job: Job, now: datetime) -> bool:
    """Whether there is nothing to begin: its submission did just now, or there is none to come."""
    if not _open(job) or job.cancel_requested_at is not None:
        return True
    return job.submitting_at is not None and not _silent(job, now, RENEW_S)


def begun(job: Job, now: datetime, *, free: bool = False) -> Job:
    """The job as it is once its submission began, or goes on; as it was where it may not.

    :param free: nothing can keep it back: it need not have been let go
    """
    if going(job, now):
        return job
    if not let_go(job, now):
        if not free:
            return job
        job = replace(job, admitted_at=now)
    return replace(job, submitting_at=now, waiter="")


def takes_room(job: Job) -> bool:
    """Whether a job that has not ended is, or may be, where others want to go."""
    there = job.native_id is not None or job.submission is SubmissionState.UNCERTAIN
    return job.ended_at is None and (there or job.admitted_at is not None)


def waits(job: Job, now: datetime) -> bool:
    """Whether a round may let it go."""
    if not _open(job) or not job.waiter or job.cancel_requested_at is not None:
        return False
    return job.admitted_at is None or _silent(job, now, GRANT_S)


def granted(job: Job, now: datetime) -> Job:
    """The job, let go. One that the scheduler may have keeps that word: its submission goes on."""
    if job.submitting_at is None:
        return replace(job, admitted_at=now)
    return replace(job, admitted_at=now, submitting_at=now, waiter="")


def adopted(job: Job, holder: str, now: datetime) -> Job:
    """The job, for which a task waits there now; as it was where there is nothing to wait for."""
    return replace(job, waiter=holder) if unsent(job) or _silent(job, now, GRANT_S) else job


def left(job: Job, holder: str) -> Job:
    """The job, for which nobody waits there any more: what was let go and did not begin is taken back."""
    if job.waiter != holder:
        return job
    return replace(job, waiter="", admitted_at=None if unsent(job) else job.admitted_at)


def _open(job: Job) -> bool:
    return job.submission is SubmissionState.INTENDED and job.native_id is None and job.ended_at is None


def _silent(job: Job, now: datetime, seconds: float) -> bool:
    return job.submitting_at is not None and job.submitting_at <= now - timedelta(seconds=seconds)
