from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from airavata_provider.errors import AnswerUnreadable, ConnectFailed
from airavata_provider.jobs.state import decide
from airavata_provider.models.job import Effect, Job, JobEvent, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.poll import MOST, Look, Patience, look, news, refs
from airavata_provider.schedulers.base import JobRef, JobStatus
from tests.unit.jobs.cluster import PaperCluster, PaperScheduler
from tests.unit.jobs.factory import at, make_job

S = JobState
NOWHERE = frozenset({"17"})


def job_in(state: JobState | None, **values: object) -> Job:
    job = make_job(native_id="17", state=state, state_at=at(0), version=4, walltime_s=1000)
    return replace(job, **values)  # type: ignore[arg-type]


def seen(state: JobState, seconds: float = 60, **values: object) -> Look:
    return Look(at(seconds), {"17": JobStatus("17", state, "NATIVE", **values)})  # type: ignore[arg-type]


def one(job: Job, what: Look, since: dict[str, datetime] | None = None) -> JobEvent | None:
    events = news([job], what, since or {})
    return events[0] if events else None


async def test_one_command_for_all_and_one_for_the_absent() -> None:
    cluster = PaperCluster()
    jobs = [replace(make_job(f"a{number}"), native_id=str(number)) for number in range(4)]
    cluster.queue = {"0": ("ACTIVE", None), "1": ("FAILED", None)}
    cluster.history = {"1": ("FAILED", 3), "2": ("COMPLETE", 0)}
    result = await look(cluster, PaperScheduler(), [*jobs, make_job("unsubmitted")])
    assert cluster.calls == [("status", ["0", "1", "2", "3"]), ("history", ["1", "2", "3"])]
    assert {native_id: (each.state, each.exit_code) for native_id, each in result.known.items()} == {
        "0": (S.ACTIVE, None),
        "1": (S.FAILED, 3),
        "2": (S.COMPLETE, 0),
    }
    assert result.missing == {"3"}


async def test_an_element_is_asked_for_by_its_arrays_name() -> None:
    element = make_job("a1.7", native_id="17_7", array="a1", element=7)
    assert refs([make_job("a2", native_id="18"), element, make_job("a3.1", array="a3", element=1)]) == [
        JobRef("18", "a2", "/scratch/a2"),
        JobRef("17_7", "a1", "/scratch/a1.7", 7),
    ]


async def test_thousands_are_asked_for_in_several_commands() -> None:
    cluster = PaperCluster()
    names = [str(number) for number in range(MOST + 1)]
    cluster.queue = dict.fromkeys(names[1:], ("ACTIVE", None))
    result = await look(cluster, PaperScheduler(), [make_job(name, native_id=name) for name in names])
    assert [(verb, len(asked)) for verb, asked in cluster.calls] == [("status", MOST), ("history", 1), ("status", 1)]
    assert result.known.keys() == set(names[1:])
    assert result.missing == {"0"}


async def test_nothing_to_ask_asks_nothing() -> None:
    cluster = PaperCluster()
    await look(cluster, PaperScheduler(), [])
    assert cluster.calls == []


async def test_unreadable_is_neither_absent_nor_finished() -> None:
    cluster = PaperCluster()
    job = job_in(S.ACTIVE)
    cluster.unreadable = {"history"}
    result = await look(cluster, PaperScheduler(), [job])
    assert result.missing == frozenset()
    assert result.unreadable
    assert news([job], result, {"a1": at(-9999)}) == []
    cluster.unreadable = {"status"}
    with pytest.raises(AnswerUnreadable):
        await look(cluster, PaperScheduler(), [job])
    cluster.down = True
    with pytest.raises(ConnectFailed):
        await look(cluster, PaperScheduler(), [job])


def test_the_same_again_is_no_news() -> None:
    assert one(job_in(S.ACTIVE), seen(S.ACTIVE)) is None


def test_a_hold_is_news_and_so_is_its_end() -> None:
    job, told = job_in(S.QUEUED), []
    waits = [
        (None, "Priority"),
        (Outcome.HELD, "JobHeldUser"),
        (Outcome.HELD, "JobHeldUser"),
        (Outcome.HELD, "JobHeldAdmin"),
        (None, "Priority"),
        (None, "Resources"),
        (Outcome.NEVER_STARTS, "DependencyNeverSatisfied"),
    ]
    for moment, (outcome, reason) in enumerate(waits, 1):
        event = one(job, seen(S.QUEUED, moment, outcome=outcome, reason=reason))
        told.append(event is not None)
        if event is not None:
            job = replace(decide(job, event).job, version=job.version + 1)
        assert job.outcome is outcome
        assert outcome is None or job.reason == reason
    assert told == [False, True, False, True, True, False, True]


@pytest.mark.parametrize("words", ["can never run: ncpus (R: 8 A: 4)", "can never\0 run: ncpus (R: 8 A: 2\ud800)"])
def test_numbers_in_the_words_are_no_news(words: str) -> None:
    job = job_in(S.QUEUED, outcome=Outcome.NEVER_STARTS, reason="can never run: ncpus (R: 8 A: 2)")
    assert one(job, seen(S.QUEUED, outcome=Outcome.NEVER_STARTS, reason=words)) is None


@pytest.mark.parametrize(("state", "outcome"), [(S.ACTIVE, None), (S.UNKNOWN, None), (S.QUEUED, Outcome.HELD)])
def test_anothers_clock_that_is_ahead_hides_no_news(state: JobState, outcome: Outcome | None) -> None:
    job = job_in(S.QUEUED, state_at=at(3600))
    event = one(job, seen(state, 60, outcome=outcome))
    assert event is not None
    after = decide(job, event).job
    assert (after.state, after.outcome) == (state, outcome)


def test_two_pollers_of_one_record_tell_the_same_event() -> None:
    job = job_in(S.QUEUED)
    first, second = one(job, seen(S.ACTIVE, 60)), one(job, seen(S.ACTIVE, 61))
    assert first is not None
    assert second is not None
    assert first.event_id == second.event_id


def test_a_second_queue_is_news() -> None:
    job = job_in(None)
    ids = []
    for moment, state in enumerate([S.QUEUED, S.ACTIVE, S.QUEUED, S.ACTIVE]):
        event = one(job, seen(state, moment))
        assert event is not None
        decision = decide(job, event)
        assert decision.effect is Effect.APPLIED
        job = replace(decision.job, version=job.version + 1)
        ids.append(event.event_id)
    assert len(set(ids)) == 4


def test_an_end_has_the_schedulers_words() -> None:
    event = one(job_in(S.ACTIVE), seen(S.FAILED, exit_code=137, signal=9, reason="oom-kill"))
    assert event is not None
    assert (event.reason, event.exit_code, event.signal) == ("NATIVE: oom-kill", 137, 9)
    event = one(job_in(S.ACTIVE), seen(S.COMPLETE, exit_code=0))
    assert event is not None
    assert event.reason == ""


def test_an_end_that_a_cancel_waits_for_is_told_again() -> None:
    job = job_in(S.FAILED, ended_at=at(10), cancel_requested_at=at(5))
    assert one(job, seen(S.FAILED)) is not None


@pytest.mark.parametrize("state", [None, S.SUBMITTED, S.QUEUED, S.ACTIVE, S.SUSPENDED])
def test_missing(state: JobState | None) -> None:
    """Nothing, then UNKNOWN, then given up past its walltime; never an end."""
    job, told = job_in(state), []
    for seconds in (0, 299, 301, 900, 1599, 1601):
        event = one(job, Look(at(seconds), {}, NOWHERE), {"a1": at(0)})
        told.append((event.state, event.given_up) if event else None)
        if event:
            job = replace(decide(job, event).job, version=job.version + 1)
    assert told == [None, None, (S.UNKNOWN, False), None, None, (S.UNKNOWN, True)]
    assert job.ended_at == at(1601)


def test_missing_long_after_its_walltime_still_has_its_grace() -> None:
    job = job_in(S.ACTIVE, started_at=at(-5000))
    patience = Patience()
    assert not news([job], Look(at(299), {}, NOWHERE), {"a1": at(0)}, patience)
    assert [each.given_up for each in news([job], Look(at(599), {}, NOWHERE), {"a1": at(0)}, patience)] == [False]
    assert [each.given_up for each in news([job], Look(at(601), {}, NOWHERE), {"a1": at(0)}, patience)] == [True]


def test_stopped_from_outside_and_never_back_is_failed() -> None:
    job = job_in(S.NON_CRITICAL_FAIL, reason="SIGNAL TERM")
    event = one(job, Look(at(301), {}, NOWHERE), {"a1": at(0)})
    assert event is not None
    assert (event.state, event.reason, event.outcome) == (S.FAILED, "SIGNAL TERM", None)
    event = one(replace(job, outcome=Outcome.PREEMPTED), Look(at(301), {}, NOWHERE), {"a1": at(0)})
    assert event is not None
    assert (event.state, event.outcome) == (S.FAILED, Outcome.PREEMPTED)
