from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.jobs.figures import END, Spread, behind, figures, percentile, tellings
from airavata_provider.models.job import Effect, JobEvent, JobState
from tests.unit.jobs.factory import at, make_event

S, E = JobState, Effect


@dataclass(frozen=True)
class Kept:
    event: JobEvent
    received_at: datetime
    effect: Effect


def kept(
    state: JobState, source: str, happened: float, arrived: float, effect: Effect = E.APPLIED, job: str = "a1"
) -> Kept:
    event = make_event(state, happened, source=source, job=job, event_id=f"{state}@{arrived}")
    return Kept(event, at(arrived), effect)


HISTORY = [
    kept(S.SUBMITTED, "submission", 0, 0.1),
    kept(S.QUEUED, "poll", 1, 1.2),
    kept(S.ACTIVE, "webhook", 10, 10.5),
    kept(S.ACTIVE, "mail", 9, 70, E.CONFIRMED),
    kept(S.COMPLETE, "webhook", 100, 100.25),
    kept(S.FAILED, "mail", 98, 160, E.CONTRADICTED),
    kept(S.FAILED, "poll", 110, 110.5, E.CONFIRMED),
    kept(S.FAILED, "poll", 210, 210.5, E.CONFIRMED),
    kept(S.FAILED, "somebody", 99, 99.5, E.IMPOSSIBLE),
]


def test_each_source_counts_once_for_each_transition() -> None:
    told = tellings(HISTORY)
    assert [(each.transition, each.source, each.first) for each in told] == [
        ("QUEUED", "poll", True),
        ("ACTIVE", "webhook", True),
        ("ACTIVE", "mail", False),
        (END, "webhook", True),
        (END, "poll", False),
        (END, "mail", False),
    ]
    assert [(each.own_s, each.notice_s, each.after_first_s) for each in told if each.transition == END] == [
        (0.25, 2.25, 0),
        (0.5, 12.5, 10.25),
        (62, 62, 59.75),
    ]


def test_the_report_says_who_was_first_and_who_behind() -> None:
    found = figures(HISTORY)
    assert (found.jobs, found.news) == (1, 9)
    assert found.effects["mail"] == {"confirmed": 1, "contradicted": 1}
    assert found.effects["somebody"] == {"impossible": 1}
    first = {(each.transition, each.source): (each.first, each.told, each.transitions) for each in found.sources}
    assert first[END, "webhook"] == (1, 1, 1)
    assert first[END, "mail"] == (0, 1, 1)
    gaps = {(each.transition, each.source): (each.earlier, each.seconds.median) for each in found.behind}
    assert gaps == {("ACTIVE", "mail"): (0, 59.5), (END, "poll"): (0, 10.25), (END, "mail"): (0, 59.75)}


def test_a_source_that_is_ahead_of_the_webhook_is_told_so() -> None:
    (gap,) = figures([kept(S.COMPLETE, "mail", 1, 2), kept(S.COMPLETE, "webhook", 1, 5, E.CONFIRMED)]).behind
    assert (gap.source, gap.earlier, gap.seconds.most) == ("mail", 1, -3)


def test_a_requeued_job_has_its_transitions_once_more() -> None:
    told = tellings(
        [
            kept(S.ACTIVE, "webhook", 10, 10.5),
            kept(S.QUEUED, "poll", 20, 20.5),
            kept(S.ACTIVE, "webhook", 30, 30.5),
            kept(S.ACTIVE, "mail", 9, 40, E.LATE),
            kept(S.ACTIVE, "mail", 29, 50, E.CONFIRMED),
            kept(S.COMPLETE, "mail", 60, 61),
        ]
    )
    assert [(each.transition, each.source, each.after_first_s) for each in told] == [
        ("ACTIVE", "webhook", 0),
        ("ACTIVE", "mail", 29.5),
        ("QUEUED", "poll", 0),
        ("ACTIVE", "webhook", 0),
        ("ACTIVE", "mail", 19.5),
        (END, "mail", 0),
    ]


def test_since_leaves_out_what_was_told_before_by_anybody() -> None:
    found = figures(HISTORY, since=at(50))
    assert {each.transition for each in found.sources} == {END}
    assert found.news == 6


def test_nothing_is_nothing() -> None:
    found = figures([])
    assert (found.jobs, found.news, found.sources, found.behind) == (0, 0, [], [])
    assert Spread.of([]).count == 0
    assert math.isnan(Spread.of([]).median)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_its_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


news = st.builds(
    kept,
    state=st.sampled_from(list(S)),
    source=st.sampled_from(["submission", "webhook", "mail", "poll", "a plug-in's"]),
    happened=st.integers(0, 50),
    arrived=st.integers(0, 50),
    effect=st.sampled_from(list(E)),
    job=st.sampled_from(["a1", "a2"]),
)


@given(st.lists(news, max_size=30))
def test_what_holds_of_any_news(all_: Sequence[Kept]) -> None:
    found, told = figures(all_), tellings(all_)
    assert sum(count for effects in found.effects.values() for count in effects.values()) == found.news == len(all_)
    for source in found.sources:
        same = [each for each in found.sources if each.transition == source.transition]
        assert sum(each.first for each in same) == source.transitions
        assert source.first <= source.told <= source.transitions
        assert source.after_first.count == source.told - source.first
        assert source.own.count == source.notice.count == source.told
    for each in told:
        assert each.notice_s >= each.own_s
        assert each.after_first_s >= 0
    assert sum(len(pairs) for pairs in behind(told).values()) == sum(each.seconds.count for each in found.behind)


@given(st.permutations(HISTORY))
def test_the_order_in_which_it_is_read_does_not_matter(shuffled: Sequence[Kept]) -> None:
    assert figures(shuffled) == figures(HISTORY)


@pytest.mark.parametrize("state", [S.SUBMITTED, S.UNKNOWN])
def test_no_transitions(state: JobState) -> None:
    assert tellings([kept(state, "poll", 1, 2)]) == []
