"""Further attempts through Airflow: a person's clear of an array, a placed experiment, a rule that goes elsewhere."""

from __future__ import annotations

import uuid

from tests.airflow_instance import AirflowInstance
from tests.deployment import TEXT, Site

PATTERN = """\
description: A batch job that goes elsewhere when it says that this place is none for it
granularity: segment
tasks:
  - {id: environment_setup, type: environment_setup}
  - {id: stage_in, type: stage_in, after: [environment_setup]}
  - {id: submit, type: submit, after: [stage_in]}
  - id: monitor
    type: monitor
    after: [submit]
    parameters:
      on_outcome:
        - {outcome: FAILED, exit_codes: [75], answer: elsewhere}
  - {id: stage_out, type: stage_out, after: [monitor]}
  - {id: clean_up, type: clean_up, after: [stage_out]}
"""


def test_what_is_attempted_again_is_attempted_where_and_as_it_should(site: Site, airflow: AirflowInstance) -> None:
    # All at once: they have nothing to do with each other.
    (site.patterns / "goes_elsewhere.yaml").write_text(PATTERN)
    (site.storage / "in" / "common.txt").write_text("common\n")
    many = {
        "application": "each",
        "compute_resource": "cluster",
        "inputs": {
            "text": ["storage://files/in/text.txt"] * 3,
            "code": [0, 3, 0],
            "common": "storage://files/in/common.txt",
        },
        "outputs_to": f"storage://files/out/{uuid.uuid4().hex}",
    }
    array = airflow.trigger("hpc_array", many)
    choice = site.request() | {"compute_resource": None, "only_on": ["cluster", "host"]}
    placed = airflow.trigger("hpc_batch_fast", choice)
    moving = site.request() | {"application": "moving", "compute_resource": None}
    airflow.wait_for_dag("goes_elsewhere")
    moved = airflow.trigger("goes_elsewhere", moving)

    assert airflow.wait_run("hpc_array", array, timeout=240) == "failed"
    assert "1 of 3 elements did not complete: 1 with exit code 3" in airflow.log("hpc_array", array, "monitor")
    clear = {"dry_run": False, "dag_run_id": array, "task_ids": ["submit"], "only_failed": False}
    airflow.api("POST", "/dags/hpc_array/clearTaskInstances", json=clear | {"include_downstream": True})

    airflow.wait_success("hpc_batch_fast", placed)
    report = site.report("hpc_batch_fast", placed)
    (job,) = report["jobs"]
    assert report["placement"]["resource"] == job["resource"] == "cluster"
    reasons = report["placement"]["reasons"]
    assert [reason.partition(":")[0] for reason in reasons] == ["cluster's queue debug", "host"]
    assert ": chosen; " in reasons[0]
    assert ": after it; " in reasons[1]

    airflow.wait_success("goes_elsewhere", moved)
    report = site.report("goes_elsewhere", moved)
    first, second = report["jobs"]
    assert [(job["resource"], job["state"]) for job in (first, second)] == [
        ("cluster", "FAILED"),
        ("other", "COMPLETE"),
    ]
    assert second["request"]["made_by"] == {"rule": 1, "of": 1, "outcome": "FAILED", "left": "cluster"}
    assert "cluster: attempt 1 ended there: FAILED" in report["placement"]["reasons"]
    assert site.output(moving, "result.txt").read_text() == TEXT.upper()
    for job in (first, second):
        assert site.bed.run(f"test -e {job['directory']}", check=False).returncode == 1

    airflow.wait_success("hpc_array", array)
    arrays = site.report("hpc_array", array)["jobs"]
    assert [(job["attempt"], job["size"], job["tally"]) for job in arrays] == [
        (1, 3, {"COMPLETE": 2, "FAILED": 1}),
        (2, 1, {"COMPLETE": 1}),
    ]
    accounted = site.accounted(*(job["name"] for job in arrays))
    assert sorted(line.split("|")[2] for line in accounted) == ["COMPLETED"] * 3 + ["FAILED"]
    assert site.output(many, "1/result-1.txt").read_text() == f"{TEXT}common\n"
