"""kill -9 of all of Airflow and of sshd, and a job store that is away, in the middle of thirty experiments of each
pattern: all end well, each job is on SLURM's record once."""

from __future__ import annotations

import contextlib
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tests.airflow_instance import TUNED, free_port
from tests.bed import Bed
from tests.databases import database_away
from tests.deployment import TEXT, make_site

EXPERIMENTS = 30
"""Of each pattern."""

PATTERNS = ("hpc_batch", "hpc_batch_fast")


def test_every_process_may_be_killed(bed: Bed, make_database: Callable[[], str], tmp_path: Path) -> None:
    (folder := tmp_path / "site").mkdir()
    with (
        own_sshd(bed, tmp_path / "sshd") as (sshd, place),
        make_site(place, folder, make_database(), store := make_database(), settings=TUNED, triggerers=1) as site,
    ):
        airflow = site.airflow
        # The test bed's SLURM remembers jobs of earlier runs by their names, which follow from these ids.
        batch = uuid.uuid4().hex
        requests = {
            (pattern, f"kill-{batch}-{number}"): site.request(message=f"number {number}", seconds=3)
            for number in range(EXPERIMENTS)
            for pattern in PATTERNS
        }
        for (pattern, run_id), request in requests.items():
            airflow.trigger(pattern, request, run_id=run_id)

        def submitted(pattern: str) -> int:
            return sum(bool(site.report(*run)["jobs"]) for run in requests if run[0] == pattern)

        def all_submitted(count: int) -> bool:
            return all(submitted(pattern) >= count for pattern in PATTERNS)

        airflow.wait("the first jobs are submitted", lambda: all_submitted(3), timeout=400, every=2)
        sshd.kill()
        time.sleep(1)
        sshd.start()
        airflow.restart("triggerer")
        airflow.restart("dag-processor")
        with database_away(bed, store):
            time.sleep(5)
        airflow.wait("more jobs are submitted", lambda: all_submitted(EXPERIMENTS // 2), timeout=400, every=2)
        airflow.restart("scheduler")
        airflow.restart("api-server")
        airflow.wait("the API server is back", lambda: "scheduler" in airflow.health(), timeout=240)
        sshd.kill()
        airflow.restart("triggerer")
        sshd.start()

        for run, request in requests.items():
            airflow.wait_success(*run, timeout=300)
            text = site.output(request, "result.txt").read_text()
            assert text == f"{TEXT.upper()}{request['inputs']['message']}\n"
        names = [job["name"] for run in requests for job in site.report(*run)["jobs"]]
        assert len(names) == EXPERIMENTS * len(PATTERNS)
        accounted = site.ended(*names)
        assert sorted(line.split("|")[1] for line in accounted) == sorted(names)
        assert {line.split("|")[2] for line in accounted} == {"COMPLETED"}


@dataclass(frozen=True)
class OwnSshd:
    """An sshd of this test alone, beside the bed's and like it: nobody else feels its end."""

    config: Path
    pid_file: Path
    log: Path

    def start(self) -> None:
        """Start it (again) as the test bed does."""
        subprocess.run(["/usr/sbin/sshd", "-f", str(self.config), "-E", str(self.log)], check=True, timeout=30)

    def kill(self) -> None:
        """kill -9 it and every session that it serves."""
        listener = psutil.Process(int(self.pid_file.read_text()))
        for process in [listener, *listener.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().startswith("sshd"):
                    process.kill()


@contextlib.contextmanager
def own_sshd(bed: Bed, folder: Path) -> Iterator[tuple[OwnSshd, Bed]]:
    """It, running, and the bed with it in the place of its own."""
    folder.mkdir()
    port, config = free_port(), folder / "sshd_config"
    sshd = OwnSshd(config, folder / "sshd.pid", folder / "sshd.log")
    own = {"Port": str(port), "PidFile": str(sshd.pid_file)}
    lines = [line.partition(" ") for line in bed.sshd_config.read_text().splitlines()]
    config.write_text("".join(f"{word} {own.get(word, rest)}\n" for word, _, rest in lines))
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(bed.known_hosts.read_text().replace(f"]:{bed.ssh_port} ", f"]:{port} "))
    sshd.start()
    try:
        yield sshd, replace(bed, ssh_port=port, known_hosts=known_hosts)
    finally:
        sshd.kill()
