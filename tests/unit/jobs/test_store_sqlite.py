from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from airavata_provider.errors import ConfigurationError, StoreError
from airavata_provider.jobs.engine import parse_url
from airavata_provider.jobs.store import JobStore, close_store, get_store
from tests.unit.jobs.array_contract import ArrayContract
from tests.unit.jobs.attempt_contract import AttemptContract
from tests.unit.jobs.factory import make_job
from tests.unit.jobs.handover_contract import HandoverContract
from tests.unit.jobs.host_use_contract import HostUseContract
from tests.unit.jobs.store_contract import StoreContract

pytestmark = pytest.mark.slow


class TestSQLite(StoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/airavata.db"


class TestSQLiteHandovers(HandoverContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/airavata.db"


class TestSQLiteHostUses(HostUseContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/airavata.db"


class TestSQLiteAttempts(AttemptContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/airavata.db"


class TestSQLiteArrays(ArrayContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/airavata.db"


@pytest.mark.parametrize(
    ("written", "asynchronous", "synchronous"),
    [
        ("sqlite:////x/a.db", "sqlite+aiosqlite", "sqlite"),
        ("postgresql://u:p@h/d", "postgresql+psycopg", "postgresql+psycopg"),
        ("postgres://u:p@h/d", "postgresql+psycopg", "postgresql+psycopg"),
        ("postgresql+psycopg2://u:p@h/d", "postgresql+psycopg", "postgresql+psycopg"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql+psycopg", "postgresql+psycopg"),
    ],
)
def test_urls(written: str, asynchronous: str, synchronous: str) -> None:
    assert parse_url(written).drivername == asynchronous
    assert parse_url(written, synchronous=True).drivername == synchronous


@pytest.mark.parametrize("url", ["", "mysql://u:secret@h/d", "nonsense:secret"])
def test_other_databases_are_refused_without_telling_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


async def test_missing_tables_say_what_to_do(tmp_path: Path) -> None:
    store = JobStore(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(StoreError, match="airflow db migrate"):
        await store.intend(make_job())
    with pytest.raises(StoreError, match="airflow db migrate"):
        await store.cancel_requests()
    await store.close()


async def test_unreachable_file_is_a_store_error(tmp_path: Path) -> None:
    store = JobStore(f"sqlite:///{tmp_path}/no/such/folder/a.db")
    with pytest.raises(StoreError):
        await store.job("a1")
    await store.close()
    # aiosqlite's thread of a connection that never was tells its end to this loop, which has to be there still.
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, 10)


async def test_one_store_per_loop_and_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    store = get_store(url)
    assert get_store(url) is store
    assert get_store(f"sqlite:///{tmp_path}/b.db") is not store
    await close_store()
    assert get_store(url) is not store
