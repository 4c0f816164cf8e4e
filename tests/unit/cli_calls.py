"""Commands through Airflow's own parser, for tests: its database is played, the job store is real."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.cli.cli_config import DefaultHelpParser
from airflow.cli.cli_parser import AirflowHelpFormatter, _add_command

from airavata_provider import cli_commands, runs
from airavata_provider.cli import get_airavata_cli_commands
from airavata_provider.deployment import Deployment, get_deployment
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.identity import birth
from airavata_provider.models.job import Job
from airavata_provider.settings import get_settings

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)

CATALOG = """\
compute_resources:
  here: {connection: c, scheduler: fork, scratch: /tmp}
storage_resources:
  files: {type: local, root: /data}
applications:
  echo:
    pattern: hpc_batch
    inputs: {message: {type: STRING, required: true}}
    deployments:
      here: {executable: echo}
"""
EXPERIMENT = "application: echo\ninputs: {message: hi}\n"


def make_run(state: str = "running", **kwargs: Any) -> runs.Run:
    values: dict[str, Any] = {
        "dag_id": "hpc_batch",
        "id": "e1",
        "state": state,
        "conf": {"application": "echo"},
        "note": "",
        "run_after": NOW,
        "queued_at": NOW,
        "started_at": NOW,
        "ended_at": NOW + timedelta(seconds=8) if state in runs.FINISHED else None,
        "tasks": (runs.AirflowTask("submit", -1, state, 1, NOW, None),),
    }
    return runs.Run(**(values | kwargs))


def make_job(**kwargs: Any) -> Job:
    values: dict[str, Any] = {
        "name": "ajob",
        "born": birth(NOW),
        "dag_id": "hpc_batch",
        "experiment_id": "e1",
        "task_id": "submit",
        "map_index": -1,
        "attempt": 1,
        "resource": "here",
        "directory": "/tmp/e1",
    }
    return Job(**(values | kwargs))


class Airflow:
    """Airflow's database, played by a list of what a run looks like at each look."""

    def __init__(self) -> None:
        self.looks: list[runs.Run] = [make_run("success")]
        self.created: list[Any] = []
        self.failed: list[str] = []
        self.between = False

    def create_run(self, resolved: Any, *, via: str, by: str | None) -> runs.Run:
        if self.created and self.created[-1].experiment.id == resolved.experiment.id:
            raise runs.ExperimentExists("is there already")
        self.created.append(resolved)
        return make_run("queued", id=resolved.experiment.id or "made")

    def read_run(self, dag_id: str, experiment_id: str) -> runs.Run | None:
        if experiment_id == "nobody":
            return None
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def fail_run(self, dag_id: str, experiment_id: str, *, by: str, between: bool = False) -> bool:
        self.failed.append(experiment_id)
        self.between = between
        return True


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    fake = Airflow()
    for name in ("create_run", "read_run", "fail_run"):
        monkeypatch.setattr(runs, name, getattr(fake, name))
    monkeypatch.setattr(runs, "dags_with_run", lambda experiment_id: ["hpc_batch"])
    monkeypatch.setattr(cli_commands, "LOOK_S", 0.0)
    # The commands' entries in Airflow's audit log need its database.
    monkeypatch.setattr("airflow.utils.cli_action_loggers.on_pre_execution", lambda **_: None)
    monkeypatch.setattr("airflow.utils.cli_action_loggers.on_post_execution", lambda **_: None)
    monkeypatch.setattr("airflow.utils.db.check_and_run_migrations", lambda: None)
    monkeypatch.setattr("airflow.utils.db.synchronize_log_template", lambda: None)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    return tmp_path


@pytest.fixture(autouse=True)
def deployment(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """A deployment of the test's own, its job store in the test's folder."""
    own = folder / "own"
    own.mkdir()
    (own / "catalog.yaml").write_text(CATALOG)
    monkeypatch.setenv("AIRFLOW__AIRAVATA__CATALOG_FOLDERS", str(own))
    monkeypatch.setenv("AIRFLOW__AIRAVATA__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/jobs.db")
    get_settings.cache_clear()
    get_deployment.cache_clear()
    in_store(lambda store: store.create_tables())
    yield get_deployment()
    get_settings.cache_clear()
    get_deployment.cache_clear()


def in_store(work: Any) -> Any:
    async def whole() -> Any:
        store = JobStore(get_settings().sql_alchemy_conn)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(whole())


def call(*words: str) -> int:
    """Run a command as Airflow's parser does; its exit code."""
    parser = DefaultHelpParser(prog="airflow", formatter_class=AirflowHelpFormatter)
    subparsers = parser.add_subparsers(dest="subcommand")
    for command in get_airavata_cli_commands():
        _add_command(subparsers, command)
    args = parser.parse_args(["airavata", *words])
    try:
        args.func(args)
    except SystemExit as error:
        return int(error.code or 0)
    return 0
