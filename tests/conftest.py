"""Fixtures for all tests: the test bed's servers, a database, a shell on the bed's host.

Only tests that ask for ``bed`` (or for what builds on it) start servers; unit tests never do. The bed is
started by ``scripts/testbed.sh``, which takes a lock, so several pytest workers may ask at once. It stays up
afterwards: whoever wants it gone says ``scripts/testbed.sh down``.

Airflow writes a configuration file into its home as soon as it is imported; the tests give it a folder of
their own before anything imports it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.bed import Bed, start_bed

if TYPE_CHECKING:
    from airavata_provider.ssh.target import Target

PROJECT = Path(__file__).resolve().parent.parent

_airflow_home = tempfile.mkdtemp(prefix="airavata-test-airflow-")
os.environ["AIRFLOW_HOME"] = _airflow_home
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

# What runs in the background of a script ignores SIGINT, and no shell started from it could trap it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure.
hypothesis.settings.register_profile("project", deadline=None, max_examples=100)
hypothesis.settings.load_profile("project")


def pytest_unconfigure() -> None:
    shutil.rmtree(_airflow_home, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder says what it needs, and hundreds of examples take long; nobody has to remember the mark."""
    for item in items:
        if hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("slow")
        for kind in ("integration", "e2e"):
            if (PROJECT / "tests" / kind) in item.path.parents:
                item.add_marker(kind)
                if kind == "e2e":
                    item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def bed() -> Bed:
    """The test bed, up and answering; ``DOCKER_HOST`` points at its engine."""
    try:
        bed = start_bed()
    except RuntimeError as error:
        pytest.exit(str(error), returncode=3)
    os.environ["DOCKER_HOST"] = bed.docker_host
    return bed


@pytest.fixture(scope="session")
def bed_run(bed: Bed) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``bed_run(command)``: see :meth:`Bed.run`."""
    return bed.run


@pytest.fixture
def bed_dir(bed: Bed) -> Iterator[str]:
    """A fresh folder on the bed's host, owned by ``ssh_user``, removed afterwards."""
    path = bed.run(f"mktemp -d {bed.scratch}/test.XXXXXX").stdout.strip()
    yield path
    # A job that a test left behind may still write there.
    bed.run(f"for try in 1 2 3 4 5; do rm -rf {path} && break; sleep 1; done; [ ! -e {path} ]")


@pytest.fixture
def ssh_target(bed: Bed) -> Target:
    """The bed's host as the SSH pool wants it: key file, host key checked."""
    from airavata_provider.ssh.target import Target

    return Target(
        host=bed.ssh_host,
        port=bed.ssh_port,
        user=bed.ssh_user,
        private_key_file=str(bed.ssh_key),
        known_hosts=str(bed.known_hosts),
    )


@pytest.fixture
def postgres_db(bed: Bed) -> Iterator[str]:
    """URL (``postgresql://``) of a fresh, empty database, dropped afterwards."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(bed.postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield f"{bed.postgres_url.rpartition('/')[0]}/{name}"
    with psycopg.connect(bed.postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
