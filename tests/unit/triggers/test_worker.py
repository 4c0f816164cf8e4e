"""A task's whole work on a worker ends as Airflow expects it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airavata_provider.errors import AiravataError, ConnectFailed, JobFailed
from airavata_provider.triggers import worker
from airavata_provider.triggers.host import Segment, Skipped
from airavata_provider.triggers.worker import run_on_worker

KWARGS = {"tasks": [{"id": "t", "type": "monitor"}], "parameters": {"job": "submit"}, "resource": "cluster"}


def run(monkeypatch: pytest.MonkeyPatch, outcome: Any, closing: Exception | None = None) -> dict[str, Any] | None:
    """Run it on a worker where its segment ends like that, and so does closing what it used."""

    async def run_segment(segment: Segment) -> dict[str, Any]:
        assert [(task.id, task.parameters, task.resource) for task in segment.tasks] == [
            ("t", {"job": "submit"}, "cluster")
        ]
        if isinstance(outcome, BaseException):
            raise outcome
        return {"t": outcome}

    async def close_services() -> None:
        if closing is not None:
            raise closing

    monkeypatch.setattr(worker, "run_segment", run_segment)
    monkeypatch.setattr(worker, "get_services", lambda *, of_task: None)
    monkeypatch.setattr(worker, "close_services", close_services)
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=None, try_number=1, max_tries=0)
    dag_run = SimpleNamespace(run_after=datetime(2031, 5, 6, tzinfo=UTC), start_date=None)
    return run_on_worker(KWARGS, cast(Any, {"ti": ti, "dag_run": dag_run}), retries=0)


@pytest.mark.parametrize("closing", [None, RuntimeError("a bug")])
def test_what_it_did_stands_whatever_becomes_of_its_connections(
    monkeypatch: pytest.MonkeyPatch, closing: Exception | None
) -> None:
    assert run(monkeypatch, {"state": "COMPLETE"}, closing) == {"state": "COMPLETE"}


@pytest.mark.parametrize("closing", [None, RuntimeError("a bug")])
@pytest.mark.parametrize(
    ("outcome", "raised"),
    [
        (JobFailed("exit code 1"), AirflowFailException),
        (ConnectFailed("no route"), AirflowException),
        (Skipped("t"), AirflowSkipException),
    ],
)
def test_it_ends_as_its_error_says(
    monkeypatch: pytest.MonkeyPatch,
    outcome: AiravataError | Skipped,
    raised: type[Exception],
    closing: Exception | None,
) -> None:
    with pytest.raises(AirflowException) as told:
        run(monkeypatch, outcome, closing)
    assert type(told.value) is raised
