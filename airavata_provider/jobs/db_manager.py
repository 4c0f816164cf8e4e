"""How ``airflow db migrate`` makes and changes the job store's tables.

Airflow hands a session of its own database to its DB managers; ours works on ``[airavata] sql_alchemy_conn``
instead, with a connection of its own that is closed before each method returns. Tables are always made by the
migrations, never from the metadata, so there is one way to get there; tests compare the two.

The only module of ``jobs`` that imports Airflow at its top; nothing else imports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow.utils.db_manager import BaseDBManager
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from airavata_provider.jobs.engine import WRITES, make_sync_engine, parse_url, translated
from airavata_provider.jobs.migrations import VERSION_TABLE
from airavata_provider.jobs.tables import metadata

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x6169726176617461  # "airavata": PostgreSQL's advisory lock for migrations


class AiravataDBManager(BaseDBManager):
    """The job store's tables, as Airflow manages them.

    :param session: Airflow's, not used
    :param url: None: the deployment's store
    """

    metadata = metadata
    migration_dir = str(_MIGRATIONS)
    alembic_file = str(_MIGRATIONS / "alembic.ini")
    version_table_name = VERSION_TABLE
    supports_table_dropping = True
    revision_heads_map = {"0.1.0": "a1f0c3d20001"}  # noqa: RUF012 -- the base class' shape

    def __init__(self, session: Any = None, url: str | None = None) -> None:
        super().__init__(session)  # type: ignore[no-untyped-call]
        if url is None:
            from airavata_provider.settings import get_settings

            url = get_settings().sql_alchemy_conn
        self._url = url

    def get_alembic_config(self) -> Config:
        """Alembic's configuration, for our database."""
        config = Config(self.alembic_file)
        config.set_main_option("script_location", self.migration_dir.replace("%", "%%"))
        url = parse_url(self._url, synchronous=True).render_as_string(hide_password=False)
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        return config

    def get_current_revision(self) -> str | None:
        """The database's revision, None when it has none of our tables."""
        with self._connected("reading the schema's revision") as connection:
            return _revision(connection)

    def check_migration(self) -> bool:
        """Whether the database is at the newest revision."""
        return (
            self.get_current_revision() == ScriptDirectory.from_config(self.get_alembic_config()).get_current_head()
        )

    def create_db_from_orm(self) -> None:
        """Make the tables; by the migrations."""
        self.upgradedb()

    def initdb(self, use_migration_files: bool = False) -> None:
        """Make the tables, or bring them up to date. Nothing to do is fine."""
        self.upgradedb()

    def upgradedb(
        self,
        to_revision: str | None = None,
        from_revision: str | None = None,
        show_sql_only: bool = False,
        use_migration_files: bool = False,
    ) -> None:
        """Bring the tables to that revision, the newest by default.

        :param from_revision: with ``show_sql_only``: where the SQL begins
        :param show_sql_only: print the SQL and change nothing
        :raises StoreError: the database did not let us
        """
        config = self.get_alembic_config()
        target = to_revision or "head"
        if show_sql_only:
            command.upgrade(config, f"{from_revision or 'base'}:{target}", sql=True)
            return
        with self._connected("migrating the job store", writes=True) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, target)
        self.log.info("The job store's tables are at revision %s", self.get_current_revision())

    def downgrade(self, to_revision: str, from_revision: str | None = None, show_sql_only: bool = False) -> None:
        """Bring the tables back to that revision; ``base`` drops them.

        :param from_revision: with ``show_sql_only``: where the SQL begins, the newest by default
        :param show_sql_only: print the SQL and change nothing
        :raises StoreError: the database did not let us
        """
        config = self.get_alembic_config()
        if show_sql_only:
            command.downgrade(config, f"{from_revision or 'head'}:{to_revision}", sql=True)
            return
        with self._connected("downgrading the job store", writes=True) as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, to_revision)

    def drop_tables(self, connection: Any = None) -> None:
        """Drop our tables from our database, with all jobs in them.

        :param connection: Airflow's, to its own database: not used
        """
        with self._connected("dropping the job store's tables", writes=True) as own:
            self.metadata.drop_all(own)
            if inspect(own).has_table(VERSION_TABLE):
                own.execute(text(f"DROP TABLE {VERSION_TABLE}"))

    def resetdb(self, skip_init: bool = False, use_migration_files: bool = False) -> None:
        """Drop our tables and make them anew, empty."""
        self.drop_tables()
        if not skip_init:
            self.initdb()

    @contextmanager
    def _connected(self, doing: str, *, writes: bool = False) -> Iterator[Connection]:
        """A connection in a transaction that is committed at the end."""
        with translated(doing):
            engine = make_sync_engine(self._url)
            try:
                with engine.execution_options(**{WRITES: writes}).begin() as connection:
                    if writes and connection.dialect.name == "postgresql":
                        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
                    yield connection
            finally:
                engine.dispose()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
