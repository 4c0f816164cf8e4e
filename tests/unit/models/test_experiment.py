"""Requests as REST, the form and files send them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.errors import ExperimentRefused
from airavata_provider.models.catalog import load_catalog
from airavata_provider.models.experiment import Experiment, Priority, read_experiment
from airavata_provider.models.uri import parse_file_uri

FIXTURES = Path(__file__).parents[2] / "fixtures" / "catalog"


def refused(conf: dict[str, Any], experiment_id: str | None = "run") -> list[str]:
    with pytest.raises(ExperimentRefused) as caught:
        Experiment.from_conf(conf, experiment_id=experiment_id)
    return [str(fault) for fault in caught.value.faults]


def test_what_the_form_sends() -> None:
    conf: dict[str, Any] = {
        "application": "echo",
        "compute_resource": None,
        "only_on": ["demo", ""],
        "pattern": "",
        "nodes": "2",
        "cpus": 4,
        "walltime": "90",
        "inputs": {"n": "3", "nothing": None},
        "outputs": [],
        "priority": "",
        "not_before": None,
    }
    experiment = Experiment.from_conf(conf, experiment_id="manual__2030-01-01T00:00:00+00:00")
    assert (experiment.nodes, experiment.cpus, experiment.walltime, experiment.walltime_s) == (
        2,
        4,
        "01:30:00",
        5400,
    )
    assert (experiment.pattern, experiment.compute_resource, experiment.priority) == (
        None,
        None,
        Priority.NORMAL,
    )
    assert experiment.only_on == ("demo",)
    assert Experiment.from_conf({**conf, "only_on": None}, experiment_id=None).only_on == ()
    assert experiment.inputs == {"n": "3"}
    assert experiment.id == "manual__2030-01-01T00:00:00+00:00"


def test_every_fault_at_once() -> None:
    found = refused(
        {
            "aplication": "x",
            "nodes": "many",
            "cpus": True,
            "memory_mb": 0,
            "walltime": "soon",
            "priority": "ASAP",
            "not_before": "tomorrow",
            "inputs": {"a": {"b": 1}},
            "gpus": -1,
        }
    )
    assert [fault.split(":")[0] for fault in found] == [
        "application", "nodes", "cpus", "memory_mb", "gpus",
        "walltime", "inputs", "priority", "not_before", "aplication",
    ]  # fmt: skip
    assert "aplication: unknown field (did you mean 'application'?)" in found


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2030-01-31T08:00:00", datetime(2030, 1, 31, 8, tzinfo=UTC)),
        ("2030-01-31T08:00:00Z", datetime(2030, 1, 31, 8, tzinfo=UTC)),
        ("2030-01-31T08:00:00+02:00", datetime(2030, 1, 31, 6, tzinfo=UTC)),
        ("2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
    ],
)
def test_not_before(text: str, moment: datetime) -> None:
    experiment = Experiment.from_conf({"application": "x", "not_before": text}, experiment_id=None)
    assert experiment.not_before == moment
    assert experiment.not_before is not None
    assert experiment.not_before.tzinfo is UTC


@pytest.mark.parametrize("value", [3, "3", True, "9999-12-31T23:59:59-10:00", "0001-01-01T00:00:00+10:00", []])
def test_not_before_refused(value: object) -> None:
    assert refused({"application": "x", "not_before": value})[0].startswith("not_before: ")


@pytest.mark.parametrize("name", ["a", "a" * 200, "manual__2030-01-01T00:00:00+00:00", "~x.y:z", "..."])
def test_ids(name: str) -> None:
    assert Experiment.from_conf({"application": "x", "id": name}, experiment_id=name).id == name
    assert Experiment.from_conf({"application": "x", "id": name}, experiment_id=None).id == name


@pytest.mark.parametrize("name", ["a b", "a/b", "a\n", "a" * 201, ".", "..", "é", "scheduled__x", "backfill__x", 5])
def test_ids_refused(name: object) -> None:
    assert refused({"application": "x", "id": name}, None)[0].startswith("id: ")


def test_the_runs_id_is_the_id() -> None:
    assert refused({"application": "x", "id": "a"}, "b")[0].startswith("id: 'a' is not the run's id 'b'")
    assert Experiment.from_conf({"application": "x"}, experiment_id=None).id is None


scalars = st.text(max_size=8) | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
experiments = st.fixed_dictionaries(
    {"application": st.just("app")},
    optional={
        "gateway": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
        "nodes": st.integers(1, 10**6),
        "walltime": st.integers(1, 10**5),
        "gpus": st.integers(0, 8),
        "inputs": st.dictionaries(st.text(max_size=5), scalars | st.lists(scalars, max_size=3), max_size=4),
        "outputs": st.lists(st.text(max_size=4), max_size=3),
        "priority": st.sampled_from(Priority),
        "not_before": st.datetimes(timezones=st.just(UTC)),
    },
)


@given(experiments)
def test_conf_comes_back(fields: dict[str, Any]) -> None:
    experiment = Experiment.model_validate(fields)
    conf = json.loads(json.dumps(experiment.to_conf()))
    again = Experiment.from_conf(conf, experiment_id=None)
    assert again.model_dump(mode="json") == experiment.model_dump(mode="json")
    assert again.to_conf() == experiment.to_conf()


@given(st.dictionaries(st.sampled_from([*Experiment.model_fields, "other"]), scalars | st.none() | st.lists(scalars)))
def test_any_conf_is_an_experiment_or_refused(conf: dict[str, Any]) -> None:
    try:
        Experiment.from_conf(conf, experiment_id=None)
    except ExperimentRefused as error:
        assert all(fault.where for fault in error.faults)


def test_files_start_at_the_experiment_file(tmp_path: Path) -> None:
    path = tmp_path / "sub dir" / "e.yaml"
    path.parent.mkdir()
    path.write_text(
        "application: solver\noutputs_to: ./out/\ninputs:\n  mesh: ../100%.msh\n  title: ./not a file\n"
        "  fields: [./a, file:b, 'file:///c', 'storage://home/d']\n"
    )
    experiment = read_experiment(path, load_catalog([FIXTURES]))
    assert parse_file_uri(experiment.inputs["mesh"]) == f"{tmp_path}/100%.msh"
    assert experiment.inputs["title"] == "./not a file"
    assert [each.rsplit("/", 1)[1] for each in experiment.inputs["fields"]] == ["a", "b", "c", "d"]
    assert parse_file_uri(experiment.inputs["fields"][1]) == f"{path.parent}/b"
    assert parse_file_uri(experiment.outputs_to or "", directory=True) == f"{path.parent}/out"
    assert read_experiment(path).inputs["title"].startswith("file:///")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("application: x\nnodes: none\n", ":2: nodes: should be a whole number"),
        ("application: x\n\nnoeds: 3\n", ":3: noeds: unknown field (did you mean 'nodes'?)"),
        ("- x\n", ":1: should be a mapping"),
        ("", ":1: should be a mapping"),
        ("a: [", ":1: not YAML"),
        ("application: x\ninputs: 5\n", ":2: inputs: "),
    ],
)
def test_faults_of_a_file(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(text)
    with pytest.raises(ExperimentRefused) as caught:
        read_experiment(path)
    assert f"{path}{fault}" in str(caught.value)
