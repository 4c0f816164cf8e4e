from __future__ import annotations

from pathlib import Path

import pytest

from airavata_provider.errors import StoreError
from airavata_provider.jobs.db_manager import AiravataDBManager
from tests.unit.jobs.migration_contract import MigrationContract

pytestmark = pytest.mark.slow


class TestSQLiteMigrations(MigrationContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/a%b.db"


def test_an_unreachable_database_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="migrating"):
        AiravataDBManager(url=f"sqlite:///{tmp_path}/no/such/a.db").upgradedb()


def test_airflow_accepts_the_manager() -> None:
    from airflow.utils.db_manager import RunDBManager

    RunDBManager._validate(AiravataDBManager)  # type: ignore[arg-type]
