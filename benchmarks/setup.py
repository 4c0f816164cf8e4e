"""The bench's own catalog, connection and databases, on the test bed."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import yaml

from tests.airflow_instance import TUNED, AirflowInstance
from tests.bed import Bed

INPUT = "Tyger Tyger, burning bright\n"

PLAIN_PARALLELISM = "8"

HELD = "held"
"""The application whose jobs the cluster takes and never starts."""


def connection(bed: Bed) -> dict[str, Any]:
    """The Airflow Connection that both the plain DAG and the patterns use; the host's key is checked."""
    return {
        "conn_type": "ssh",
        "host": bed.ssh_host,
        "port": bed.ssh_port,
        "login": bed.ssh_user,
        "extra": {
            "key_file": str(bed.ssh_key),
            "host_key": " ".join(bed.known_hosts.read_text().split()[1:3]),
            "no_host_key_check": "false",
        },
    }


def catalog(bed: Bed, files: Path) -> dict[str, Any]:
    """One cluster, one application that prints its input, a folder for inputs and one for outputs."""
    return {
        "compute_resources": {
            "bench": {
                "connection": "bench_ssh",
                "scheduler": "slurm",
                "scratch": str(bed.scratch),
                "max_connections": 2,
                "queues": {"debug": {"max_walltime": 60, "max_nodes": 1, "max_cpus": 64}},
            }
        },
        "storage_resources": {
            "bench_inputs": {"type": "local", "root": str(files)},
            "bench_outputs": {"type": "local", "root": str(files / "outputs"), "default": True},
        },
        "applications": {
            name: {
                "pattern": "hpc_batch",
                "inputs": {"text": {"type": "FILE", "position": 1}},
                "outputs": {"text": {"file": "stdout.txt"}},
                "deployments": {"bench": {"executable": "/bin/cat", "directives": directives}},
            }
            for name, directives in (("bench", []), (HELD, ["--hold"]))
        },
    }


EXPERIMENT: Mapping[str, Any] = {
    "application": "bench",
    "compute_resource": "bench",
    "gateway": "bench",
    "user": "bench",
    "walltime": 5,
    "inputs": {"text": "storage://bench_inputs/input.txt"},
}


@contextlib.contextmanager
def fresh_database(bed: Bed, purpose: str) -> Iterator[str]:
    """URL of an empty database, dropped at the end."""
    name = f"bench_{purpose}_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(bed.postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    try:
        yield f"{bed.postgres_url.rpartition('/')[0]}/{name}"
    finally:
        with psycopg.connect(bed.postgres_url, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def bench_airflow(bed: Bed, work: Path) -> Iterator[tuple[AirflowInstance, str]]:
    """An Airflow for the bench, and the URL of the provider's own database."""
    shutil.rmtree(work, ignore_errors=True)
    files, dags, catalogs = work / "files", work / "dags", work / "catalog"
    for folder in (files / "outputs", dags, catalogs):
        folder.mkdir(parents=True)
    (files / "input.txt").write_text(INPUT)
    (catalogs / "bench.yaml").write_text(yaml.safe_dump(catalog(bed, files), sort_keys=False))
    for name in ("plain_dag.py", "empty_dag.py"):
        shutil.copy(Path(__file__).with_name(name), dags)
    settings = {
        **TUNED,
        "AIRFLOW__CORE__PARALLELISM": PLAIN_PARALLELISM,
        "AIRFLOW__AIRAVATA__CATALOG_FOLDERS": str(catalogs),
        "BENCH_SCRATCH": str(bed.scratch),
        "BENCH_FILES": str(files),
    }
    with (
        fresh_database(bed, "airflow") as airflow_url,
        fresh_database(bed, "airavata") as airavata_url,
        AirflowInstance(
            work / "airflow",
            database_url=airflow_url,
            airavata_url=airavata_url,
            connections={"bench_ssh": connection(bed)},
            settings=settings,
            dags_folder=dags,
            patient=("dag-processor",),
            log_level="WARNING",
        ) as airflow,
    ):
        yield airflow, airavata_url
