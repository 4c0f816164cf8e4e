"""A retry goes on where the last try ended; a cleared segment starts anew; its end is that of its last tasks."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airavata_provider.models.job import TaskRecord, TaskState
from airavata_provider.models.trigger_rules import End
from airavata_provider.triggers.hosted import HostedTask, Run
from airavata_provider.triggers.progress import end_on_record, outcome, progress, was_cleared

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
    assert bool(progress(TASKS, now, records(*found)).fresh) is fresh
    if fresh:
        assert progress(TASKS, now, records(*found)).kept == {}


WHOLE = [
    HostedTask(id="stage_in", type="stage_in"),
    HostedTask(id="submit", type="submit"),
    HostedTask(id="monitor", type="monitor"),
    HostedTask(
        id="stage_out", type="stage_out", after=("submit", "monitor"), trigger_rule="all_done_min_one_success"
    ),
    HostedTask(id="clean_up", type="clean_up", after=("monitor", "stage_out")),
]
FAILED, UNRUN = TaskState.FAILED, TaskState.CANCELED
FAILED_JOB = [
    ("stage_in", DONE, 1),
    ("submit", DONE, 1),
    ("monitor", FAILED, 1),
    ("stage_out", DONE, 1),
    ("clean_up", UNRUN, 1),
]


def test_what_ran_because_another_failed_runs_again_when_that_is_tried_again() -> None:
    found = progress(WHOLE, run(1), records(*FAILED_JOB))
    assert (dict(found.kept), set(found.fresh)) == ({"stage_in": "success", "submit": "success"}, set())


def test_a_job_to_be_made_anew_takes_all_that_follows_it_along() -> None:
    found = progress(WHOLE, run(2), records(*FAILED_JOB), ["submit"])
    assert dict(found.kept) == {"stage_in": "success"}
    assert set(found.fresh) == {"submit", "monitor", "stage_out", "clean_up"}


def test_a_segment_that_ended_well_though_a_task_failed_is_fresh_when_cleared() -> None:
    tasks = [
        HostedTask(id="try", type="stage_in"),
        HostedTask(id="else", type="stage_in", trigger_rule="one_failed"),
    ]
    found = records(("try", FAILED, 1), ("else", DONE, 1))
    assert progress(tasks, run(1), found).fresh == set()
    assert set(progress(tasks, run(2), found).fresh) == {"try", "else"}


def test_ends() -> None:
    ends = {record.task_id: end_on_record(record) for record in records(*FAILED_JOB).values()}
    assert ends["clean_up"] == "upstream_failed"
    assert outcome(WHOLE, ends) == "failed"
    assert outcome(WHOLE, dict.fromkeys(ends, "success")) == "success"
    assert outcome(WHOLE, dict.fromkeys(ends, "skipped")) == "skipped"
    nothing = TaskRecord("d", "r", "stage_in", -1, 1, DONE, NOW, result={"skipped": True})
    assert end_on_record(nothing) == "skipped"


def test_a_failure_that_others_wait_for_is_the_segments_though_it_was_handled_in_it() -> None:
    tasks = [*WHOLE[:2], WHOLE[2].model_copy(update={"waited_for": True}), WHOLE[3]]
    ends: dict[str, End] = {"stage_in": "success", "submit": "success", "monitor": "failed", "stage_out": "success"}
    assert outcome(WHOLE[:4], ends) == "success"
    assert outcome(tasks, ends) == "failed"


@pytest.mark.parametrize(
    ("now", "last", "cleared"), [(run(2), 1, True), (run(1), 1, False), (run(2, 0), 1, False), (run(2, 1), 1, True)]
)
def test_who_cleared(now: Run, last: int, cleared: bool) -> None:
    assert was_cleared(now, last) is cleared


@pytest.mark.parametrize(
    ("try_number", "retries", "cleared_through", "may"),
    [
        (1, 3, None, True),
        (3, 3, None, True),
        (4, 3, None, False),
        (1, 0, None, False),
        (5, 3, 4, True),
        (1, None, None, True),
    ],
)
def test_whether_airflow_may_try_again(
    try_number: int, retries: int | None, cleared_through: int | None, may: bool
) -> None:
    assert Run("d", "r", -1, try_number, {}, cleared_through, retries=retries).may_retry is may
