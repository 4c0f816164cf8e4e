"""A job script that is told to stop, or that its walltime is near; run by real shells."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.unit.schedulers.scripts import NAME, SHELLS, start

# These run scripts in real shells.
pytestmark = pytest.mark.slow


WAITER = "trap 'echo got >>got; exit 7' {0}; touch up; while :; do sleep 0.05; done"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_watchdogs_end_is_not_the_jobs(tmp_path: Path, shell: str) -> None:
    # Bash runs the script's own trap in a subshell that is killed right after it was forked.
    runs = []
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        runs.append(start(folder, "sh", "-c", "exit 5", shell=shell, fork=True, walltime_s=300))
    assert [run.end() for run in runs] == [5] * len(runs)
    for run in runs:
        run.until(partial(_gone, run.process.pid))
    assert [run.record.exit_code for run in runs] == [5] * len(runs)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT])
def test_being_told_to_stop_reaches_the_payload_and_its_own_code_is_kept(
    tmp_path: Path, shell: str, signo: signal.Signals
) -> None:
    run = start(tmp_path, "sh", "-c", WAITER.format("TERM"), shell=shell)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signo)
    assert run.end() == 7
    assert (run.record.exit_code, run.record.signal) == (7, None)
    assert run.record.reason == f"SIGNAL {signo.name.removeprefix('SIG')}"
    assert (tmp_path / "got").read_text() == "got\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_payload_that_dies_of_the_signal(tmp_path: Path, shell: str) -> None:
    run = start(tmp_path, "sh", "-c", "touch up; exec sleep 60", shell=shell)
    run.until((tmp_path / "up").exists)
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.end() == 143
    assert (run.record.exit_code, run.record.signal) == (143, 15)


GREP = """#!/bin/sh
# Who starts a program at that moment is not seen: at the first look, nobody is.
case $1 in -lszxF) [ -e "{seen}" ] || {{ : >"{seen}"; exit 1; }};; esac
exec {grep} "$@"
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_who_is_not_seen_at_the_first_look_is_ended_too(tmp_path: Path, shell: str) -> None:
    commands, folder = tmp_path / "bin", tmp_path / "job"
    commands.mkdir()
    folder.mkdir()
    (commands / "grep").write_text(GREP.format(seen=tmp_path / "seen", grep=shutil.which("grep")))
    (commands / "grep").chmod(0o755)
    run = start(
        folder,
        "sh",
        "-c",
        "setsid sleep 60 & touch up; wait",
        shell=shell,
        env={"PATH": f"{commands}:{os.environ['PATH']}"},
    )
    run.until((folder / "up").exists)
    run.until(lambda: len(_marked(NAME, str(folder))) >= 2)
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.end() == 143
    assert (tmp_path / "seen").exists()
    run.until(lambda: not _marked(NAME, str(folder)))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_notice_of_the_walltime_does_not_kill_a_payload_that_does_not_want_it(tmp_path: Path, shell: str) -> None:
    run = start(tmp_path, "sh", "-c", "touch up; while [ ! -e go ]; do sleep 0.05; done; exit 4", shell=shell)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    run.until(lambda: b"airavata" in Path(f"/proc/{run.process.pid}/cmdline").read_bytes())
    (tmp_path / "go").touch()
    assert run.end() == 4
    assert (run.record.exit_code, run.record.reason) == (4, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_payload_with_a_handler_gets_the_notice(tmp_path: Path, shell: str) -> None:
    run = start(tmp_path, "sh", "-c", WAITER.format("USR1"), shell=shell)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    assert run.end() == 7
    assert (tmp_path / "got").read_text() == "got\n"


def test_a_stop_after_the_notice_is_the_walltimes(tmp_path: Path) -> None:
    run = start(tmp_path, "sh", "-c", "touch up; while :; do sleep 0.05; done")
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    # Signals of different kinds may be taken in any order; the notice is given a minute before.
    run.until(lambda: not int(_proc_mask(run.process.pid, "ShdPnd"), 16))
    time.sleep(0.1)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143
    assert run.record.reason == "WALLTIME"


def _gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _proc_mask(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().split("\n")
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


@pytest.mark.parametrize("shell", SHELLS)
def test_without_a_scheduler_the_script_keeps_the_walltime(tmp_path: Path, shell: str) -> None:
    run = start(tmp_path, "sh", "-c", "sleep 60 & sleep 60", shell=shell, fork=True, walltime_s=1)
    assert run.end() == 143
    assert (run.record.exit_code, run.record.reason) == (143, "WALLTIME")
    assert not _marked(NAME, str(tmp_path))


def _marked(name: str, directory: str) -> list[str]:
    """Command lines of processes that carry a job's mark and work in that directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"AIRAVATA_JOB={name}".encode() in (process / "environ").read_bytes().split(b"\0")
            if marked and str((process / "cwd").readlink()) == directory:
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_no_watchdog_is_left_after_the_job(tmp_path: Path) -> None:
    run = start(tmp_path, "true", fork=True, walltime_s=86399, signal_before_end_s=0)
    assert run.end() == 0
    run.until(
        lambda: not subprocess.run(["pgrep", "-g", str(run.process.pid)], check=False, capture_output=True).stdout
    )


def test_only_one_process_of_a_job_runs_its_payload(tmp_path: Path) -> None:
    runs = [start(tmp_path, "sh", "-c", "echo ran >>count", fork=True) for _ in range(3)]
    assert [run.end() for run in runs] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "ran\n"
