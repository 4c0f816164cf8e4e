"""Requests against the catalog: limits, defaults, files, and the command line that follows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airavata_provider.errors import ExperimentRefused
from airavata_provider.models.application import InputField
from airavata_provider.models.catalog import Catalog, load_catalog
from airavata_provider.models.experiment import Experiment, FileInput, command_arguments, resolve
from airavata_provider.models.resolved import ResolvedExperiment, element_arguments
from airavata_provider.models.uri import StorageURI

CATALOG: Catalog = load_catalog([Path(__file__).parents[2] / "fixtures" / "catalog"])
MESH = "storage://home/m.msh"


def resolved(application: str = "solver", **fields: Any) -> ResolvedExperiment:
    if application == "solver":
        fields["inputs"] = {"mesh": MESH, **fields.get("inputs", {})}
    return resolve(Experiment.model_validate({"application": application, "id": "run", **fields}), CATALOG)


def refused(application: str = "solver", **fields: Any) -> dict[str, str]:
    with pytest.raises(ExperimentRefused) as caught:
        resolved(application, **fields)
    return {fault.where: fault.message for fault in caught.value.faults}


def test_defaults() -> None:
    found = resolved()
    assert (found.resource.name, found.queue.name, found.pattern) == ("alpha", "short", "hpc_batch")
    assert (found.nodes, found.cpus, found.memory_mb, found.gpus, found.walltime_s) == (1, 2, 1000, 0, 1800)
    assert found.account == "site"
    assert found.inputs == {
        "mesh": FileInput(StorageURI("home", "m.msh"), "m.msh"),
        "steps": 100,
        "method": "implicit",
    }
    assert list(found.outputs) == ["result", "frames"]
    assert str(found.outputs_to).startswith("storage://home/experiments/run-")


def test_the_deployments_defaults_come_before_the_queues() -> None:
    found = resolved(compute_resource="beta")
    assert (found.cpus, found.walltime_s, found.queue.name, found.account) == (3, 600, None, None)
    assert resolved("templated").queue.name == "long"
    assert resolved("templated").account == "long_project"


def test_given_sizes_win() -> None:
    found = resolved(queue="long", nodes=3, cpus=96, memory_mb=5, gpus=4, walltime=60, account="mine", pattern="p")
    assert (found.nodes, found.cpus, found.memory_mb, found.gpus, found.walltime_s) == (3, 96, 5, 4, 3600)
    assert (found.account, found.pattern) == ("mine", "p")
    assert resolved(queue="long", nodes=3).cpus == 3


def test_the_first_deployment_that_fits_is_taken() -> None:
    assert resolved(memory_mb=8000).resource.name == "alpha"
    assert resolved(memory_mb=8001).resource.name == "beta"
    assert resolved(queue="long").resource.name == "alpha"


def test_when_none_fits_each_says_why() -> None:
    with pytest.raises(ExperimentRefused) as caught:
        resolved(queue="long", walltime="8-00:00:00")
    assert [str(fault) for fault in caught.value.faults] == [
        "walltime: on alpha: 192:00:00 is more than alpha's queue long allows (168:00:00)",
        "queue: on beta: beta has no queue 'long'",
    ]


def test_every_fault_at_once() -> None:
    faults = refused(
        compute_resource="alpha",
        nodes=3,
        cpus=500,
        memory_mb=9000,
        gpus=1,
        walltime="02:00:01",
        inputs={
            "mesh": None,
            "mseh": "x",
            "steps": "many",
            "verbose": "yes",
            "title": 5,
            "method": "guess",
            "table": 3,
        },
        outputs=["result", "resutl"],
        outputs_to="storage://hoem/x",
    )
    assert set(faults) == {
        "nodes", "cpus", "memory_mb", "gpus", "walltime", "inputs.mseh", "inputs.mesh", "inputs.steps",
        "inputs.verbose", "inputs.title", "inputs.method", "inputs.table", "outputs[1]", "outputs_to",
    }  # fmt: skip
    assert faults["inputs.mseh"] == "solver has no such input (did you mean 'mesh'?)"
    assert "did you mean 'home'" in faults["outputs_to"]
    assert "missing" in faults["inputs.mesh"]


def test_unknown_names() -> None:
    assert "did you mean 'solver'" in refused("slover")["application"]
    assert "did you mean 'beta'" in refused(compute_resource="bta")["compute_resource"]
    assert "did you mean 'short'" in refused(compute_resource="alpha", queue="shrot")["queue"]
    assert (
        "is not deployed on beta (it is on: alpha)"
        in refused("templated", compute_resource="beta")["compute_resource"]
    )
    experiment = Experiment(application="solver", inputs={"mesh": MESH}, pattern="hpc_bacth")
    with pytest.raises(ExperimentRefused, match="did you mean 'hpc_batch'"):
        resolve(experiment, CATALOG, patterns=["hpc_batch"])


def test_sizes_are_checked_though_names_are_wrong() -> None:
    assert set(refused("nothing", compute_resource="alpha", nodes=5)) == {"application", "nodes"}


def test_cpus_and_nodes_fit_together() -> None:
    assert "fewer than the 2 nodes" in refused(compute_resource="alpha", nodes=2, cpus=1)["cpus"]
    assert "1 node(s)" in refused(compute_resource="alpha", nodes=1, cpus=33)["cpus"]
    assert "shared evenly" in refused("templated", nodes=2, cpus=5)["cpus"]


@pytest.mark.parametrize(
    ("given", "storage", "path"),
    [
        ("storage://archive/a%20b/c", "archive", "a b/c"),
        ("file:///data/x/y", "home", "x/y"),
        ("file:///data/project/y", "project", "y"),
        ("file:///data/projects/y", "home", "projects/y"),
    ],
)
def test_files(given: str, storage: str, path: str) -> None:
    file = resolved(inputs={"mesh": given}).files[0]
    assert file == FileInput(StorageURI(storage, path), path.rsplit("/", maxsplit=1)[-1])


@pytest.mark.parametrize(
    "given",
    [
        "m.msh",
        "/data/m.msh",
        "http://x/m.msh",
        "storage://none/m.msh",
        "storage://home/../m.msh",
        "storage://home/%2e%2e/m.msh",
        "file:///etc/passwd",
        "file:///data/../etc/passwd",
        "file:///data",
        "file:///database/x",
        5,
        ["storage://home/a"],
        True,
    ],
)
def test_files_refused(given: object) -> None:
    assert list(refused(inputs={"mesh": given})) == ["inputs.mesh"]


@pytest.mark.parametrize("name", ["stdout.txt", "stderr.txt", ".airavata", "table.in", "f"])
def test_two_files_of_one_name(name: str) -> None:
    inputs = {"fields": [f"storage://archive/{name}", "storage://home/f"], "table": "storage://home/t"}
    assert "already" in next(iter(refused(inputs=inputs).values()))


@pytest.mark.parametrize(
    ("inputs", "value"),
    [
        ({"steps": "3"}, 3),
        ({"steps": 3}, 3),
        ({"tolerance": "1e-3"}, 0.001),
        ({"tolerance": 1}, 1.0),
        ({"verbose": False}, False),
        ({"title": ""}, ""),
        ({"title": "-n\n$(x)"}, "-n\n$(x)"),
        ({"steps": ""}, 100),
    ],
)
def test_types(inputs: dict[str, Any], value: object) -> None:
    found = resolved(inputs=inputs).inputs[next(iter(inputs))]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "inputs",
    [
        {"steps": True},
        {"steps": 3.5},
        {"steps": "3.0"},
        {"tolerance": "nan"},
        {"tolerance": False},
        {"verbose": 1},
        {"verbose": "true"},
        {"title": 3},
        {"title": "a\0b"},
        {"title": ["a"]},
        {"fields": "storage://home/a"},
        {"method": "IMPLICIT"},
    ],
)
def test_types_refused(inputs: dict[str, Any]) -> None:
    assert list(refused(inputs=inputs)) == [f"inputs.{next(iter(inputs))}"]


def test_no_default_storage() -> None:
    catalog = Catalog(
        CATALOG.compute_resources, {"archive": CATALOG.storage_resource("archive")}, CATALOG.applications
    )
    experiment = Experiment(application="solver", inputs={"mesh": "storage://archive/m"})
    assert resolve(experiment, catalog).outputs_to.storage == "archive"
    both = {name: CATALOG.storage_resource(name) for name in ("archive", "project")}
    with pytest.raises(ExperimentRefused, match="none is the default"):
        resolve(experiment, Catalog(CATALOG.compute_resources, both, CATALOG.applications))


def test_arguments_from_inputs() -> None:
    inputs = {
        "mesh": "storage://home/-m.msh",
        "fields": ["storage://home/b", "storage://home/a%0Ab"],
        "tolerance": "0.5",
        "verbose": True,
        "title": "-rf *",
        "table": "storage://home/t",
        "note": "not on the command line",
    }
    found = resolved(inputs=inputs)
    options = ("-m", "./-m.msh", "--steps=100", "-t", "0.5", "-v", "--method", "implicit")
    assert command_arguments(found) == (*options, "-rf *", "b", "a\nb")
    assert found.stdin == "table.in"
    assert [file.name for file in found.files] == ["-m.msh", "b", "a\nb", "table.in"]
    on_beta = resolved(inputs=inputs, compute_resource="beta")
    assert command_arguments(on_beta) == (*options, "--", "-rf *", "b", "a\nb")
    assert command_arguments(resolved(inputs={"verbose": False})) == (
        "-m",
        "m.msh",
        "--steps=100",
        "--method",
        "implicit",
    )
    assert resolved().stdin is None


def test_arguments_from_templates() -> None:
    inputs = {"files": ["storage://home/a b", "storage://home/-c"], "n": 3}
    assert command_arguments(resolved("templated", inputs=inputs), "/d") == (
        "-c",
        "a b",
        "./-c",
        "3",
        "n=3 in /d",
    )
    assert command_arguments(resolved("templated"), "/d") == ("-c", "n=None in /d")


def test_template_syntax_in_values_is_data() -> None:
    found = resolved("templated", inputs={"files": ["storage://home/%7B%7B 7*7 %7D%7D"]})
    assert command_arguments(found)[1] == "{{ 7*7 }}"


def test_variables_are_plain_data() -> None:
    variables = resolved(walltime=10, inputs={"verbose": True}).variables("/scratch/x")
    assert json.loads(json.dumps(variables)) == variables
    assert variables["experiment"]["walltime_s"] == 600
    assert variables["experiment"]["queue"] == "short"
    assert variables["inputs"]["mesh"] == "m.msh"
    assert variables["inputs"]["tolerance"] is None
    assert variables["outputs"] == {"result": "result.dat", "frames": "frames/*.png"}
    assert variables["directory"] == "/scratch/x"


MANY = """\
compute_resources:
  cluster: {connection: c, scheduler: slurm, scratch: /scratch}
storage_resources:
  home: {type: local, root: /home, default: true}
applications:
  render:
    inputs:
      scene: {type: FILE, position: 1}
      frame: {type: FILE, position: 2, each: true, name: frame.dat}
      quality: {type: INTEGER, argument: -q, each: true, required: false}
    deployments:
      cluster: {executable: render}
"""


@pytest.fixture
def many(tmp_path: Path) -> Catalog:
    (tmp_path / "catalog.yaml").write_text(MANY)
    return load_catalog([tmp_path])


def spread(catalog: Catalog, **inputs: Any) -> ResolvedExperiment:
    given = {"scene": "storage://home/s", **inputs}
    return resolve(Experiment.model_validate({"application": "render", "id": "run", "inputs": given}), catalog)


def frames(count: int) -> list[str]:
    return [f"storage://home/f/{index}" for index in range(count)]


def test_an_element_for_each_item(many: Catalog) -> None:
    found = spread(many, frame=frames(2), quality=[1, "2"])
    assert [file.name for file in found.files] == ["s"]
    assert [str(file.source) for file in found.of_element(1).files] == ["storage://home/s", "storage://home/f/1"]
    assert element_arguments(found) == (("-q", "1", "s", "frame.dat"), ("-q", "2", "s", "frame.dat"))
    assert found.variables("/d")["inputs"] == {"scene": "s", "frame": ["frame.dat"] * 2, "quality": [1, 2]}
    assert element_arguments(spread(many, frame=frames(1))) == (("s", "frame.dat"),)


def test_templates_see_an_elements_own_inputs(many: Catalog) -> None:
    found = spread(many, frame=frames(2), quality=[1, 2])
    templates = ("{{ inputs.quality }}", "{{ inputs.scene }}")
    found = replace(found, deployment=found.deployment.model_copy(update={"arguments": templates}))
    assert element_arguments(found) == (("1", "s"), ("2", "s"))


@pytest.mark.parametrize(
    ("inputs", "where", "message"),
    [
        ({}, "inputs.frame", "missing"),
        ({"frame": frames(1)[0]}, "inputs.frame", "a list with an item for each element"),
        ({"frame": []}, "inputs.frame", "a list with an item for each element"),
        ({"frame": ["storage://home/x", "nowhere"]}, "inputs.frame[1]", "should be storage://"),
        ({"frame": frames(2), "quality": [1]}, "inputs", "frame has 2, quality has 1"),
        ({"frame": frames(2), "quality": [1, "x"]}, "inputs.quality[1]", "whole number"),
        ({"frame": frames(1), "scene": "storage://home/frame.dat"}, "inputs.frame", "already"),
    ],
)
def test_lists_that_make_no_elements(many: Catalog, inputs: dict[str, Any], where: str, message: str) -> None:
    with pytest.raises(ExperimentRefused) as caught:
        spread(many, **inputs)
    assert [(fault.where, message in fault.message) for fault in caught.value.faults] == [(where, True)]


@pytest.mark.parametrize("field", [{"type": "FILE_LIST"}, {"default": "x"}])
def test_what_cannot_be_given_for_each_element(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="each"):
        InputField.model_validate({"each": True, **field})
