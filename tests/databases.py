"""What happens to a database on the test bed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from tests.bed import Bed


@contextlib.contextmanager
def database_away(bed: Bed, url: str) -> Iterator[None]:
    """That database as others see it while its server is started again: connections end, and none begins."""
    name = url.rpartition("/")[2]
    with psycopg.connect(bed.postgres_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
