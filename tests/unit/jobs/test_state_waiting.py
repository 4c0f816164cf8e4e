"""What is said of a state beside the state: why a job waits, or stands still."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.jobs.state import Why, decide
from airavata_provider.models.job import Effect, EventSource, Job, JobEvent, JobState
from airavata_provider.models.outcome import Outcome
from tests.unit.jobs.factory import at, make_event, make_job

S = JobState
SOURCES = [*map(str, EventSource), "a-plugin"]


def follow(events: Iterable[JobEvent]) -> tuple[Job, list[Effect]]:
    job, effects = make_job(), []
    for event in events:
        decision = decide(job, event)
        job = decision.job
        effects.append(decision.effect)
    return job, effects


Said = tuple[JobState, Outcome | None, str]

HELD = (S.QUEUED, Outcome.HELD, "JobHeldUser")
NEVER = (S.QUEUED, Outcome.NEVER_STARTS, "DependencyNeverSatisfied")
WAITS = (S.QUEUED, None, "Priority")
STOPPED = (S.NON_CRITICAL_FAIL, None, "SIGNAL TERM")
PREEMPTED = (S.NON_CRITICAL_FAIL, Outcome.PREEMPTED, "PREEMPTED")


def looks(*told: Said) -> list[JobEvent]:
    """What the poll tells, one a second."""
    return [
        make_event(state, second, outcome=outcome, reason=reason, event_id=str(second))
        for second, (state, outcome, reason) in enumerate(told)
    ]


@pytest.mark.parametrize(
    "told", [(WAITS, HELD), (WAITS, HELD, WAITS), (HELD, NEVER, WAITS, NEVER), (STOPPED, PREEMPTED)]
)
def test_why_a_job_waits_is_what_was_told_last(told: tuple[Said, ...]) -> None:
    job, effects = follow(looks(*told))
    assert (job.state, job.outcome, job.reason) == told[-1]
    assert effects == [Effect.APPLIED, *[Effect.CONFIRMED] * (len(told) - 1)]
    for order in permutations(looks(*told)):
        other, _ = follow([*order, *order])
        assert (other.state, other.outcome, other.reason, other.state_at) == (*told[-1], at(len(told) - 1))


def test_what_is_told_anew_is_explained() -> None:
    job, _ = follow(looks(WAITS))
    held, again, released = looks(WAITS, HELD, HELD, WAITS)[1:]
    assert decide(job, held).why is Why.TOLD_ANEW
    job = decide(job, held).job
    assert decide(job, again).why is Why.KNOWN
    job = decide(job, released).job
    late = decide(job, again)
    assert (late.effect, late.why, late.job is job) == (Effect.CONFIRMED, Why.OLDER, True)


@pytest.mark.parametrize("state", [S.ACTIVE, S.SUSPENDED, S.COMPLETE, S.FAILED])
def test_a_hold_is_over_when_the_job_goes_on(state: JobState) -> None:
    job, _ = follow([*looks(HELD), make_event(state, 5), *looks(WAITS, HELD)])
    assert (job.state, job.outcome, job.reason) == (state, None, "")


STATES = st.sampled_from([S.QUEUED, S.ACTIVE, S.SUSPENDED, S.NON_CRITICAL_FAIL])


@given(st.lists(STATES, min_size=1, max_size=4), st.data())
def test_what_was_said_last_of_the_last_state_counts(walk: list[JobState], data: st.DataObject) -> None:
    """Outcome and words as well, or that there are none: whoever tells them, in any order, however late and often."""
    outcomes = st.sampled_from([None, Outcome.HELD, Outcome.NEVER_STARTS])
    said = st.tuples(st.sampled_from(SOURCES), outcomes, st.sampled_from(["", "Priority", "JobHeldUser"]))
    events = [
        make_event(state, moment, source=source, outcome=outcome, reason=reason)
        for moment, state in enumerate(walk)
        for source, outcome, reason in data.draw(st.lists(said, min_size=1, max_size=3))
    ]
    accepted = [make_event(S.SUBMITTED, data.draw(st.integers(0, 5)), source="submission")]
    repeated = data.draw(st.lists(st.sampled_from(events), max_size=4))
    job, _ = follow(data.draw(st.permutations(events + repeated + accepted)))
    last = max(events, key=lambda event: (event.at, event.outcome or "", event.reason))
    assert (job.state, job.outcome, job.reason) == (last.state, last.outcome, last.reason)
