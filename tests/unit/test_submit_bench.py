"""What the submissions' bench decides, without its servers."""

from __future__ import annotations

import pytest

from benchmarks.submit import Burst, _median, _wrong, faults, table


def test_each_job_is_in_the_queue_once_and_under_the_id_on_record() -> None:
    ids = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]
    there = {("a", "1"): 1, ("b", "2"): 2, ("d", "4"): 1, ("a", "5"): 1}
    wrong = _wrong(ids, there, {"a": "1", "d": "7"})
    assert [each.split(",")[0] for each in wrong] == [
        "b 2: 2 times in the queue",
        "c 3: 0 times in the queue",
        "a 5 is in the queue",
        "d is 4",
    ]
    assert _wrong(ids[:1], {("a", "1"): 1}, {"a": "1"}) == []


def test_medians_of_the_turns() -> None:
    bursts = [Burst(seconds, [0.1, 0.2, seconds], {"client": seconds / 2}, {}) for seconds in (3.0, 1.0, 2.0)]
    assert _median(bursts) == {"seconds": 2.0, "p50_s": 0.2, "p95_s": 2.0, "cpu_client_s": 1.0}


@pytest.mark.parametrize(("ratio", "wrong", "number"), [(1.5, [], 0), (1.6, [], 1), (1.4, ["x"], 1)])
def test_faults(ratio: float, wrong: list[str], number: int) -> None:
    assert len(faults({"ratio": ratio, "wrong": wrong})) == number


def test_the_table_tells_both_and_the_ratio() -> None:
    each = {"seconds": 2.0, "p50_s": 1.0, "p95_s": 1.9, "cpu_host_s": 3.0}
    text = table({"count": 300, "ratio": 1.25, "ours": each, "bare": each})
    assert "host 10.0" in text
    assert "1.25 times" in text
