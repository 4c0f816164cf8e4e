"""Trigger rules inside a segment: every rule that a pattern may name, as Airflow's documentation has it."""

from __future__ import annotations

from typing import Final, get_args

import pytest
from airflow.task.trigger_rule import TriggerRule as AirflowRule
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.models.pattern import TriggerRule
from airavata_provider.models.trigger_rules import End, verdict

S: Final = "success"
F: Final = "failed"
U: Final = "upstream_failed"
K: Final = "skipped"

TABLE: dict[str, list[tuple[list[End], str]]] = {
    "all_success": [([S, S], "run"), ([S, F], U), ([S, U], U), ([S, K], K), ([K, F], U)],
    "all_failed": [([F, U], "run"), ([F, S], K), ([F, K], K)],
    "all_done": [([S, F, U, K], "run"), ([K, K], "run")],
    "all_done_min_one_success": [([S, F], "run"), ([S, U], "run"), ([F, U], U), ([S, K], K), ([F, K], K)],
    "all_skipped": [([K, K], "run"), ([K, S], K), ([K, F], K)],
    "one_failed": [([S, F], "run"), ([S, U], "run"), ([S, K], K), ([S, S], K)],
    "one_success": [([S, F], "run"), ([S, K], "run"), ([F, K], U), ([F, U], U), ([K, K], K)],
    "one_done": [([S, K], "run"), ([F, K], "run"), ([K, K], K), ([U, K], K)],
    "none_failed": [([S, K], "run"), ([K, K], "run"), ([S, F], U), ([K, U], U)],
    "none_failed_min_one_success": [([S, K], "run"), ([K, K], K), ([S, F], U), ([K, U], U)],
    "none_skipped": [([S, F], "run"), ([U, S], "run"), ([S, K], K)],
    "always": [([F, U, K], "run")],
}


@pytest.mark.parametrize(
    ("rule", "before", "told"), [(rule, *case) for rule, cases in TABLE.items() for case in cases]
)
def test_what_each_rule_says(rule: str, before: list[End], told: str) -> None:
    assert verdict(rule, before) == told


def test_every_rule_that_a_pattern_may_name_is_in_the_table_and_airflows() -> None:
    assert (
        set(get_args(TriggerRule)) == set(TABLE) == {rule.value for rule in AirflowRule} - {"all_done_setup_success"}
    )


@given(st.sampled_from(sorted(TABLE)), st.lists(st.sampled_from([S, F, U, K]), max_size=6))
def test_the_order_of_those_before_does_not_matter_and_none_holds_nobody(rule: str, before: list[End]) -> None:
    turned = before[::-1]
    assert verdict(rule, before) == verdict(rule, turned)
    assert verdict(rule, []) == "run"
