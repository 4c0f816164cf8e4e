"""Experiments in two runs: one experiment to its users, one second run whoever dies, on the pattern it began with."""

from __future__ import annotations

from functools import partial

from airavata_provider.models.pattern_folders import builtin_patterns
from tests.airflow_instance import AirflowInstance
from tests.deployment import TEXT, Site
from tests.e2e.test_experiments import wait_for_cancel, wait_for_job

PATTERN = "hpc_batch_waiting"
EDITED = "waiting_edited"
SECONDS = 1999
"""Of a job, which ends when the test wants it to."""

LONG = {"walltime": "00:50:00"}


def test_an_experiment_in_two_runs(site: Site, airflow: AirflowInstance) -> None:
    text = (builtin_patterns() / f"{PATTERN}.yaml").read_text().replace(f"name: {PATTERN}", f"name: {EDITED}")
    own = site.patterns / f"{EDITED}.yaml"
    own.write_text(text)
    for pattern in (PATTERN, EDITED):
        airflow.wait_for_dag(f"{pattern}__after")
    message = "-n 'single' \"double\" $(touch /tmp/never) `id` \\ ünï\nsecond; line"
    requests = {pattern: site.request(message=message, seconds=SECONDS) | LONG for pattern in (PATTERN, EDITED)}
    runs = {pattern: airflow.trigger(pattern, request) for pattern, request in requests.items()}
    # Nobody has run a task of its second DAG yet, so Airflow writes the new one over the old one.
    own.write_text(text.replace("id: clean_up", "id: swept"))
    cancelled = airflow.trigger(PATTERN, site.request(seconds=600))
    for pattern, run_id in runs.items():
        airflow.wait_success(pattern, run_id)
        report = site.report(pattern, run_id)
        assert (report["state"], report["over"]) == ("EXECUTING", False)
        assert report["second_run"] == {"dag_id": None, "state": "WAITING"}
    job = wait_for_job(site, PATTERN, cancelled)
    site.airflow.client.post(f"/airavata/experiments/{PATTERN}/{cancelled}/cancel").raise_for_status()
    assert airflow.run(PATTERN, cancelled)["state"] == "failed"
    wait_for_cancel(site, job)
    airflow.wait("the edit is there", lambda: "swept" in str(_tasks(airflow, f"{EDITED}__after")), timeout=120)

    triggerers = [name for name in airflow.commands if name.startswith("triggerer")]
    for name in triggerers:
        airflow.kill(name)
    site.wake(SECONDS, 2)
    names = [site.report(pattern, run_id)["jobs"][0]["name"] for pattern, run_id in runs.items()]
    airflow.wait(
        "the jobs end",
        lambda: [line.split("|")[2] for line in site.accounted(*names)] == ["COMPLETED"] * 2,
        timeout=180,
    )
    airflow.restart("api-server")
    for name in triggerers:
        airflow.launch(name)
    airflow.wait("the API server is back", lambda: "scheduler" in airflow.health(), timeout=240)

    for pattern, run_id in runs.items():
        airflow.wait("the second run is there", partial(_there, airflow, f"{pattern}__after", run_id), timeout=120)
        airflow.wait_success(f"{pattern}__after", run_id)
        output = site.output(requests[pattern], "result.txt")
        assert output.read_bytes() == f"{TEXT.upper()}{message}\n".encode()
        states = airflow.task_states(f"{pattern}__after", run_id)
        assert states == {"monitor-stage_out-clean_up": "success"}
        report = site.report(pattern, run_id)
        assert (report["state"], report["over"]) == ("COMPLETED", True)
        assert report["second_run"] == {"dag_id": f"{pattern}__after", "state": "STARTED"}
        assert [task["id"] for task in report["tasks"]] == [
            "environment_setup",
            "stage_in",
            "submit",
            "monitor",
            "stage_out",
            "clean_up",
        ]
        (first,) = {ti["try_number"] for ti in airflow.task_instances(pattern, run_id)}
        assert first == 1
    assert airflow.api("GET", f"/dags/{PATTERN}__after/dagRuns")["total_entries"] == 1
    report = site.report(PATTERN, cancelled)
    assert (report["state"], report["jobs"][0]["cancel_requested_by"]) == ("CANCELED", airflow.user)
    assert len(site.accounted(*names)) == len(names)


def _tasks(airflow: AirflowInstance, dag_id: str) -> list[str]:
    return [task["task_id"] for task in airflow.api("GET", f"/dags/{dag_id}/tasks")["tasks"]]


def _there(airflow: AirflowInstance, dag_id: str, run_id: str) -> bool:
    return airflow.client.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").is_success
