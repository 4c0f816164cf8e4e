"""What a task's trigger rule makes of the ends of those before it, when they are in one segment.

The rules and their words are Airflow's (``airflow.ti_deps.deps.trigger_rule_dep``, 3.3), for the moment at which all
of those before it have ended. Pure; imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

End = Literal["success", "failed", "upstream_failed", "skipped"]
"""How a task ended, in Airflow's words."""

BAD: Collection[End] = ("failed", "upstream_failed")


@dataclass(frozen=True)
class _Ends:
    """How many of those before a task ended how."""

    all: int
    success: int
    failed: int
    bad: int
    skipped: int


_Condition = Callable[[_Ends], bool]

_UPSTREAM_FAILED: Mapping[str, _Condition] = {
    "all_success": lambda ends: ends.bad > 0,
    "none_failed": lambda ends: ends.bad > 0,
    "none_failed_min_one_success": lambda ends: ends.bad > 0,
    "one_success": lambda ends: ends.success == 0 and ends.bad > 0,
    "all_done_min_one_success": lambda ends: ends.success == 0 and ends.skipped == 0,
}
_SKIPPED: Mapping[str, _Condition] = {
    "all_success": lambda ends: ends.skipped > 0,
    "none_failed_min_one_success": lambda ends: ends.skipped == ends.all,
    "all_failed": lambda ends: ends.bad < ends.all,
    "all_skipped": lambda ends: ends.skipped < ends.all,
    "one_success": lambda ends: ends.success == 0,
    "one_failed": lambda ends: ends.bad == 0,
    "one_done": lambda ends: ends.success + ends.failed == 0,
    "none_skipped": lambda ends: ends.skipped > 0,
    "all_done_min_one_success": lambda ends: ends.skipped > 0,
}


def verdict(rule: str, before: Sequence[End]) -> Literal["run", "skipped", "upstream_failed"]:
    """Whether a task runs, or how it ends without running.

    :param rule: its trigger rule
    :param before: how those before it ended; without any, every rule lets it run
    """
    ends = _Ends(
        len(before),
        before.count("success"),
        before.count("failed"),
        sum(end in BAD for end in before),
        before.count("skipped"),
    )
    if before and rule in _UPSTREAM_FAILED and _UPSTREAM_FAILED[rule](ends):
        return "upstream_failed"
    if before and rule in _SKIPPED and _SKIPPED[rule](ends):
        return "skipped"
    return "run"
