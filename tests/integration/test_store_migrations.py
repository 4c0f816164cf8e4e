"""Migrations on PostgreSQL, and ``airflow db`` itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airavata_provider.jobs.tables import metadata
from tests.unit.jobs.migration_contract import MigrationContract, table_names

MANAGER = "airavata_provider.jobs.db_manager.AiravataDBManager"


class TestPostgreSQLMigrations(MigrationContract):
    @pytest.fixture
    def url(self, postgres_db: str) -> str:
        return postgres_db


def test_airflow_db(tmp_path: Path, postgres_db: str) -> None:
    """Migrate, check and reset with Airflow on one database and our tables on another."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "AIRFLOW__DATABASE__EXTERNAL_DB_MANAGERS": MANAGER,
        "AIRFLOW__AIRAVATA__SQL_ALCHEMY_CONN": postgres_db,
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    }

    def airflow(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "airflow", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)

    migrated = airflow("db", "migrate")
    assert migrated.returncode == 0, migrated.stderr
    tables = set(metadata.tables)
    assert tables | {"alembic_version_airavata"} == table_names(postgres_db)
    assert not tables & table_names(f"sqlite:///{tmp_path}/airflow.db")

    down = airflow("db-manager", "downgrade", MANAGER, "--to-revision", "base", "--yes")
    assert down.returncode == 0, down.stderr
    assert table_names(postgres_db) == {"alembic_version_airavata"}
    assert airflow("db", "check-migrations", "-t", "1").returncode != 0

    reset = airflow("db", "reset", "--yes")
    assert reset.returncode == 0, reset.stderr
    assert tables < table_names(postgres_db)
    assert airflow("db", "check-migrations", "-t", "5").returncode == 0
