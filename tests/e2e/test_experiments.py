"""Experiments through Airflow's own REST API on a real cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.airflow_instance import AirflowInstance
from tests.deployment import TEXT, Site

TASKS = {
    "hpc_batch": ["environment_setup", "stage_in", "submit", "monitor", "stage_out", "clean_up"],
    "hpc_batch_fast": ["environment_setup-stage_in-submit-monitor-stage_out-clean_up"],
}


def test_outputs_arrive_byte_for_byte(site: Site, airflow: AirflowInstance) -> None:
    message = "-n 'single' \"double\" $(touch /tmp/never) `id` \\ ünï\nsecond; line"
    requests = {
        (pattern, resource): site.request(resource, message=message)
        for pattern in TASKS
        for resource in ("cluster", "host")
    }
    # All at once: they have nothing to do with each other.
    runs = {place: airflow.trigger(place[0], request) for place, request in requests.items()}
    for (pattern, resource), run_id in runs.items():
        airflow.wait_success(pattern, run_id)
        output = site.output(requests[pattern, resource], "result.txt")
        assert output.read_bytes() == f"{TEXT.upper()}{message}\n".encode()
        states = airflow.task_states(pattern, run_id)
        assert sorted(states) == sorted(TASKS[pattern])
        assert set(states.values()) == {"success"}
        (job,) = site.report(pattern, run_id)["jobs"]
        assert job["state"] == "COMPLETE"
        assert job["exit_code"] == 0
        if resource == "cluster":
            assert [line.split("|")[2] for line in site.ended(job["name"])] == ["COMPLETED"]
            assert "webhook" in {event["source"] for event in job["events"]}
        assert "result.txt" in airflow.log(pattern, run_id, task_with(pattern, "stage_out"))
        submit = f"/dags/{pattern}/dagRuns/{run_id}/taskInstances/{task_with(pattern, 'submit')}"
        (link,) = airflow.api("GET", f"{submit}/links")["extra_links"].values()
        assert as_a_browser(airflow, link)["id"] == run_id


def as_a_browser(airflow: AirflowInstance, path: str) -> Any:
    """What a link in the UI shows to who is logged in there."""
    cookie = airflow.client.headers["Authorization"].removeprefix("Bearer ")
    return httpx.get(f"{airflow.url}{path}", cookies={"_token": cookie}, timeout=240).raise_for_status().json()


def task_with(pattern: str, step: str) -> str:
    (task,) = (task for task in TASKS[pattern] if step in task.split("-"))
    return task


def test_a_failed_job_fails_the_run_and_its_logs_are_kept(site: Site, airflow: AirflowInstance) -> None:
    requests = {pattern: site.request(fail=4, message="told before it failed") for pattern in TASKS}
    runs = {pattern: airflow.trigger(pattern, request) for pattern, request in requests.items()}
    for pattern, run_id in runs.items():
        assert airflow.wait_run(pattern, run_id, timeout=240) == "failed"
        logs = site.output(requests[pattern], "stderr.txt")
        assert logs.read_text() == "started told before it failed\n"
        assert "exit code 4" in airflow.log(pattern, run_id, task_with(pattern, "monitor"))
    assert airflow.task_states("hpc_batch", runs["hpc_batch"])["clean_up"] == "upstream_failed"
    # Who clears the one task of a failed experiment wants another job, with the inputs that are there.
    fast, (only,) = runs["hpc_batch_fast"], TASKS["hpc_batch_fast"]
    airflow.api(
        "POST",
        "/dags/hpc_batch_fast/clearTaskInstances",
        json={"dry_run": False, "dag_run_id": fast, "task_ids": [only], "only_failed": False},
    )
    airflow.wait("the second job", lambda: len(site.report("hpc_batch_fast", fast)["jobs"]) == 2, timeout=240)
    assert airflow.wait_run("hpc_batch_fast", fast, timeout=240) == "failed"
    jobs = site.report("hpc_batch_fast", fast)["jobs"]
    assert [(job["attempt"], job["exit_code"]) for job in jobs] == [(1, 4), (2, 4)]


def test_a_bad_request_is_refused_whole(site: Site, airflow: AirflowInstance) -> None:
    before = airflow.api("GET", "/dags/hpc_batch/dagRuns")["total_entries"]
    bad = {
        "application": "uper",
        "compute_resource": "clusterr",
        "nodes": -1,
        "inputs": {"nothing": 1},
        "outputs_to": "/etc",
    }
    answer = airflow.client.post("/api/v2/dags/hpc_batch/dagRuns", json={"logical_date": None, "conf": bad})
    assert answer.status_code == 400
    for place in ("application", "nodes", "outputs_to"):
        assert place in answer.text
    over = site.request() | {"walltime": "99:00:00", "cpus": 1000}
    answer = airflow.client.post("/api/v2/dags/hpc_batch/dagRuns", json={"logical_date": None, "conf": over})
    assert answer.status_code == 400
    assert "walltime" in answer.text
    assert "cpus" in answer.text
    assert airflow.api("GET", "/dags/hpc_batch/dagRuns")["total_entries"] == before


def test_marking_the_run_failed_ends_the_job(site: Site, airflow: AirflowInstance) -> None:
    runs = {pattern: airflow.trigger(pattern, site.request(seconds=600)) for pattern in TASKS}
    jobs = {pattern: wait_for_job(site, pattern, run_id) for pattern, run_id in runs.items()}
    for pattern, run_id in runs.items():
        airflow.api("PATCH", f"/dags/{pattern}/dagRuns/{run_id}", json={"state": "failed"})
    for pattern, job in jobs.items():
        wait_for_cancel(site, job)

        def told(pattern: str = pattern) -> list[dict[str, Any]]:
            jobs: list[dict[str, Any]] = site.report(pattern, runs[pattern])["jobs"]
            return [job for job in jobs if job["state"] == "CANCELED" and job["canceled_at"]]

        (canceled,) = airflow.wait("the cancel is on record", told, timeout=240)
        assert canceled["cancel_requested_by"] == f"marked failed in Airflow by {airflow.user}"


def test_marking_only_the_monitor_failed_ends_the_job_too(site: Site, airflow: AirflowInstance) -> None:
    run_id = airflow.trigger("hpc_batch", site.request(seconds=600))
    job = wait_for_job(site, "hpc_batch", run_id)
    airflow.wait(
        "the monitor waits",
        lambda: airflow.task_states("hpc_batch", run_id)["monitor"] == "deferred",
        timeout=240,
    )
    airflow.api("PATCH", f"/dags/hpc_batch/dagRuns/{run_id}/taskInstances/monitor", json={"new_state": "failed"})
    wait_for_cancel(site, job)
    assert airflow.wait_run("hpc_batch", run_id) == "failed"
    (canceled,) = site.report("hpc_batch", run_id)["jobs"]
    assert canceled["cancel_requested_by"] == f"marked failed in Airflow by {airflow.user}"


def test_clearing_the_monitor_leaves_the_job_alone(site: Site, airflow: AirflowInstance) -> None:
    request = site.request(seconds=1777) | {"walltime": "00:50:00"}
    run_id = airflow.trigger("hpc_batch", request)
    job = wait_for_job(site, "hpc_batch", run_id)
    airflow.wait(
        "the monitor waits",
        lambda: airflow.task_states("hpc_batch", run_id)["monitor"] == "deferred",
        timeout=240,
    )
    airflow.api(
        "POST",
        "/dags/hpc_batch/clearTaskInstances",
        json={"dry_run": False, "dag_run_id": run_id, "task_ids": ["monitor"], "only_failed": False},
    )
    site.wake(1777)
    airflow.wait_success("hpc_batch", run_id)
    assert [line.split("|")[2] for line in site.ended(job["name"])] == ["COMPLETED"]
    assert site.output(request, "result.txt").exists()


def test_an_experiment_starts_no_earlier_than_asked(site: Site, airflow: AirflowInstance) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=15)
    request = site.request() | {"not_before": moment.isoformat()}
    run_id = airflow.trigger("hpc_batch_fast", request)
    airflow.wait_success("hpc_batch_fast", run_id)
    (job,) = site.report("hpc_batch_fast", run_id)["jobs"]
    assert datetime.fromisoformat(job["created_at"]) >= moment


def test_priority_reaches_airflow(site: Site, airflow: AirflowInstance) -> None:
    runs = {
        priority: airflow.trigger("hpc_batch", site.request("host") | {"priority": priority})
        for priority in ("LOW", "URGENT")
    }
    weights = {
        priority: {ti["task_id"]: ti["priority_weight"] for ti in airflow.task_instances("hpc_batch", run_id)}
        for priority, run_id in runs.items()
    }
    for run_id in runs.values():
        airflow.wait_success("hpc_batch", run_id)
    assert all(weights["URGENT"][task] > weights["LOW"][task] for task in TASKS["hpc_batch"])


def wait_for_cancel(site: Site, job: dict[str, Any], timeout: float = 60) -> None:
    """Until SLURM's own record says that the job was cancelled."""
    site.airflow.wait(
        f"SLURM ends job {job['name']}",
        lambda: site.accounted(job["name"])[0].split("|")[2].startswith("CANCELLED"),
        timeout=timeout,
    )


def wait_for_job(site: Site, pattern: str, run_id: str) -> dict[str, Any]:
    """The run's job, once SLURM runs it."""

    def running() -> dict[str, Any] | None:
        for job in site.report(pattern, run_id)["jobs"]:
            if job["native_id"] and any("RUNNING" in line for line in site.accounted(job["name"])):
                return dict(job)
        return None

    found: dict[str, Any] = site.airflow.wait("the job runs", running, timeout=240)
    return found
