"""kill -9 in the middle of thirty experiments of each pattern: all end well, each job is on SLURM's record once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.airflow_instance import TUNED
from tests.bed import Bed
from tests.deployment import TEXT, make_site

EXPERIMENTS = 30
"""Of each pattern."""

PATTERNS = ("hpc_batch", "hpc_batch_fast")


@pytest.mark.kills
def test_every_process_may_be_killed(bed: Bed, make_database: Callable[[], str], tmp_path: Path) -> None:
    with make_site(bed, tmp_path, make_database(), make_database(), settings=TUNED, triggerers=1) as site:
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

        airflow.wait("the first jobs are submitted", lambda: all_submitted(3), timeout=120, every=2)
        kill_sshd(bed)
        time.sleep(1)
        start_sshd(bed)
        airflow.restart("triggerer")
        airflow.wait("more jobs are submitted", lambda: all_submitted(EXPERIMENTS // 2), timeout=150, every=2)
        airflow.restart("scheduler")
        kill_sshd(bed)
        airflow.restart("triggerer")
        start_sshd(bed)

        for run, request in requests.items():
            assert airflow.wait_run(*run, timeout=300) == "success", airflow.task_states(*run)
            text = site.output(request, "result.txt").read_text()
            assert text == f"{TEXT.upper()}{request['inputs']['message']}\n"
        names = [job["name"] for run in requests for job in site.report(*run)["jobs"]]
        assert len(names) == EXPERIMENTS * len(PATTERNS)
        accounted = site.accounted(*names)
        assert sorted(line.split("|")[1] for line in accounted) == sorted(names)
        assert {line.split("|")[2] for line in accounted} == {"COMPLETED"}


def kill_sshd(bed: Bed) -> None:
    """kill -9 the test bed's sshd and every session that it serves."""
    listener = int(bed.sshd_pid_file.read_text())
    children = subprocess.run(
        ["pgrep", "-f", rf"sshd: {bed.ssh_user}"], capture_output=True, text=True, check=False
    ).stdout.split()
    for pid in [listener, *map(int, children)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def start_sshd(bed: Bed) -> None:
    """Start it again as the test bed does."""
    subprocess.run(["/usr/sbin/sshd", "-f", str(bed.sshd_config), "-E", str(bed.sshd_log)], check=True, timeout=30)
