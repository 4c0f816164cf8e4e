from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.jobs.state import (
    RECORDS,
    TRANSITIONS,
    decide,
    markdown_table,
    mermaid_diagram,
)
from airavata_provider.models.job import TERMINAL, Effect, EventSource, Job, JobEvent, JobState
from tests.unit.jobs.factory import at, make_event, make_job

S = JobState
SOURCES = [*map(str, EventSource), "a-plugin"]
STATES = [None, *S]
ALIVE = [state for state in S if not state.terminal]


def job_in(state: JobState | None, source: str = "poll", **values: object) -> Job:
    ended = at(100) if state is not None and state.terminal else None
    return replace(
        make_job(state=state, state_at=at(100) if state else None, state_source=source, ended_at=ended),
        **values,  # type: ignore[arg-type]
    )


def follow(events: list[JobEvent], job: Job | None = None) -> tuple[Job, list[Effect]]:
    job = job or make_job()
    effects = []
    for event in events:
        decision = decide(job, event)
        job = decision.job
        effects.append(decision.effect)
    return job, effects


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("news", list(S))
def test_total(state: JobState | None, news: JobState) -> None:
    """Each (state, its source, event's state, its source, order in time)."""
    for held_by, source, seconds in product(SOURCES, SOURCES, [50, 100, 150]):
        check_what_always_holds(state, held_by, news, source, seconds)


def check_what_always_holds(state: JobState | None, held_by: str, news: JobState, source: str, seconds: int) -> None:
    job = job_in(state, held_by)
    decision = decide(job, make_event(news, seconds, source=source))
    after = decision.job
    assert decision.effect is not Effect.DUPLICATE
    if decision.effect in (Effect.LATE, Effect.IMPOSSIBLE):
        assert after is job
    if decision.effect is Effect.APPLIED:
        assert after.state is news
        assert after.state_source == source
    if decision.effect is Effect.CONFIRMED:
        assert after.state is state is news
    if after.state is not state:
        assert after.state in TRANSITIONS[state]
    assert (after.ended_at is not None) == (after.state is not None and after.state.terminal)
    if state is not None and state.terminal:
        assert after.state is not None
        assert after.state.terminal
        assert not (state is not S.COMPLETE and after.state is S.COMPLETE)
        assert after.ended_at == job.ended_at
    elif news.terminal:
        assert (decision.effect, after.state) == (Effect.APPLIED, news)


@pytest.mark.parametrize("state", [S.SUSPENDED, S.UNKNOWN, S.NON_CRITICAL_FAIL, S.QUEUED, S.ACTIVE])
@pytest.mark.parametrize("news", [S.QUEUED, S.ACTIVE, S.SUSPENDED, S.COMPLETE, S.FAILED, S.CANCELED])
def test_no_dead_ends(state: JobState, news: JobState) -> None:
    expected = Effect.CONFIRMED if state is news else Effect.APPLIED
    decision = decide(job_in(state), make_event(news, 101))
    assert (decision.effect, decision.state) == (expected, news)


def test_requeue() -> None:
    job, effects = follow(
        [
            make_event(S.QUEUED, 1),
            make_event(S.ACTIVE, 2, source="webhook"),
            make_event(S.NON_CRITICAL_FAIL, 3),
            make_event(S.QUEUED, 4),
            make_event(S.ACTIVE, 5),
            make_event(S.COMPLETE, 6, exit_code=0),
        ]
    )
    assert effects == [Effect.APPLIED] * 6
    assert (job.state, job.started_at, job.ended_at) == (S.COMPLETE, at(2), at(6))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("end", [S.FAILED, S.CANCELED])
@pytest.mark.parametrize("source", [*sorted(RECORDS), "a-plugin", "webhook"])
def test_webhook_complete_hides_no_failure(order: tuple[int, int], end: JobState, source: str) -> None:
    news = [
        make_event(S.COMPLETE, 10, source="webhook", exit_code=0),
        make_event(end, 12, source=source, reason="OUT_OF_MEMORY", exit_code=137),
    ]
    job, effects = follow([news[each] for each in order])
    assert effects == [Effect.APPLIED, Effect.CONTRADICTED]
    assert (job.state, job.reason, job.exit_code) == (end, "OUT_OF_MEMORY", 137)


def test_the_schedulers_record_counts_more_than_the_scripts_word() -> None:
    job, effects = follow([make_event(S.FAILED, 1, source="webhook"), make_event(S.CANCELED, 2)])
    assert (job.state, effects[-1]) == (S.CANCELED, Effect.CONTRADICTED)
    job, effects = follow([make_event(S.CANCELED, 1), make_event(S.FAILED, 2, source="webhook")])
    assert (job.state, effects[-1]) == (S.CANCELED, Effect.CONTRADICTED)


def test_failed_never_becomes_complete() -> None:
    job, effects = follow([make_event(S.FAILED, 1, source="webhook", exit_code=3), make_event(S.COMPLETE, 2)])
    assert (job.state, job.exit_code, effects[-1]) == (S.FAILED, 3, Effect.CONTRADICTED)


def test_confirmation_adds_what_was_missing() -> None:
    job, effects = follow(
        [
            make_event(S.FAILED, 1, source="webhook"),
            make_event(S.FAILED, 2, exit_code=9, signal=9, reason="OUT_OF_MEMORY"),
        ]
    )
    assert effects[-1] is Effect.CONFIRMED
    assert (job.exit_code, job.signal, job.reason, job.state_source) == (9, 9, "OUT_OF_MEMORY", "poll")


@pytest.mark.parametrize("state", sorted(TERMINAL))
@pytest.mark.parametrize("news", ALIVE)
def test_news_after_the_end_is_late(state: JobState, news: JobState) -> None:
    assert decide(job_in(state, "webhook"), make_event(news, 200)).effect is Effect.LATE


def test_a_look_from_before_is_late() -> None:
    job, effects = follow([make_event(S.ACTIVE, 10, source="webhook"), make_event(S.QUEUED, 9)])
    assert (job.state, effects[-1]) == (S.ACTIVE, Effect.LATE)


def test_submitted_saved_after_the_job_began() -> None:
    job, effects = follow(
        [make_event(S.ACTIVE, 1, source="webhook"), make_event(S.SUBMITTED, 2, source="submission")]
    )
    assert (job.state, effects[-1]) == (S.ACTIVE, Effect.LATE)


def test_anything_known_replaces_unknown() -> None:
    job, effects = follow([make_event(S.UNKNOWN, 10), make_event(S.ACTIVE, 9, source="webhook")])
    assert (job.state, effects[-1]) == (S.ACTIVE, Effect.APPLIED)


@pytest.mark.parametrize("before", [None, S.QUEUED, S.ACTIVE, S.UNKNOWN])
def test_given_up_wakes_and_can_be_revived(before: JobState | None) -> None:
    job = decide(job_in(before), make_event(S.UNKNOWN, 200, given_up=True, reason="no trace")).job
    assert (job.state, job.ended_at, job.reason) == (S.UNKNOWN, at(200), "no trace")
    revived = decide(job, make_event(S.ACTIVE, 300)).job
    assert (revived.state, revived.ended_at) == (S.ACTIVE, None)
    assert decide(job, make_event(S.COMPLETE, 300)).job.ended_at == at(300)


def test_an_id_used_again_is_another_job() -> None:
    job = job_in(S.QUEUED, native_id="17")
    assert decide(job, make_event(S.FAILED, 200, native_id="18")).effect is Effect.IMPOSSIBLE
    assert decide(job, make_event(S.FAILED, 200, native_id="17")).effect is Effect.APPLIED
    assert decide(job, make_event(S.FAILED, 200)).effect is Effect.APPLIED


@pytest.mark.parametrize("end", sorted(TERMINAL))
@pytest.mark.parametrize("before", [S.ACTIVE, S.COMPLETE, S.CANCELED, S.FAILED])
def test_only_the_schedulers_word_settles_a_cancel(end: JobState, before: JobState) -> None:
    job = job_in(before, "webhook", cancel_requested_at=at(0))
    assert decide(job, make_event(end, 200, source="webhook")).job.canceled_at is None
    assert decide(job, make_event(end, 200, source="poll")).job.canceled_at == at(200)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[JobEvent], JobState]:
    """A true history as several sources saw it: its events in the order of time, and its end."""
    lives = draw(st.lists(st.sampled_from([S.QUEUED, S.ACTIVE, S.SUSPENDED, S.NON_CRITICAL_FAIL]), max_size=6))
    end = draw(st.sampled_from([S.COMPLETE, S.FAILED, S.CANCELED]))
    events = [
        make_event(state, moment, source=source)
        for moment, state in enumerate(lives)
        for source in draw(st.sets(st.sampled_from(["poll", "mail"]), min_size=1))
    ]
    if S.ACTIVE in lives:
        events.append(make_event(S.ACTIVE, lives.index(S.ACTIVE), source="webhook"))
    # The scheduler's record is right; the script may not know that it failed.
    ends = [make_event(end, 50, source=source) for source in draw(st.sets(st.sampled_from(["poll", "mail"])))]
    said = draw(st.sampled_from([end, S.COMPLETE] if ends else [end]))
    ends.append(make_event(said, 49, source="webhook"))
    return events + ends, end


@given(histories(), st.data())
def test_any_order_delay_loss_and_repetition_ends_the_same(
    history: tuple[list[JobEvent], JobState], data: st.DataObject
) -> None:
    events, end = history
    kept = [event for event in events if event.state.terminal or data.draw(st.booleans())]
    repeated = data.draw(st.lists(st.sampled_from(events), max_size=4))
    job, _ = follow(data.draw(st.permutations(kept + repeated)))
    assert job.state is end
    assert job.ended_at is not None


@given(st.lists(st.tuples(st.sampled_from(list(S)), st.integers(0, 20), st.sampled_from(SOURCES)), max_size=8))
def test_any_noise_is_survived(noise: list[tuple[JobState, int, str]]) -> None:
    events = [make_event(state, moment, source=source) for state, moment, source in noise]
    job, effects = follow(events)
    ends = [event for event in events if event.state.terminal]
    assert (job.state is not None and job.state.terminal) == bool(ends)
    if any(event.state is not S.COMPLETE for event in ends):
        assert job.state in (S.FAILED, S.CANCELED)
    assert len(effects) == len(events)


@given(
    st.lists(
        st.tuples(st.sampled_from([S.QUEUED, S.ACTIVE, S.SUSPENDED, S.NON_CRITICAL_FAIL]), st.integers(0, 99)),
        min_size=1,
        max_size=6,
        unique_by=lambda each: each[1],
    ),
    st.data(),
)
def test_of_living_states_the_one_seen_last_counts(seen: list[tuple[JobState, int]], data: st.DataObject) -> None:
    events = [make_event(state, moment) for state, moment in seen]
    job, _ = follow(data.draw(st.permutations(events)))
    assert job.state is max(events, key=lambda event: event.at).state


def test_generated_docs_name_every_step() -> None:
    table, diagram = markdown_table(), mermaid_diagram()
    assert "| ACTIVE | QUEUED COMPLETE CANCELED FAILED SUSPENDED UNKNOWN NON_CRITICAL_FAIL |" in table
    assert len(table.splitlines()) == 2 + len(TRANSITIONS)
    steps = sum(len(following) for following in TRANSITIONS.values())
    assert diagram.count("-->") == steps + len(TERMINAL)
    assert "    COMPLETE --> FAILED : corrected" in diagram
