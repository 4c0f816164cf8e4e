"""What the store knows of places of late, for ``jobs.placing``: one transaction of four small reads.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import case, exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from airavata_provider.jobs import tables
from airavata_provider.jobs.limits import Place
from airavata_provider.jobs.placing import FAULTS, LATELY, Recent
from airavata_provider.models.job import JobState

STARTS = 500
"""So many of the jobs that started lately are looked at, at most."""

CHOSEN = timedelta(minutes=30)
"""For how long an experiment without a job counts where it was sent: later it is stuck, or over."""

_job = tables.job.c
_queue = func.coalesce(_job.queue, "").label("queue")


async def read_recent(connection: AsyncConnection, resources: Collection[str], now: datetime) -> Recent:
    """What is known of those resources."""
    since = now - LATELY
    mine = _job.resource.in_(sorted(resources))
    starts = (
        select(_job.resource, _queue, _job.submitted_at, _job.started_at)
        # What started since then changed since then, and that is indexed.
        .where(mine, _job.changed_at >= since, _job.started_at >= since, _job.submitted_at.is_not(None))
        .where(_job.size.is_(None))
        .order_by(_job.started_at.desc())
        .limit(STARTS)
    )
    waits: dict[Place, list[float]] = {}
    for row in (await connection.execute(starts)).mappings():
        waited = max(0.0, (row["started_at"] - row["submitted_at"]).total_seconds())
        waits.setdefault((row["resource"], row["queue"]), []).append(waited)
    queued = (
        select(_job.resource, _queue, func.min(_job.submitted_at).label("since"))
        .where(mine, _job.ended_at.is_(None), _job.native_id.is_not(None), _job.size.is_(None))
        .where(_job.state.in_([JobState.SUBMITTED.value, JobState.QUEUED.value]), _job.submitted_at.is_not(None))
        .group_by(_job.resource, _queue)
    )
    oldest = {(row["resource"], row["queue"]): row["since"] for row in (await connection.execute(queued)).mappings()}
    failed = func.sum(case((_job.outcome.in_([each.value for each in FAULTS]), 1), else_=0))
    ends = (
        select(_job.resource, _queue, func.count().label("ended"), failed.label("failed"))
        .where(mine, _job.ended_at >= since, _job.size.is_(None))
        .group_by(_job.resource, _queue)
    )
    ended = {
        (row["resource"], row["queue"]): (int(row["ended"]), int(row["failed"]))
        for row in (await connection.execute(ends)).mappings()
    }
    column = tables.placement.c
    has_job = exists().where(
        _job.dag_id == column.dag_id, _job.experiment_id == column.experiment_id, _job.born == column.born
    )
    sent = (
        select(column.resource, column.queue, func.count().label("sent"))
        .where(column.resource.in_(sorted(resources)), column.decided_at >= now - CHOSEN, ~has_job)
        .group_by(column.resource, column.queue)
    )
    chosen = {
        (row["resource"], row["queue"]): int(row["sent"]) for row in (await connection.execute(sent)).mappings()
    }
    return Recent(waits, oldest, ended, chosen)
