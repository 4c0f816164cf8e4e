"""A job's own record of its end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.models.job import JobState
from airavata_provider.schedulers.record import ExitRecord, control_directory, parse_exit_record, state_of_end


def test_an_element_has_a_directory_in_its_arrays() -> None:
    assert control_directory("/work", "a1") == "/work/.airavata/a1"
    assert control_directory("/work", "a1.7") == control_directory("/work", "a1", 7) == "/work/.airavata/a1/7"
    assert control_directory("/work", "a1", 0) == "/work/.airavata/a1/0"


def test_a_record_as_the_script_writes_it() -> None:
    line = (
        '{"exit_code": 143, "signal": 15, "reason": "SIGNAL TERM", "time": "2026-11-21T00:51:22Z",'
        ' "native_id": "28", "restart": 1}'
    )
    assert parse_exit_record(line) == ExitRecord(
        143, 15, "SIGNAL TERM", datetime(2026, 11, 21, 0, 51, 22, tzinfo=UTC), "28", 1
    )


@given(st.text() | st.sampled_from(["", "{}", "[]", "null", "3", '{"exit_code": "x"}', '{"exit_code": 1']))
def test_anything_else_is_no_record(text: str) -> None:
    assert parse_exit_record(text) is None


@pytest.mark.parametrize(
    ("code", "signal", "reason", "state"),
    [
        (0, None, "", JobState.COMPLETE),
        (3, None, "", JobState.FAILED),
        (139, 11, "", JobState.FAILED),
        # Preempted, requeued, cancelled, out of time: the script cannot tell, and may run again.
        (143, 15, "SIGNAL TERM", JobState.NON_CRITICAL_FAIL),
        (0, None, "SIGNAL TERM", JobState.NON_CRITICAL_FAIL),
        (143, 15, "WALLTIME", JobState.NON_CRITICAL_FAIL),
        (143, 15, "", JobState.NON_CRITICAL_FAIL),
        (137, 9, "", JobState.NON_CRITICAL_FAIL),
    ],
)
def test_what_a_scripts_own_news_proves(code: int, signal: int | None, reason: str, state: JobState) -> None:
    assert state_of_end(code, signal, reason) is state
