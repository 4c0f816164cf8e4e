"""What a deployment does while it runs: patterns come and change, hand-written DAGs use the operators, and a
cancelled experiment's job ends although every triggerer was down."""

from __future__ import annotations

import json
import textwrap
import time
import uuid

from airavata_provider.models.pattern_folders import builtin_patterns
from tests.airflow_instance import AirflowInstance
from tests.deployment import TEXT, Site
from tests.e2e.test_experiments import wait_for_cancel, wait_for_job

PATTERN = """\
name: mine
tasks:
  - {{id: environment_setup, type: environment_setup}}
  - id: say
    type: remote_command
    after: [environment_setup]
    parameters: {{command: "echo {word}; until [ -e {until} ]; do sleep 0.3; done"}}
  - {{id: again, type: remote_command, after: [say], parameters: {{command: "echo {word}"}}}}
"""


def test_a_pattern_comes_changes_and_breaks_without_a_restart(site: Site, airflow: AirflowInstance) -> None:
    file = site.patterns / "mine.yaml"
    go_on = f"{site.bed.scratch}/go_on_{uuid.uuid4().hex}"
    file.write_text(PATTERN.format(word="first", until=go_on))
    airflow.wait_for_dag("mine", timeout=240)
    old = airflow.trigger("mine", site.request("host"))
    airflow.wait("it has begun", lambda: airflow.task_states("mine", old)["say"] == "deferred", timeout=240)

    file.write_text(PATTERN.format(word="second", until="/"))
    (site.patterns / "broken.yaml").write_text("name: broken\ntasks:\n  - {id: a, type: submt}\n")

    def told() -> bool:
        return any("broken.yaml:3" in error["stack_trace"] for error in airflow.import_errors())

    airflow.wait("the broken one is an import error with its line", told, timeout=240)

    def versions() -> int:
        return int(airflow.api("GET", "/dags/mine/dagVersions")["total_entries"])

    airflow.wait("the new text is there", lambda: versions() == 2, timeout=240)
    new = airflow.trigger("mine", site.request("host"))
    airflow.wait_success("mine", new)
    assert "second" in airflow.log("mine", new, "again")
    site.bed.run(f"touch {go_on}")
    airflow.wait_success("mine", old)
    assert "first" in airflow.log("mine", old, "again")
    (site.patterns / "broken.yaml").unlink()


def test_a_success_keeps_nobody_parsing(site: Site, airflow: AirflowInstance) -> None:
    """Airflow would parse a plain file in every loop from the first success of a task in it on."""
    run_id = airflow.trigger("hpc_batch_fast", site.request("host"))
    airflow.wait_success("hpc_batch_fast", run_id)
    time.sleep(3)
    parsed = set()
    began = time.monotonic()
    for _ in range(15):
        parsed.add(airflow.api("GET", "/dags/hpc_batch_fast")["last_parsed_time"])
        time.sleep(1)
    # Airflow's own rounds of all files, every 30 s, come in between.
    assert len(parsed) <= 2 + (time.monotonic() - began) // 30


def test_a_container_on_a_worker_reads_the_outputs(site: Site, airflow: AirflowInstance) -> None:
    shipped = (builtin_patterns() / "hpc_parsed.yaml").read_text()
    own = (
        shipped.replace("busybox:stable", site.bed.docker_image)
        .replace("application.stdout", "application.stderr")
        .replace("name: hpc_parsed", "name: parsed_here")
    )
    (site.patterns / "parsed_here.yaml").write_text(own)
    airflow.wait_for_dag("parsed_here", timeout=240)
    request = site.request(message="one two")
    run_id = airflow.trigger("parsed_here", request)
    airflow.wait_success("parsed_here", run_id)
    told = site.output(request, "stderr.txt").read_text()
    assert told == "started one two\n"
    assert json.loads(site.output(request, "summary.json").read_text()) == {
        "lines": 1,
        "words": 3,
        "bytes": len(told),
    }


DAG = """\
from airflow.sdk import DAG, task

from airavata_provider.operators.experiment import (
    CleanUpOperator, EnvironmentSetupOperator, RemoteCommandOperator, StageInOperator, StageOutOperator,
    SubmitJobOperator,
)
from airavata_provider.sensors.job import JobSensor

for name, deferrable in (("by_hand", True), ("by_hand_on_workers", False)):
    with DAG(name, schedule=None, params={"lines": 1}, default_args={"deferrable": deferrable}) as dag:

        @task
        def word() -> str:
            return "from an XCom"

        where = {"resource": "cluster"}
        setup = EnvironmentSetupOperator(task_id="setup", **where)
        bring = StageInOperator(task_id="bring", files=[("storage://files/in/text.txt", "text.txt")], **where)
        submit = SubmitJobOperator(
            task_id="submit", executable="head", arguments=["-n", "{{ params.lines }}", "text.txt"], **where
        )
        wait = JobSensor(task_id="wait", job="submit", **where)
        say = RemoteCommandOperator(
            task_id="say", command="printf %s \\"$WORD\\" > word.txt", environment={"WORD": word()}, **where
        )
        fetch = StageOutOperator(
            task_id="fetch", files=["stdout.txt", "word.txt"], to="storage://files/{{ dag.dag_id }}", **where
        )
        setup >> bring >> submit >> wait >> say >> fetch >> CleanUpOperator(task_id="clean", **where)
    globals()[name] = dag
"""


def test_hand_written_dags_use_the_operators(site: Site, airflow: AirflowInstance) -> None:
    (site.dags / "by_hand.py").write_text(textwrap.dedent(DAG))
    names = ("by_hand", "by_hand_on_workers")
    for name in names:
        airflow.wait_for_dag(name)
    runs = {name: airflow.trigger(name) for name in names}
    for name, run_id in runs.items():
        airflow.wait_success(name, run_id)
        assert (site.storage / name / "stdout.txt").read_text() == TEXT.splitlines(keepends=True)[0]
        assert (site.storage / name / "word.txt").read_text() == "from an XCom"
        assert airflow.xcom(name, run_id, "submit", "native_id")


def test_a_cancel_survives_the_triggerers(site: Site, airflow: AirflowInstance) -> None:
    run_id = airflow.trigger("hpc_batch", site.request(seconds=600))
    job = wait_for_job(site, "hpc_batch", run_id)
    for name in ("triggerer", "triggerer-2"):
        airflow.kill(name)
    airflow.api("PATCH", f"/dags/hpc_batch/dagRuns/{run_id}", json={"state": "failed"})
    for name in ("triggerer", "triggerer-2"):
        airflow.launch(name)
    wait_for_cancel(site, job, timeout=150)
