"""What the throughput's bench decides, without its servers."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.throughput import faults


def result(**throughput: float) -> dict[str, Any]:
    rates = {"plain_per_hour": 1000.0, "task_per_hour": 8000.0, "segment_per_hour": 15000.0} | throughput
    latency = {"lone_plain_s": 6.0, "lone_task_s": 18.0, "lone_segment_s": 3.0}
    return {"failed": 0, "ssh": {"connections_peak": 2}, "throughput": rates, "latency": latency}


def test_what_is_as_it_should_be() -> None:
    assert faults(result()) == []
    # Without the plain DAG there is nothing to compare with.
    alone = result(task_per_hour=1.0)
    del alone["throughput"]["plain_per_hour"], alone["latency"]["lone_plain_s"]
    assert faults(alone) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"failed": 3}, "3 runs failed"),
        ({"ssh": {"connections_peak": 3}}, "3 connections"),
        ({"throughput": result(task_per_hour=7900.0)["throughput"]}, "task: 7.9 times"),
        ({"throughput": result(segment_per_hour=14000.0)["throughput"]}, "segment: 14.0 times"),
        ({"latency": {"lone_plain_s": 6.0, "lone_segment_s": 6.5}}, "6.5 s"),
    ],
)
def test_what_is_not(changed: dict[str, Any], told: str) -> None:
    (fault,) = faults({**result(), **changed})
    assert told in fault
