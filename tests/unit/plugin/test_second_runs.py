"""Who starts second runs: once, whoever dies, and nobody's trouble is another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airavata_provider.errors import AiravataError
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import JobState
from airavata_provider.models.split import Handover, HandoverState
from airavata_provider.plugin.second_runs import Pace, SecondRuns
from airavata_provider.second_runs import Outcome
from tests.unit.jobs.factory import make_event, make_job

PACE = Pace(look=0.001, full=0.0, again=0.0)


class Airflow:
    """Makes second runs, or says what it is told to say."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, list[Outcome | Exception]] = {}

    def start(self, known: Handover) -> Outcome:
        self.asked.append(known.experiment_id)
        answers = self.answers.get(known.experiment_id)
        answer = answers.pop(0) if answers else Outcome.STARTED
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = JobStore(f"sqlite:///{tmp_path}/a.db")
    await store.create_tables()
    yield store
    await store.close()


async def ended(store: JobStore, experiment: str) -> None:
    await store.intend(make_job(f"a{experiment}", dag_id="d", experiment_id=experiment, born="b"))
    await store.submitted(f"a{experiment}", experiment, datetime.now(UTC))
    await store.handovers.wait("d", experiment, "b", "submit", 1)
    await store.append(make_event(JobState.FAILED, 5, job=f"a{experiment}"))


async def state(store: JobStore, experiment: str) -> str:
    known = await store.handovers.of("d", experiment, "b")
    assert known is not None
    return known.state


async def test_started_once(store: JobStore) -> None:
    airflow = Airflow()
    await ended(store, "e1")
    work = SecondRuns(store, airflow.start, pace=PACE)
    for _ in range(3):
        await work.round()
    assert airflow.asked == ["e1"]
    assert await state(store, "e1") == HandoverState.STARTED


async def test_a_first_run_that_is_not_over_is_asked_again(store: JobStore) -> None:
    airflow = Airflow()
    airflow.answers["e1"] = [Outcome.NOT_YET, Outcome.NOT_YET]
    await ended(store, "e1")
    # Looks only at what is new, after the first round.
    work = SecondRuns(store, airflow.start, pace=Pace(look=0.001, full=3600, overlap=-3600, again=0.0))
    for _ in range(4):
        await work.round()
    assert airflow.asked == ["e1"] * 3
    assert await state(store, "e1") == HandoverState.STARTED


async def test_no_second_run_of_a_failed_first(store: JobStore) -> None:
    airflow = Airflow()
    airflow.answers["e1"] = [Outcome.GONE]
    await ended(store, "e1")
    work = SecondRuns(store, airflow.start, pace=PACE)
    for _ in range(2):
        await work.round()
    assert airflow.asked == ["e1"]
    assert await state(store, "e1") == HandoverState.DROPPED


async def test_one_experiments_trouble_is_not_anothers(store: JobStore) -> None:
    airflow = Airflow()
    airflow.answers["e1"] = [AiravataError("no such DAG"), ValueError("Airflow's own")]
    await ended(store, "e1")
    await ended(store, "e2")
    work = SecondRuns(store, airflow.start, pace=PACE)
    await work.round()
    assert await state(store, "e2") == HandoverState.STARTED
    assert await state(store, "e1") == HandoverState.WAITING
    for _ in range(2):
        await work.round()
    assert await state(store, "e1") == HandoverState.STARTED


async def test_one_at_a_time_and_another_when_it_is_gone(store: JobStore) -> None:
    airflow, idle = Airflow(), Airflow()
    started, loop = asyncio.Event(), asyncio.get_running_loop()

    def start(known: Handover) -> Outcome:
        loop.call_soon_threadsafe(started.set)
        return airflow.start(known)

    await ended(store, "e1")
    first = asyncio.create_task(SecondRuns(store, start, pace=PACE).run())
    await started.wait()
    # One that looks for the lease now does not get it.
    other = SecondRuns(store, idle.start, pace=PACE)
    assert not await other._lease()
    first.cancel()
    await asyncio.wait([first])
    other._lease_at = 0.0
    assert await other._lease()
    await ended(store, "e2")
    await other.round()
    assert set(airflow.asked) == {"e1"}
    assert "e2" in idle.asked


async def test_who_dies_before_it_could_say_so_is_followed_by_one_that_asks_again(store: JobStore) -> None:
    airflow = Airflow()

    def dies(known: Handover) -> Outcome:
        airflow.start(known)
        raise asyncio.CancelledError

    await ended(store, "e1")
    with pytest.raises(asyncio.CancelledError):
        await SecondRuns(store, dies, pace=PACE).round()
    assert await state(store, "e1") == HandoverState.WAITING
    known = await store.handovers.of("d", "e1", "b")
    assert known is not None
    assert known.starts == 0
    later = SecondRuns(store, airflow.start, pace=PACE)
    later._held = True
    later._lease_at = float("inf")
    await later.round()
    assert airflow.asked == ["e1", "e1"]
    assert await state(store, "e1") == HandoverState.STARTED
