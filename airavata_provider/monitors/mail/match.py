"""Whose news a message brings: the one job that has both its id and its name. Pure; no Airflow.

A name is a job's key in the store (``array.index`` for an array's element), so at most one job can match. An id alone
never does: ids begin anew after a controller's reset, and several clusters may write to one mailbox.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from airavata_provider.models.job import EventSource, Job, JobEvent
from airavata_provider.monitors.mail.message import Mail
from airavata_provider.monitors.mail.news import MailNews
from airavata_provider.schedulers.base import Scheduler

Told = tuple[str, MailNews]
"""A scheduler's word, and what its decoder found."""


def keys_of(news: MailNews) -> tuple[str, ...]:
    """Keys that the job may have in the store."""
    if news.index is None:
        return (news.name,)
    return (f"{news.name}.{news.index}", news.name)


def ids_of(news: MailNews, adaptor: Scheduler | None) -> frozenset[str]:
    """Native ids that the job may have in the store."""
    ids = set(news.other_ids)
    if news.index is None:
        ids.add(news.native_id)
    elif adaptor is not None:
        with contextlib.suppress(NotImplementedError):  # no arrays there: then no element's id either
            ids.add(adaptor.element_id(news.native_id, news.index))
    return frozenset(ids)


def job_of(
    told: Iterable[Told],
    jobs: Sequence[Job],
    served: Mapping[str, str],
    adaptors: Mapping[str, Scheduler],
) -> tuple[Job, MailNews] | None:
    """The job that the news is about, None when there is none, or more than one.

    :param told: what the decoders of the mailbox's schedulers made of one message
    :param jobs: the store's jobs that have one of the ids or names
    :param served: scheduler's word by name of the resources that the mailbox serves
    :param adaptors: by scheduler's word
    """
    found = {
        job.name: (job, news)
        for scheduler, news in told
        for job in jobs
        # An array's own state follows from its elements'.
        if job.size is None
        and served.get(job.resource) == scheduler
        and job.name in keys_of(news)
        and job.native_id in ids_of(news, adaptors.get(scheduler))
    }
    return next(iter(found.values())) if len(found) == 1 else None


def is_half_known(told: Iterable[Told], jobs: Sequence[Job], adaptors: Mapping[str, Scheduler]) -> bool:
    """Whether id or name is some job's of ours, and the other is not: a reused id, or a forgery."""
    return any(
        (job.name in keys_of(news) and job.native_id is not None) or job.native_id in ids_of(news, adaptors.get(word))
        for word, news in told
        for job in jobs
    )


def event_of(job: Job, news: MailNews, mail: Mail) -> JobEvent:
    """The event that a message tells of; the same message is the same event, however often it is read."""
    return JobEvent(
        job=job.name,
        source=EventSource.MAIL,
        event_id=mail.digest,
        state=news.state,
        at=news.at,
        exit_code=news.exit_code,
        signal=news.signal,
        reason=news.reason,
        native_id=job.native_id,
        outcome=news.outcome,
    )
