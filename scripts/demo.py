"""One experiment from end to end on this machine alone: what ``make demo`` runs.

Airflow on SQLite and an SSH server on loopback with fresh keys, both on free ports, both in ``.demo`` of the
project; the experiment, the catalog and the code are the real ones. Nothing outside that folder is written.

A run that was killed leaves processes behind; the next one finds them by their environment and ends them first.
With a terminal everything stays up until Ctrl-C. The exit status is 0 only when the experiment completed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import psutil

from tests.airflow_instance import AirflowInstance, kill_leftovers
from tests.airflow_rest import AirflowError
from tests.bed import PROJECT

FOLDER = PROJECT / ".demo"
MARK = FOLDER / "made-by-airavata-demo"
EXPERIMENT = PROJECT / "examples" / "experiments" / "wordcount.yaml"
CATALOG = PROJECT / "examples" / "catalog"
PATTERN = "hpc_batch"


class DemoError(Exception):
    """The demo cannot go on; the text is for the person at the terminal."""


class Clock:
    """Says what is going on, and remembers how long each part took."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        print(f"{name} …", flush=True)
        started = time.monotonic()
        yield
        self.parts.append((name, time.monotonic() - started))


def lock_file() -> IO[str]:
    """The demo's folder and the lock on it; an earlier demo that still holds it is asked to end.

    :raises DemoError: the folder is somebody else's, or the earlier demo does not end
    """
    if FOLDER.exists() and not MARK.exists() and any(FOLDER.iterdir()):
        raise DemoError(f"{FOLDER} exists and is not the demo's; move it away")
    FOLDER.mkdir(exist_ok=True)
    lock = MARK.open("a+")
    for attempt in range(60):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt == 0:
                _end_earlier(lock)
            time.sleep(0.5)
    else:
        raise DemoError("an earlier demo is still running and does not end; end it with Ctrl-C")
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _end_earlier(lock: IO[str]) -> None:
    lock.seek(0)
    with contextlib.suppress(ValueError, psutil.Error):
        earlier = psutil.Process(int(lock.read()))
        if "scripts.demo" in earlier.cmdline() and Path(earlier.cwd()) == PROJECT:
            print(f"ending the demo that is still up (process {earlier.pid})", flush=True)
            earlier.terminate()


def clear() -> None:
    """An empty folder, and no process of an earlier run."""
    if ended := kill_leftovers(FOLDER / "airflow"):
        print(f"ended {ended} processes that an earlier demo left behind", flush=True)
    for entry in FOLDER.iterdir():
        if entry == MARK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    for name in ("storage", "scratch", "home"):
        (FOLDER / name).mkdir()


def start_ssh() -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """The SSH server, and where it is."""
    command = [sys.executable, "-m", "airavata_provider.testing"]
    with (FOLDER / "ssh-server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--state", str(FOLDER / "ssh"), "--home", str(FOLDER / "home")],
            cwd=PROJECT,
            # marks it, and the jobs that it starts, as this demo's
            env=os.environ | {"AIRFLOW_HOME": str(FOLDER / "airflow")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise DemoError(f"the SSH server does not start: {(FOLDER / 'ssh-server.log').read_text()}")
    address: dict[str, Any] = json.loads(line)
    return server, address


def make_airflow(ssh: Mapping[str, Any]) -> AirflowInstance:
    """Airflow with the examples' catalog and a connection to that server; its host key is checked."""
    connection = {
        "conn_type": "ssh",
        "host": ssh["host"],
        "port": ssh["port"],
        "login": ssh["user"],
        "extra": {"key_file": ssh["key"], "known_hosts": ssh["known_hosts"]},
    }
    return AirflowInstance(
        FOLDER / "airflow",
        connections={"airavata_demo": connection},
        settings={"AIRFLOW__AIRAVATA__CATALOG_FOLDERS": str(CATALOG)},
    )


def submit(airflow: AirflowInstance) -> dict[str, Any]:
    """Submit the experiment and show each task as it happens; the report at the end.

    :raises DemoError: it did not complete
    """
    command = ["airavata", "submit", str(EXPERIMENT), "--wait", "--output", "json"]
    print(f"$ airflow airavata submit {EXPERIMENT.relative_to(PROJECT)} --wait", flush=True)
    with subprocess.Popen(
        [sys.executable, "-m", "airflow", *command],
        env=airflow.environment,
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        answer = process.stdout.read()
    start = answer.find("{\n")
    if process.returncode and start >= 0:
        raise DemoError(_faults(json.loads(answer[start:])))
    if process.returncode:
        raise DemoError(f"the experiment did not complete (exit status {process.returncode})\n{answer[-3000:]}")
    report: dict[str, Any] = json.loads(answer[start:])
    return report


def _faults(report: Mapping[str, Any]) -> str:
    lines = [f"the experiment ended {report['state']}"]
    lines += [f"  {task['id']}: {task['error']}" for task in report["tasks"] if task["error"]]
    lines += [f"  job {job['name']}: {job['state']} {job['reason']}" for job in report["jobs"]]
    return "\n".join([*lines, f"Logs: {FOLDER / 'airflow'}"])


def show_outputs(report: Mapping[str, Any]) -> None:
    """Each output file with its content.

    :raises DemoError: there is none, or one that is not where the report says
    """
    if not report["outputs"]:
        raise DemoError("the experiment completed, but its report names no output")
    for name, address in report["outputs"].items():
        for each in address if isinstance(address, list) else [address]:
            path = FOLDER / "storage" / unquote(str(each).removeprefix("storage://demo_outputs/"))
            if not path.is_file():
                raise DemoError(f"the output {name} is not at {path}")
            print(f"\n{name}: {path.relative_to(PROJECT)}")
            print("".join(f"    {line}\n" for line in path.read_text().splitlines()), end="")


def show_times(report: Mapping[str, Any], clock: Clock) -> None:
    """How long each part took, the tasks by the provider's own records."""
    print("\nHow long it took, seconds")
    for name, seconds in clock.parts:
        print(f"  {name:40}{seconds:7.1f}")
    for task in report["tasks"]:
        print(f"    inside {task['id']:33}{_between(task['started_at'], task['ended_at']):7.2f}")


def _between(start: str | None, end: str | None) -> float:
    if start is None or end is None:
        return 0.0
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def show_ui(airflow: AirflowInstance, report: Mapping[str, Any]) -> None:
    """Where to look at it."""
    print(f"\nAirflow's UI: {airflow.url}/dags/{report['dag_id']}/runs/{report['id']}")
    print(f"Login: {airflow.user}   password: {airflow.password}")


def demo() -> None:
    """Everything, in order; ends what it started, whatever happens."""
    clock = Clock()
    server: subprocess.Popen[str] | None = None
    airflow: AirflowInstance | None = None
    try:
        with clock.part("Starting an SSH host on loopback"):
            server, ssh = start_ssh()
        airflow = make_airflow(ssh)
        with clock.part("Making the tables"):
            airflow.migrate()
        with clock.part("Starting Airflow"):
            airflow.launch_all()
            airflow.wait_healthy(timeout=240)
        with clock.part(f"Waiting for the pattern {PATTERN}"):
            airflow.wait_for_dag(PATTERN, timeout=180)
        with clock.part("Running the experiment"):
            report = submit(airflow)
        show_outputs(report)
        show_times(report, clock)
        show_ui(airflow, report)
        if sys.stdin.isatty() and sys.stdout.isatty():
            print("\nIt stays up. Ctrl-C ends it.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1)
                    airflow.check_alive()
            print("\nending", flush=True)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
        if airflow is not None:
            airflow.stop()
        if server is not None:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=5)
            server.kill()
        kill_leftovers(FOLDER / "airflow")


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the demo; the exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    try:
        with lock_file():
            clear()
            demo()
    except (DemoError, AirflowError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
