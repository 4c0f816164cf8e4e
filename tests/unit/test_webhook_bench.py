"""What the bench of job scripts' calls decides, without its servers."""

from __future__ import annotations

from math import isnan, nan
from typing import Any

import pytest

from benchmarks.webhook import faults, percentile, table

GOOD: dict[str, Any] = {
    "asked_per_s": 300.0,
    "answered_per_s": 299.4,
    "answers": {"204": 6000},
    "p50_s": 0.045,
    "p95_s": 0.122,
    "p99_s": 0.149,
    "worst_s": 0.4,
    "ui_alone_p50_s": 0.05,
    "ui_alone_p95_s": 0.09,
    "ui_p50_s": 0.171,
    "ui_p95_s": 0.6,
    "ui_failed": 0,
    "server_cpu_s_per_call": 0.002,
}


def test_what_is_good_has_no_fault() -> None:
    assert faults(GOOD) == []
    assert "p99 149 (target 150)" in table(GOOD)
    assert "p95 600 (target 1000, alone 90)" in table(GOOD)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"answers": {"204": 5990, "500": 10}}, "10 calls were answered 500"),
        ({"answers": {"204": 5999, "ConnectionRefusedError": 1}}, "1 calls were answered ConnectionRefusedError"),
        ({"answered_per_s": 296.9}, "296.9 calls a second were answered of 300"),
        ({"asked_per_s": 400.0}, "299.4 calls a second were answered of 400"),
        ({"p99_s": 0.151}, "took 151 ms at p99"),
        ({"p99_s": nan}, "at p99"),
        ({"ui_p95_s": 1.2}, "took 1.20 s at p95"),
        ({"ui_p95_s": nan}, "at p95"),
        ({"ui_failed": 3}, "3 requests of Airflow's pages failed"),
    ],
)
def test_faults_are_told(wrong: dict[str, Any], words: str) -> None:
    (fault,) = faults({**GOOD, **wrong})
    assert words in fault


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert percentile(range(1, 101), 0.99) == 99
    assert isnan(percentile([], 0.5))
