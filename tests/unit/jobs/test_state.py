from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from airavata_provider.jobs.state import (
    RECORDS,
    TRANSITIONS,
    Why,
    decide,
    ends_as,
    is_backed,
    markdown_table,
    mermaid_diagram,
)
from airavata_provider.models.job import TERMINAL, Effect, EventSource, Job, JobEvent, JobState
from airavata_provider.models.outcome import Outcome
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


# Whether a cancel was asked for, and whether the scheduler has agreed.
CANCELS = [(None, None), (at(90), None), (at(90), at(95)), (at(90), at(90))]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("news", list(S))
def test_total(state: JobState | None, news: JobState) -> None:
    """Each (state, who told it, event's state, its source, order in time, cancel, given up)."""
    given_ups = [False, True]
    for held_by, source, seconds, cancel, given_up in product(SOURCES, SOURCES, [50, 100, 150], CANCELS, given_ups):
        job = job_in(state, held_by, cancel_requested_at=cancel[0], canceled_at=cancel[1])
        check_what_always_holds(job, make_event(news, seconds, source=source, given_up=given_up))


def check_what_always_holds(job: Job, event: JobEvent) -> None:
    state, news = job.state, event.state
    decision = decide(job, event)
    after = decision.job
    assert decision.effect is not Effect.DUPLICATE
    assert decision.why in Why
    if decision.effect in (Effect.LATE, Effect.IMPOSSIBLE):
        assert after is job
    if decision.effect is Effect.APPLIED:
        assert after.state is news
        assert after.state_source == event.source or decision.why is Why.GIVEN_UP
    if decision.effect is Effect.CONFIRMED:
        assert after.state is state is news
    if after.state is not state:
        assert after.state in TRANSITIONS[state]
    gone = news is S.UNKNOWN and event.given_up and decision.effect is Effect.APPLIED
    assert (after.ended_at is not None) == (gone or (after.state is not None and after.state.terminal))
    if state is not None and state.terminal:
        assert after.state is not None
        assert after.state.terminal
        assert not (state is not S.COMPLETE and after.state is S.COMPLETE)
        assert after.ended_at == job.ended_at
    elif news.terminal:
        assert (decision.effect, after.state) == (Effect.APPLIED, news)
    check_cancel(job, event, after)


def check_cancel(job: Job, event: JobEvent, after: Job) -> None:
    assert after.cancel_requested_at == job.cancel_requested_at
    agreed = job.cancel_requested_at is not None and event.state.terminal and event.source in RECORDS
    assert after.canceled_at == (job.canceled_at or (event.at if agreed else None))
    if after.ended_at is None:
        assert ends_as(after) is None
    elif after.cancel_requested_at is not None and after.canceled_at != after.cancel_requested_at:
        assert ends_as(after) is (S.UNKNOWN if after.state is S.UNKNOWN else S.CANCELED)
    else:
        assert ends_as(after) is after.state


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


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_cancel_explains_the_signal_that_it_ends_a_job_by(order: tuple[int, int]) -> None:
    """Grid Engine writes that a job was killed, and then, as of a crash, that a signal ended it."""
    news = [
        make_event(S.CANCELED, 1, source="mail", outcome=Outcome.CANCELED, reason="was killed by someone"),
        make_event(S.FAILED, 2, source="mail", outcome=Outcome.SIGNALED, signal=9),
    ]
    job, effects = follow([news[each] for each in order])
    assert (job.state, job.outcome, job.reason) == (S.CANCELED, Outcome.CANCELED, "was killed by someone")
    assert effects == [Effect.APPLIED, Effect.CONTRADICTED]
    assert decide(job, news[1]).why is Why.EXPLAINED
    walltime = make_event(S.FAILED, 3, outcome=Outcome.WALLTIME)
    assert follow([walltime], job)[0].state is S.FAILED


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_explains_more_than_a_signal_is_the_outcome(order: tuple[int, int]) -> None:
    news = [
        make_event(S.FAILED, 1, source="mail", outcome=Outcome.SIGNALED, signal=9),
        make_event(S.FAILED, 2, source="poll", outcome=Outcome.WALLTIME),
    ]
    job, effects = follow([news[each] for each in order])
    assert (job.outcome, job.signal, effects[-1]) == (Outcome.WALLTIME, 9, Effect.CONFIRMED)


def test_mail_of_a_signal_leaves_the_why_open() -> None:
    mail = make_event(S.FAILED, 1, source="mail", outcome=Outcome.SIGNALED, signal=9, reason="Aborted")
    told, _ = follow([mail])
    assert not is_backed(told)
    assert is_backed(follow([make_event(S.FAILED, 1, source="mail", outcome=Outcome.FAILED)])[0])
    assert is_backed(follow([make_event(S.CANCELED, 1, source="mail")])[0])
    assert not is_backed(follow([make_event(S.CANCELED, 1, source="mail", signal=15)])[0])
    for outcome in (Outcome.SIGNALED, Outcome.WALLTIME):
        poll = make_event(S.FAILED, 2, source="poll", outcome=outcome, reason="accounting's words")
        job, effects = follow([poll], told)
        assert effects == [Effect.CONFIRMED]
        assert is_backed(job)
        assert (job.outcome, job.reason) == (outcome, "accounting's words")


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


def test_who_was_given_up_keeps_the_last_words() -> None:
    told = [make_event(S.UNKNOWN, 1, given_up=True, reason="last words"), make_event(S.UNKNOWN, 2, reason="no trace")]
    job, effects = follow(told)
    assert (job.reason, job.ended_at, effects[-1]) == ("last words", at(1), Effect.CONFIRMED)


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


@dataclass(frozen=True)
class Ending:
    """How a true history ends: the end, and what the job's own script says of it (None: it was killed)."""

    end: JobState
    script: JobState | None
    words: str = ""


ENDINGS = [
    Ending(S.COMPLETE, S.COMPLETE),
    Ending(S.COMPLETE, None),
    Ending(S.FAILED, S.FAILED),
    Ending(S.FAILED, S.COMPLETE, "OUT_OF_MEMORY"),
    Ending(S.FAILED, None, "OUT_OF_MEMORY"),
    Ending(S.FAILED, S.NON_CRITICAL_FAIL, "TIMEOUT"),
    Ending(S.CANCELED, S.NON_CRITICAL_FAIL, "CANCELLED by 1000"),
    Ending(S.CANCELED, S.FAILED),
    Ending(S.CANCELED, None),
]


ASIDE = [(S.UNKNOWN, "poll", False), (S.UNKNOWN, "poll", True), (S.SUBMITTED, "submission", False)]
"""What may be told at any moment: nobody finds the job, it is given up, its submission is saved."""


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[JobEvent], list[JobEvent], Ending]:
    """A true history as all sources tell it: what is not its end, its truthful ends and other last words, its ending.

    Lives follow each other under one id: queue, perhaps held, run, perhaps pauses, then a lost node or a preemption,
    and again. Anywhere the job may be missed, given up or, by us, only just have been accepted.
    """
    moment = 0
    steps: list[JobEvent] = []

    def step(state: JobState, when: int, source: str, **values: object) -> None:
        values |= {"source": source, "event_id": f"{source}{len(steps)}", "native_id": "17"}
        steps.append(make_event(state, when, **values))  # type: ignore[arg-type]

    lives = draw(st.integers(1, 3))
    for life in range(lives):
        waits = [S.QUEUED] * draw(st.integers(1, 3))
        walk = [*waits, S.ACTIVE, *[S.SUSPENDED, S.ACTIVE] * draw(st.integers(0, 2))]
        if life < lives - 1:
            walk.append(S.NON_CRITICAL_FAIL)
        for state in walk:
            moment += draw(st.integers(1, 5))
            why = draw(st.sampled_from([None, Outcome.HELD, Outcome.NEVER_STARTS])) if state is S.QUEUED else None
            for source in draw(st.sets(st.sampled_from(["poll", "mail"]))):
                step(state, moment, source, outcome=why, reason=why or "")
        if draw(st.booleans()):
            step(S.ACTIVE, moment, "webhook")
    ending = draw(st.sampled_from(ENDINGS))
    moment += 5
    for state, source, given_up in draw(st.lists(st.sampled_from(ASIDE), max_size=3)):
        step(state, draw(st.integers(0, moment + 5)), source, given_up=given_up)
    ends = [
        make_event(ending.end, moment + 1, source=source, reason=ending.words, native_id="17")
        for source in draw(st.sets(st.sampled_from(["poll", "mail"])))
    ]
    told = ending.script
    if told is not None:
        ends += [make_event(told, moment, source=source, native_id="17") for source in ("webhook", "relay")]
    assume(any(event.state is ending.end for event in ends))
    return steps, ends, ending


@settings(max_examples=100)
@given(histories(), st.data())
def test_any_order_delay_loss_and_repetition_ends_the_same(
    history: tuple[list[JobEvent], list[JobEvent], Ending], data: st.DataObject
) -> None:
    """As long as one source that tells the end survives: any of them where the script tells the truth, one that
    repeats the scheduler's record where it does not know better. A cancel may come at any moment.
    """
    steps, ends, ending = history
    truth = [event for event in ends if event.state is ending.end and (event.source in RECORDS or _honest(ending))]
    assume(truth)
    survivor = data.draw(st.sampled_from(truth))
    lossy = [event for event in steps + ends if event is survivor or data.draw(st.booleans())]
    repeated = data.draw(st.lists(st.sampled_from(lossy), max_size=4))
    arrivals = data.draw(st.permutations(lossy + repeated))
    asked = data.draw(st.none() | st.integers(0, len(arrivals)))
    job, known, over_when_asked = make_job(), set(), False
    for position, event in enumerate([*arrivals, None]):
        if position == asked:
            over_when_asked = job.state in TERMINAL
            job = replace(job, cancel_requested_at=at(-1), canceled_at=at(-1) if over_when_asked else None)
        # The store keeps what came before away from here.
        if event is not None and (event.source, event.event_id) not in known:
            known.add((event.source, event.event_id))
            # So does the store with the id that a submission brings.
            job = replace(job, native_id="17") if event.source == EventSource.SUBMISSION else job
            job = decide(job, event).job
    assert job.state is ending.end
    assert job.ended_at is not None
    assert job.outcome is None  # the ends have none
    assert ends_as(job) is (S.CANCELED if asked is not None and not over_when_asked else ending.end)


def _honest(ending: Ending) -> bool:
    return ending.script is ending.end


def test_a_repeated_event_would_change_nothing_even_without_the_store() -> None:
    for state, news, source in product(STATES, S, SOURCES):
        event = make_event(news, 150, source=source)
        once = decide(job_in(state), event).job
        assert decide(once, event).job == once


@given(
    st.lists(
        st.builds(
            make_event,
            st.sampled_from(sorted(TERMINAL)),
            source=st.sampled_from(SOURCES),
            outcome=st.sampled_from([None, Outcome.SIGNALED, Outcome.FAILED, Outcome.WALLTIME]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.data(),
)
def test_whatever_ends_are_told_their_order_does_not_matter(ends: list[JobEvent], data: st.DataObject) -> None:
    job, _ = follow(ends)
    other, _ = follow(data.draw(st.permutations(ends)))
    assert other.state is job.state
    assert (other.state_source in RECORDS) == (job.state_source in RECORDS)


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


def test_generated_docs_are_what_the_code_does() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown_table().splitlines()]
    table = {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}
    assert set(table) == {"nothing yet", *S}
    assert table["ACTIVE"]["QUEUED"] == "applied; late when older"
    assert table["COMPLETE"]["FAILED"] == "contradicted, replaces"
    assert table["FAILED"]["COMPLETE"] == "contradicted"
    assert table["FAILED"]["ACTIVE"] == "late"
    assert table["UNKNOWN"]["ACTIVE"] == "applied"
    diagram = mermaid_diagram()
    assert "    COMPLETE --> FAILED : corrected" in diagram
    assert {word for word in diagram.split() if word.isupper()} == set(S)
