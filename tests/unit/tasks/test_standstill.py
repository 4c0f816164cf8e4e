"""That a job does not go on is told once at each change, and so is that it does again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Job, JobState
from airavata_provider.models.outcome import ADVICE, Outcome
from airavata_provider.tasks.standstill import Standstill, reasons
from tests.unit.jobs.factory import at, make_job

LOG = logging.getLogger("tests.standstill")
S = JobState
QUEUED = make_job(native_id="17", state=S.QUEUED)
HELD = replace(QUEUED, outcome=Outcome.HELD, reason="JobHeldUser")
ENDED = replace(QUEUED, state=S.COMPLETE, outcome=Outcome.COMPLETED, ended_at=at(9))


class Played:
    """A store in which a job, or an array's elements, change from look to look."""

    def __init__(self, *looks: Job, elements: tuple[Job, ...] = ()) -> None:
        self.looks, self.of_array = list(looks), elements

    async def wait(self, name: str, *, until: Callable[[Job], bool]) -> Job:
        while not until(self.looks[0]):
            self.looks.pop(0)
        return self.looks[0]

    async def elements(self, name: str) -> list[Job]:
        return list(self.of_array)


async def told(caplog: pytest.LogCaptureFixture, *looks: Job, **values: Any) -> list[str]:
    caplog.set_level(logging.INFO, LOG.name)
    store = Played(*looks, **values)
    job = await Standstill(cast(JobStore, store), LOG).wait("a1")
    assert job is looks[-1]
    return [record.getMessage() for record in caplog.records]


async def test_each_change_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    never = replace(HELD, outcome=Outcome.NEVER_STARTS, reason="")
    by_admin = replace(HELD, reason="JobHeldAdmin")
    suspended = replace(QUEUED, state=S.SUSPENDED)
    looks = [QUEUED, HELD, replace(HELD, version=2), by_admin, never, QUEUED, suspended]
    running = replace(QUEUED, state=S.ACTIVE)
    assert await told(caplog, *looks, running, replace(running, version=9), ENDED) == [
        f"Job 17 does not go on: HELD (JobHeldUser); {ADVICE[Outcome.HELD]}",
        f"Job 17 does not go on: HELD (JobHeldAdmin); {ADVICE[Outcome.HELD]}",
        f"Job 17 does not go on: NEVER_STARTS; {ADVICE[Outcome.NEVER_STARTS]}",
        "Job 17 goes on: it is QUEUED",
        f"Job 17 does not go on: SUSPENDED; {ADVICE[Outcome.SUSPENDED]}",
        "Job 17 goes on: it is ACTIVE",
    ]


async def test_of_a_job_that_goes_on_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert await told(caplog, QUEUED, replace(QUEUED, state=S.ACTIVE), ENDED) == []


async def test_an_end_is_no_going_on(caplog: pytest.LogCaptureFixture) -> None:
    canceled = replace(HELD, state=S.CANCELED, outcome=Outcome.CANCELED, ended_at=at(9))
    assert len(await told(caplog, HELD, canceled)) == 1


async def test_whoever_waits_for_something_else_is_told_on_the_way(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG.name)
    running = replace(QUEUED, state=S.ACTIVE)
    store = Played(QUEUED, HELD, running, ENDED)
    standstill = Standstill(cast(JobStore, store), LOG)
    assert await standstill.wait("a1", lambda job: job.state is S.ACTIVE) is running
    assert await standstill.wait("a1") is ENDED
    assert [record.getMessage()[:12] for record in caplog.records] == ["Job 17 does ", "Job 17 goes "]


async def test_elements_are_told_by_their_places(caplog: pytest.LogCaptureFixture) -> None:
    array = make_job(native_id="17", size=4, state=S.QUEUED, offset=100)
    elements = tuple(
        replace(HELD, name=f"a1.{index}", array="a1", element=index, offset=100, reason=f"by {index}")
        for index in range(3)
    )
    some = replace(array, tally={"QUEUED": 1, "QUEUED/HELD": 2})
    more = replace(array, tally={"COMPLETE": 1, "QUEUED/HELD": 3})
    none = replace(array, tally={"ACTIVE": 3, "CANCELED/NEVER_STARTS": 1})
    over = replace(array, tally={"COMPLETE": 4}, ended_at=at(9))
    assert await told(caplog, array, some, more, none, over, elements=elements) == [
        f"Elements 100-102 of array 17 do not go on: HELD (by 0 …); {ADVICE[Outcome.HELD]}",
        "No element of array 17 is HELD any more",
    ]


def test_why_an_array_does_not_go_on() -> None:
    array = make_job(size=4, tally={"SUSPENDED": 1, "QUEUED/HELD": 1, "FAILED/WALLTIME": 1, "ACTIVE": 1})
    assert reasons(array) == {(Outcome.SUSPENDED, ""), (Outcome.HELD, "")}
