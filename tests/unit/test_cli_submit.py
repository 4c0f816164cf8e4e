"""``submit`` and ``script``: what they say, what they leave, how they exit."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airavata_provider import cli_commands
from airavata_provider.deployment import get_deployment
from airavata_provider.models.identity import birth
from airavata_provider.models.job import TaskRecord, TaskState
from tests.unit.cli_calls import (
    CATALOG,
    EXPERIMENT,
    NOW,
    Airflow,
    airflow,
    call,
    deployment,
    folder,
    in_store,
    make_run,
)

__all__ = ["airflow", "deployment", "folder"]


def test_submit_starts_a_run(airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("submit", str(folder / "experiment.yaml"), "--id", "e7") == 0
    assert airflow.created[0].experiment.id == "e7"
    assert airflow.created[0].pattern == "hpc_batch"
    assert "e7" in capsys.readouterr().out


def test_submit_takes_another_pattern(airflow: Airflow, folder: Path) -> None:
    assert call("submit", str(folder / "experiment.yaml"), "--pattern", "hpc_analysis") == 0
    assert airflow.created[0].pattern == "hpc_analysis"


@pytest.mark.parametrize("words", [("--pattern", "nope"), ("--id", "a b")])
def test_submit_refuses(
    airflow: Airflow, folder: Path, words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("submit", str(folder / "experiment.yaml"), *words) == 1
    assert words[1] in capsys.readouterr().err
    assert airflow.created == []


def test_submit_refuses_a_second_of_the_same_id(airflow: Airflow, folder: Path) -> None:
    assert call("submit", str(folder / "experiment.yaml"), "--id", "e1") == 0
    assert call("submit", str(folder / "experiment.yaml"), "--id", "e1") == 1


def test_script_prints_what_would_be_submitted(
    airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("script", str(folder / "experiment.yaml")) == 0
    out, error = capsys.readouterr()
    assert out.startswith("#!/bin/bash\n")
    assert "    echo </dev/null >stdout.txt" in out
    assert error == ""
    assert airflow.created == []


def test_script_takes_another_pattern_or_resource(
    airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "experiment.yaml")
    scripts = []
    for more in ([], ["--resource", "here"], ["--pattern", "hpc_analysis"]):
        assert call("script", path, *more) == 0
        scripts.append(capsys.readouterr().out)
    # Job and directory are named after the pattern.
    assert scripts[0] == scripts[1] != scripts[2]
    for words in (("--resource", "nowhere"), ("--pattern", "nope")):
        assert call("script", path, *words) == 1
        out, error = capsys.readouterr()
        assert words[1] in error
        assert out == ""


def test_script_says_what_it_leaves_out(airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "experiment.yaml").write_text(EXPERIMENT + "qos: high\n")
    assert call("script", str(folder / "experiment.yaml")) == 1
    assert "qos: here cannot be asked for it" in capsys.readouterr().err
    text = CATALOG.replace("scheduler: fork", "scheduler: fork, unsupported_options: warn")
    (folder / "own" / "catalog.yaml").write_text(text)
    get_deployment.cache_clear()
    assert call("script", str(folder / "experiment.yaml")) == 0
    out, error = capsys.readouterr()
    assert "task submit: qos is left out: here cannot be asked for it" in error
    assert out.startswith("#!")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("application: ech\n", "did you mean 'echo'"),
        (EXPERIMENT + "mail_to: nobody\n", "experiment.yaml:3: mail_to: should be one mail address"),
        (EXPERIMENT + "walltime: soon\n", "experiment.yaml:3: walltime"),
        ("- a list\n", "should be a mapping"),
        ("application: [\n", "experiment.yaml"),
    ],
)
def test_script_refuses_bad_input(
    airflow: Airflow, folder: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "experiment.yaml").write_text(text)
    assert call("script", str(folder / "experiment.yaml")) == 1
    out, error = capsys.readouterr()
    assert says in error
    assert out == ""


def test_script_without_a_file_there(airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("script", str(folder / "nothing.yaml")) == 1
    assert "nothing.yaml" in capsys.readouterr().err


def test_waiting_shows_each_change_once_and_the_outputs(
    airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = TaskRecord(
        dag_id="hpc_batch",
        experiment_id="e1",
        task_id="stage_out",
        born=birth(NOW),
        map_index=-1,
        try_number=1,
        state=TaskState.COMPLETED,
        started_at=NOW,
        ended_at=NOW + timedelta(seconds=2),
        result={"outputs": {"report": "storage://files/r.txt", "parts": ["storage://files/p1"]}},
    )
    idle = replace(record, task_id="rescue", result={"skipped": True})
    in_store(lambda store: store.record_tasks([record, idle]))
    airflow.looks = [make_run("queued", tasks=()), make_run("running"), make_run("running"), make_run("success")]
    assert call("submit", str(folder / "experiment.yaml"), "--id", "e1", "--wait") == 0
    out = capsys.readouterr().out
    assert out.count("stage_out") == 1
    assert "COMPLETED in 2.0 s" in out
    assert re.search(r"rescue +skipped$", out, re.MULTILINE)
    assert out.count("running") == 1
    assert "  report: storage://files/r.txt" in out
    assert "  parts: storage://files/p1" in out
    assert out.strip().endswith("COMPLETED after 8.0 s")


def test_waiting_for_a_failure_exits_with_1(airflow: Airflow, folder: Path) -> None:
    airflow.looks = [make_run("failed")]
    assert call("submit", str(folder / "experiment.yaml"), "--wait") == 1


def test_ctrl_c_ends_the_waiting_only(
    airflow: Airflow, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_commands, "progress", interrupted)
    assert call("submit", str(folder / "experiment.yaml"), "--id", "e1", "--wait") == 130
    assert "airflow airavata status e1 --pattern hpc_batch" in capsys.readouterr().err
    assert airflow.failed == []


def test_json_alone_on_standard_output(airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("submit", str(folder / "experiment.yaml"), "--wait", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "COMPLETED"
