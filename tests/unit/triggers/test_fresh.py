"""A retry goes on where the last try ended; a cleared segment starts anew."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airavata_provider.models.job import TaskRecord, TaskState
from airavata_provider.triggers.clearing import is_fresh
from airavata_provider.triggers.host import HostedTask, Run

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASKS = [HostedTask(id="stage_in", type="stage_in"), HostedTask(id="submit", type="submit")]


def records(*states: tuple[str, TaskState, int]) -> dict[tuple[str, int], TaskRecord]:
    return {
        (task_id, -1): TaskRecord("d", "r", task_id, -1, try_number, state, NOW)
        for task_id, state, try_number in states
    }


def run(try_number: int, cleared_through: int | None = None) -> Run:
    return Run("d", "r", -1, try_number, {}, cleared_through)


DONE = TaskState.COMPLETED


@pytest.mark.parametrize(
    ("found", "now", "fresh"),
    [
        pytest.param([], run(1), False, id="first start"),
        pytest.param([("stage_in", DONE, 1)], run(1), False, id="triggerer died half-way"),
        pytest.param(
            [("stage_in", DONE, 1), ("submit", TaskState.FAILED, 1)], run(2), False, id="retry of a failure"
        ),
        pytest.param(
            [("stage_in", DONE, 1), ("submit", DONE, 1)], run(1), False, id="triggerer died before Airflow heard"
        ),
        pytest.param([("stage_in", DONE, 1), ("submit", DONE, 2)], run(2), False, id="the same after a retry"),
        pytest.param([("stage_in", DONE, 1), ("submit", DONE, 1)], run(2), True, id="cleared"),
        pytest.param(
            [("stage_in", DONE, 1), ("submit", DONE, 1)], run(2, 0), False, id="worker died before Airflow heard"
        ),
        pytest.param([("stage_in", DONE, 1), ("submit", DONE, 1)], run(2, 1), True, id="cleared, on a worker"),
        pytest.param(
            [("stage_in", DONE, 2), ("submit", DONE, 2)], run(3, 1), False, id="worker's retry after a clearing"
        ),
    ],
)
def test_only_a_cleared_segment_is_fresh(found: list[tuple[str, TaskState, int]], now: Run, fresh: bool) -> None:
    assert is_fresh(TASKS, now, records(*found)) is fresh
