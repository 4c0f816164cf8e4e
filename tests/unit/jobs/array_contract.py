"""What every database under the store must do with arrays: one suite, run on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete

from airavata_provider.errors import JobUnknown
from airavata_provider.jobs import tables
from airavata_provider.jobs.arrays import standing, to_retry
from airavata_provider.jobs.engine import make_sync_engine
from airavata_provider.jobs.store import JobStore
from airavata_provider.jobs.unit import Unit
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.job import Effect, Job, JobState, SubmissionState
from airavata_provider.models.outcome import Outcome
from tests.unit.jobs.factory import LATER, at, make_event, make_job
from tests.unit.jobs.store_contract import StoreFixtures

S = JobState


def element_id(native_id: str, index: int) -> str:
    return f"{native_id}[{index}]"


class ArrayContract(StoreFixtures):
    async def submitted_array(self, store: JobStore, name: str = "a1", indices: range = range(3)) -> Job:
        await store.intend_array(make_job(name), indices)
        return await store.submitted(name, "17", at(1), element_id)

    async def end(self, store: JobStore, index: int, state: JobState, **values: Any) -> Job:
        """Tell an element's end; the array then."""
        await store.append(make_event(state, 5, job=f"a1.{index}", **values))
        return await self.consistent(store)

    async def consistent(self, store: JobStore, name: str = "a1") -> Job:
        """The array, whose tally is what its elements say."""
        array = await store.job(name)
        assert array is not None
        assert array.tally == dict(Counter(map(standing, await store.elements(name))))
        return array

    async def test_an_array_and_its_elements(self, store: JobStore) -> None:
        job = make_job(queue="debug", priority=10, request={"nodes": 2}, born="b")
        array = await store.intend_array(job, [7, 1, 3, 1])
        assert (array.size, array.state, array.tally) == (3, None, {"INTENDED": 3})
        assert array == await store.job("a1") == await store.intend_array(job, [5])
        elements = await store.elements("a1")
        assert [(each.name, each.element, each.array) for each in elements] == [
            ("a1.1", 1, "a1"),
            ("a1.3", 3, "a1"),
            ("a1.7", 7, "a1"),
        ]
        assert {(each.queue, each.directory, each.born, each.size, each.request) for each in elements} == {
            ("debug", "/scratch/a1", "b", None, None)
        }
        assert await store.elements("a1.1") == []

    async def test_an_array_of_nothing_is_none(self, store: JobStore) -> None:
        with pytest.raises(ValueError, match="no elements"):
            await store.intend_array(make_job(), [])

    async def test_an_intent_is_saved_once(self, store: JobStore, other: JobStore) -> None:
        saved = await asyncio.gather(
            *(each.intend_array(make_job(), range(n)) for n, each in enumerate([store, other] * 5, start=2))
        )
        assert len({array.size for array in saved}) == 1
        assert len(await store.elements("a1")) == saved[0].size

    async def test_submitted_reaches_every_element(self, store: JobStore) -> None:
        await store.intend_array(make_job(), range(3))
        # A short element is faster than its submission.
        await store.append(make_event(S.ACTIVE, 2, job="a1.2", source="webhook", native_id="17[2]"))
        array = await store.submitted("a1", "17", at(1), element_id)
        assert (array.native_id, array.state, array.submission) == ("17", S.ACTIVE, SubmissionState.SUBMITTED)
        elements = await store.elements("a1")
        assert [each.native_id for each in elements] == ["17[0]", "17[1]", "17[2]"]
        assert [each.state for each in elements] == [S.SUBMITTED, S.SUBMITTED, S.ACTIVE]
        assert {each.submission for each in elements} == {SubmissionState.SUBMITTED}
        assert await store.submitted("a1", "17", at(9), element_id) == await self.consistent(store)

    async def test_an_array_is_not_submitted_without_its_elements_ids(self, store: JobStore) -> None:
        await store.intend_array(make_job(), range(3))
        with pytest.raises(ValueError, match="array"):
            await store.submitted("a1", "17", at(1))
        assert {job.native_id for job in [await self.consistent(store), *await store.elements("a1")]} == {None}

    async def test_refused_is_so_for_all(self, store: JobStore) -> None:
        await store.intend_array(make_job(), range(3))
        waiting = asyncio.create_task(store.wait("a1", 60))
        await store.refused("a1", "array too large")
        array = await waiting
        assert (array.submission, array.state, array.reason) == (SubmissionState.REFUSED, None, "array too large")
        assert {(each.outcome, each.reason) for each in await store.elements("a1")} == {
            (Outcome.REFUSED, "array too large")
        }
        assert (await self.consistent(store)).outcome is Outcome.REFUSED

    async def test_only_elements_are_polled(self, store: JobStore) -> None:
        await self.submitted_array(store)
        assert list(await store.versions_to_poll("cluster", LATER)) == ["a1.0", "a1.1", "a1.2"]
        await self.end(store, 1, S.COMPLETE)
        assert list(await store.versions_to_poll("cluster", LATER)) == ["a1.0", "a1.2"]
        assert await store.open_resources() == {"cluster"}

    async def test_an_array_has_no_news_but_its_elements(self, store: JobStore) -> None:
        before = await self.submitted_array(store)
        with pytest.raises(JobUnknown, match="elements"):
            await store.append(make_event(S.COMPLETE, 5))
        assert await store.job("a1") == before

    async def test_it_is_over_when_all_elements_are(self, store: JobStore, other: JobStore) -> None:
        await self.submitted_array(store)
        waiting = asyncio.create_task(store.wait("a1", 60))
        one = asyncio.create_task(store.wait("a1.1", 60))
        array = await self.end(other, 0, S.COMPLETE)
        assert (array.state, array.ended_at) == (S.SUBMITTED, None)
        await self.end(other, 1, S.FAILED, outcome=Outcome.WALLTIME)
        assert (await one).outcome is Outcome.WALLTIME
        assert not waiting.done()
        await self.end(other, 2, S.COMPLETE)
        array = await waiting
        assert (array.state, array.outcome) == (S.FAILED, Outcome.WALLTIME)
        assert array.tally == {"COMPLETE": 2, "FAILED/WALLTIME": 1}
        assert array.reason == "of 3: 2 COMPLETE, 1 FAILED/WALLTIME"
        assert array.ended_at is not None

    async def test_a_correction_of_an_element_corrects_its_array(self, store: JobStore) -> None:
        await self.submitted_array(store, indices=range(2))
        for index in range(2):
            array = await self.end(store, index, S.COMPLETE, source="webhook")
        assert (array.state, array.outcome, array.reason) == (S.COMPLETE, Outcome.COMPLETED, "")
        array = await self.end(store, 1, S.FAILED, exit_code=3)
        assert (array.state, array.outcome) == (S.FAILED, Outcome.FAILED)

    async def test_given_up_is_over(self, store: JobStore) -> None:
        await self.submitted_array(store, indices=range(2))
        await self.end(store, 0, S.COMPLETE)
        array = await self.end(store, 1, S.UNKNOWN, given_up=True)
        assert array.state is S.UNKNOWN
        assert array.ended_at is not None
        # It turned up after all.
        array = await self.end(store, 1, S.ACTIVE)
        assert (array.state, array.ended_at, array.reason) == (S.ACTIVE, None, "")

    async def test_the_next_attempt_has_the_failed_ones_only(self, store: JobStore) -> None:
        await self.submitted_array(store, indices=range(4))
        for index, state in enumerate([S.COMPLETE, S.FAILED, S.COMPLETE, S.CANCELED]):
            await self.end(store, index, state)
        again = to_retry(await store.elements("a1"))
        assert again == (1, 3)
        second = replace(make_job("a2"), experiment_id="experiment-a1", attempt=2)
        await store.intend_array(second, again)
        task = TaskIdentity("hpc_batch", "experiment-a1", "submit")
        latest = await store.latest(task)
        assert latest is not None
        assert (latest.name, latest.size) == ("a2", 2)
        assert [job.name for job in await store.latest_elements(task)] == ["a1.0", "a2.1", "a1.2", "a2.3"]
        assert [job.name for job in await store.jobs_of("hpc_batch", "experiment-a1", "")] == ["a1", "a2"]

    async def test_elements_that_need_several_arrays(self, store: JobStore) -> None:
        def array(name: str, attempt: int, offset: int) -> Job:
            return replace(make_job(name), experiment_id="e", attempt=attempt, offset=offset)

        made = await store.intend_arrays([(array("b", 1, 2), [0, 1]), (array("a", 1, 0), [1, 0])])
        assert [(job.name, job.size) for job in made] == [("b", 2), ("a", 2)]
        with pytest.raises(ValueError, match="no elements"):
            await store.intend_arrays([(array("d", 2, 0), [0]), (array("c", 2, 2), [])])
        await store.intend_arrays([(array("c", 2, 2), [1])])
        task = TaskIdentity("hpc_batch", "e", "submit")
        assert [job.name for job in await store.attempts(task)] == ["a", "b", "c"]
        elements = await store.latest_elements(task)
        assert [(job.name, job.place) for job in elements] == [("a.0", 0), ("a.1", 1), ("b.0", 2), ("c.1", 3)]

    async def test_of_two_that_follow_the_same_attempts_one_is_saved(self, store: JobStore, other: JobStore) -> None:
        """Also when they are called otherwise: an element is in one attempt at a time."""

        for number in range(10):
            task = TaskIdentity("hpc_batch", f"e{number}", "submit")

            def array(name: str, attempt: int, task: TaskIdentity = task) -> Job:
                return make_job(f"{name}-{task.experiment_id}", experiment_id=task.experiment_id, attempt=attempt)

            first = await store.intend_array(array("first", 1), range(3))
            made = await asyncio.gather(
                store.intend_arrays([(array("x", 2), [1])], after=[first]),
                other.intend_arrays([(array("y", 2), [1, 2])], after=[first]),
                store.intend_arrays([(array("z", 2), [2])], after=[first]),
            )
            assert sorted(map(len, made)) == [0, 0, 1]
            attempts = await store.attempts(task)
            assert [job.attempt for job in attempts] == [1, 2]
            assert await store.intend_arrays([(array("late", 2), [0])], after=[first]) == []
            assert len(await other.intend_arrays([(array("next", 3), [0])], after=attempts)) == 1

    async def test_nothing_is_saved_after_what_somebody_ended(self, store: JobStore) -> None:
        first = await self.submitted_array(store)
        for index in range(3):
            await self.end(store, index, S.FAILED)
        second = replace(make_job("a2"), experiment_id="experiment-a1", attempt=2)
        await store.request_cancel("a1.1", "ada")
        for names in (["a1.1"], ["a1.0", "a1.1"]):
            assert await store.intend_arrays([(second, [0, 1])], after=[first], unless_ending=names) == []
        assert await store.job("a2") is None
        (made,) = await store.intend_arrays([(second, [0])], after=[first], unless_ending=["a1", "a1.0", "gone"])
        assert made.size == 1
        await store.request_cancel("a1", "ada")
        third = replace(second, name="a3", attempt=3)
        assert await store.intend_arrays([(third, [0])], after=[first, made], unless_ending=["a1"]) == []

    async def test_of_an_array_whose_end_nobody_may_have_asked_for_the_elements_are_not_read(
        self, store: JobStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = await self.submitted_array(store)
        second = await store.intend_array(replace(make_job("a2"), experiment_id="experiment-a1", attempt=2), [0, 1])
        third = replace(second, name="a3", attempt=3)
        load, read = Unit.load, set[str]()

        async def noted(*args: Any) -> Unit:
            unit = await load(*args)
            read.update(unit.names)
            return unit

        monkeypatch.setattr(Unit, "load", noted)
        names = ["a1", "a2", "a2.1"]
        assert len(await store.intend_arrays([(third, [0])], after=[first, second], unless_ending=names)) == 1
        assert read & {"a1", "a2", "a2.1", *(f"a1.{index}" for index in range(3))} == set(names)
        # Those are looked at whoever names them.
        await store.request_cancel("a1", "ada")
        assert await store.intend_arrays([(replace(third, name="a4", attempt=4), [0])], unless_ending=["a1"]) == []

    async def test_cancel_reaches_all_that_is_open(self, store: JobStore) -> None:
        await self.submitted_array(store)
        await self.end(store, 0, S.COMPLETE)
        array = await store.request_cancel("a1", "ada")
        assert (array.cancel_requested_by, array.canceled_at) == ("ada", None)
        assert await store.request_cancel("a1", "bob") == array
        assert sorted(job.name for job in await store.cancel_requests()) == ["a1", "a1.1", "a1.2"]
        await self.end(store, 1, S.CANCELED)
        assert sorted(job.name for job in await store.cancel_requests()) == ["a1", "a1.2"]
        await store.canceled("a1.2")
        array = await self.consistent(store)
        assert array.state is S.CANCELED
        assert array.canceled_at is not None
        assert await store.cancel_requests() == []
        assert [job.state for job in await store.elements("a1")] == [S.COMPLETE, S.CANCELED, S.CANCELED]

    async def test_cancel_of_one_element_is_its_own(self, store: JobStore) -> None:
        await self.submitted_array(store)
        await store.request_cancel("a1.1", "ada")
        assert [job.name for job in await store.cancel_requests()] == ["a1.1"]
        assert (await self.consistent(store)).cancel_requested_at is None

    async def test_an_array_that_nobody_found_is_gone_with_all_its_elements(self, store: JobStore) -> None:
        await store.intend_array(make_job(), range(3))
        await store.request_cancel("a1", "ada")
        array = await store.canceled("a1")
        assert (array.state, array.outcome) == (S.CANCELED, Outcome.CANCELED)
        assert array.canceled_at is not None
        assert await store.cancel_requests() == []
        # It had been submitted after all: now its elements are cancelled again.
        await store.submitted("a1", "17", at(1), element_id)
        asked = {job.name for job in await store.cancel_requests()}
        assert asked >= {"a1.0", "a1.1", "a1.2"}
        for index in range(3):
            await store.canceled(f"a1.{index}")
        assert await store.cancel_requests() == []

    async def test_news_from_two_processes_is_counted_once_each(self, store: JobStore, other: JobStore) -> None:
        await self.submitted_array(store, indices=range(40))
        calls = [store.append(make_event(S.ACTIVE, 2, job=f"a1.{n}", source="webhook")) for n in range(40)]
        calls += [other.append(make_event(S.COMPLETE, 3, job=f"a1.{n}")) for n in reversed(range(40))]
        effects = await asyncio.gather(*calls)
        assert effects.count(Effect.APPLIED) >= 40
        array = await self.consistent(store)
        assert array.tally == {"COMPLETE": 40}
        assert array.state is S.COMPLETE

    async def test_an_element_outlives_its_array(self, store: JobStore, url: str) -> None:
        """As when somebody cleans up by hand."""
        await self.submitted_array(store)
        engine = make_sync_engine(url)
        with engine.begin() as connection:
            connection.execute(delete(tables.job).where(tables.job.c.name == "a1"))
        engine.dispose()
        assert await store.append(make_event(S.COMPLETE, 5, job="a1.1")) is Effect.APPLIED

    @pytest.mark.slow
    async def test_thousands_of_elements(self, store: JobStore) -> None:
        await self.submitted_array(store, indices=range(3000))
        await store.append(make_event(S.ACTIVE, 2, job="a1.2999"))
        array = await store.request_cancel("a1", "ada")
        assert array.tally == {"ACTIVE": 1, "SUBMITTED": 2999}
        assert len(await store.cancel_requests()) == 3001
        assert (await store.canceled("a1")).tally == {"CANCELED": 3000}
