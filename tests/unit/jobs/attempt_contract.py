"""What every database under the store must do with placements, and with attempts that follow others: one suite, run
on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from airavata_provider.errors import StoreError
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.job import JobState
from airavata_provider.models.placement import Placement
from tests.unit.jobs.factory import at, make_event, make_job
from tests.unit.jobs.store_contract import StoreFixtures

SAME = {"dag_id": "d", "experiment_id": "e", "born": "b"}


class AttemptContract(StoreFixtures):
    async def test_placements(self, store: JobStore, other: JobStore) -> None:
        assert await store.placement("d", "e", "b") is None
        first = Placement("d", "e", "b", "one", None, at(0), {"nodes": 2}, ("it is idle", "ü\0"))
        decided = await asyncio.gather(
            *(each.place(replace(first, resource=name)) for name, each in [("one", store), ("two", other)] * 3)
        )
        assert len({placement.resource for placement in decided}) == 1
        stored = await store.placement("d", "e", "b")
        assert stored == replace(first, resource=decided[0].resource, reasons=("it is idle", "ü"))
        second = replace(first, resource="three", queue="debug", revision=1)
        assert await other.place(second) == second
        assert (await store.place(first)).resource == "three"
        assert await store.placement("d", "e", "another") is None

    async def test_a_placement_is_saved_with_its_attempt_or_neither_is(
        self, store: JobStore, other: JobStore
    ) -> None:
        first = await store.place(Placement("d", "e", "b", "one", None, at(0)))
        await store.intend(make_job("a1", **SAME))
        places = [replace(first, resource=name, revision=1) for name in ("two", "three")]
        jobs = [make_job("a2", attempt=2, resource=each.resource, **SAME) for each in places]
        made = await asyncio.gather(
            *(
                each.intend(job, after="a1", placement=place)
                for each, job, place in zip((store, other), jobs, places, strict=True)
            )
        )
        # Of two that move it at the same moment both get the first one's attempt, at the first one's place.
        placement = await store.placement("d", "e", "b")
        assert placement is not None
        assert {job.resource for job in made} == {placement.resource}
        assert placement.revision == 1
        # Who decided by what is no more decides again.
        stale = make_job("a3", attempt=3, **SAME)
        with pytest.raises(StoreError, match="moved meanwhile"):
            await store.intend(stale, after="a2", placement=replace(first, resource="four", revision=1))
        assert await store.job("a3") is None
        # Nor is anything moved for an attempt that somebody called off.
        await store.request_cancel("a2", "ada")
        called_off = await store.intend(stale, after="a2", placement=replace(first, resource="four", revision=2))
        assert called_off.name == "a2"
        assert await store.placement("d", "e", "b") == placement

    async def test_what_has_not_ended_before_an_attempt(self, store: JobStore) -> None:
        task = TaskIdentity("d", "e", "submit", -1, "b")
        for number, name in enumerate(("done", "lost", "refused", "runs", "next"), 1):
            await store.intend(make_job(name, attempt=number, **SAME))
        await store.intend(make_job("theirs", attempt=0, **SAME))
        await store.intend(make_job("another", attempt=1, **{**SAME, "task_id": "more"}))
        array = make_job("a1", attempt=6, **SAME)
        await store.intend_array(array, range(2))
        await store.append(make_event(JobState.COMPLETE, 1, job="done"))
        await store.append(replace(make_event(JobState.UNKNOWN, 1, job="lost"), given_up=True))
        await store.refused("refused", "no")
        await store.append(make_event(JobState.FAILED, 1, job="a1.1"))
        assert [job.name for job in await store.unended_before(task, 5)] == ["lost", "refused", "runs"]
        assert [job.name for job in await store.unended_before(task, 7)][-2:] == ["next", "a1.0"]
        assert await store.unended_before(task, 1) == []
