"""The door: refuses bad experiments, completes good ones, and lets everything else pass untouched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from airavata_provider.deployment import Deployment
from airavata_provider.errors import CatalogError, ExperimentRefused, Fault
from airavata_provider.models.experiment import Experiment
from airavata_provider.plugin.door import BODY_LIMIT, ExperimentDoor

ROUTE = "/api/v2/dags/hpc_batch/dagRuns"
NEVER = "2030-01-01T00:00:00+00:00"


class KnownDeployment(Deployment):
    """Knows one pattern; accepts every application but ``nope``."""

    def __init__(self) -> None:
        super().__init__((), ())
        self.broken = False
        self.asked: list[tuple[str | None, str | None]] = []

    @property
    def patterns(self) -> frozenset[str]:
        return frozenset({"hpc_batch"})

    def check(self, conf: Any, *, experiment_id: str | None, dag_id: str | None = None) -> Any:
        self.asked.append((experiment_id, dag_id))
        if self.broken:
            raise CatalogError("the catalog has faults", [Fault("/secret/path.yaml:1", "no")])
        experiment = Experiment.from_conf(conf, experiment_id=experiment_id)
        if experiment.application == "nope":
            faults = [Fault("application", "no application 'nope'"), Fault("queue", "no queue 'q'")]
            raise ExperimentRefused("experiment cannot run", faults)

        class Resolved:
            pass

        resolved: Any = Resolved()
        resolved.experiment = experiment
        return resolved


class Behind:
    """What is behind the door: notes what reaches it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.lengths: list[str | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.bodies.append(await request.body())
        self.lengths.append(request.headers.get("content-length"))
        await JSONResponse({"passed": True})(scope, receive, send)

    @property
    def last(self) -> Any:
        return json.loads(self.bodies[-1])


class Set:
    """A door between a client and what is behind."""

    def __init__(self) -> None:
        self.behind = Behind()
        self.deployment = KnownDeployment()
        self.authorised = True

        async def authorise(request: Request, dag_id: str) -> bool:
            return self.authorised

        self.door = ExperimentDoor(self.behind, deployment=self.deployment, authorise=authorise)

    async def post(self, body: Any, path: str = ROUTE, **kwargs: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        transport = httpx.ASGITransport(app=self.door, **kwargs)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, content=content, headers=headers)


@pytest.fixture
def at() -> Iterator[Set]:
    yield Set()


async def test_nobody_makes_second_runs(at: Set) -> None:
    route = ROUTE.replace("hpc_batch", "hpc_batch__after")
    answer = await at.post({"conf": {}}, route)
    assert answer.status_code == 400
    assert "second run of hpc_batch" in answer.json()["detail"]
    # Airflow answers whoever is not let in; and what is somebody else's DAG.
    at.authorised = False
    assert (await at.post({"conf": {}}, route)).json() == {"passed": True}
    at.authorised = True
    assert (await at.post({}, ROUTE.replace("hpc_batch", "mine__after"))).json() == {"passed": True}


async def test_a_bad_experiment_is_refused_with_every_fault(at: Set) -> None:
    answer = await at.post({"conf": {"application": "nope"}})
    assert answer.status_code == 400
    assert answer.json()["detail"].splitlines() == [
        "experiment cannot run",
        "  application: no application 'nope'",
        "  queue: no queue 'q'",
    ]
    assert answer.json()["faults"][1] == {"where": "queue", "message": "no queue 'q'"}
    assert at.behind.bodies == []


async def test_a_good_one_is_completed(at: Set) -> None:
    answer = await at.post({"conf": {"id": "e1", "application": "echo", "not_before": NEVER}, "note": "ünï"})
    assert answer.json() == {"passed": True}
    assert at.behind.last == {
        "conf": {"id": "e1", "application": "echo", "not_before": NEVER},
        "note": "ünï",
        "logical_date": None,
        "dag_run_id": "e1",
        "run_after": NEVER,
    }
    assert at.behind.lengths == [str(len(at.behind.bodies[0]))]
    assert at.deployment.asked == [(None, "hpc_batch")]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, NEVER),
        ("2029-01-01T00:00:00Z", NEVER),
        ("2031-01-01T00:00:00Z", "2031-01-01T00:00:00Z"),
        ("soon", NEVER),
    ],
)
async def test_the_later_start_counts(at: Set, asked: str | None, expected: str) -> None:
    await at.post({"conf": {"application": "echo", "not_before": NEVER}, "run_after": asked})
    assert at.behind.last["run_after"] == expected


async def test_two_different_ids_are_refused(at: Set) -> None:
    answer = await at.post({"dag_run_id": "a", "conf": {"id": "b", "application": "echo"}})
    assert answer.status_code == 400
    assert "dag_run_id" in answer.json()["detail"]


async def test_no_conf_is_an_experiment_without_fields(at: Set) -> None:
    assert (await at.post({"logical_date": None})).status_code == 400
    assert (await at.post({"conf": None})).status_code == 400


async def test_who_may_not_trigger_learns_nothing(at: Set) -> None:
    at.authorised = False
    body = json.dumps({"conf": {"application": "nope"}}).encode()
    assert (await at.post(body)).json() == {"passed": True}
    assert at.behind.bodies == [body]
    assert at.deployment.asked == []


async def test_too_much_is_refused(at: Set) -> None:
    answer = await at.post(b"x" * (BODY_LIMIT + 1))
    assert answer.status_code == 413
    assert at.behind.bodies == []


@pytest.mark.parametrize(
    "body", [b"", b"[1", b"[]", b"7", b'"x"', b'{"conf": 5}', b'{"conf": {}, "dag_run_id": 5}', b"[" * 100_000]
)
async def test_what_is_no_request_is_airflows_to_answer(at: Set, body: bytes) -> None:
    assert (await at.post(body)).json() == {"passed": True}
    assert json.loads(at.behind.bodies[0]) == json.loads(body) if body[:1] == b"{" else True


@pytest.mark.parametrize(
    "path",
    [
        "/api/v2/dags/other/dagRuns",
        "/api/v2/dags/hpc_batch/dagRuns/list",
        "/api/v2/dags/hpc_batch/clearDagRuns",
        "/api/v2/dags/~/dagRuns",
        "/airavata/experiments",
        "/api/v2/dags/hpc_batch%2Fx/dagRuns",
    ],
)
async def test_other_routes_pass_untouched(at: Set, path: str) -> None:
    assert (await at.post(b'{"conf": {"application": "nope"}}', path)).json() == {"passed": True}
    assert at.behind.bodies == [b'{"conf": {"application": "nope"}}']


async def test_airflow_below_a_path(at: Set) -> None:
    body = {"conf": {"application": "nope"}}
    assert (await at.post(body, "/airflow" + ROUTE, root_path="/airflow")).status_code == 400
    assert (await at.post(body, ROUTE, root_path="/airflow")).status_code == 400


async def test_other_methods_and_websockets_pass(at: Set) -> None:
    transport = httpx.ASGITransport(app=at.door)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get(ROUTE)).json() == {"passed": True}


async def test_a_broken_catalog_is_not_the_callers_fault(at: Set, caplog: pytest.LogCaptureFixture) -> None:
    at.deployment.broken = True
    answer = await at.post({"conf": {"application": "echo"}})
    assert answer.status_code == 503
    assert "secret" not in answer.text
    assert "/secret/path.yaml" in caplog.text


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(max_size=200) | st.dictionaries(st.sampled_from(["conf", "dag_run_id", "run_after"]), st.text()))
async def test_no_body_makes_it_fail(body: Any) -> None:
    assert (await Set().post(body)).status_code in {200, 400}


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    return tmp_path


def test_a_deployment_tells_malformed_and_unknown_at_once(folder: Path) -> None:
    deployment = Deployment((folder,), ())
    conf = {"application": "nope", "nodes": "many", "compute_resource": "mars", "extra": 1}
    with pytest.raises(ExperimentRefused) as caught:
        deployment.check(conf, experiment_id="e1", dag_id="hpc_batch")
    assert {fault.where for fault in caught.value.faults} == {"application", "nodes", "compute_resource", "extra"}


def test_a_deployment_takes_the_pattern_that_was_chosen(folder: Path) -> None:
    deployment = Deployment((folder,), ())
    conf = {"application": "echo", "inputs": {"message": "hi"}}
    assert deployment.check(conf, experiment_id=None, dag_id="hpc_analysis").pattern == "hpc_analysis"
    assert deployment.check(conf, experiment_id=None).pattern == "hpc_batch"
    with pytest.raises(ExperimentRefused, match="is hpc_batch, and the request is for hpc_analysis"):
        deployment.check({**conf, "pattern": "hpc_batch"}, experiment_id=None, dag_id="hpc_analysis")


def test_a_deployment_follows_its_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airavata_provider.deployment.LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr("airavata_provider.models.catalog_folders.LOOK_AGAIN_S", 0.0)
    deployment = Deployment((folder,), (folder / "patterns",))
    assert "echo" in deployment.catalog.applications
    (folder / "catalog.yaml").write_text(CATALOG.replace("echo:", "other:"))
    (folder / "patterns").mkdir()
    (folder / "catalog.yaml").write_text("applications: [")
    with pytest.raises(CatalogError):
        _ = deployment.catalog
    (folder / "catalog.yaml").write_text(CATALOG.replace("echo:", "other:"))
    assert "other" in deployment.catalog.applications
    (folder / "patterns" / "mine.yml").write_text("name: mine\n")
    assert "mine" in deployment.patterns
