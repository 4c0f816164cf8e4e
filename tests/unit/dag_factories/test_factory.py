"""Patterns become DAGs, small ones, parsed without loading what only running needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.serialization.serialized_objects import DagSerialization

from airavata_provider.errors import PatternError
from airavata_provider.models.pattern_folders import builtin_patterns
from dag_factories.factory import dag_from_file

PATTERNS = sorted(builtin_patterns().glob("*.yaml"))


@pytest.mark.parametrize("path", PATTERNS, ids=lambda path: path.stem)
def test_every_pattern_becomes_a_small_dag(path: Path) -> None:
    dag = dag_from_file(path)
    assert dag.dag_id == path.stem
    dag.validate()  # type: ignore[no-untyped-call]
    data = DagSerialization.to_dict(dag)
    assert len(json.dumps(data)) < 40_000
    back = DagSerialization.from_dict(data)
    for task in back.tasks:
        assert task.start_from_trigger or task.task_id == "parse"


def test_tasks_know_their_submission() -> None:
    dag = dag_from_file(builtin_patterns() / "hpc_batch.yaml")
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
    arguments = dag_from_file(path).get_task("monitor").start_trigger_args
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
    arguments = dag_from_file(path).get_task("theirs").start_trigger_args
    assert arguments is not None
    assert arguments.trigger_kwargs is not None
    assert arguments.trigger_kwargs["tasks"][0]["parameters"] == {"native_id": "17"}


def test_a_broken_pattern_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text("tasks:\n  - {id: a, type: submit, after: [b]}\n  - {id: b, type: submt, after: [a]}\n")
    with pytest.raises(PatternError) as refused:
        dag_from_file(path, shown_as="patterns/mine.yaml")
    told = str(refused.value)
    assert "patterns/mine.yaml:3" in told
    assert "submt" in told
    assert "cycle" in told


def test_parsing_loads_neither_asyncssh_nor_our_tables() -> None:
    script = (
        "import sys; from pathlib import Path; from dag_factories.factory import dag_from_file;"
        f"dag_from_file(Path({str(PATTERNS[0])!r}));"
        "print([m for m in ('asyncssh', 'airavata_provider.jobs.tables', 'docker') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
