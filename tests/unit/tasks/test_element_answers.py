"""Answers to the ends of an array's elements: what needs it runs again once, whoever is killed, fails or clears."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from airavata_provider.errors import (
    ConnectFailed,
    JobCanceled,
    JobFailed,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.models.identity import element_name, job_name
from airavata_provider.models.job import EventSource, Job, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.rules import MADE_BY, made_by
from airavata_provider.tasks import answers
from airavata_provider.tasks.base import TaskContext
from airavata_provider.tasks.monitoring import Monitor
from airavata_provider.tasks.submission import Submit
from airavata_provider.tasks.submit_parameters import SubmitParameters
from tests.unit.jobs.admitter_contract import until
from tests.unit.tasks.many import LONGER, NEEDS, TWICE, Many, many
from tests.unit.tasks.world import CLUSTER, TASK, Killed

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Many]:
    made = await many(tmp_path, monkeypatch, list(NEEDS))
    yield made
    await made.store.close()


def asked(attempts: list[Job]) -> list[tuple[int, list[list[int]], int, int | None, dict[str, Any] | None]]:
    """The arrays' records: attempt, indices, memory, walltime, and which rule made it."""
    return [
        (job.attempt, (job.request or {})["array"]["indices"], (job.request or {})["memory_mb"], job.walltime_s, by)
        for job in attempts
        for by in [(job.request or {}).get(MADE_BY)]
    ]


def by(rule: int, of: int, outcome: str) -> dict[str, Any]:
    return {"rule": rule, "of": of, "outcome": outcome}


async def test_only_what_needs_it_runs_again_with_what_it_needs(
    world: Many, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await Submit().run(world.submission())
    result = await Monitor().run(world.monitor(TWICE, LONGER))
    assert (result.values["state"], result.values["elements"]) == ("COMPLETE", 5)
    assert asked(await world.attempts()) == [
        (1, [[0, 4]], 1000, 60, None),
        (2, [[1, 1], [3, 4]], 2000, 60, by(1, 1, "OUT_OF_MEMORY")),
        (3, [[2, 2]], 1000, 120, by(2, 1, "WALLTIME")),
        (4, [[3, 3]], 4000, 60, by(1, 2, "OUT_OF_MEMORY")),
        (5, [[4, 4]], 2000, 120, by(2, 2, "WALLTIME")),
    ]
    assert world.ran() == [
        ([0, 1, 2, 3, 4], 1000, 60),
        ([1, 3, 4], 2000, 60),
        ([2], 1000, 120),
        ([3], 4000, 60),
        ([4], 2000, 120),
    ]
    arrays = [request.array for request in world.accepted.values() if request.array is not None]
    assert {(each.arguments, each.directory) for array in arrays for each in array.elements} == {
        ((f"{place}",), f"/s/e/{place}") for place in range(5)
    }
    assert (
        "Elements 1, 3-4 ended in attempt 1: OUT_OF_MEMORY. rule 1 for OUT_OF_MEMORY (attempt 1 of 2 by it): again,"
        " with memory 1000 → 2000 MiB" in caplog.text
    )


async def test_what_no_rule_cures_fails_the_task_when_the_others_are_done(world: Many) -> None:
    world.needs[0] = (5000, 60)
    world.needs[2] = (1000, 500)
    await Submit().run(world.submission())
    told = (
        r"2 of 5 elements did not complete: 0 \(OUT_OF_MEMORY\); 2 \(WALLTIME\);"
        r" 0: rule 1 for OUT_OF_MEMORY has made its 2 attempts; 2: rule 2 for WALLTIME has made its 1 attempt"
    )
    for _ in range(2):  # and again says the same, and makes nothing
        with pytest.raises(JobFailed, match=told) as caught:
            await Monitor().run(world.monitor(TWICE, LONGER))
        assert "WALLTIME: ask for a longer walltime" in (caught.value.advice or "")
        assert [job.attempt for job in await world.attempts()] == [1, 2, 3, 4, 5]
    latest = await world.store.latest_elements(TASK)
    assert [job.state for job in latest].count(JobState.COMPLETE) == 3


async def test_without_a_rule_that_fits_nothing_runs_again(world: Many) -> None:
    await Submit().run(world.submission())
    for rules in ([], [{"outcome": "NODE_FAILURE"}]):
        with pytest.raises(JobFailed, match=r"4 of 5 elements did not complete: 1, 3-4 \(OUT_OF_MEMORY\)") as caught:
            await Monitor().run(world.monitor(*rules))
        assert "rule" not in caught.value.message
    assert len(world.accepted) == 1


async def test_a_rule_that_goes_elsewhere_leaves_the_turn_to_the_next(world: Many) -> None:
    world.needs = [(1000, 60), (2000, 60)]
    await Submit().run(world.submission())
    away = {"outcome": "OUT_OF_MEMORY", "answer": "elsewhere"}
    with pytest.raises(JobFailed, match=r"; 1: rule 1 for OUT_OF_MEMORY finds no other place: an array stays where"):
        await Monitor().run(world.monitor(away))
    await Monitor().run(world.monitor(away, TWICE))
    assert asked(await world.attempts())[1:] == [(2, [[1, 1]], 2000, 60, by(2, 1, "OUT_OF_MEMORY"))]


async def test_attempts_beside_each_other_share_what_may_run(world: Many) -> None:
    world.max_running = 5
    world.resource = CLUSTER.model_copy(update={"max_array_size": 4})
    await Submit().run(world.submission())
    await Monitor().run(world.monitor(TWICE, LONGER))
    made = await world.attempts()
    assert [(job.attempt, job.offset) for job in made[:5]] == [(1, 0), (1, 4), (2, 0), (2, 4), (3, 0)]
    throttles = [request.array.throttle for request in world.accepted.values() if request.array]
    assert throttles[:5] == [2, 2, 1, 1, 1]
    assert throttles == [(job.request or {})["array"]["throttle"] for job in made]


@pytest.mark.parametrize(
    ("most", "longest", "rounds"),
    [
        (1, 10, [[2], [3], [4], [5]]),
        (2, 10, [[2, 3], [4, 5]]),
        # Attempt 2 is two arrays.
        (2, 4, [[2, 2], [3, 4], [5]]),
        (1, 4, [[2, 2], [3], [4], [5]]),
    ],
)
async def test_there_are_no_more_arrays_beside_each_other_than_elements_may_run(
    world: Many, most: int, longest: int, rounds: list[list[int]]
) -> None:
    world.max_running = most
    world.resource = CLUSTER.model_copy(update={"max_array_size": longest})
    await Submit().run(world.submission())
    intend, made = world.store.intend_arrays, []

    async def noted(arrays: Any, **options: Any) -> list[Job]:
        made.append([job for job, _ in arrays])
        assert all(job.ended_at is not None for job in await world.attempts())
        return await intend(arrays, **options)

    world.store.intend_arrays = noted  # type: ignore[method-assign]
    await Monitor().run(world.monitor(TWICE, LONGER))
    assert [[job.attempt for job in some] for some in made] == rounds
    for some in made:
        beside = sum((job.request or {})["array"]["throttle"] for job in some)
        assert beside <= most or len({job.attempt for job in some}) == 1
    assert all(job.state is JobState.COMPLETE for job in await world.store.latest_elements(TASK))


async def test_killed_anywhere_and_run_again_it_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = [(1000, 60), (2000, 60), (1000, 120), (4000, 60)]

    async def begun(name: str) -> Many:
        made = await many(tmp_path, monkeypatch, needs, name)
        await Submit().run(made.submission())
        for each in ("latest", "attempts", "latest_elements", "elements", "intend_arrays", "wait", "job"):
            made.killer.wrap(made.store, each, before=False)
        for each in ("stamp", "wait"):
            made.killer.wrap(made.admitter(), each, before=False)
        return made

    world = await begun("counting")
    world.killer.left = 10_000
    await Monitor().run(world.monitor(TWICE, LONGER))
    total = 10_000 - world.killer.left
    expected = asked(await world.attempts()), world.ran()
    assert [attempt for attempt, *_ in expected[0]] == [1, 2, 3, 4]
    await world.store.close()
    assert total > 30
    for number in range(total):
        world = await begun(f"jobs{number}")
        world.killer.left = number
        with pytest.raises(Killed):
            await Monitor().run(world.monitor(TWICE, LONGER))
        await world.news()
        async with asyncio.timeout(20):
            result = await Monitor().run(world.monitor(TWICE, LONGER))
        world.killer.left = None
        assert result.values["state"] == "COMPLETE"
        assert (asked(await world.attempts()), world.ran()) == expected
        await world.store.close()


async def test_a_refused_attempt_does_not_keep_the_others(world: Many) -> None:
    await Submit().run(world.submission())
    world.troubles = [SubmissionRefused("memory above the partition's")]
    with pytest.raises(JobFailed, match=r"1, 3-4 \(REFUSED\): memory above the partition's") as caught:
        await Monitor().run(world.monitor(TWICE, LONGER))
    assert "3 of 5 elements did not complete" in caught.value.message
    assert world.ran()[1:] == [([2], 1000, 120)]
    # Whoever clears the task tries it again, as that attempt.
    await Monitor().run(world.monitor(TWICE, LONGER))
    assert [attempt for attempt, *_ in asked(await world.attempts())] == [1, 2, 3, 4, 5]
    assert world.ran()[2] == ([1, 3, 4], 2000, 60)


@pytest.mark.parametrize("max_running", [None, 1])
async def test_an_attempt_that_is_too_large_does_not_keep_the_others(world: Many, max_running: int | None) -> None:
    world.max_running = max_running
    await Submit().run(world.submission())
    world.limit(2)
    with pytest.raises(JobFailed) as caught:
        await Monitor().run(world.monitor(TWICE, LONGER))
    assert "; 1, 3-4: no other attempt: " in caught.value.message
    assert "an array of 3 is more than 2" in caught.value.message
    assert world.ran()[1:] == [([2], 1000, 120)]
    world.limit(5)
    await Monitor().run(world.monitor(TWICE, LONGER))
    assert world.ran()[2] == ([1, 3, 4], 2000, 60)


async def test_all_that_is_too_large_is_told(world: Many) -> None:
    world.needs = [(2000, 60), (1000, 120), (2000, 60), (1000, 120)]
    await Submit().run(world.submission())
    world.limit(1)
    with pytest.raises(JobFailed, match=r"; 0-3: no other attempt: .*an array of 2 is more than 1"):
        await Monitor().run(world.monitor(TWICE, LONGER))
    assert len(await world.attempts()) == 1


async def test_an_attempt_of_which_nobody_can_tell_is_told_when_the_others_are_done(world: Many) -> None:
    await Submit().run(world.submission())
    world.troubles = [SubmissionUncertain("timed out")]
    with pytest.raises(SubmissionUncertain, match="timed out"):
        await Monitor().run(world.monitor(TWICE, LONGER))
    assert (await world.store.latest_elements(TASK))[2].state is JobState.COMPLETE
    await Monitor().run(world.monitor(TWICE, LONGER))
    assert [attempt for attempt, *_ in asked(await world.attempts())] == [1, 2, 3, 4, 5]


async def test_trouble_on_the_way_is_waited_through(world: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PAUSES_S", (0.0, 0.0))
    await Submit().run(world.submission())
    world.troubles = [ConnectFailed("no route"), ConnectFailed("no route")]
    await Monitor().run(world.monitor(TWICE, LONGER))
    assert world.tried.count(job_name(TASK, 2)) == 3


async def test_what_somebody_ended_stays_ended(world: Many) -> None:
    await Submit().run(world.submission())
    await world.store.request_cancel(element_name(job_name(TASK), 1), "ann")
    with pytest.raises(JobCanceled, match=r"1 of 5 elements did not complete: 1 \(OUT_OF_MEMORY\)"):
        await Monitor().run(world.monitor(TWICE, LONGER))
    assert world.ran()[1] == ([3, 4], 2000, 60)


async def test_a_cancel_between_the_end_and_the_intents_counts(world: Many) -> None:
    await Submit().run(world.submission())
    stamp = world.admitter().stamp

    async def late(job: Job) -> Job:
        await world.store.request_cancel(job_name(TASK), "ann")
        return await stamp(job)

    world.admitter().stamp = late  # type: ignore[method-assign]
    with pytest.raises(JobFailed, match="4 of 5 elements"):
        await Monitor().run(world.monitor(TWICE, LONGER))
    assert len(await world.attempts()) == 1


async def test_attempts_that_are_ended_while_they_wait_are_cancelled(world: Many) -> None:
    await Submit().run(world.submission())
    wait = world.admitter().wait

    async def ended(job: Job, log: Any) -> Job:
        for each in await world.attempts():
            if each.ended_at is None:
                await world.store.request_cancel(each.name, "ann")
        return await wait((await world.store.job(job.name)) or job, log)

    world.admitter().wait = ended  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(JobCanceled, match=r"cancelled by ann: 4 of 5 elements"):
            await Monitor().run(world.monitor(TWICE, LONGER))
    assert [attempt for attempt, *_ in asked(await world.attempts())] == [1, 2, 3]
    assert list(world.accepted) == [job_name(TASK)]


@pytest.mark.parametrize("rules", [True, False])
async def test_a_word_that_cannot_tell_why_waits_for_the_schedulers_record(
    world: Many, caplog: pytest.LogCaptureFixture, rules: bool
) -> None:
    caplog.set_level(logging.INFO)
    world.needs, world.ends = [(1000, 60), (2000, 60)], False
    await Submit().run(world.submission())
    for place, state in enumerate([JobState.COMPLETE, JobState.FAILED]):
        name = element_name(job_name(TASK), place)
        code = 0 if state is JobState.COMPLETE else 137
        await world.end(name, state, None, source=EventSource.WEBHOOK, exit_code=code)
    waiting = asyncio.create_task(Monitor().run(world.monitor(TWICE if rules else LONGER)))
    await until(lambda: "Elements 1 have failed; waiting for the scheduler's own words" in caplog.text)
    assert len(world.accepted) == 1
    world.ends = True
    await world.end(element_name(job_name(TASK), 1), JobState.FAILED, Outcome.OUT_OF_MEMORY, reason="OUT_OF_MEMORY")
    if rules:
        await asyncio.wait_for(waiting, 20)
        assert world.ran()[1:] == [([1], 2000, 60)]
    else:
        with pytest.raises(JobFailed, match=r"1 \(OUT_OF_MEMORY\)"):
            await asyncio.wait_for(waiting, 20)


async def test_nobody_else_tells_and_the_scripts_word_counts(world: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "RECORD_S", 0.1)
    world.needs, world.ends = [(1000, 60), (1000, 60)], False
    await Submit().run(world.submission())
    for place in range(2):
        name = element_name(job_name(TASK), place)
        await world.end(name, JobState.FAILED, None, source=EventSource.WEBHOOK, exit_code=75)
    world.ends = True
    await Monitor().run(world.monitor({"outcome": "FAILED", "exit_codes": [75]}))
    assert world.ran()[1:] == [([0, 1], 1000, 60)]


def cleared(world: Many, past: int) -> TaskContext[SubmitParameters]:
    return replace(world.submission(), fresh=True, past=past, try_number=2)


async def test_who_clears_the_submission_begins_anew(world: Many) -> None:
    world.needs = [(1000, 60), (5000, 60)]
    await Submit().run(world.submission())
    with pytest.raises(JobFailed):
        await Monitor().run(world.monitor(TWICE))
    result = await Submit().run(cleared(world, 3))
    assert (result.values["attempt"], result.values["submitted"]) == (4, 1)
    world.needs[1] = (4000, 60)
    await Monitor().run(world.monitor(TWICE))
    attempts = await world.attempts()
    assert [made_by(job) is None for job in attempts] == [True, False, False, True, False, False]
    assert [memory for _, memory, _ in world.ran()] == [1000, 2000, 4000, 1000, 2000, 4000]


async def test_what_a_clear_left_to_a_rule_is_not_done_anew_when_that_has_ended(world: Many) -> None:
    """The process is gone when the rule's attempt is on record, and before the task is."""
    world.needs, intend = [(1000, 60), (2000, 60), (1000, 60)], world.store.intend_arrays
    await Submit().run(world.submission())
    world.killer.wrap(world.store, "intend_arrays", before=False)
    world.killer.left = 1
    with pytest.raises(Killed):
        await Monitor().run(world.monitor(TWICE))
    world.store.intend_arrays = intend  # type: ignore[method-assign]
    said: list[str] = []

    async def begun() -> None:
        said.append("begun")

    world.killer.left = 2
    with pytest.raises(Killed):
        await Submit().run(replace(cleared(world, 2), begun=begun))
    await world.news()
    # As the host has it: fresh until the task says that it has begun.
    again = world.submission() if said else cleared(world, 2)
    result = await Submit().run(replace(again, try_number=2, begun=begun))
    assert (result.values["attempt"], result.values["submitted"]) == (2, 0)
    assert world.ran() == [([0, 1, 2], 1000, 60), ([1], 2000, 60)]
    assert all(job.state is JobState.COMPLETE for job in await world.store.latest_elements(TASK))


@pytest.mark.parametrize("winner", ["rule", "clear"])
async def test_a_clear_and_a_rule_at_the_same_moment_make_one_attempt(world: Many, winner: str) -> None:
    """The old monitor lives for a moment after a clear."""
    world.needs, rules = [(1000, 60), (2000, 60), (2000, 60)], [{"outcome": "OUT_OF_MEMORY", "memory": "*2"}]
    await Submit().run(world.submission())
    intend = world.store.intend_arrays

    async def late(*args: Any, **options: Any) -> list[Job]:
        world.store.intend_arrays = intend  # type: ignore[method-assign]
        if winner == "rule":
            # Its intents alone: it is killed before it submits them.
            world.killer.wrap(world.store, "intend_arrays", before=False)
            world.killer.left = 1
            with pytest.raises(Killed):
                await Monitor().run(world.monitor(*rules))
            world.store.intend_arrays = intend  # type: ignore[method-assign]
        else:
            await Submit().run(cleared(world, 1))
        return await intend(*args, **options)

    world.store.intend_arrays = late  # type: ignore[method-assign]
    if winner == "rule":
        await Submit().run(cleared(world, 1))
        await Monitor().run(world.monitor(*rules))
        assert world.ran()[1:] == [([1, 2], 2000, 60)]
    else:
        await Monitor().run(world.monitor(*rules))
        # The clear's own, and what rules make of that.
        assert world.ran()[1:] == [([1, 2], 1000, 60), ([1, 2], 2000, 60)]
