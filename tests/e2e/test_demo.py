"""What ``make demo`` runs, in a copy of the project: killed in the middle, and run again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.airflow_instance import kill_leftovers, processes_of
from tests.bed import PROJECT

PARTS = ("airavata_provider", "dag_factories", "examples", "patterns", "scripts", "tests")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Of what the demo needs of the project, so that nobody's own demo is disturbed."""
    for name in PARTS:
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def cwd_of(process: psutil.Process) -> Path | None:
    """Where it runs; those of others need not tell."""
    try:
        return Path(process.cwd())
    except psutil.Error:
        return None


def test_a_demo_after_one_that_was_killed(copy: Path) -> None:
    airflow_home = copy / ".demo" / "airflow"
    command = [sys.executable, "-m", "scripts.demo"]
    try:
        with subprocess.Popen(
            command, cwd=copy, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as first:
            assert first.stdout is not None
            for line in first.stdout:
                if line.startswith("$ airflow airavata submit"):
                    break
            first.kill()
        assert first.returncode == -signal.SIGKILL
        assert list(processes_of(airflow_home))
        second = subprocess.run(
            command, cwd=copy, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200, check=False
        )
        assert second.returncode == 0, second.stdout + second.stderr
        assert "processes that an earlier demo left behind" in second.stdout
        assert "    tyger\t5\n" in second.stdout  # of the output file
        assert "    inside stage_out" in second.stdout
        assert [process.cmdline() for process in psutil.process_iter() if cwd_of(process) == airflow_home] == []
    finally:
        kill_leftovers(airflow_home)
