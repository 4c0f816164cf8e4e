"""What the bench of a full mailbox decides, without its servers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from benchmarks.mailbox import KNOWN_EVERY, faults, subject, table

GOOD: dict[str, Any] = {
    "messages": 50_000,
    "start_s": 0.6,
    "again_s": 0.2,
    "all_s": 30.0,
    "cpu_s": 15.0,
    "memory_mb": 10.0,
    "news": 40,
    "news_p50_s": 0.2,
    "news_most_s": 0.5,
    "fetched": 50_042,
    "fetched_twice": 0,
    "fetched_again": 1,
    "counts": {"news": 41},
    "expected": {"news": 41},
    "untold": 0,
}


def test_old_mail_is_of_all_kinds() -> None:
    kinds = Counter(subject(number)[1] for number in range(2 * KNOWN_EVERY))
    assert kinds == {"news": 2, "foreign": KNOWN_EVERY, "other": KNOWN_EVERY - 2}


def test_what_is_good_has_no_fault() -> None:
    assert faults(GOOD) == []
    assert "first 0.60, second 0.20" in table(GOOD)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"counts": {"news": 40}}, "were taken for"),
        ({"untold": 3}, "3 old messages"),
        ({"fetched_twice": 2}, "2 messages were fetched twice"),
        ({"fetched_again": 400}, "fetched 400 messages"),
        ({"start_s": 11.0}, "the first start took 11.0 s"),
        ({"again_s": float("nan")}, "the second start"),
    ],
)
def test_faults_are_told(wrong: dict[str, Any], words: str) -> None:
    (fault,) = faults({**GOOD, **wrong})
    assert words in fault
