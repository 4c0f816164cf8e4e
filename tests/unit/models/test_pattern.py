"""Patterns: what loads can become a DAG, and what cannot says why, where, and all of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from airavata_provider.errors import PatternError
from airavata_provider.models.pattern import Pattern, load_pattern, segments
from airavata_provider.models.split import parts

PATTERNS = Path(__file__).parents[3] / "patterns"
FIXTURES = Path(__file__).parents[2] / "fixtures" / "patterns"


class Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(Parameters):
    source: str


class Submit(Parameters):
    executable: str
    nodes: int = 1
    environment: dict[str, str] = {}


class Monitor(Parameters):
    job: str = Field(json_schema_extra={"refers_to": "upstream_task"})


class StageOut(Parameters):
    files: list[File] = []


class RemoteCommand(Parameters):
    command: str
    environment: dict[str, str] = {}
    outputs: list[str] = []


class DockerParser(Parameters):
    image: str
    command: list[str] | None = None
    inputs: dict[str, str] = {}
    outputs: list[str] = []
    environment: dict[str, str] = {}
    memory_mb: int = 512
    timeout_s: int = 60


class CleanUp(Parameters):
    keep: bool = False


MODELS: Mapping[str, type[BaseModel]] = {
    "environment_setup": Parameters,
    "stage_in": Parameters,
    "submit": Submit,
    "monitor": Monitor,
    "stage_out": StageOut,
    "remote_command": RemoteCommand,
    "docker_parser": DockerParser,
    "clean_up": CleanUp,
}


def load(folder: Path, text: str, name: str = "my_pattern") -> Pattern:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return load_pattern(path, MODELS, shown_as=f"{name}.yaml")


def faults(folder: Path, text: str, name: str = "my_pattern") -> list[str]:
    with pytest.raises(PatternError) as caught:
        load(folder, text, name)
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize("name", ["hpc_batch", "hpc_batch_fast", "hpc_batch_waiting", "hpc_analysis", "hpc_parsed"])
def test_built_in_patterns_load(name: str) -> None:
    pattern = load_pattern(PATTERNS / f"{name}.yaml", MODELS)
    assert pattern.name == name
    kinds = [task.type for task in pattern.tasks]
    assert kinds[:4] == ["environment_setup", "stage_in", "submit", "monitor"]
    assert pattern.nearest_upstream("monitor", "submit") == pattern.task("monitor").parameters["job"]
    # The monitor waits through every trouble by itself, and what failed stays failed.
    assert [task.id for task in pattern.tasks if not task.retries] == ["monitor"]
    assert all(task.retry_delay_s and task.retry_backoff for task in pattern.tasks)
    assert [task.id for task in pattern.tasks if task.deadline_s is None] == ["monitor"]


def leaves_after(pattern: Pattern, failed: str) -> dict[str, str]:
    """States of the leaves, by Airflow's rules, when one task fails and whatever starts goes well."""
    states: dict[str, str] = {}
    for task in pattern.tasks:
        before = [states[each] for each in task.after]
        bad = any(state in {"failed", "upstream_failed"} for state in before)
        if task.id == failed:
            states[task.id] = "failed"
        elif task.trigger_rule == "all_success":
            states[task.id] = "upstream_failed" if bad else "skipped" if "skipped" in before else "success"
        elif task.trigger_rule == "one_failed":
            states[task.id] = "success" if bad else "skipped"
        else:
            assert task.trigger_rule == "all_done_min_one_success"
            states[task.id] = "success" if "success" in before else "upstream_failed"
    inner = {each for task in pattern.tasks for each in task.after}
    fetched = [task.id for task in pattern.tasks if task.type == "stage_out" and states[task.id] == "success"]
    return {"fetched": ",".join(fetched), **{key: value for key, value in states.items() if key not in inner}}


@pytest.mark.parametrize("name", ["hpc_batch", "hpc_batch_fast", "hpc_batch_waiting", "hpc_analysis", "hpc_parsed"])
def test_a_failed_job_fails_the_run_and_its_outputs_are_fetched(name: str) -> None:
    pattern = load_pattern(PATTERNS / f"{name}.yaml", MODELS)
    after = leaves_after(pattern, "monitor")
    assert after.pop("fetched")
    assert "upstream_failed" in after.values()
    assert after["clean_up"] == "upstream_failed"
    for task in pattern.tasks:
        if task.trigger_rule == "one_failed":
            continue
        after = leaves_after(pattern, task.id)
        assert {"failed", "upstream_failed"} & set(after.values()), f"{task.id} can fail and the run be successful"
    assert set(leaves_after(pattern, "none").values()) & {"failed", "upstream_failed"} == set()


def test_fast_pattern_is_hpc_batch_in_one_airflow_task() -> None:
    fast, slow = (load_pattern(PATTERNS / f"{name}.yaml", MODELS) for name in ("hpc_batch_fast", "hpc_batch"))
    assert fast.tasks == slow.tasks
    assert len(segments(fast, {})) == 1


def test_waiting_pattern_is_hpc_batch_in_two_runs_of_one_airflow_task() -> None:
    waiting, slow = (load_pattern(PATTERNS / f"{name}.yaml", MODELS) for name in ("hpc_batch_waiting", "hpc_batch"))
    assert waiting.tasks == slow.tasks
    assert [[each.id for each in segments(part, {})] for part in parts(waiting) if part is not None] == [
        ["environment_setup-stage_in-submit"],
        ["monitor-stage_out-clean_up"],
    ]


def test_every_field() -> None:
    pattern = load_pattern(FIXTURES / "every_field.yaml", MODELS, shown_as="shown/every_field.yaml")
    assert (pattern.name, pattern.granularity, pattern.file) == ("full", "segment", "shown/every_field.yaml")
    assert len(pattern.sha256) == 64
    assert [task.id for task in pattern.tasks] == ["first", "second", "third"]
    second = pattern.task("second")
    assert (second.resource, second.queue, second.run_on) == ("alpha", "heavy", "worker")
    assert (second.retries, second.retry_delay_s, second.retry_backoff, second.deadline_s) == (
        0,
        2.5,
        False,
        3600.0,
    )
    assert (second.after, second.trigger_rule) == (("first",), "all_done")
    third = pattern.task("third")
    assert (third.resource, third.queue, third.run_on) == (None, "light", None)
    assert (third.retries, third.retry_delay_s, third.retry_backoff, third.deadline_s) == (
        7,
        10.0,
        True,
        60.0,
    )
    assert pattern.upstream("third") == ("second", "first")


def test_every_fault_at_once(tmp_path: Path) -> None:
    text = """\
name: broken
tasks:
  - id: one
    type: subimt
  - id: two
    type: submit
    after: [one, oen, one]
    parameters:
      exectable: x
      nodes: lots
      environment:
        A: "{{ experiment.id"
        B: "{{ experment.id }}"
        C: "{{ tasks.three.value }}"
  - id: two
    type: clean_up
  - id: three
    type: monitor
    after: [four]
    parameters: {job: six}
  - id: four
    type: stage_out
    after: [three]
    parameters: {files: [{sauce: x}]}
"""
    found = "\n".join(faults(tmp_path, text))
    for expected in (
        "my_pattern.yaml:4: tasks[0].type: no task type 'subimt' (did you mean 'submit'?)",
        "my_pattern.yaml:7: tasks[1].after[1]: no task 'oen' (did you mean 'one'?)",
        "my_pattern.yaml:7: tasks[1].after[2]: 'one' is named twice",
        "my_pattern.yaml:9: tasks[1].parameters.exectable: unknown field (did you mean 'executable'?)",
        "my_pattern.yaml:10: tasks[1].parameters.nodes: should be a valid integer",
        "my_pattern.yaml:12: tasks[1].parameters.environment.A: template",
        "my_pattern.yaml:13: tasks[1].parameters.environment.B: a template asks for 'experment' (did you",
        "my_pattern.yaml:14: tasks[1].parameters.environment.C: a template asks for task 'three', which",
        "my_pattern.yaml:15: tasks[2].id: 'two' is at my_pattern.yaml:5 already",
        "my_pattern.yaml:20: tasks[3].parameters.job: 'six' is not a task before this one",
        "my_pattern.yaml:24: tasks[4].parameters.files[0].sauce: unknown field (did you mean 'source'?)",
        "a cycle: ",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "my_pattern.yaml:1: "),
        ("tasks: []\n", "tasks: "),
        ("name: a b\ntasks: [{id: a, type: clean_up}]\n", ":1: name: "),
        ("tasks: [{id: a-b, type: clean_up}]\n", ":1: tasks[0].id: "),
        ("tasks:\n- id: a\n  type: clean_up\n  trigger_rule: sometimes\n", ":4: tasks[0].trigger_rule: "),
        ("tasks:\n- id: a\n  type: clean_up\n  run_on: moon\n", ":4: tasks[0].run_on: "),
        (
            "tasks:\n- id: a\n  type: clean_up\n  retires: 3\n",
            ":4: tasks[0].retires: unknown field (did you mean 'retries'?)",
        ),
        ("tasks:\n- id: a\n  type: clean_up\n  deadline: soon\n", ":4: tasks[0].deadline: "),
        ("tasks:\n- id: a\n  type: clean_up\n  after: a\n", ":4: tasks[0].after: "),
        ("tasks:\n- id: a\n  type: clean_up\n  after: [a]\n", ":4: tasks[0].after: a cycle: a → a"),
        ("granularity: chunk\ntasks: [{id: a, type: clean_up}]\n", ":1: granularity: "),
        ("tasks: [\n", "not YAML"),
    ],
)
def test_faults(tmp_path: Path, text: str, fault: str) -> None:
    assert fault in "\n".join(faults(tmp_path, text))


def test_name_from_the_file(tmp_path: Path) -> None:
    text = "tasks: [{id: a, type: clean_up}]\n"
    assert load(tmp_path, text, "from-file").name == "from-file"
    assert "the file's name cannot be" in faults(tmp_path, text, "a b")[0]


def test_templates_wait_for_the_experiment(tmp_path: Path) -> None:
    text = (
        "tasks:\n"
        "- {id: a, type: submit, parameters: {nodes: '{{ experiment.nodes }}'}}\n"
        "- {id: b, type: monitor, after: [a], parameters: {job: '{{ tasks.a.job }}'}}\n"
        "- {id: c, type: stage_out, after: [b], parameters: {files: '{{ tasks.a.files }}'}}\n"
    )
    assert load(tmp_path, text).task("a").parameters == {"nodes": "{{ experiment.nodes }}"}


def test_tasks_follow_what_they_wait_for(tmp_path: Path) -> None:
    text = (
        "tasks: [{id: c, type: clean_up, after: [b]}, {id: b, type: clean_up, after: [a]},"
        " {id: x, type: clean_up}, {id: a, type: clean_up}]\n"
    )
    assert [task.id for task in load(tmp_path, text).tasks] == ["x", "a", "b", "c"]


def test_import_is_light() -> None:
    code = (
        "import sys, airavata_provider.models.pattern\n"
        "sys.exit(', '.join({'airflow', 'sqlalchemy', 'asyncssh', 'fastapi'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
