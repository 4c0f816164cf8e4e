"""Jobs and events for tests, with values that do not matter unless told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airavata_provider.models.job import Job, JobEvent, JobState

NOON = datetime(2031, 5, 6, 12, tzinfo=UTC)
LATER = datetime(9999, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """That many seconds past noon."""
    return NOON + timedelta(seconds=seconds)


def make_job(name: str = "a1", **values: Any) -> Job:
    defaults: dict[str, Any] = {
        "dag_id": "hpc_batch",
        "experiment_id": f"experiment-{name}",
        "task_id": "submit",
        "map_index": -1,
        "attempt": 1,
        "resource": "cluster",
        "directory": f"/scratch/{name}",
    }
    return Job(name=name, **{**defaults, **values})


def make_event(
    state: JobState,
    seconds: float = 0,
    *,
    source: str = "poll",
    job: str = "a1",
    event_id: str | None = None,
    **values: Any,
) -> JobEvent:
    return JobEvent(job, source, event_id or f"{state}@{seconds}", state, at(seconds), **values)
