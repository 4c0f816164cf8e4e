"""A deployment for end-to-end tests and the bench: Airflow, a catalog, storage, and the test bed as its cluster."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.airflow_instance import AirflowInstance
from tests.bed import Bed
from tests.services import CATALOG

TEXT = "It was a bright cold day in April,\nand the clocks were striking thirteen. $(id)'\"\n"


@dataclass(frozen=True)
class Site:
    """A running deployment.

    :param storage: the root of its storage resource ``files``
    :param patterns: its own folder of patterns
    :param dags: its folder of hand-written DAGs
    :param catalog: its folder of catalog files
    :param mailbox: the account of its Connection ``mailbox`` on the bed's IMAP server; nothing reads it yet
    """

    airflow: AirflowInstance
    bed: Bed
    storage: Path
    patterns: Path
    dags: Path
    catalog: Path
    mailbox: str

    def request(self, resource: str = "cluster", **inputs: Any) -> dict[str, Any]:
        """An experiment of the application ``upper``; its outputs get a folder of their own."""
        return {
            "application": "upper",
            "compute_resource": resource,
            "inputs": {"text": "storage://files/in/text.txt", **inputs},
            "outputs_to": f"storage://files/out/{uuid.uuid4().hex}",
        }

    def output(self, request: Mapping[str, Any], name: str) -> Path:
        """Where an output of that experiment is on this machine."""
        folder: str = request["outputs_to"].removeprefix("storage://files/")
        return self.storage / folder / name

    def accounted(self, *names: str) -> list[str]:
        """SLURM's own record of jobs by name: one ``id|name|state`` each."""
        found = self.bed.run(f"sacct -X -n -P --name {','.join(names)} -o JobID,JobName,State").stdout
        return [line for line in found.splitlines() if line]

    def ended(self, *names: str) -> list[str]:
        """The same, once SLURM knows all of them and their ends, of which its record learns last."""

        def all_over() -> list[str]:
            lines = self.accounted(*names)
            seen = {line.split("|")[1] for line in lines}
            going = any(line.split("|")[2] in ("PENDING", "RUNNING") for line in lines)
            return lines if seen >= set(names) and not going else []

        found: list[str] = self.airflow.wait("SLURM's record", all_over, timeout=120)
        return found

    def wake(self, seconds: int, jobs: int = 1) -> None:
        """Let so many jobs go on that sleep so long, once they do."""
        sleeper = f"-xf 'sleep {seconds}'"
        self.bed.run(f"until [ $(pgrep -c {sleeper}) -eq {jobs} ]; do sleep 0.5; done; pkill {sleeper}", timeout=240)

    def report(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """What the provider tells of an experiment."""
        answer = self.airflow.client.get(f"/airavata/experiments/{dag_id}/{run_id}")
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        return told


def bed_connection(bed: Bed) -> dict[str, Any]:
    """The Airflow Connection to the test bed's sshd."""
    return {
        "conn_type": "ssh",
        "host": bed.ssh_host,
        "port": bed.ssh_port,
        "login": bed.ssh_user,
        "extra": {"key_file": str(bed.ssh_key), "known_hosts": str(bed.known_hosts)},
    }


def mailbox_connection(bed: Bed, account: str) -> dict[str, Any]:
    """The Airflow Connection to an account of the test bed's Dovecot."""
    return {
        "conn_type": "imap",
        "host": "127.0.0.1",
        "port": bed.imap_port,
        "login": account,
        "password": bed.imap_password,
        "extra": {"use_ssl": False},
    }


@contextmanager
def make_site(
    bed: Bed,
    folder: Path,
    database_url: str | None,
    airavata_url: str | None,
    *,
    settings: Mapping[str, str] | None = None,
    triggerers: int = 2,
) -> Iterator[Site]:
    """Start a deployment, stop it afterwards."""
    folders = {name: folder / name for name in ("catalog", "storage", "patterns", "dags")}
    for path in folders.values():
        path.mkdir()
    (folders["catalog"] / "catalog.yaml").write_text(CATALOG.format(scratch=bed.scratch, root=folders["storage"]))
    (folders["storage"] / "in").mkdir()
    (folders["storage"] / "in" / "text.txt").write_text(TEXT)
    own = {
        "AIRFLOW__AIRAVATA__CATALOG_FOLDERS": str(folders["catalog"]),
        "AIRFLOW__AIRAVATA__PATTERNS_FOLDERS": str(folders["patterns"]),
        "AIRFLOW__AIRAVATA__POLL_INTERVAL": "5",
        "DOCKER_HOST": bed.docker_host,
    }
    mailbox = f"site-{uuid.uuid4().hex[:12]}"
    with AirflowInstance(
        folder / "airflow",
        database_url=database_url,
        airavata_url=airavata_url,
        connections={"bed": bed_connection(bed), "mailbox": mailbox_connection(bed, mailbox)},
        settings={**own, **(settings or {})},
        dags_folder=folders["dags"],
        triggerers=triggerers,
    ) as airflow:
        airflow.wait_for_dag("hpc_batch")
        airflow.wait_for_dag("hpc_batch_fast")
        yield Site(
            airflow, bed, folders["storage"], folders["patterns"], folders["dags"], folders["catalog"], mailbox
        )
