"""The ways in beside a plain request to Airflow: the command line, the provider's own REST, the UI's trigger form.

Whatever takes long is begun at once, for all tests of this file.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from dag_factories.factory import form
from tests.airflow_instance import AirflowInstance
from tests.deployment import TEXT, Site
from tests.e2e.test_experiments import wait_for_job

Done = CompletedProcess[str]
Request = dict[str, Any]


@dataclass(frozen=True)
class Begun:
    """What is under way.

    :param request: the experiment that the command line submits
    :param submitted: by ``submit --wait``, then shown by ``status``
    :param validated: the same file, and one with a fault
    :param posted: the answer to an experiment whose job sleeps
    :param sent: what the form sent, and its run
    """

    request: Request
    submitted: Future[tuple[Done, Done]]
    validated: Future[Done]
    posted: dict[str, Any]
    sent: tuple[Request, str]


@pytest.fixture(scope="module")
def begun(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    airflow = site.airflow
    with ThreadPoolExecutor() as beside:
        folder = tmp_path_factory.mktemp("experiments")
        request = site.request(message="from the command line")
        (folder / "good.yaml").write_text(yaml.safe_dump(request))
        (folder / "bad.yaml").write_text(yaml.safe_dump(request | {"nodes": 2}))
        own_id = f"cli-{uuid.uuid4().hex}"

        def submit_and_look() -> tuple[Done, Done]:
            words = ["submit", str(folder / "good.yaml"), "--id", own_id, "--wait", "-o", "json"]
            done = airflow.cli("airavata", *words, check=False)
            return done, airflow.cli("airavata", "status", own_id, check=False)

        submitted = beside.submit(submit_and_look)
        validated = beside.submit(airflow.cli, "airavata", "validate", str(folder), "-o", "json", check=False)
        answer = airflow.client.post("/airavata/experiments", json=site.request(seconds=600))
        assert answer.status_code == 201, answer.text
        posted = answer.json()
        # The form has a value for each of its fields.
        filled = site.request(message="from the form")
        sent = {name: param.value for name, param in form().items()} | filled
        assert set(sent) == set(form())
        run_id = airflow.trigger("hpc_batch", sent)
        yield Begun(request | {"id": own_id}, submitted, validated, posted, (filled, run_id))
        # Nobody else's job waits for this one, whatever failed.
        airflow.client.post(f"/airavata/experiments/{posted['dag_id']}/{posted['id']}/cancel").raise_for_status()


def test_an_experiment_that_names_no_pattern_is_posted_and_cancelled_at_the_command_line(
    begun: Begun, site: Site, airflow: AirflowInstance
) -> None:
    name = begun.posted["id"]
    assert begun.posted["dag_id"] == "hpc_batch"
    job = wait_for_job(site, "hpc_batch", name)
    told = airflow.cli("airavata", "cancel", name).stdout
    assert f"Job {job['name']} ({job['native_id']}): CANCELED" in told
    assert [line.split("|")[2].split()[0] for line in site.ended(job["name"])] == ["CANCELLED"]
    report = site.report("hpc_batch", name)
    assert (report["state"], report["run_state"]) == ("CANCELED", "failed")


def test_validate_at_the_command_line(begun: Begun) -> None:
    done = begun.validated.result()
    (fault,) = json.loads(done.stdout)["faults"]
    assert "bad.yaml" in fault["where"]
    assert done.returncode == 1


def test_what_the_trigger_form_sends(begun: Begun, site: Site, airflow: AirflowInstance) -> None:
    filled, run_id = begun.sent
    airflow.wait_success("hpc_batch", run_id)
    assert site.output(filled, "result.txt").read_text() == f"{TEXT.upper()}from the form\n"


def test_submit_and_status_at_the_command_line(begun: Begun, site: Site) -> None:
    done, shown = begun.submitted.result()
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["id"], report["dag_id"], report["state"]) == (begun.request["id"], "hpc_batch", "COMPLETED")
    assert site.output(begun.request, "result.txt").read_text() == f"{TEXT.upper()}from the command line\n"
    # Each task was told of as it happened.
    assert all(task["id"] in done.stderr for task in report["tasks"])
    assert report["tasks"]
    assert shown.returncode == 0, shown.stderr
    assert f"{report['id']} (hpc_batch): COMPLETED\n" in shown.stdout
    assert report["outputs"]["result.txt"] in shown.stdout
