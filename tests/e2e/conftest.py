"""A real Airflow on PostgreSQL, with the test bed's cluster in its catalog, shared by the tests of this folder."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.airflow_instance import TUNED, AirflowInstance
from tests.bed import Bed
from tests.deployment import Site, make_site


@pytest.fixture(scope="session")
def make_database(bed: Bed) -> Iterator[Callable[[], str]]:
    """Makes fresh PostgreSQL databases, all dropped at the end."""
    made: list[str] = []

    def make() -> str:
        name = f"e2e_{uuid.uuid4().hex}"
        with psycopg.connect(bed.postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        made.append(name)
        return f"{bed.postgres_url.rpartition('/')[0]}/{name}"

    yield make
    with psycopg.connect(bed.postgres_url, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def site(bed: Bed, make_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Airflow with two triggerers, and where its files are."""
    folder = tmp_path_factory.mktemp("site")
    # What other tests have in SLURM's queue decides nothing here.
    settings = {**TUNED, "AIRFLOW__AIRAVATA__QUEUE_LOAD_INTERVAL": "0"}
    with make_site(bed, folder, make_database(), make_database(), settings=settings) as site:
        yield site


@pytest.fixture
def airflow(site: Site) -> AirflowInstance:
    """The site's Airflow."""
    return site.airflow


@pytest.fixture
def dags(site: Site) -> Path:
    """A folder for hand-written DAGs."""
    return site.dags
