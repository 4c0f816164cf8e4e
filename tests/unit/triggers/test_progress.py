"""A retry goes on where the last try ended; a cleared segment starts anew; its end is that of its last tasks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from airavata_provider.models.job import TaskRecord, TaskState
from airavata_provider.models.trigger_rules import End
from airavata_provider.triggers.hosted import HostedTask, Run
from airavata_provider.triggers.progress import cleared, end_on_record, outcome, progress

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASKS = [HostedTask(id="stage_in", type="stage_in"), HostedTask(id="submit", type="submit")]


def records(*states: tuple[str, TaskState, int]) -> dict[tuple[str, int], TaskRecord]:
    return {
        (task_id, -1): TaskRecord(
            "d",
            "r",
            task_id,
            -1,
            try_number,
            state,
            NOW,
            run_started="first",
            stands_through=try_number if state in (DONE, FAILED) else None,
        )
        for task_id, state, try_number in states
    }


def run(try_number: int, cleared_through: int | None = None, started: str = "first") -> Run:
    return Run("d", "r", -1, try_number, {}, cleared_through, started=started)


DONE, FAILED, UNRUN = TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED


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
FAILED_JOB = [
    ("stage_in", DONE, 1),
    ("submit", DONE, 1),
    ("monitor", FAILED, 1),
    ("stage_out", DONE, 1),
    ("clean_up", UNRUN, 1),
]


def test_a_failure_for_good_stands_in_the_same_try_and_so_does_what_answered_it() -> None:
    found = progress(WHOLE, run(1), records(*FAILED_JOB))
    assert dict(found.kept) == {
        "stage_in": "success",
        "submit": "success",
        "monitor": "failed",
        "stage_out": "success",
    }
    assert found.fresh == set()


def test_a_failure_that_airflow_was_told_to_try_again_for_another_reason_stands_in_that_try() -> None:
    known = records(*FAILED_JOB)
    known["monitor", -1] = replace(known["monitor", -1], stands_through=2)
    assert progress(WHOLE, run(2), known).kept["monitor"] == "failed"
    assert "monitor" not in progress(WHOLE, run(3), known).kept


def test_a_failure_that_time_may_cure_does_not_stand_nor_what_ran_because_of_it() -> None:
    known = records(*FAILED_JOB)
    known["monitor", -1] = replace(known["monitor", -1], stands_through=None)
    assert dict(progress(WHOLE, run(1), known).kept) == {"stage_in": "success", "submit": "success"}


def test_a_job_to_be_made_anew_takes_all_that_follows_it_along() -> None:
    found = progress(WHOLE, run(2, started="second"), records(*FAILED_JOB), ["submit"])
    assert dict(found.kept) == {"stage_in": "success"}
    assert set(found.fresh) == {"submit", "monitor", "stage_out", "clean_up"}


def test_where_the_directory_is_gone_a_job_made_anew_takes_all_along() -> None:
    known = records(*FAILED_JOB)
    known["clean_up", -1] = replace(known["clean_up", -1], state=DONE, result={"removed": True})
    found = progress(WHOLE, run(2, started="second"), known, ["submit"])
    assert set(found.fresh) == {task.id for task in WHOLE}


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


def test_what_others_wait_for_and_was_skipped_makes_the_segment_skipped() -> None:
    tasks = [
        HostedTask(id="a", type="stage_in"),
        HostedTask(id="b", type="stage_in", trigger_rule="one_failed", waited_for=True),
        HostedTask(id="c", type="stage_in", after=("a",), waited_for=True),
    ]
    assert outcome(tasks, {"a": "success", "b": "skipped", "c": "success"}) == "skipped"
    assert outcome(tasks, {"a": "success", "b": "skipped", "c": "failed"}) == "failed"


@pytest.mark.parametrize(
    ("now", "through", "told"),
    [
        pytest.param(run(1), 1, False, id="the same try"),
        pytest.param(run(2), 2, False, id="a try that was expected"),
        pytest.param(run(2), 1, None, id="a later try of the same run"),
        pytest.param(run(2, started="second"), 2, True, id="the run was over and began again"),
        pytest.param(run(2, started=""), 1, None, id="a host that is not told"),
        pytest.param(run(2, 0), 1, False, id="a worker that knows better"),
        pytest.param(run(2, 1), 1, True, id="a worker that knows for certain"),
    ],
)
def test_who_cleared(now: Run, through: int, told: bool | None) -> None:
    record = replace(records(("submit", DONE, 1))["submit", -1], stands_through=through)
    assert cleared(now, record) is told
