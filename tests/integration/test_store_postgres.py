from __future__ import annotations

import asyncio

import pytest

from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import JobState
from tests.unit.jobs.array_contract import ArrayContract
from tests.unit.jobs.attempt_contract import AttemptContract
from tests.unit.jobs.factory import make_event
from tests.unit.jobs.handover_contract import HandoverContract
from tests.unit.jobs.store_contract import StoreContract


class TestPostgreSQLHandovers(HandoverContract):
    @pytest.fixture
    def url(self, postgres_db: str) -> str:
        return postgres_db


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
