from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.models.job import TERMINAL, Job, JobState
from airavata_provider.monitors.rhythm import Hearing, Rhythm, Turn, pause, turn
from tests.unit.jobs.factory import at, make_job

S = JobState
RHYTHM = Rhythm(base=30, floor=10, ceiling=300)
DEAF = Hearing()
HEARD = Hearing(open=frozenset({"a1"}))
PROVEN = Hearing(ended=20, told=19)


def job_in(state: JobState | None = S.ACTIVE, **values: object) -> Job:
    defaults = {"submitted_at": at(0), "started_at": at(0), "changed_at": at(0), "walltime_s": 7200}
    return replace(make_job(state=state), **(defaults | values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("job", "seconds", "hearing", "expected"),
    [
        (job_in(), 30, DEAF, 10),  # new
        (job_in(), 3600, DEAF, 30),
        (job_in(), 7100, DEAF, 10),  # near its end
        (job_in(), 7400, DEAF, 10),
        (job_in(), 7600, DEAF, 30),  # that it should have ended is old news
        (job_in(), 30, HEARD, 30),
        (job_in(), 100, HEARD, 50),
        (job_in(), 3600, HEARD, 300),
        (job_in(), 7100, HEARD, 30),
        (job_in(), 3600, PROVEN, 30),  # its start call is missing: nothing is to be expected of it
        (job_in(S.QUEUED, started_at=None), 3600, PROVEN, 300),
        (job_in(S.QUEUED, started_at=None), 3600, Hearing(ended=20, told=15), 30),
        (job_in(S.QUEUED, started_at=None), 3600, Hearing(ended=2, told=2), 30),
        (job_in(S.NON_CRITICAL_FAIL), 3600, HEARD, 10),
        (job_in(S.COMPLETE), 3600, HEARD, 300),
        (job_in(S.FAILED), 600, HEARD, 30),
        (job_in(S.FAILED), 3600, HEARD, 300),
        (job_in(S.UNKNOWN), 3600, DEAF, 30),
    ],
)
def test_pauses(job: Job, seconds: float, hearing: Hearing, expected: float) -> None:
    assert pause(job, at(seconds), RHYTHM, hearing) == expected


def test_an_end_that_the_script_told_is_looked_up_soon_and_then_seldom() -> None:
    assert pause(job_in(S.COMPLETE), at(9), RHYTHM, HEARD, asked=False) == 30


def test_what_was_asked_before_an_end_is_no_question_about_it() -> None:
    ended = job_in(S.COMPLETE, changed_at=at(100))
    assert turn([ended], {"a1": at(95)}, at(130), RHYTHM, HEARD).jobs == [ended]
    assert turn([ended], {"a1": at(130)}, at(400), RHYTHM, HEARD).jobs == []
    assert turn([ended], {"a1": at(130)}, at(430), RHYTHM, HEARD).jobs == [ended]


def test_an_administrators_order_of_the_three() -> None:
    odd = Rhythm(base=5, floor=10, ceiling=1)
    assert pause(job_in(), at(10), odd, DEAF) == 5
    assert pause(job_in(), at(3600), odd, HEARD) == 5


jobs = st.builds(
    lambda state, started, submitted, changed, walltime: job_in(
        state, started_at=started, submitted_at=submitted, changed_at=changed, walltime_s=walltime
    ),
    st.sampled_from([None, *(each for each in S if each not in TERMINAL)]),
    st.none() | st.integers(0, 9000).map(at),
    st.none() | st.integers(0, 9000).map(at),
    st.integers(0, 9000).map(at),
    st.none() | st.integers(1, 9000),
)
rhythms = st.builds(Rhythm, *[st.floats(1, 600)] * 3)


@given(jobs, rhythms, st.integers(0, 20000).map(at))
def test_who_is_only_polled_never_waits_longer_than_the_setting(job: Job, rhythm: Rhythm, now: datetime) -> None:
    assert 0 < pause(job, now, rhythm, DEAF) <= rhythm.base
    for hearing in (HEARD, PROVEN):
        assert 0 < pause(job, now, rhythm, hearing) <= max(rhythm.base, rhythm.ceiling)


@given(st.lists(jobs, max_size=5), rhythms, st.floats(0.85, 1.0), st.integers(0, 20000))
def test_everybody_is_asked_about_in_time(some: list[Job], rhythm: Rhythm, jitter: float, seconds: int) -> None:
    """Looking when told to look, nobody waits past the setting since the last question or news."""
    some = [replace(job, name=f"a{number}") for number, job in enumerate(some)]
    now = at(max(seconds, 9000))
    asked = {job.name: now for job in some}
    moment = now
    for _ in range(50):
        chosen = turn(some, asked, moment, rhythm, DEAF, jitter=jitter)
        for job in chosen.jobs:
            waited = (moment - max(asked[job.name], job.changed_at or now)).total_seconds()
            assert waited <= rhythm.base + 0.001
            asked[job.name] = moment
        assert 0 < chosen.after_s <= rhythm.least
        moment += at(chosen.after_s) - at(0)
    assert all((moment - last).total_seconds() <= rhythm.base + rhythm.least for last in asked.values())


def test_questions_are_gathered() -> None:
    some = [replace(job_in(changed_at=at(1000 + second)), name=f"a{second}") for second in range(20)]
    chosen = turn(some, {}, at(1030), RHYTHM, DEAF)
    assert [job.name for job in chosen.jobs] == [f"a{second}" for second in range(11)]
    assert turn(some[11:], {}, at(1030), RHYTHM, DEAF).jobs == []
    assert turn(some[1:], {}, at(1030), RHYTHM, DEAF).after_s == 1


def test_a_command_that_goes_anyway_asks_about_those_who_are_nearly_due() -> None:
    some = [replace(job_in(changed_at=at(1000 + second)), name=f"a{second}") for second in (5, 15)]
    assert [job.name for job in turn(some, {}, at(1030), RHYTHM, DEAF, along=True).jobs] == ["a5"]
    alone = turn(some[1:], {}, at(1030), RHYTHM, DEAF, along=True)
    assert (alone.jobs, alone.after_s) == ([], 10)


def test_nobody_is_asked_about_before_the_last_question_is_old_enough() -> None:
    """A pause can become shorter after the others were asked about."""
    due = job_in(changed_at=at(0))
    assert turn([due], {}, at(100), RHYTHM, DEAF, rest_s=4) == Turn([], 4)
    assert turn([due], {}, at(100), RHYTHM, DEAF, along=True, rest_s=40) == Turn([], 10)
    assert turn([due], {}, at(100), RHYTHM, DEAF).jobs == [due]
