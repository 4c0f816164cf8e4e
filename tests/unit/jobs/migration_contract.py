"""What the migrations must do on every database; a subclass gives the fixture ``url``, of an empty one."""

from __future__ import annotations

import contextlib
import io

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from airavata_provider.jobs.db_manager import AiravataDBManager
from airavata_provider.jobs.engine import make_sync_engine
from airavata_provider.jobs.migrations import VERSION_TABLE
from airavata_provider.jobs.store import JobStore
from airavata_provider.jobs.tables import metadata
from tests.unit.jobs.factory import make_job


def table_names(url: str) -> set[str]:
    engine = make_sync_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


class MigrationContract:
    def test_migrations_make_what_the_metadata_says(self, url: str) -> None:
        AiravataDBManager(url=url).upgradedb()
        engine = make_sync_engine(url)
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
            )
            differences = compare_metadata(context, metadata)
        engine.dispose()
        assert differences == []

    def test_up_down_and_again(self, url: str) -> None:
        manager = AiravataDBManager(url=url)
        assert not manager.check_migration()
        manager.initdb()
        assert manager.check_migration()
        assert manager.get_current_revision() == list(manager.revision_heads_map.values())[-1]
        manager.upgradedb()
        manager.downgrade("base")
        assert not manager.check_migration()
        assert table_names(url) == {VERSION_TABLE}
        manager.upgradedb(to_revision="a1f0c3d20001")
        assert manager.check_migration()

    async def test_reset_empties(self, url: str) -> None:
        manager = AiravataDBManager(url=url)
        manager.initdb()
        store = JobStore(url)
        await store.intend(make_job())
        await store.close()
        manager.resetdb()
        assert manager.check_migration()
        store = JobStore(url)
        assert await store.job("a1") is None
        await store.close()
        manager.resetdb(skip_init=True)
        assert table_names(url) == set()

    def test_sql_only_changes_nothing(self, url: str) -> None:
        manager = AiravataDBManager(url=url)
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            manager.upgradedb(show_sql_only=True)
            manager.downgrade("base", show_sql_only=True)
        assert "CREATE TABLE airavata_job" in text.getvalue()
        assert "DROP TABLE airavata_job" in text.getvalue()
        assert table_names(url) == set()
