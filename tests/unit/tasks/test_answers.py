"""Answers to a job's end: the next attempt is made once, asks for more, and whoever is killed goes on with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from airavata_provider.errors import ConnectFailed, JobCanceled, JobFailed, SubmissionRefused
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.identity import job_name
from airavata_provider.models.job import EventSource, Job, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.rules import MADE_BY
from airavata_provider.tasks import answers
from airavata_provider.tasks.monitoring import Monitor
from airavata_provider.tasks.submission import Submit
from tests.unit.jobs.admitter_contract import until
from tests.unit.jobs.factory import make_job
from tests.unit.tasks.world import TASK, Killed, World

pytestmark = pytest.mark.slow

TWICE = {"outcome": "OUT_OF_MEMORY", "memory": "*2", "at_most": 2}


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db", watch_interval=0.05)
    await store.create_tables()
    made = World(store)
    monkeypatch.setattr("airavata_provider.jobs.submission.submit", made.submit)
    yield made
    await store.close()


async def test_twice_the_memory_twice(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await Submit().run(world.submission())
    result = await Monitor().run(world.monitor(TWICE))
    attempts = await world.attempts()
    assert (result.values["job"], result.values["attempt"]) == (job_name(TASK, 3), 3)
    assert [job.name for job in attempts] == [job_name(TASK, number) for number in (1, 2, 3)] == list(world.accepted)
    assert [job.outcome for job in attempts] == [Outcome.OUT_OF_MEMORY] * 2 + [Outcome.COMPLETED]
    assert await world.asked() == [each.memory_mb for each in world.accepted.values()] == [1000, 2000, 4000]
    assert [(job.request or {}).get(MADE_BY) for job in attempts] == [
        None,
        {"rule": 1, "of": 1, "outcome": "OUT_OF_MEMORY"},
        {"rule": 1, "of": 2, "outcome": "OUT_OF_MEMORY"},
    ]
    assert {request.executable for request in world.accepted.values()} == {"solve"}
    assert "ended: OUT_OF_MEMORY (OUT_OF_MEMORY). rule 1 for OUT_OF_MEMORY (attempt 1 of 2 by it)" in caplog.text
    assert "again, with memory 2000 → 4000 MiB" in caplog.text


async def test_a_failure_says_why_no_rule_went_on(world: World) -> None:
    world.needs_mb = 100_000
    await Submit().run(world.submission())
    with pytest.raises(JobFailed, match=r"\(OUT_OF_MEMORY\); rule 1 for OUT_OF_MEMORY has made its 2 attempts"):
        await Monitor().run(world.monitor(TWICE))
    # And again says the same, and makes nothing.
    with pytest.raises(JobFailed, match="has made its 2 attempts"):
        await Monitor().run(world.monitor(TWICE))
    assert await world.asked() == [1000, 2000, 4000]


async def test_a_queues_limit_ends_it(world: World) -> None:
    world.needs_mb = 100_000
    await Submit().run(world.submission())
    with pytest.raises(JobFailed, match="rule 1 cannot ask for more memory: the job had 6000 MiB"):
        await Monitor().run(world.monitor({**TWICE, "at_most": 9}))
    assert await world.asked() == [1000, 2000, 4000, 6000]


async def test_without_a_rule_that_fits_the_job_has_failed(world: World) -> None:
    await Submit().run(world.submission())
    with pytest.raises(JobFailed, match=r"failed \(OUT_OF_MEMORY\)") as caught:
        await Monitor().run(world.monitor({"outcome": "WALLTIME", "walltime": "*2"}))
    assert "rule" not in caught.value.message
    assert await world.asked() == [1000]


async def points(world: World) -> int:
    """How often a whole run passes a point."""
    await Submit().run(world.submission())
    world.killer.left = 10_000
    await Monitor().run(world.monitor(TWICE))
    passed = 10_000 - world.killer.left
    world.killer.left = None
    return passed


def watched(world: World) -> None:
    for name in ("latest", "attempts", "intend", "wait", "job"):
        world.killer.wrap(world.store, name)
    for name in ("stamp", "wait", "again", "later"):
        world.killer.wrap(world.admitter(), name)


async def test_killed_anywhere_and_run_again_it_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fresh(number: int) -> World:
        store = JobStore(f"sqlite:///{tmp_path}/{number}.db", watch_interval=0.05)
        await store.create_tables()
        made = World(store)
        made.needs_mb = 2000
        watched(made)
        monkeypatch.setattr("airavata_provider.jobs.submission.submit", made.submit)
        return made

    counting = await fresh(0)
    total = await points(counting)
    await counting.store.close()
    assert total > 15
    for number in range(total):
        world = await fresh(number + 1)
        await Submit().run(world.submission())
        world.killer.left = number
        with pytest.raises(Killed):
            await Monitor().run(world.monitor(TWICE))
        await world.news()
        result = await asyncio.wait_for(Monitor().run(world.monitor(TWICE)), 20)
        assert result.values["attempt"] == 2
        assert await world.asked() == [1000, 2000]
        assert list(world.accepted) == [job_name(TASK, each) for each in (1, 2)]
        assert [request.memory_mb for request in world.accepted.values()] == [1000, 2000]
        await world.store.close()


@pytest.mark.parametrize("rules", [True, False])
@pytest.mark.parametrize(
    ("source", "outcome"), [(EventSource.WEBHOOK, None), (EventSource.MAIL, Outcome.SIGNALED)], ids=["script", "mail"]
)
async def test_a_word_that_cannot_tell_why_waits_for_the_schedulers_record(
    world: World, caplog: pytest.LogCaptureFixture, source: EventSource, outcome: Outcome | None, rules: bool
) -> None:
    """To the script, and to some schedulers' mail, a job that lacked memory is one that was killed."""
    caplog.set_level(logging.INFO)
    context = world.monitor(TWICE if rules else {"outcome": "WALLTIME", "walltime": "*2"})
    name = job_name(TASK)
    request = {"memory_mb": 1000}
    await world.store.intend(
        make_job(name, dag_id="dag", experiment_id="e", task_id="submit", born="born", queue="debug", request=request)
    )
    await world.store.submitted(name, "7", datetime.now(UTC))
    await world.end(name, JobState.FAILED, outcome, source=source, exit_code=137)
    waiting = asyncio.create_task(Monitor().run(context))
    await until(lambda: "waiting for the scheduler's own words" in caplog.text)
    assert world.tried == []
    await world.end(name, JobState.FAILED, Outcome.OUT_OF_MEMORY, reason="OUT_OF_MEMORY")
    if rules:
        await asyncio.wait_for(waiting, 20)
        assert await world.asked() == [1000, 2000, 4000]
    else:
        with pytest.raises(JobFailed, match=r"exit code 137 \(OUT_OF_MEMORY\)"):
            await asyncio.wait_for(waiting, 20)


async def test_nobody_else_tells_and_the_scripts_word_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "RECORD_S", 0.1)
    world.needs_mb = 0
    name = job_name(TASK)
    await world.store.intend(
        make_job(name, dag_id="dag", experiment_id="e", task_id="submit", born="born", queue="debug")
    )
    await world.store.submitted(name, "7", datetime.now(UTC))
    await world.end(name, JobState.FAILED, None, source=EventSource.WEBHOOK, exit_code=75)
    result = await Monitor().run(world.monitor({"outcome": "FAILED", "exit_codes": [75]}))
    assert result.values["attempt"] == 2


async def test_what_somebody_ended_stays_ended(world: World) -> None:
    await Submit().run(world.submission())
    await world.store.request_cancel(job_name(TASK), "ann")
    with pytest.raises(JobFailed, match="OUT_OF_MEMORY"):
        await Monitor().run(world.monitor(TWICE))
    assert await world.asked() == [1000]


async def test_a_cancel_between_the_end_and_the_intent_counts(world: World) -> None:
    await Submit().run(world.submission())
    stamp = world.admitter().stamp

    async def late(job: Job) -> Job:
        await world.store.request_cancel(job_name(TASK), "ann")
        return await stamp(job)

    world.admitter().stamp = late  # type: ignore[method-assign]
    with pytest.raises(JobFailed, match="OUT_OF_MEMORY"):
        await Monitor().run(world.monitor(TWICE))
    assert await world.asked() == [1000]


async def test_an_attempt_that_is_ended_while_it_waits_is_cancelled(world: World) -> None:
    await Submit().run(world.submission())
    wait = world.admitter().wait

    async def ended(job: Job, log: Any) -> Job:
        await world.store.request_cancel(job.name, "ann")
        return await wait((await world.store.job(job.name)) or job, log)

    world.admitter().wait = ended  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(JobCanceled, match="ann"):
            await Monitor().run(world.monitor(TWICE))
    assert list(world.accepted) == [job_name(TASK)]


async def test_trouble_on_the_way_is_waited_through(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PAUSES_S", (0.0, 0.0))
    await Submit().run(world.submission())
    world.troubles = [ConnectFailed("no route"), ConnectFailed("no route")]
    result = await Monitor().run(world.monitor(TWICE))
    assert result.values["attempt"] == 3
    assert world.tried.count(job_name(TASK, 2)) == 3


async def test_a_refusal_is_told_and_cleared_it_is_tried_again(world: World) -> None:
    await Submit().run(world.submission())
    refusal = SubmissionRefused("memory above the partition's")
    world.troubles = [refusal]

    submit = world.submit

    async def refusing(*args: Any, job: Job, **kwargs: Any) -> str:
        try:
            return await submit(*args, job=job, **kwargs)
        except SubmissionRefused as error:
            await world.store.refused(job.name, error.message)
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airavata_provider.jobs.submission.submit", refusing)
        with pytest.raises(SubmissionRefused, match="partition's"):
            await Monitor().run(world.monitor(TWICE))
        result = await Monitor().run(world.monitor(TWICE))
    assert result.values["attempt"] == 3
    assert await world.asked() == [1000, 2000, 4000]
