"""Patterns become DAGs, small ones, parsed without loading what only running needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.bundles import base
from airflow.serialization.serialized_objects import DagSerialization

from airavata_provider.errors import PatternError
from airavata_provider.models.experiment import Experiment
from airavata_provider.models.pattern_folders import builtin_patterns
from dag_factories.bundle import PatternBundle, dag_of
from dag_factories.factory import dags_from_file, form

PATTERNS = sorted(builtin_patterns().glob("*.yaml"))


@pytest.mark.parametrize("path", PATTERNS, ids=lambda path: path.stem)
def test_every_pattern_becomes_a_small_dag(path: Path) -> None:
    dag, _ = dags_from_file(path)
    assert dag.dag_id == path.stem
    dag.validate()  # type: ignore[no-untyped-call]
    data = DagSerialization.to_dict(dag)
    assert len(json.dumps(data)) < 40_000
    back = DagSerialization.from_dict(data)
    for task in back.tasks:
        assert task.start_from_trigger or task.task_id == "parse"


def test_a_split_pattern_becomes_two_dags() -> None:
    first, second = dags_from_file(builtin_patterns() / "hpc_batch_waiting.yaml")
    assert second is not None
    assert (first.dag_id, first.task_ids) == ("hpc_batch_waiting", ["environment_setup-stage_in-submit"])
    assert (second.dag_id, second.task_ids) == ("hpc_batch_waiting__after", ["monitor-stage_out-clean_up"])
    # By this the second run finds the version of its DAG that belongs to the first.
    assert first.doc_md == second.doc_md
    second.validate()  # type: ignore[no-untyped-call]
    DagSerialization.from_dict(DagSerialization.to_dict(second))
    arguments = first.get_task(first.task_ids[0]).start_trigger_args
    assert arguments is not None
    assert arguments.trigger_kwargs is not None
    handing = [task["id"] for task in arguments.trigger_kwargs["tasks"] if task.get("hands_over")]
    assert handing == ["submit"]
    arguments = second.get_task(second.task_ids[0]).start_trigger_args
    assert arguments is not None
    assert arguments.trigger_kwargs is not None
    rules = {task["id"]: task["trigger_rule"] for task in arguments.trigger_kwargs["tasks"] if "trigger_rule" in task}
    # Of those that stage_out waits for one succeeded, the submission.
    assert rules == {"stage_out": "none_skipped"}


def test_a_version_of_the_bundle_gives_both_dags_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "get_bundle_storage_root_path", lambda: tmp_path / "bundles")
    folder = tmp_path / "patterns"
    folder.mkdir()
    (folder / "broken.yaml").write_text("tasks: []\n")
    (folder / "waits.yaml").write_text((builtin_patterns() / "hpc_batch_waiting.yaml").read_text())
    kwargs: dict[str, Any] = {"folders": [str(folder)], "builtin": False, "archive": str(tmp_path / "archive")}
    tracking = PatternBundle(name="airavata", **kwargs)
    tracking.initialize()
    current = tracking.get_current_version()
    assert current is not None
    bundle = PatternBundle(name="airavata", version=current.version, **kwargs)
    bundle.initialize()
    for dag_id, number in (("hpc_batch_waiting", 1), ("hpc_batch_waiting__after", 1)):
        dag = dag_of(bundle.path, dag_id)
        assert (dag.dag_id, len(dag.tasks)) == (dag_id, number)
        assert dag.relative_fileloc == "waits.zip/airavata_pattern_waits.py"
    assert dag_of(bundle.path, "hpc_batch") is None


def test_the_forms_fields_are_the_requests() -> None:
    shown = form()
    assert set(shown) <= set(Experiment.model_fields)
    for value in (None, ["demo", "sensitive"]):
        assert shown["only_on"].resolve(value) == value
    # What a request may say, Airflow does not refuse.
    for name in ("nodes", "cpus", "walltime"):
        for number in (2, "2", "", None):
            assert shown[name].resolve(number) == number
    assert len(json.dumps([each.schema for each in shown.values()])) < 1200


def test_tasks_know_their_submission() -> None:
    dag, _ = dags_from_file(builtin_patterns() / "hpc_batch.yaml")
    arguments = dag.get_task("monitor").start_trigger_args
    assert arguments is not None
    assert arguments.trigger_kwargs is not None
    (hosted,) = arguments.trigger_kwargs["tasks"]
    assert hosted == {"id": "monitor", "type": "monitor", "parameters": {"job": "submit"}}


def test_a_monitor_waits_for_the_nearest_submission_when_it_names_none(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "tasks:\n"
        "  - {id: first, type: submit}\n"
        "  - {id: second, type: submit, after: [first]}\n"
        "  - {id: monitor, type: monitor, after: [second]}\n"
    )
    arguments = dags_from_file(path)[0].get_task("monitor").start_trigger_args
    assert arguments is not None
    assert arguments.trigger_kwargs is not None
    assert arguments.trigger_kwargs["tasks"][0]["parameters"] == {"job": "second"}


def test_a_monitor_of_anothers_job_waits_for_no_submission(tmp_path: Path) -> None:
    path = tmp_path / "theirs.yaml"
    path.write_text(
        "tasks:\n"
        "  - {id: mine, type: submit}\n"
        "  - {id: theirs, type: monitor, after: [mine], parameters: {native_id: '17'}}\n"
    )
    arguments = dags_from_file(path)[0].get_task("theirs").start_trigger_args
    assert arguments is not None
    assert arguments.trigger_kwargs is not None
    assert arguments.trigger_kwargs["tasks"][0]["parameters"] == {"native_id": "17"}


def test_a_broken_pattern_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text("tasks:\n  - {id: a, type: submit, after: [b]}\n  - {id: b, type: submt, after: [a]}\n")
    with pytest.raises(PatternError) as refused:
        dags_from_file(path, shown_as="patterns/mine.yaml")
    told = str(refused.value)
    assert "patterns/mine.yaml:3" in told
    assert "submt" in told
    assert "cycle" in told


@pytest.mark.slow
def test_parsing_loads_neither_asyncssh_nor_our_tables() -> None:
    script = (
        "import sys; from pathlib import Path; from dag_factories.factory import dags_from_file;"
        f"dags_from_file(Path({str(PATTERNS[0])!r}));"
        "print([m for m in ('asyncssh', 'airavata_provider.jobs.tables', 'docker') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_a_monitor_with_rules_knows_how_its_job_was_submitted(tmp_path: Path) -> None:
    path = tmp_path / "ruled.yaml"
    path.write_text(
        "tasks:\n"
        "  - {id: submit, type: submit, resource: cluster, parameters: {modules: [gcc]}}\n"
        "  - id: monitor\n"
        "    type: monitor\n"
        "    after: [submit]\n"
        "    parameters:\n"
        "      on_outcome:\n"
        '        - {outcome: OUT_OF_MEMORY, memory: "*2", at_most: 2}\n'
    )
    arguments = dags_from_file(path)[0].get_task("monitor").start_trigger_args
    assert arguments is not None
    assert arguments.trigger_kwargs is not None
    (hosted,) = arguments.trigger_kwargs["tasks"]
    assert hosted["submission"] == {
        "id": "submit",
        "type": "submit",
        "parameters": {"modules": ["gcc"]},
        "resource": "cluster",
    }
    json.dumps(hosted)


def test_a_monitor_whose_rule_goes_elsewhere_knows_what_to_do_there_first(tmp_path: Path) -> None:
    path = tmp_path / "moving.yaml"
    path.write_text(
        "tasks:\n"
        "  - {id: setup, type: environment_setup}\n"
        "  - {id: fetch, type: stage_in, resource: archive, after: [setup]}\n"
        "  - {id: read, type: docker_parser, parameters: {image: i}}\n"
        "  - {id: build, type: remote_command, after: [setup, read], deadline: 10, parameters: {command: make}}\n"
        "  - {id: submit, type: submit, after: [build, fetch]}\n"
        "  - id: monitor\n"
        "    type: monitor\n"
        "    after: [submit]\n"
        "    parameters:\n"
        "      on_outcome:\n"
        "        - {outcome: NODE_FAILURE, answer: elsewhere}\n"
        "  - {id: clean, type: clean_up, after: [monitor]}\n"
    )
    arguments = dags_from_file(path)[0].get_task("monitor").start_trigger_args
    assert arguments is not None
    assert arguments.trigger_kwargs is not None
    (hosted,) = arguments.trigger_kwargs["tasks"]
    # Not what is elsewhere anyway, nor what works in storage.
    assert hosted["before"] == [
        {"id": "setup", "type": "environment_setup"},
        {"id": "build", "type": "remote_command", "parameters": {"command": "make"}, "deadline_s": 10.0},
    ]
    json.dumps(hosted)


ELSEWHERE = "    parameters: {on_outcome: [{outcome: NODE_FAILURE, answer: elsewhere}]}\n"
RULES = '    parameters: {on_outcome: [{outcome: OUT_OF_MEMORY, memory: "*2"}], %s}\n'
SUBMIT = "  - {id: submit, type: submit}\n"
MONITOR = "  - id: monitor\n    type: monitor\n    after: [submit]\n"


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (
            SUBMIT + MONITOR + "    parameters:\n      on_outcome:\n        - {outcome: OUT_OF_MEMROY}\n",
            ":8: tasks[1].parameters.on_outcome[0].outcome: 'OUT_OF_MEMROY' is no outcome that a rule can answer "
            "(did you mean 'OUT_OF_MEMORY'?)",
        ),
        (
            SUBMIT + MONITOR + "    parameters:\n      on_outcome:\n        - {outcome: WALLTIME, walltime: 2}\n",
            ":8: tasks[1].parameters.on_outcome[0].walltime: should be a factor above 1",
        ),
        (
            SUBMIT + MONITOR + "    parameters:\n      on_outcome:\n        - {outcome: FAILED, tmes: 2}\n",
            ":8: tasks[1].parameters.on_outcome[0].tmes: unknown field",
        ),
        (
            SUBMIT + MONITOR + "    parameters:\n      on_outcome:\n        - {memory: '*2'}\n",
            "on_outcome[0].outcome: missing",
        ),
        (SUBMIT + MONITOR + RULES % "native_id: '17'", ":6: tasks[1].parameters.on_outcome: nobody here submitted"),
        (
            "  - {id: submit, type: remote_command, parameters: {command: 'true'}}\n"
            + MONITOR
            + RULES % "job: submit",
            ":6: tasks[1].parameters.on_outcome: 'submit' is no task before this one that submits a job",
        ),
        (
            "  - {id: submit, type: remote_command, parameters: {command: 'true'}}\n" + MONITOR + RULES % "",
            ":6: tasks[1].parameters.on_outcome: no task before this one that submits a job",
        ),
        (
            "  - {id: submit, type: submit, parameters: {elements: [{arguments: [a]}]}}\n" + MONITOR + ELSEWHERE,
            "on_outcome: 'submit' submits an array, which stays where its elements' files are: so no rule goes",
        ),
        (
            "  - {id: submit, type: submit, resource: cluster}\n" + MONITOR + ELSEWHERE,
            "on_outcome: 'submit' is on cluster always, so no rule goes elsewhere",
        ),
        (
            SUBMIT + MONITOR + "    resource: cluster\n" + ELSEWHERE,
            "on_outcome: 'monitor' is on cluster always, so no rule goes elsewhere",
        ),
        (
            "  - {id: first, type: submit}\n  - {id: submit, type: submit, after: [first]}\n" + MONITOR + ELSEWHERE,
            "on_outcome: 'first' submits a job before 'submit', which stays: so no rule goes elsewhere",
        ),
        (
            SUBMIT + MONITOR + ELSEWHERE + "  - {id: beside, type: stage_out, after: [submit]}\n",
            "on_outcome: 'beside' does not wait for 'monitor', and stays: so no rule goes elsewhere",
        ),
        (
            SUBMIT + MONITOR + "    parameters: {on_outcome: '{{ inputs.rules }}'}\n",
            "on_outcome: should be written out, not a template",
        ),
    ],
)
def test_faults_of_rules_are_told_with_their_lines(tmp_path: Path, tasks: str, told: str) -> None:
    path = tmp_path / "ruled.yaml"
    path.write_text("tasks:\n" + tasks)
    with pytest.raises(PatternError) as refused:
        dags_from_file(path, shown_as="ruled.yaml")
    assert told in str(refused.value)
