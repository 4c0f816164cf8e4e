from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.jobs.history import explain, last_words, summary
from airavata_provider.jobs.state import Why, decide
from airavata_provider.models.job import Effect, EventSource, Job, JobEvent, JobState
from tests.unit.jobs.factory import at, make_event, make_job

S = JobState


@dataclass(frozen=True)
class Kept:
    event: JobEvent
    received_at: datetime
    effect: Effect


def live(events: list[JobEvent], cancel_after: int | None = None) -> tuple[Job, list[Kept]]:
    """What a store would hold after these events, one a second."""
    job, kept = make_job(), []
    for number, event in enumerate(events):
        if cancel_after == number:
            over = job.ended_at is not None
            asked = at(1000 + number - 0.5)
            job = replace(job, cancel_requested_at=asked, canceled_at=asked if over else None)
        if event.source == EventSource.SUBMISSION:
            job = replace(job, native_id=event.native_id)
        decision = decide(job, event)
        job = decision.job
        kept.append(Kept(event, at(1000 + number), decision.effect))
    return job, kept


def test_each_line_says_why() -> None:
    job, kept = live(
        [
            make_event(S.SUBMITTED, 1, source="submission", native_id="17"),
            make_event(S.ACTIVE, 3, source="webhook", native_id="17"),
            make_event(S.QUEUED, 2),
            make_event(S.QUEUED, 4),
            make_event(S.FAILED, 5, source="mail", native_id="18"),
            make_event(S.ACTIVE, 6),
            make_event(S.COMPLETE, 7, source="webhook", exit_code=0),
            make_event(S.FAILED, 8, reason="OUT_OF_MEMORY"),
            make_event(S.ACTIVE, 9, source="mail"),
        ]
    )
    lines = explain(job, kept)
    assert [line.why for line in lines] == [
        Why.FIRST,
        Why.WENT_ON,
        Why.OLDER,
        Why.REQUEUED,
        Why.OTHER_ID,
        Why.WENT_ON,
        Why.ENDED,
        Why.NO_SUCCESS,
        Why.AFTER_END,
    ]
    assert lines[-1].state is S.FAILED
    assert summary(job, lines) == "FAILED, told by poll; against webhook: COMPLETE"
    assert summary(make_job(), []) == "INTENDED: news is awaited"


def test_what_was_decided_then_is_told_as_it_was() -> None:
    job, kept = live([make_event(S.ACTIVE, 1), make_event(S.COMPLETE, 2)])
    lines = explain(job, [replace(kept[0], effect=Effect.LATE), kept[1]])
    assert (lines[0].effect, lines[0].why) == (Effect.LATE, "decided by what was known then")
    assert lines[1].effect is Effect.APPLIED


def test_a_cancel_shows_in_the_summary() -> None:
    job, kept = live([make_event(S.ACTIVE, 1), make_event(S.COMPLETE, 2)], cancel_after=1)
    expected = "COMPLETE, told by poll; its end was asked for, so its process is CANCELED"
    assert summary(job, explain(job, kept)) == expected
    job, kept = live([make_event(S.COMPLETE, 2), make_event(S.COMPLETE, 3)], cancel_after=1)
    assert summary(job, explain(job, kept)) == "COMPLETE, told by poll"


SOURCES = st.sampled_from(["poll", "mail", "webhook", "cancel"])


@given(
    st.lists(st.tuples(st.sampled_from(list(S)), st.integers(0, 20), SOURCES), max_size=8),
    st.none() | st.integers(0, 8),
)
def test_every_history_is_explained_as_it_was(told: list[tuple[S, int, str]], cancel_after: int | None) -> None:
    job, kept = live([make_event(state, seconds, source=source) for state, seconds, source in told], cancel_after)
    lines = explain(job, kept)
    assert [line.effect for line in lines] == [each.effect for each in kept]
    assert all(line.why in set(Why) for line in lines)
    assert not lines or lines[-1].state is job.state
    assert summary(job, lines)


def test_last_words_of_each_source() -> None:
    news = [
        make_event(S.QUEUED, 1),
        make_event(S.ACTIVE, 3, source="webhook"),
        make_event(S.UNKNOWN, 5, reason="neither knows"),
    ]
    noon = "at 2031-05-06 12:00:0"
    assert last_words(news) == f"poll {noon}5: UNKNOWN (neither knows); webhook {noon}3: ACTIVE"
    assert last_words([]) == ""
