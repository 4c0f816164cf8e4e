"""What the record of experiments in two runs does, on whatever database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import JobState
from airavata_provider.models.split import HandoverState
from tests.unit.jobs.factory import make_event, make_job
from tests.unit.jobs.store_contract import StoreFixtures

KEY = ("hpc", "e1", "born")


async def submitted(store: JobStore, name: str = "a1", **values: object) -> None:
    key = dict(zip(("dag_id", "experiment_id", "born"), KEY, strict=True))
    await store.intend(make_job(name, **{**key, **values}))
    await store.submitted(name, f"id-{name}", datetime.now(UTC))


async def end(store: JobStore, name: str = "a1") -> None:
    await store.append(make_event(JobState.COMPLETE, 9, job=name))


class HandoverContract(StoreFixtures):
    async def test_due_when_the_job_has_ended(self, store: JobStore, other: JobStore) -> None:
        await submitted(store)
        known = await store.handovers.wait(*KEY, "submit", 1)
        assert await store.handovers.of(*KEY) == known
        assert await store.handovers.due() == []
        before = datetime.now(UTC)
        await end(other)
        assert await store.handovers.due() == await store.handovers.due(before) == [known]
        # What changed long ago is found by the look at everybody alone.
        assert await store.handovers.due(datetime.now(UTC) + timedelta(seconds=1)) == []

    async def test_a_job_that_ended_before_is_found_too(self, store: JobStore) -> None:
        await submitted(store)
        await end(store)
        before = datetime.now(UTC)
        known = await store.handovers.wait(*KEY, "submit", 1)
        assert await store.handovers.due(before) == [known]

    async def test_another_attempts_job_is_awaited(self, store: JobStore) -> None:
        await submitted(store)
        await end(store)
        await submitted(store, "a2", attempt=2)
        await store.handovers.wait(*KEY, "submit", 1)
        assert await store.handovers.due() == []
        await end(store, "a2")
        assert len(await store.handovers.due()) == 1

    async def test_jobs_of_others_are_not(self, store: JobStore) -> None:
        await submitted(store)
        await submitted(store, "a2", task_id="more")
        await submitted(store, "a3", born="another run")
        await end(store)
        await store.handovers.wait(*KEY, "submit", 1)
        assert len(await store.handovers.due()) == 1

    async def test_an_array_is_over_when_all_elements_are(self, store: JobStore) -> None:
        key = dict(zip(("dag_id", "experiment_id", "born"), KEY, strict=True))
        await store.intend_array(make_job("arr", **key), [0, 1])
        await store.submitted("arr", "9", datetime.now(UTC), lambda id_, index: f"{id_}_{index}")
        await store.handovers.wait(*KEY, "submit", 1)
        await end(store, "arr.0")
        assert await store.handovers.due() == []
        await end(store, "arr.1")
        assert len(await store.handovers.due()) == 1

    async def test_started_once_however_often_it_is_told(self, store: JobStore, other: JobStore) -> None:
        await submitted(store)
        await end(store)
        told = await asyncio.gather(*(each.handovers.wait(*KEY, "submit", 1) for each in (store, other, store)))
        (known,) = set(told)
        done = await store.handovers.started(known)
        assert (done.state, done.starts) == (HandoverState.STARTED, 1)
        # A triggerer that was thought dead tells once more; a starter that was thought dead says it is done.
        assert await other.handovers.wait(*KEY, "submit", 1) == done
        assert await other.handovers.started(known) == done
        assert await store.handovers.due() == []

    async def test_a_later_try_waits_anew(self, store: JobStore) -> None:
        await submitted(store)
        await end(store)
        first = await store.handovers.wait(*KEY, "submit", 1)
        await store.handovers.started(first)
        second = await store.handovers.wait(*KEY, "submit", 2)
        assert (second.state, second.starts) == (HandoverState.WAITING, 1)
        # Who was still about the first try does not end the second's waiting.
        assert await store.handovers.started(first) == second
        assert (await store.handovers.started(second)).starts == 2

    async def test_dropped_until_it_is_told_again(self, store: JobStore) -> None:
        await submitted(store)
        await end(store)
        known = await store.handovers.wait(*KEY, "submit", 1)
        assert (await store.handovers.dropped(known)).state == HandoverState.DROPPED
        assert await store.handovers.due() == []
        assert (await store.handovers.wait(*KEY, "submit", 1)).state == HandoverState.WAITING
        assert len(await store.handovers.due()) == 1
