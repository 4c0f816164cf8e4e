"""A real Airflow of its own folder, ports and databases, for end-to-end tests, the bench and the demo.

Each component is a separate process with its log in ``<home>/logs-of-components``, so each can be killed
and started again by itself. Everything listens on loopback. What belongs to an instance is told by its
environment (``AIRFLOW_HOME``), never by a name: stopping finds each descendant, whoever its parent is by now,
and nobody else's process.

The instance is told everything by environment variables; nothing outside its folder is read or written.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil

from tests.airflow_rest import AirflowError, AirflowREST

TUNED: Mapping[str, str] = {
    "AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE": "500",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
    "AIRFLOW__TRIGGERER__MAX_TRIGGER_TO_SELECT_PER_LOOP": "500",
    "AIRFLOW__TRIGGERER__CAPACITY": "10000",
    "AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG": "10000",
}
"""Settings for many short runs at once: what a deployment that serves thousands of experiments would set."""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def processes_of(home: Path) -> Iterator[psutil.Process]:
    """Every process that was started with that ``AIRFLOW_HOME``, but this one and its ancestors."""
    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in spared and _is_of(process, home):
                yield process


def _is_of(process: psutil.Process, home: Path) -> bool:
    if process.environ().get("AIRFLOW_HOME") == str(home):
        return True
    # Those that give themselves a title write it over their environment (setproctitle): they run where they began.
    return " ".join(process.cmdline()).startswith("airflow ") and Path(process.cwd()) == home


def kill_leftovers(home: Path) -> int:
    """End what an earlier, killed instance in that folder left running; how many processes that were."""
    found = list(processes_of(home))
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, timeout=10)
    return len(found)


def sqlalchemy_url(url: str) -> str:
    """Airflow's spelling of a ``postgresql://`` URL."""
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


class AirflowInstance(AirflowREST):
    """One Airflow: scheduler, triggerers, DAG processor, API server.

    :param home: its folder, made when absent
    :param database_url: ``postgresql://…`` for Airflow's own tables; None for SQLite in ``home``
    :param airavata_url: the same for this provider's tables; None for SQLite in ``home``
    :param connections: Airflow Connections by id, as Airflow's JSON form of them
    :param settings: further environment variables (``AIRFLOW__SECTION__OPTION``)
    :param dags_folder: served by a second bundle, for hand-written DAGs
    :param patterns: whether the patterns' bundle is configured
    :param triggerers: how many
    :param patient: components with a low CPU priority
    :param log_level: of all components
    """

    user = "admin"

    def __init__(
        self,
        home: Path,
        *,
        database_url: str | None = None,
        airavata_url: str | None = None,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        settings: Mapping[str, str] | None = None,
        dags_folder: Path | None = None,
        patterns: bool = True,
        triggerers: int = 1,
        patient: Collection[str] = (),
        log_level: str = "INFO",
    ) -> None:
        self.home = home.resolve()
        self.home.mkdir(parents=True, exist_ok=True)
        self.log_folder = self.home / "logs-of-components"
        self.log_folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.password = secrets.token_urlsafe(12)
        self.environment = self._environment(database_url, airavata_url, log_level)
        self._bundles(dags_folder, patterns)
        for name, connection in (connections or {}).items():
            self.environment[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(connection)
        self.environment.update(settings or {})
        self.commands: dict[str, list[str]] = {
            "api-server": ["api-server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"],
            "dag-processor": ["dag-processor"],
            "scheduler": ["scheduler", "--skip-serve-logs"],
        }
        for number in range(1, triggerers + 1):
            name = "triggerer" if number == 1 else f"triggerer-{number}"
            self.commands[name] = ["triggerer", "--skip-serve-logs"]
        self._patient = patient
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, IO[bytes]] = {}

    # -- configuration ---------------------------------------------------------------------------------------

    def _environment(self, database_url: str | None, airavata_url: str | None, level: str) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "PYTEST_"))}
        passwords = self.home / "passwords.json"
        passwords.write_text(json.dumps({self.user: self.password}))
        passwords.chmod(0o600)
        database = sqlalchemy_url(database_url) if database_url else f"sqlite:///{self.home}/airflow.db"
        return {
            **inherited,
            # the commands beside this interpreter come first, for tasks that call `airflow`
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}",
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.home / "dags"),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{self.user}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(self.home / "bundles"),
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": level,
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW__AIRAVATA__SQL_ALCHEMY_CONN": airavata_url or f"sqlite:///{self.home}/airavata.db",
            "AIRFLOW__AIRAVATA__WEBHOOK_BASE_URL": self.url,
        }

    def _bundles(self, dags_folder: Path | None, patterns: bool) -> None:
        bundles: list[dict[str, Any]] = []
        if patterns:
            bundles.append({"name": "airavata", "classpath": "dag_factories.bundle.PatternBundle", "kwargs": {}})
        if dags_folder is not None:
            local = "airflow.dag_processing.bundles.local.LocalDagBundle"
            bundles.append({"name": "dags", "classpath": local, "kwargs": {"path": str(dags_folder)}})
        self.environment["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"] = json.dumps(bundles)

    # -- processes -------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, timeout: float = 240) -> Self:
        """Make the tables, start every component, wait until Airflow calls them all healthy."""
        self.migrate()
        self.launch_all()
        self.wait_healthy(timeout=timeout)
        return self

    def migrate(self) -> None:
        """Make Airflow's tables and the provider's."""
        self.cli("db", "migrate")

    def launch_all(self) -> None:
        """Start every component, and wait for none."""
        for name in self.commands:
            self.launch(name)

    def launch(self, name: str) -> None:
        """Start one component (again)."""
        log = self._logs.get(name)
        if log is None:
            log = self._logs[name] = (self.log_folder / f"{name}.log").open("ab")
        priority = ["nice", "-n", "15"] if name in self._patient else []
        self._running[name] = subprocess.Popen(
            [*priority, *self._airflow(*self.commands[name])],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if name in self._patient:
            # Where the kernel shares the CPU out by sessions (sched(7), autogroup), a process alone says little.
            with contextlib.suppress(OSError):
                Path(f"/proc/{self._running[name].pid}/autogroup").write_text("15")

    def kill(self, name: str) -> None:
        """``kill -9`` one component with all its descendants, as a lost machine would."""
        component = psutil.Process(self._running[name].pid)
        doomed = [component, *component.children(recursive=True)]
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(doomed, timeout=10)
        self._running.pop(name).wait()

    def component_of(self, pid: int) -> str:
        """The component that a process belongs to.

        :raises AirflowError: none of this instance's
        """
        for name, started in self._running.items():
            component = psutil.Process(started.pid)
            if pid in (component.pid, *(child.pid for child in component.children(recursive=True))):
                return name
        raise AirflowError(f"process {pid} belongs to no component")

    def restart(self, name: str) -> None:
        """:meth:`kill`, then :meth:`launch`."""
        self.kill(name)
        self.launch(name)

    def stop(self) -> None:
        """End every process of this instance, politely at first."""
        self.close()
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + 8
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
        kill_leftovers(self.home)
        for process in self._running.values():
            process.wait()
        self._running.clear()
        for log in self._logs.values():
            log.close()
        self._logs.clear()

    def check_alive(self) -> None:
        """:raises AirflowError: a component ended by itself; carries the end of its log"""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise AirflowError(f"{name} ended: {self.component_log(name)[-3000:]}")

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds so far by component, descendants that ended and were waited for included."""
        used: dict[str, float] = {}
        for name, started in self._running.items():
            total = 0.0
            with contextlib.suppress(psutil.NoSuchProcess):
                component = psutil.Process(started.pid)
                for process in [component, *component.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        total += sum(process.cpu_times()[:4])
            used[name] = total
        return used

    def _airflow(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "airflow", *arguments]

    def cli(self, *arguments: str, check: bool = True, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """``airflow ARGUMENTS`` in this instance's environment.

        :raises AirflowError: it failed and ``check`` is set; carries what it printed
        """
        done = subprocess.run(
            self._airflow(*arguments),
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AirflowError(f"airflow {' '.join(arguments)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done

    def component_log(self, name: str) -> str:
        """What a component has written to its streams."""
        path = self.log_folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""
