"""Experiments over HTTP: who may, what is answered; Airflow's database played by a list."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from airavata_provider import runs
from airavata_provider.deployment import Deployment
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.identity import birth
from airavata_provider.models.job import Job, JobState
from airavata_provider.models.outcome import ADVICE, Outcome
from airavata_provider.plugin.door import BODY_LIMIT

with warnings.catch_warnings():
    # Airflow's web parts import libraries that warn about each other.
    warnings.simplefilter("ignore")
    from airflow.api_fastapi.core_api.security import get_user

    from airavata_provider.plugin import experiments

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
GOOD = {"id": "e1", "application": "echo", "inputs": {"message": "hi"}}


class World:
    """Airflow and the job store around the router."""

    def __init__(self, store: JobStore, client: httpx.AsyncClient) -> None:
        self.store = store
        self.client = client
        self.runs: dict[str, runs.Run] = {}
        self.allowed = True
        self.between = False

    def create_run(self, resolved: Any, *, via: str, by: str | None) -> runs.Run:
        experiment_id = resolved.experiment.id
        if experiment_id in self.runs:
            raise runs.ExperimentExists(f"there is {experiment_id} already")
        run = runs.Run(resolved.pattern, experiment_id, "queued", {}, "", NOW, NOW, None, None, ())
        self.runs[experiment_id] = run
        return run

    def read_run(self, dag_id: str, experiment_id: str) -> runs.Run | None:
        return self.runs.get(experiment_id)

    def fail_run(self, dag_id: str, experiment_id: str, *, by: str, between: bool = False) -> bool:
        self.between = between
        run = self.runs[experiment_id]
        self.runs[experiment_id] = runs.Run(
            run.dag_id, run.id, "failed", {}, f"{runs.CANCEL_NOTE}{by}", NOW, NOW, None, NOW, ()
        )
        return True


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    app = FastAPI()
    app.include_router(experiments.router)
    app.dependency_overrides[get_user] = lambda: SimpleNamespace(get_name=lambda: "ada")
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    await store.create_tables()
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        world = World(store, client)
        for name in ("create_run", "read_run", "fail_run"):
            monkeypatch.setattr(runs, name, getattr(world, name))
        monkeypatch.setattr(experiments, "get_deployment", lambda: Deployment((tmp_path,), ()))
        monkeypatch.setattr(experiments, "user_may", lambda user, method, dag_id: world.allowed)
        monkeypatch.setattr("airavata_provider.jobs.store.get_store", lambda: store)
        manager = SimpleNamespace(is_authorized_dag=lambda **_: world.allowed)
        monkeypatch.setattr("airflow.api_fastapi.core_api.security.get_auth_manager", lambda: manager)
        monkeypatch.setattr("airflow.models.dag.DagModel.get_team_name", lambda dag_id: None)
        yield world
    await store.close()


async def test_submit(world: World) -> None:
    answer = await world.client.post("/experiments", json=GOOD)
    assert answer.status_code == 201
    assert answer.json() == {"id": "e1", "dag_id": "hpc_batch", "state": "SCHEDULED"}
    assert (await world.client.post("/experiments", json=GOOD)).status_code == 409


async def test_submit_refuses_with_every_fault(world: World) -> None:
    answer = await world.client.post("/experiments", json={"application": "nope", "nodes": "x"})
    assert answer.status_code == 400
    assert {fault["where"] for fault in answer.json()["faults"]} == {"application", "nodes"}
    assert world.runs == {}


async def test_who_may_not(world: World) -> None:
    world.allowed = False
    assert (await world.client.post("/experiments", json=GOOD)).status_code == 403
    assert world.runs == {}
    assert (await world.client.get("/experiments/hpc_batch/e1")).status_code == 403
    assert (await world.client.post("/experiments/hpc_batch/e1/cancel")).status_code == 403


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"[]", "application/json", 400),
        (b"{", "application/json; charset=utf-8", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b" " * (BODY_LIMIT + 1), "application/json", 413),
    ],
)
async def test_other_bodies_are_refused(world: World, content: bytes, kind: str, status: int) -> None:
    answer = await world.client.post("/experiments", content=content, headers={"content-type": kind})
    assert answer.status_code == status


async def test_look(world: World) -> None:
    assert (await world.client.get("/experiments/hpc_batch/e1")).status_code == 404
    await world.client.post("/experiments", json=GOOD)
    report = (await world.client.get("/experiments/hpc_batch/e1")).json()
    assert report["state"] == "SCHEDULED"
    assert (report["tasks"], report["jobs"], report["outputs"]) == ([], [], {})


async def test_look_tells_outcomes_with_advice(world: World) -> None:
    await world.client.post("/experiments", json=GOOD)
    ends: dict[str, dict[str, Any]] = {
        "memory": {"state": JobState.FAILED, "outcome": Outcome.OUT_OF_MEMORY, "ended_at": NOW},
        "unnamed": {"state": JobState.FAILED, "exit_code": 3, "ended_at": NOW},
        "held": {"state": JobState.QUEUED, "outcome": Outcome.HELD},
        "waiting": {"state": JobState.QUEUED},
        "done": {"state": JobState.COMPLETE, "outcome": Outcome.COMPLETED, "ended_at": NOW},
    }
    for name, values in ends.items():
        await world.store.intend(Job(name, "hpc_batch", "e1", name, -1, 1, "here", "/tmp", born=birth(NOW), **values))
    report = (await world.client.get("/experiments/hpc_batch/e1")).json()
    assert {job["name"]: (job["outcome"], job["advice"]) for job in report["jobs"]} == {
        "memory": ("OUT_OF_MEMORY", ADVICE[Outcome.OUT_OF_MEMORY]),
        "unnamed": ("FAILED", ADVICE[Outcome.FAILED]),
        "held": ("HELD", ADVICE[Outcome.HELD]),
        "waiting": (None, None),
        "done": ("COMPLETED", None),
    }


async def test_cancel_fails_the_run_and_records_the_jobs_end(world: World) -> None:
    await world.client.post("/experiments", json=GOOD)
    job = Job("ajob", "hpc_batch", "e1", "submit", -1, 1, "here", "/tmp/e1", born=birth(NOW), submitting_at=NOW)
    await world.store.intend(job)
    answer = await world.client.post("/experiments/hpc_batch/e1/cancel")
    assert answer.status_code == 202
    assert answer.json()["state"] == "CANCELING"
    assert [each.cancel_requested_by for each in await world.store.cancel_requests()] == ["ada"]
    await world.store.canceled("ajob")
    assert (await world.client.get("/experiments/hpc_batch/e1")).json()["state"] == "CANCELED"


async def test_an_experiment_between_its_runs_is_one_that_runs(world: World) -> None:
    first = runs.Run("hpc_batch", "e1", "success", {}, "", NOW, NOW, NOW, NOW, ())
    world.runs["e1"] = first
    job = Job("ajob", "hpc_batch", "e1", "submit", -1, 1, "here", "/tmp/e1", born=birth(NOW), submitting_at=NOW)
    await world.store.intend(job)
    known = await world.store.handovers.wait("hpc_batch", "e1", birth(NOW), "submit", 1)
    report = (await world.client.get("/experiments/hpc_batch/e1")).json()
    assert (report["state"], report["over"], report["ended_at"]) == ("EXECUTING", False, None)
    assert report["second_run"] == {"dag_id": None, "state": "WAITING"}
    answer = await world.client.post("/experiments/hpc_batch/e1/cancel")
    assert (answer.json()["state"], answer.json()["over"], world.between) == ("CANCELING", True, True)
    # The same when its second run is there, whose end is the experiment's.
    await world.store.handovers.started(known)
    world.runs["e1"] = replace(first, state="running", ended_at=None, second_dag_id="hpc_batch__after")
    report = (await world.client.get("/experiments/hpc_batch/e1")).json()
    assert report["second_run"] == {"dag_id": "hpc_batch__after", "state": "STARTED"}
    await world.client.post("/experiments/hpc_batch/e1/cancel")
    assert world.between is False


async def test_without_a_user_nothing_is_answered(world: World) -> None:
    app = FastAPI()
    app.include_router(experiments.router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        assert (await client.post("/experiments", json=GOOD)).status_code == 401
        assert (await client.get("/experiments/hpc_batch/e1")).status_code == 401
        assert (await client.post("/experiments/hpc_batch/e1/cancel")).status_code == 401
    assert world.runs == {}
