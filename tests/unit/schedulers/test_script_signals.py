"""A job script that is told to stop, or that its walltime is near; run by real shells."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from airavata_provider.schedulers.request import JobRequest, Signal
from airavata_provider.schedulers.script import write_script
from airavata_provider.schedulers.sge import Sge
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


LOOKS = """#!/bin/sh
case $1 in -lszxF) echo >>"{looks}";; esac
exec {grep} "$@"
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_where_nobody_is_left_nobody_is_looked_for_any_longer(tmp_path: Path, shell: str) -> None:
    """Who looks is not among those that are found."""
    commands, looks = tmp_path / "bin", tmp_path / "looks"
    commands.mkdir()
    (commands / "grep").write_text(LOOKS.format(looks=looks, grep=shutil.which("grep")))
    (commands / "grep").chmod(0o755)
    environment = {"PATH": f"{commands}:{os.environ['PATH']}"}
    run = start(tmp_path, "sh", "-c", "touch up; exec sleep 600", shell=shell, env=environment)
    run.until((tmp_path / "up").exists)
    run.process.terminate()
    assert run.end() == 143
    assert 2 <= len(looks.read_text()) < 20


@pytest.mark.parametrize("shell", SHELLS)
def test_a_stop_that_comes_while_the_payload_begins_reaches_it(tmp_path: Path, shell: str) -> None:
    control = tmp_path / ".airavata" / "ajob"
    control.mkdir(parents=True)
    payload = "trap 'echo told >told; exit 7' TERM; touch up; while :; do sleep 0.05; done"
    script = write_script(Sge(), JobRequest("ajob", str(tmp_path), "sh", ("-c", payload)), None, str(control))
    # It goes on there only when the signal was sent.
    held = script.replace("airavata_pid=$!\n", "until [ -e sent ]; do sleep 0.05; done\nairavata_pid=$!\n")
    assert held != script
    (control / "script").write_text(held)
    process = subprocess.Popen([shell, str(control / "script")], env={**os.environ, "JOB_ID": "7"})
    try:
        while not (tmp_path / "up").exists():
            time.sleep(0.01)
        process.terminate()
        while int(_proc_mask(process.pid, "ShdPnd"), 16):
            time.sleep(0.01)
        (tmp_path / "sent").touch()
        assert process.wait(300) == 7
    finally:
        process.kill()
    assert (tmp_path / "told").exists()


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


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("asked", Signal)
def test_the_notice_is_the_signal_that_was_asked_for(tmp_path: Path, shell: str, asked: Signal) -> None:
    payload = WAITER.format(asked)
    # Under nohup no shell could trap it.
    habit = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        run = start(tmp_path, "sh", "-c", payload, shell=shell, signal=asked, signal_before_end_s=300)
    finally:
        signal.signal(signal.SIGHUP, habit)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    assert run.end() == 7
    assert (tmp_path / "got").read_text() == "got\n"
    # It is not the job's end that was asked for.
    assert (run.record.exit_code, run.record.reason) == (7, "")


BLOCKER = """
import pathlib, signal, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
pathlib.Path("up").touch()
while signal.SIGUSR2 not in signal.sigpending():
    time.sleep(0.05)
sys.exit(7)
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_payload_that_blocks_the_signal_gets_it(tmp_path: Path, shell: str) -> None:
    run = start(tmp_path, sys.executable, "-c", BLOCKER, shell=shell, signal=Signal.USR2)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    assert run.end() == 7


STARTER = """
import pathlib, signal, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
pathlib.Path("up").touch()
while not pathlib.Path("looked").exists():
    time.sleep(0.05)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
pathlib.Path("free").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.05)
sys.exit(4)
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_notice_does_not_kill_a_payload_that_blocks_it_for_a_moment(tmp_path: Path, shell: str) -> None:
    """As a shell does whenever it starts a program."""
    commands = tmp_path / "bin"
    commands.mkdir()
    # What the script does between two looks.
    sleep = f"touch {tmp_path}/looked; until [ -e {tmp_path}/free ]; do {shutil.which('sleep')} 0.05; done"
    (commands / "sleep").write_text(f"#!/bin/sh\n{sleep}\n")
    (commands / "sleep").chmod(0o755)
    environment = {"PATH": f"{commands}:{os.environ['PATH']}"}
    run = start(tmp_path, sys.executable, "-c", STARTER, shell=shell, signal_before_end_s=300, env=environment)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    run.until(lambda: "SIGUSR1 is not sent" in (run.control / "log").read_text())
    (tmp_path / "go").touch()
    assert run.end() == 4


@pytest.mark.parametrize("shell", SHELLS)
def test_a_signal_that_would_kill_is_not_sent_and_the_log_says_so(tmp_path: Path, shell: str) -> None:
    # A shell blocks signals while it starts a program: this one starts none.
    payload = "trap : USR1; mkfifo go; touch up; read _ <go; exit 4"
    run = start(tmp_path, "sh", "-c", payload, shell=shell, signal=Signal.TERM)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    run.until(lambda: "SIGTERM is not sent" in (run.control / "log").read_text())
    (tmp_path / "go").write_text("\n")
    assert run.end() == 4
    assert (run.record.exit_code, run.record.reason) == (4, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_launcher_gets_the_signal_that_was_asked_for(tmp_path: Path, shell: str) -> None:
    payload = WAITER.format("USR1")
    run = start(tmp_path, "sh", "-c", payload, shell=shell, launcher=("env",), signal_before_end_s=300)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    assert run.end() == 7


def test_a_stop_after_the_notice_is_the_walltimes(tmp_path: Path) -> None:
    run = start(tmp_path, "sh", "-c", "mkfifo go; touch up; read _ <go", signal_before_end_s=60)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    # Signals of different kinds may be taken in any order.
    run.until(lambda: "SIGUSR1 is not sent" in (run.control / "log").read_text())
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143
    assert run.record.reason == "WALLTIME"


def test_a_stop_long_before_the_end_is_not_the_walltimes(tmp_path: Path) -> None:
    payload = "trap 'touch noticed' USR1; touch up; while :; do sleep 0.05; done"
    run = start(tmp_path, "sh", "-c", payload, signal_before_end_s=3600)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    run.until((tmp_path / "noticed").exists)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143
    assert run.record.reason == "SIGNAL TERM"


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
    run.until(lambda: not _marked(NAME, str(tmp_path)))


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


@pytest.mark.parametrize("shell", SHELLS)
def test_a_run_that_its_scheduler_lost_says_nothing_of_its_end(tmp_path: Path, shell: str) -> None:
    """On a node that was cut off; it is told to stop when the node is back."""
    payload = "echo $$ >>pids; while [ ! -e go ]; do sleep 0.05; done"
    post = ("echo post >>posts",)
    lost = start(tmp_path, "sh", "-c", payload, shell=shell, post_commands=post)
    lost.until((tmp_path / "pids").exists)
    run = start(tmp_path, "sh", "-c", payload, shell=shell, restart=1, post_commands=post)
    run.until(lambda: len((tmp_path / "pids").read_text().split()) == 2)
    lost.process.terminate()
    assert lost.end() == 143
    assert not (run.control / "exit").exists()
    (tmp_path / "go").touch()
    assert run.end() == 0
    assert (run.record.exit_code, run.record.restart) == (0, 1)
    assert (tmp_path / "posts").read_text() == "post\n"


@pytest.mark.parametrize("started", ["", "42", "43 0", "42 1"])
def test_only_a_later_run_of_the_same_job_takes_its_end_from_it(tmp_path: Path, started: str) -> None:
    """Somebody may run the script by hand, or an earlier run may write its start late."""
    control = tmp_path / ".airavata" / NAME
    run = start(tmp_path, "sh", "-c", f"echo '{started}' >{control}/started", restart=2)
    assert run.end() == 0
    assert (run.record.native_id, run.record.restart) == ("42", 2)


def test_a_lost_runs_status_is_none_that_its_scheduler_would_act_on(tmp_path: Path) -> None:
    control = tmp_path / ".airavata" / "ajob"
    control.mkdir(parents=True)
    request = JobRequest("ajob", str(tmp_path), "sh", ("-c", f"echo 7 3 >{control}/started; exit 99"))
    script = write_script(Sge(), request, None, str(control))
    ended = subprocess.run(["sh"], input=script, text=True, check=False, env={**os.environ, "JOB_ID": "7"})
    assert ended.returncode == 1
    assert not (control / "exit").exists()
