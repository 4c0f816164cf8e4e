"""How the store's database is opened and asked again: URLs, engines, and one place that judges and translates the
database's errors.

URLs are those a deployment writes (``sqlite:////path``, ``postgresql://…``); the driver is chosen here:
aiosqlite and psycopg 3 for asynchronous work, the standard library's sqlite3 and psycopg 3 for migrations. On
SQLite: a write-ahead log, a long busy time-out, foreign keys, and writers that take their lock when they
begin, so that two processes wait for each other instead of failing.

Imports no Airflow.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as NoneFree
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from airavata_provider.errors import AiravataError, ConfigurationError, StoreError
from airavata_provider.jobs.again import again

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

BUSY_TIMEOUT_MS = 30_000
RETRY_AFTER_S = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Pauses before work is tried again when the database stumbles, in seconds."""
LATER_S = 5.0
"""Each pause after those."""
PATIENCE_S = sum(RETRY_AFTER_S)
"""How long work is tried again where somebody waits for an answer, in seconds of pauses."""
WRITES = "airavata_writes"
"""Execution option of connections that will write."""

_DRIVERS = {
    "sqlite": ("sqlite", "sqlite+aiosqlite"),
    "postgresql": ("postgresql+psycopg", "postgresql+psycopg"),
}


def parse_url(url: str, *, synchronous: bool = False) -> URL:
    """The URL with our driver in it.

    :raises ConfigurationError: no URL, or neither SQLite nor PostgreSQL
    """
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
        drivers = _DRIVERS[parsed.get_backend_name()]
    except (ArgumentError, NoSuchModuleError, KeyError) as error:
        # The URL may hold a password: it is not repeated.
        raise ConfigurationError(
            "[airavata] sql_alchemy_conn must be a sqlite:/// or postgresql:// URL",
            advice="example: postgresql://user:password@host:5432/airavata",
        ) from error
    return parsed.set(drivername=drivers[0] if synchronous else drivers[1])


def make_async_engine(url: str, pool_size: int) -> AsyncEngine:
    """An engine for one event loop. Opens nothing yet.

    :param pool_size: connections that it keeps open at most
    :raises ConfigurationError: as :func:`parse_url`
    """
    parsed = parse_url(url)
    options: dict[str, Any] = {}
    if parsed.get_backend_name() == "postgresql":
        options = {"pool_size": pool_size, "max_overflow": 0, "pool_pre_ping": True, "pool_timeout": 30}
    engine = create_async_engine(parsed, **options)
    _prepare(engine.sync_engine)
    return engine


async def take_turn(connection: AsyncConnection, lock: int, silence_ms: int) -> None:
    """Wait until nobody else has such a turn, and keep it until the transaction's end; one that writes.

    On SQLite such a transaction is alone already.

    :param lock: the turn's number among the database's advisory locks
    :param silence_ms: after how long without a word from its process PostgreSQL ends the turn: a process that is
        stopped in it would stop everybody's
    """
    if connection.dialect.name == "postgresql":
        silence = func.set_config("idle_in_transaction_session_timeout", str(silence_ms), True)
        await connection.execute(select(silence, func.pg_advisory_xact_lock(lock)))


def make_sync_engine(url: str) -> Engine:
    """An engine for migrations. Opens nothing yet.

    :raises ConfigurationError: as :func:`parse_url`
    """
    engine = create_engine(parse_url(url, synchronous=True))
    _prepare(engine)
    return engine


def _prepare(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        # The driver's own implicit BEGIN is late and leaves DDL outside transactions: begin ourselves, below.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def is_passing(error: BaseException) -> bool:
    """Whether the same work may go well in a moment: lost connection, deadlock, a lock held for long, all connections
    in use."""
    if isinstance(error, OperationalError) and "no such table" in str(error.orig):
        return False
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, OperationalError | OSError | TimeoutError | NoneFree)


def pauses(patience_s: float) -> Iterator[float]:
    """The pauses between tries that add up to no more than that."""
    left = patience_s
    for pause in chain(RETRY_AFTER_S, repeat(LATER_S)):
        left -= pause
        if left < -0.001:
            return
        yield pause


async def persist(
    work: Callable[[], Awaitable[T]], patience_s: float, passes: Callable[[Exception], bool] = is_passing
) -> T:
    """Do it, and again when the database stumbled: work that may be done twice.

    :param passes: whether an error is one after which it may go well
    :raises Exception: what the last try raised
    """
    return await again(work, pauses(patience_s), passes, stumbled)


def stumbled(error: Exception, pause_s: float) -> None:
    """Say that the database does not answer, once that is worth a word."""
    if pause_s >= 1.0:
        _LOG.warning("%s; tried again in %g s", store_error("the database does not answer", error), pause_s)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the database's errors into StoreError; our own pass through.

    :param doing: what was being done, for the message (``"reading a job"``)
    """
    try:
        yield
    except AiravataError:
        raise
    except (SQLAlchemyError, OSError) as error:
        raise store_error(doing, error) from error


def store_error(doing: str, error: Exception) -> StoreError:
    """The StoreError for that error, without values or connection strings in its words."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    words = " ".join(str(original).split())[:300]
    missing = isinstance(error, OperationalError | ProgrammingError) and (
        "no such table" in words or "no such column" in words or "does not exist" in words
    )
    return StoreError(
        f"{doing}: {type(original).__name__}: {words}",
        where="job store",
        advice="run `airflow db migrate`" if missing else None,
    )
