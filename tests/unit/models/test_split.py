"""Patterns in two runs: which tasks are whose, and what cannot be split says why and where."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

import pytest

from airavata_provider.errors import PatternError
from airavata_provider.models.pattern import Pattern, TriggerRule, load_pattern
from airavata_provider.models.split import first_dag, parts, second_dag
from airavata_provider.models.trigger_rules import End, verdict
from airavata_provider.tasks.registry import parameter_models

GOOD = """\
name: two
split_at: wait
tasks:
  - {id: make, type: environment_setup}
  - {id: submit, type: submit, after: [make]}
  - {id: wait, type: monitor, after: [submit]}
  - {id: out, type: stage_out, after: [submit, wait], trigger_rule: all_done}
  - {id: sweep, type: clean_up, after: [wait, out]}
"""
THEIRS = (
    "two.yaml:2: split_at: 'wait' should wait for the job of a submission before it, which it names or leaves out"
)


def load(folder: Path, text: str) -> Pattern:
    path = folder / "two.yaml"
    path.write_text(text)
    return load_pattern(path, parameter_models(), shown_as="two.yaml")


def test_the_second_run_begins_with_the_monitor(tmp_path: Path) -> None:
    pattern = load(tmp_path, GOOD)
    first, second = parts(pattern)
    assert second is not None
    assert (first.name, second.name) == ("two", "two__after")
    assert (second_dag("two"), first_dag("two__after"), first_dag("two")) == ("two__after", "two", "two")
    assert [task.id for task in first.tasks] == ["make", "submit"]
    # What succeeded before the second run began is not waited for in it.
    assert {task.id: task.after for task in second.tasks} == {
        "wait": (),
        "out": ("wait",),
        "sweep": ("wait", "out"),
    }


ENDS: tuple[End, ...] = ("success", "failed", "upstream_failed", "skipped")


@pytest.mark.parametrize("rule", sorted(get_args(TriggerRule)))
def test_a_rule_means_the_same_without_what_succeeded(tmp_path: Path, rule: str) -> None:
    text = GOOD.replace("trigger_rule: all_done", f"trigger_rule: {rule}")
    text = text.replace("after: [submit, wait]", "after: [submit, make, wait, more]")
    text += "  - {id: more, type: remote_command, after: [wait], parameters: {command: 'true'}}\n"
    try:
        _, second = parts(load(tmp_path, text))
    except PatternError:
        assert rule in {"all_failed", "all_skipped", "one_success", "one_done"}
        return
    assert second is not None
    task = second.task("out")
    assert task.after == ("wait", "more")
    for ends in itertools.product(ENDS, repeat=2):
        assert verdict(task.trigger_rule, ends) == verdict(rule, ("success", "success", *ends)), ends


def test_a_rule_over_the_second_run_alone_stays(tmp_path: Path) -> None:
    text = GOOD.replace("after: [submit, wait], trigger_rule: all_done", "after: [wait], trigger_rule: one_success")
    _, second = parts(load(tmp_path, text))
    assert second is not None
    assert second.task("out").trigger_rule == "one_success"


def test_a_pattern_that_is_not_split_has_one_run(tmp_path: Path) -> None:
    pattern = load(tmp_path, GOOD.replace("split_at: wait\n", ""))
    assert parts(pattern) == (pattern, None)


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        pytest.param(
            "split_at: wait",
            "split_at: wail",
            ["two.yaml:2: split_at: should be the id of a monitor; there is no task of that id"],
            id="no such task",
        ),
        pytest.param(
            "split_at: wait",
            "split_at: submit",
            ["two.yaml:2: split_at: should be the id of a monitor; 'submit' is of type submit"],
            id="no monitor",
        ),
        pytest.param(
            "type: monitor, after: [submit]",
            "type: monitor, after: [submit], parameters: {native_id: '17'}",
            [THEIRS],
            id="somebody else's job",
        ),
        pytest.param(
            "type: monitor, after: [submit]",
            "type: monitor, after: [submit], parameters: {job: '{{ tasks.submit.job }}'}",
            [THEIRS],
            id="a job that a template tells",
        ),
        pytest.param(
            "id: submit, type: submit",
            "id: submit, type: clean_up",
            ["two.yaml:2: split_at: no task before 'wait' submits the job that it waits for"],
            id="no job",
        ),
        pytest.param(
            "type: monitor, after: [submit]",
            "type: monitor, after: [submit], trigger_rule: all_done",
            [
                "two.yaml:6: tasks[2].trigger_rule: the second run starts when the first succeeded: no other rule"
                " than all_success can hold"
            ],
            id="a monitor of a failed submission",
        ),
        pytest.param(
            "  - {id: wait,",
            "  - {id: aside, type: remote_command, after: [make], parameters: {command: 'true'}}\n  - {id: wait,",
            [
                "two.yaml:6: tasks[2].after: 'aside' should come before 'submit', which ends the first run, or after"
                " 'wait'"
            ],
            id="a task beside the submission",
        ),
        pytest.param(
            "trigger_rule: all_done",
            "trigger_rule: one_success",
            [
                "two.yaml:7: tasks[3].trigger_rule: one_success cannot look at 'submit', which the first run did; use"
                " one of all_done, all_done_min_one_success, all_success, always, none_failed,"
                " none_failed_min_one_success, none_skipped, one_failed, or leave that out of after"
            ],
            id="a rule over both runs",
        ),
        pytest.param(
            "after: [make]}\n  - {id: wait, type: monitor, after: [submit]",
            "after: [make], trigger_rule: none_failed}\n  - {id: wait, type: monitor, after: [submit, make]",
            [
                "two.yaml:6: tasks[2].after: 'make' may have failed, or been skipped, in a first run that succeeded:"
                " what comes after it and up to 'submit' should have the trigger rule all_success"
            ],
            id="a task that may have been skipped",
        ),
        pytest.param(
            "name: two",
            "name: two__after",
            ["two.yaml:1: name: two__after: names that end in __after are those of second runs"],
            id="a second run's name",
        ),
    ],
)
def test_what_cannot_be_split(tmp_path: Path, old: str, new: str, faults: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(PatternError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert [str(fault) for fault in caught.value.faults] == faults
