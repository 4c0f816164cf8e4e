from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, tzinfo
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from airavata_provider.errors import StoreError
from airavata_provider.jobs import host_uses
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Effect, JobState
from tests.bed import Bed
from tests.databases import database_away
from tests.unit.jobs.array_contract import ArrayContract
from tests.unit.jobs.attempt_contract import AttemptContract
from tests.unit.jobs.factory import make_event
from tests.unit.jobs.handover_contract import HandoverContract
from tests.unit.jobs.host_use_contract import HostUseContract, granted, wish, word
from tests.unit.jobs.store_contract import StoreContract


class TestPostgreSQLHandovers(HandoverContract):
    @pytest.fixture
    def url(self, postgres_db: str) -> str:
        return postgres_db


class TestPostgreSQLHostUses(HostUseContract):
    @pytest.fixture
    def url(self, postgres_db: str) -> str:
        return postgres_db

    async def test_the_databases_clock_counts(
        self, store: JobStore, other: JobStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever the machine of the one who asks says."""
        assert await granted(store, wish("a", limit=1)) == [True]
        for hours in (1, -1):

            class Wrong(datetime):
                @classmethod
                def now(cls, tz: tzinfo | None = None, hours: int = hours) -> Wrong:
                    moment: Wrong = super().now(tz) + timedelta(hours=hours)
                    return moment

            monkeypatch.setattr(host_uses, "datetime", Wrong)
            assert await granted(other, wish("b", limit=1)) == [False]
            assert await granted(store, word("a", 1, limit=1)) == [False]

    async def test_a_process_that_is_stopped_in_its_turn_does_not_stop_others(
        self, url: str, store: JobStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host_uses, "SILENCE_MS", 200)
        stopped = asyncio.Event()
        now = host_uses._now

        async def stop(connection: AsyncConnection) -> datetime:
            stopped.set()
            await asyncio.sleep(2)
            return await now(connection)

        monkeypatch.setattr(host_uses, "_now", stop)
        first = asyncio.create_task(granted(store, wish("a", limit=1)))
        await stopped.wait()
        monkeypatch.setattr(host_uses, "_now", now)
        monkeypatch.setattr(host_uses, "SILENCE_MS", 60_000)  # the first one's is set already
        assert await granted(store, wish("b", limit=1)) == [True]
        with pytest.raises(StoreError):
            await first


class TestPostgreSQLAttempts(AttemptContract):
    @pytest.fixture
    def url(self, postgres_db: str) -> str:
        return postgres_db


class TestPostgreSQLArrays(ArrayContract):
    @pytest.fixture
    def url(self, postgres_db: str) -> str:
        return postgres_db


class TestPostgreSQL(StoreContract):
    @pytest.fixture
    def url(self, postgres_db: str) -> str:
        return postgres_db

    async def test_a_notification_wakes_before_the_next_look(self, url: str, store: JobStore) -> None:
        await self.submitted_job(store)
        patient = JobStore(url, watch_interval=3600)
        waiting = asyncio.create_task(patient.wait("a1", until=lambda job: job.state is JobState.ACTIVE))
        ended = asyncio.create_task(patient.wait("a1"))
        # Nothing tells when the listener is up; the second change comes when it certainly is.
        async with asyncio.timeout(60):
            await store.append(make_event(JobState.ACTIVE, 2))
            await waiting
            await store.append(make_event(JobState.COMPLETE, 3))
            await ended
        await patient.close()

    async def test_a_database_that_is_away_for_a_while(self, url: str, store: JobStore, bed: Bed) -> None:
        """Whoever has the patience gets his answer, of reads and writes alike."""
        await self.submitted_job(store)
        patient = JobStore(url, patience_s=120)
        with database_away(bed, url):
            work: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(patient.job("a1")),
                asyncio.ensure_future(patient.append(make_event(JobState.ACTIVE, 2))),
                asyncio.ensure_future(patient.handovers.due()),
                asyncio.ensure_future(patient.recent(["cluster"])),
            ]
            with pytest.raises(StoreError, match="reading jobs"):
                await store.job("a1")
            done, _ = await asyncio.wait(work, timeout=1)
            assert not done
        async with asyncio.timeout(60):
            job, effect, due, _ = await asyncio.gather(*work)
        assert (job.name, effect, due) == ("a1", Effect.APPLIED, [])
        await patient.close()

    async def test_connections_cut_under_way(self, url: str, store: JobStore) -> None:
        """A server that drops everybody: writes are tried again, waiters go on waiting."""
        await self.submitted_job(store)
        waiting = asyncio.create_task(store.wait("a1", 20))
        await store.cancel_requests()
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await store.append(make_event(JobState.ACTIVE, 2))
        await store.append(make_event(JobState.COMPLETE, 3))
        assert (await waiting).state is JobState.COMPLETE
