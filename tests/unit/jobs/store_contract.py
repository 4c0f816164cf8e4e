"""What every database under the store must do: one suite, run on SQLite and on PostgreSQL.

A subclass gives the fixture ``url``, of an empty database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
import pytest_asyncio

from airavata_provider.errors import JobUnknown, StoreError
from airavata_provider.jobs.mail_folders import MailFolder
from airavata_provider.jobs.placing import Recent
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.job import (
    Effect,
    Job,
    JobState,
    SubmissionState,
    TaskRecord,
    TaskState,
)
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.placement import Placement
from tests.unit.jobs.factory import LATER, at, make_event, make_job

S = JobState


def make_record(task_id: str = "stage_in", **values: object) -> TaskRecord:
    record = TaskRecord("hpc_batch", "e1", task_id, -1, 1, TaskState.COMPLETED, at(0), at(5), {"n": [1, "ü"]})
    return replace(record, **values)  # type: ignore[arg-type]


class StoreFixtures:
    """Two stores on the database of the subclass's ``url``."""

    @pytest_asyncio.fixture
    async def store(self, url: str) -> AsyncIterator[JobStore]:
        store = JobStore(url, watch_interval=0.05)
        await store.create_tables()
        yield store
        await store.close()

    @pytest_asyncio.fixture
    async def other(self, store: JobStore, url: str) -> AsyncIterator[JobStore]:
        """A second store on the same database, as another process has one."""
        other = JobStore(url, watch_interval=0.05)
        yield other
        await other.close()


class StoreContract(StoreFixtures):
    async def submitted_job(self, store: JobStore, name: str = "a1", **values: object) -> Job:
        await store.intend(make_job(name, **values))
        return await store.submitted(name, f"id-{name}", at(1))

    async def test_every_field_comes_back(self, store: JobStore) -> None:
        elsewhere = timezone(timedelta(hours=9))
        job = make_job(
            gateway="seagrid",
            user="ünï",
            queue="debug",
            try_number=3,
            walltime_s=86_400,
            reason="first\0\ud800 words",
            outcome=Outcome.WALLTIME,
            priority=100,
            admitted_at=at(2),
            submitting_at=at(3),
            request={"nodes": 2, "licenses": ["ü"]},
            born="2031-05-06T12:00:00+00:00",
            created_at=at(0).astimezone(elsewhere),
        )
        stored = await store.intend(job)
        read = await store.job("a1")
        assert read is not None
        assert read == replace(stored, reason="first? words")
        assert read.created_at == at(0)
        assert read.created_at.tzinfo is UTC
        assert read.changed_at is not None
        assert read.changed_at.tzinfo is UTC

    async def test_a_moment_without_zone_is_refused_and_harms_nobody_else(self, store: JobStore) -> None:
        bad = make_job("bad", created_at=datetime(2031, 1, 1))  # noqa: DTZ001
        results = await asyncio.gather(
            *(store.intend(job) for job in (make_job("g1"), bad, make_job("g2"))), return_exceptions=True
        )
        assert [isinstance(result, StoreError) for result in results] == [False, True, False]
        assert [job.name for job in await store.jobs_named(["g1", "bad", "g2"])] == ["g1", "g2"]

    async def test_an_intent_is_saved_once(self, store: JobStore, other: JobStore) -> None:
        results = await asyncio.gather(
            *(each.intend(make_job(try_number=number)) for number, each in enumerate([store, other] * 10))
        )
        assert len({job.try_number for job in results}) == 1
        assert await store.intend(make_job(try_number=99)) == await store.job("a1")

    async def test_one_identity_has_one_name(self, store: JobStore) -> None:
        await store.intend(make_job("a1"))
        with pytest.raises(StoreError):
            await store.intend(replace(make_job("a2"), experiment_id="experiment-a1"))

    async def test_latest_and_jobs_of(self, store: JobStore) -> None:
        for attempt in (1, 3, 2):
            await store.intend(replace(make_job(f"a{attempt}"), experiment_id="e", attempt=attempt))
        latest = await store.latest(TaskIdentity("hpc_batch", "e", "submit"))
        assert latest is not None
        assert latest.attempt == 3
        assert await store.latest(TaskIdentity("hpc_batch", "e", "submit", 0)) is None
        assert [job.attempt for job in await store.jobs_of("hpc_batch", "e", "")] == [1, 2, 3]

    async def test_submission(self, store: JobStore) -> None:
        await store.intend(make_job())
        job = await store.uncertain("a1", "the line went dead")
        assert (job.submission, job.reason) == (SubmissionState.UNCERTAIN, "the line went dead")
        job = await store.submitted("a1", "17", at(1))
        assert (job.submission, job.native_id, job.submitted_at) == (SubmissionState.SUBMITTED, "17", at(1))
        assert job.state is S.SUBMITTED
        again = await store.submitted("a1", "17", at(9))
        assert again == job == await store.job("a1")
        assert await store.refused("a1", "no") == job
        assert await store.uncertain("a1", "hm") == job
        assert [event.effect for event in await store.events("a1")] == [Effect.APPLIED]

    async def test_a_second_id_is_kept_out_and_logged(
        self, store: JobStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        await self.submitted_job(store)
        job = await store.submitted("a1", "other", at(2))
        assert job.native_id == "id-a1"
        assert "also other" in caplog.text

    async def test_refused_ends_the_waiting(self, store: JobStore) -> None:
        await store.intend(make_job())
        waiting = asyncio.create_task(store.wait("a1", 60))
        await store.refused("a1", "invalid account")
        job = await waiting
        assert (job.submission, job.state, job.reason) == (SubmissionState.REFUSED, None, "invalid account")

    async def test_jobs_to_ask_about(self, store: JobStore) -> None:
        await self.submitted_job(store, "a1", created_at=at(2))
        await self.submitted_job(store, "a2", created_at=at(1), resource="other")
        await self.submitted_job(store, "a3", created_at=at(3))
        await store.intend(make_job("a4"))
        await store.append(make_event(S.COMPLETE, 5, job="a3"))
        await self.submitted_job(store, "a5", created_at=at(0))
        await store.append(make_event(S.COMPLETE, 5, job="a5", source="webhook"))
        assert list(await store.versions_to_poll("other", LATER)) == ["a2"]
        assert list(await store.versions_to_poll("cluster", LATER)) == ["a1"]
        # An end that only its script told is to be backed for a while.
        names = await store.versions_to_poll("cluster", datetime.now(UTC) - timedelta(minutes=1))
        assert list(names) == ["a5", "a1"]
        assert await store.versions_of(["a1", "a5", "nobody"]) == names

    async def test_append(self, store: JobStore) -> None:
        await self.submitted_job(store)
        started = make_event(S.ACTIVE, 2, source="webhook", event_id="start", native_id="id-a1")
        ended = make_event(
            S.FAILED, 3, source="webhook", event_id="end", exit_code=3, reason="rc\0", outcome=Outcome.OUT_OF_MEMORY
        )
        assert await store.append(started) is Effect.APPLIED
        assert await store.append(started) is Effect.DUPLICATE
        assert await store.append(replace(started, source="mail")) is Effect.CONFIRMED
        assert await store.append(ended) is Effect.APPLIED
        job = await store.job("a1")
        assert job is not None
        assert (job.state, job.exit_code, job.started_at, job.ended_at) == (S.FAILED, 3, at(2), at(3))
        assert job.outcome is Outcome.OUT_OF_MEMORY
        stored = await store.events("a1")
        assert [each.effect for each in stored] == ["applied", "applied", "confirmed", "applied"]
        assert stored[1].event == started
        assert stored[3].event == replace(ended, reason="rc")

    async def test_no_such_job(self, store: JobStore) -> None:
        for call in (
            store.append(make_event(S.ACTIVE, job="nobody")),
            store.submitted("nobody", "1", at(0)),
            store.refused("nobody", ""),
            store.request_cancel("nobody", "me"),
            store.canceled("nobody"),
            store.wait("nobody", 5),
        ):
            with pytest.raises(JobUnknown, match="nobody"):
                await call
        assert await store.job("nobody") is None

    async def test_the_same_news_from_many_is_one(self, store: JobStore, other: JobStore) -> None:
        await self.submitted_job(store)
        event = make_event(S.ACTIVE, 2)
        effects = await asyncio.gather(*(each.append(event) for each in [store, other] * 10))
        assert sorted(effects) == [Effect.APPLIED] + [Effect.DUPLICATE] * 19

    async def test_two_processes_many_jobs_any_order(self, store: JobStore, other: JobStore) -> None:
        """Each store appends to the same jobs in opposite orders, in shared transactions: no deadlock, no loss."""
        names = [f"a{number}" for number in range(30)]
        for name in names:
            await self.submitted_job(store, name)
        calls = [store.append(make_event(S.ACTIVE, 2, job=name, source="webhook")) for name in names]
        calls += [other.append(make_event(S.ACTIVE, 2, job=name)) for name in reversed(names)]
        effects = await asyncio.gather(*calls)
        assert effects.count(Effect.APPLIED) == effects.count(Effect.CONFIRMED) == 30

    async def test_no_change_is_lost_between_two_processes(self, store: JobStore, other: JobStore) -> None:
        await self.submitted_job(store)
        await asyncio.gather(
            *(
                each.append(make_event(state, seconds))
                for seconds, (each, state) in enumerate([(store, S.QUEUED), (other, S.ACTIVE)] * 5, start=2)
            )
        )
        job = await store.job("a1")
        assert job is not None
        assert (job.state, job.state_at) == (S.ACTIVE, at(11))
        assert len(await store.events("a1")) == 11

    async def test_cancel(self, store: JobStore) -> None:
        await self.submitted_job(store)
        job = await store.request_cancel("a1", "ada")
        again = await store.request_cancel("a1", "bob")
        assert again == job
        assert (job.cancel_requested_by, job.canceled_at) == ("ada", None)
        assert [each.name for each in await store.cancel_requests()] == ["a1"]
        job = await store.canceled("a1")
        assert job.state is S.CANCELED
        assert job.canceled_at is not None
        assert job.ended_at is not None
        assert await store.cancel_requests() == []
        assert await store.canceled("a1") == job

    async def test_cancel_of_a_job_that_ends_by_itself(self, store: JobStore) -> None:
        await self.submitted_job(store)
        await store.request_cancel("a1", "ada")
        await store.append(make_event(S.COMPLETE, 3, source="webhook", exit_code=0))
        assert len(await store.cancel_requests()) == 1
        job = await store.canceled("a1")
        assert job.state is S.COMPLETE
        assert job.canceled_at is not None

    async def test_cancel_of_an_ended_or_refused_job_is_done(self, store: JobStore) -> None:
        await self.submitted_job(store, "a1")
        await store.append(make_event(S.COMPLETE, 3))
        await store.intend(make_job("a2"))
        await store.refused("a2", "no")
        for name in ("a1", "a2"):
            assert (await store.request_cancel(name, "ada")).canceled_at is not None
        await store.intend(make_job("a3"))
        await store.request_cancel("a3", "ada")
        assert (await store.refused("a3", "no")).canceled_at is not None
        assert await store.cancel_requests() == []

    async def test_checkpoints(self, store: JobStore) -> None:
        first, second = make_record(), make_record("submit", error="no\0", state=TaskState.FAILED, ended_at=None)
        await asyncio.gather(store.record_task(first), store.record_task(second))
        await store.record_task(make_record(experiment_id="another"))
        records = await store.task_records("hpc_batch", "e1", "")
        assert records == {("stage_in", -1): first, ("submit", -1): replace(second, error="no")}
        retried = make_record(try_number=2, result={})
        await store.record_task(retried)
        await store.record_task(first)
        assert (await store.task_records("hpc_batch", "e1", ""))["stage_in", -1] == retried
        cleared = [make_record(name, try_number=3, state=TaskState.CREATED) for name in ("stage_in", "submit")]
        await store.record_tasks(cleared)
        assert list((await store.task_records("hpc_batch", "e1", "")).values()) == cleared
        assert len(await store.task_records("hpc_batch", "another", "")) == 1

    async def test_a_run_made_again_under_the_same_id_starts_from_nothing(self, store: JobStore) -> None:
        first, second = (
            TaskIdentity("d", "e", "submit", born="first"),
            TaskIdentity("d", "e", "submit", born="second"),
        )
        for task in (first, second):
            assert await store.latest(task) is None
            assert await store.jobs_of("d", "e", task.born) == []
            assert await store.task_records("d", "e", task.born) == {}
            same = {"dag_id": "d", "experiment_id": "e", "born": task.born}
            await store.intend(make_job(task.born, **same))
            await store.record_task(make_record("submit", **same))
        assert [job.name for job in await store.jobs_of("d", "e", "first")] == ["first"]
        latest = await store.latest(second)
        assert latest is not None
        assert latest.name == "second"

    async def test_what_is_known_of_places_of_late(self, store: JobStore) -> None:
        begin = datetime.now(UTC) - timedelta(minutes=30)

        def moment(minutes: float) -> datetime:
            return begin + timedelta(minutes=minutes)

        async def job(name: str, *states: tuple[JobState, float, Outcome | None], queue: str | None = "q") -> None:
            await store.intend(make_job(name, queue=queue))
            await store.submitted(name, f"id-{name}", moment(0))
            for state, minutes, outcome in states:
                event = make_event(state, job=name, outcome=outcome)
                await store.append(replace(event, at=moment(minutes)))

        await job("waits")
        await job("runs", (S.ACTIVE, 2, None))
        await job("lost", (S.ACTIVE, 4, None), (S.FAILED, 5, Outcome.NODE_FAILURE))
        await job("wrong", (S.ACTIVE, 6, None), (S.FAILED, 7, Outcome.FAILED))
        await job("old", (S.ACTIVE, -300, None), (S.COMPLETE, -200, Outcome.COMPLETED))
        await job("elsewhere", (S.ACTIVE, 1, None), queue=None)
        await store.intend_array(make_job("array", queue="q"), [0, 1])
        for n, name in enumerate(["waits", "none", "late"]):
            decided = moment(-60) if name == "late" else moment(0) + timedelta(minutes=25)
            await store.place(Placement("hpc_batch", f"experiment-{name}", "", "cluster", "Q", decided, revision=n))
        found = await store.recent({"cluster", "unheard of"})
        assert {place: sorted(waits) for place, waits in found.waits.items()} == {
            ("cluster", "q"): [120, 240, 360],
            ("cluster", ""): [60],
        }
        assert found.oldest == {("cluster", "q"): moment(0)}
        assert found.ended == {("cluster", "q"): (2, 1)}
        assert found.chosen == {("cluster", "Q"): 1}
        assert await store.recent({"another"}) == Recent()

    async def test_availabilities(self, store: JobStore, other: JobStore) -> None:
        drain = Availability("cluster", AvailabilityState.DRAINING, at(5), "debug", at(9), "ada", "work\0 on it")
        stored = await store.set_availability(drain)
        assert stored.id
        down = await store.set_availability(Availability("another", AvailabilityState.DOWN, at(0)))
        clean = replace(stored, reason="work on it")
        assert await other.availabilities() == [down, clean]
        longer = await store.set_availability(replace(clean, ends_at=None))
        await store.clear_availability(down.id)
        await store.clear_availability("nothing")
        assert await other.availabilities() == [longer]

    async def test_one_callers_bad_value_is_its_own(self, store: JobStore) -> None:
        results = await asyncio.gather(
            store.record_task(make_record("a")),
            store.record_task(make_record("b", result={"x": object()})),
            store.intend(make_job()),
            store.append(make_event(S.ACTIVE, job="nobody")),
            store.record_task(make_record("c")),
            return_exceptions=True,
        )
        kinds = [type(result) for result in results]
        assert kinds == [type(None), StoreError, Job, JobUnknown, type(None)]
        assert {task for task, _ in await store.task_records("hpc_batch", "e1", "")} == {"a", "c"}

    async def test_leases(self, store: JobStore, other: JobStore) -> None:
        taken = await asyncio.gather(
            store.lease("poll", "one", 60), other.lease("poll", "two", 60), store.lease("mail", "one", 60)
        )
        assert taken[2]
        assert taken[0] != taken[1]
        winner, loser = ("one", "two") if taken[0] else ("two", "one")
        assert await store.lease("poll", winner, 60)
        assert not await store.lease("poll", loser, 60)
        assert await store.lease("poll", winner, 0)
        assert await other.lease("poll", loser, 60)

    async def test_marks_of_mail_folders(self, store: JobStore, other: JobStore) -> None:
        assert await store.mail_folders.read("box", "INBOX") is None
        mark = MailFolder("box", "INBOX", 2**32 - 1, uid=2**32 - 1, old_uid=7, waiting={5: 1}, counts={"news": 3})
        first = await store.mail_folders.write(mark)
        assert first.version == 1
        found = await other.mail_folders.read("box", "INBOX")
        assert found == first
        assert found is not None
        second = await other.mail_folders.write(replace(found, waiting={}, old_uid=0))
        for stale in (first, mark):
            with pytest.raises(StoreError):
                await store.mail_folders.write(stale)
        another = await store.mail_folders.write(MailFolder("box", "Archive", 1))
        assert await store.mail_folders.all() == [another, second]

    async def test_jobs_that_news_may_be_about(self, store: JobStore) -> None:
        for name in ("a1", "a2", "a3"):
            await self.submitted_job(store, name)
        found = await store.jobs_told_of({"id-a1", "id-x"}, {"a2", "x"})
        assert sorted(job.name for job in found) == ["a1", "a2"]
        assert await store.jobs_told_of((), ()) == []

    async def test_wait_is_woken_by_another_process(self, store: JobStore, other: JobStore) -> None:
        await self.submitted_job(store)
        waiting = [asyncio.create_task(store.wait("a1", 60)) for _ in range(3)]
        active = asyncio.create_task(store.wait("a1", 10, lambda job: job.state is S.ACTIVE))
        await other.append(make_event(S.ACTIVE, 2))
        assert (await active).state is S.ACTIVE
        assert not any(task.done() for task in waiting)
        await other.append(make_event(S.COMPLETE, 3))
        assert [(await task).state for task in waiting] == [S.COMPLETE] * 3
        assert (await store.wait("a1", 60)).state is S.COMPLETE

    async def test_wait_has_an_end(self, store: JobStore) -> None:
        await self.submitted_job(store)
        assert (await store.wait("a1", 0.1)).state is S.SUBMITTED

    async def test_open_resources(self, store: JobStore) -> None:
        assert await store.open_resources() == set()
        await self.submitted_job(store, "a1")
        await self.submitted_job(store, "a2", resource="other")
        await self.submitted_job(store, "a3", resource="third")
        await store.append(make_event(S.COMPLETE, 2, job="a3"))
        assert await store.open_resources() == {"cluster", "other"}

    async def test_resources_with_ends_that_their_schedulers_have_not_told(self, store: JobStore) -> None:
        for name, source in (("a1", "webhook"), ("a2", "poll"), ("a3", "")):
            await self.submitted_job(store, name, resource=f"of-{name}")
            if source:
                await store.append(make_event(S.COMPLETE, 5, job=name, source=source))
        before = datetime.now(UTC) - timedelta(minutes=1)
        assert await store.unbacked_resources(before) == {"of-a1"}
        assert await store.unbacked_resources(LATER) == set()
        await store.append(make_event(S.FAILED, 6, job="a1"))
        assert await store.unbacked_resources(before) == set()

    async def test_the_time_to_look_an_end_up_begins_when_it_is_told(self, store: JobStore) -> None:
        await self.submitted_job(store)
        before = datetime.now(UTC)
        century = 100 * 365 * 86400.0
        for seconds, name in ((-century, "a2"), (century, "a3")):
            await self.submitted_job(store, name)
            await store.append(make_event(S.COMPLETE, seconds, job=name, source="webhook"))
        assert list(await store.versions_to_poll("cluster", before)) == ["a3", "a2", "a1"]
        assert list(await store.versions_to_poll("cluster", datetime.now(UTC) + timedelta(minutes=1))) == ["a1"]

    async def test_of_many_such_ends_the_latest_are_looked_up(
        self, store: JobStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airavata_provider.jobs.queries.UNBACKED_MOST", 2)
        for name in ("a1", "a2", "a3"):
            await self.submitted_job(store, name)
            await store.append(make_event(S.COMPLETE, 5, job=name, source="webhook"))
        before = datetime.now(UTC) - timedelta(minutes=1)
        assert list(await store.versions_to_poll("cluster", before)) == ["a3", "a2"]

    async def test_a_job_that_turns_up_after_its_cancel_is_cancelled_again(self, store: JobStore) -> None:
        await store.intend(make_job())
        await store.request_cancel("a1", "ada")
        assert (await store.canceled("a1")).state is S.CANCELED
        await store.submitted("a1", "17", at(1))
        assert [job.native_id for job in await store.cancel_requests()] == ["17"]

    async def test_news_of_jobs(self, store: JobStore) -> None:
        for name in ("a1", "a2"):
            await self.submitted_job(store, name)
        await store.append(make_event(JobState.ACTIVE, 1, job="a1"))
        first = await store.news_of_jobs()
        assert [kept.event.job for kept in first] == ["a1", "a2", "a1"]
        later = first[-1].received_at
        assert [kept.event.state for kept in await store.news_of_jobs(later)] == [JobState.SUBMITTED, JobState.ACTIVE]
        assert await store.news_of_jobs(later + timedelta(days=1)) == []

    async def test_given_up_wakes(self, store: JobStore) -> None:
        await self.submitted_job(store)
        waiting = asyncio.create_task(store.wait("a1", 60))
        await store.append(make_event(S.UNKNOWN, 2, given_up=True))
        assert (await waiting).state is S.UNKNOWN
        assert await store.versions_to_poll("cluster", LATER) == {}

    async def test_many_ends_are_all_delivered(self, store: JobStore, other: JobStore) -> None:
        names = [f"a{number}" for number in range(500)]
        await asyncio.gather(*(self.submitted_job(store, name) for name in names))
        waiting = [asyncio.create_task(store.wait(name, 30)) for name in names]
        await asyncio.gather(*(other.append(make_event(S.COMPLETE, 5, job=name)) for name in names))
        assert {job.name for job in await asyncio.gather(*waiting)} == set(names)

    async def test_close_lets_waiters_go(self, url: str, store: JobStore) -> None:
        await self.submitted_job(store)
        closing = JobStore(url)
        waiting = asyncio.create_task(closing.wait("a1"))
        await asyncio.sleep(0)
        await closing.close()
        with pytest.raises(StoreError):
            await waiting
        with pytest.raises(StoreError):
            await closing.record_task(make_record())
