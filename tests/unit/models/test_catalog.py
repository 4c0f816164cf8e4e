"""Catalogs: several files are one, and every fault has its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from airavata_provider.errors import CatalogError
from airavata_provider.models.application import Parallelism
from airavata_provider.models.catalog import Catalog, load_catalog
from airavata_provider.models.resource import ModuleSystemType

FIXTURES = Path(__file__).parents[2] / "fixtures" / "catalog"


def load(folder: Path, **files: str) -> Catalog:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return load_catalog([folder])


def faults(folder: Path, **files: str) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        load(folder, **files)
    return [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]


RESOURCE = "compute_resources:\n  {0}: {{connection: c, scheduler: fork, scratch: /s}}\n"


def test_every_field() -> None:
    catalog = load_catalog([FIXTURES])
    alpha, beta = catalog.compute_resource("alpha"), catalog.compute_resource("beta")
    assert alpha.queue().name == "short"
    assert alpha.queue("long").max_walltime == 7 * 24 * 3600
    assert alpha.queue().default_walltime == 1800
    assert alpha.module_system.commands() == (". /etc/profile.d/lmod.sh",)
    assert alpha.module_system.commands(False) == ()
    assert not alpha.callbacks.webhook
    assert (alpha.max_connections, alpha.sessions_per_connection) == (1, 8)
    assert beta.queue().name is None
    assert beta.scratch == str(FIXTURES / "scratch")
    assert beta.module_system.type is ModuleSystemType.TCL
    assert (beta.max_connections, beta.sessions_per_connection) == (4, 4)
    solver = catalog.application("solver")
    assert list(solver.deployments) == ["alpha", "beta"]
    assert solver.deployments["alpha"].pre_commands == ("ulimit -s unlimited", "date")
    assert solver.deployments["alpha"].parallelism is Parallelism.MPI
    assert catalog.default_storage() == catalog.storage_resource("home")


def test_several_files_and_folders_are_one(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    (second / "deeper").mkdir(parents=True)
    (second / ".hidden").mkdir()
    first.mkdir()
    (first / "a.yaml").write_text(
        "applications:\n  app:\n    deployments:\n      b: {executable: x}\n      a: {executable: y}\n"
    )
    (first / "empty.yaml").write_text("")
    (first / "notes.txt").write_text("not: [yaml")
    (second / "b.yml").write_text(RESOURCE.format("b"))
    (second / "deeper" / "a.yaml").write_text(RESOURCE.format("a"))
    (second / ".hidden" / "c.yaml").write_text(RESOURCE.format("c"))
    catalog = load_catalog([first, second])
    assert list(catalog.compute_resources) == ["b", "a"]
    assert list(catalog.application("app").deployments) == ["b", "a"]


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(CatalogError, match="did you mean 'alpha'"):
        load_catalog([FIXTURES]).compute_resource("alhpa")


def test_a_name_twice_names_both_places(tmp_path: Path) -> None:
    found = faults(tmp_path, a=RESOURCE.format("x"), b="# head\n" + RESOURCE.format("x"))
    assert found == ["b.yaml:3: compute_resources.x: is at a.yaml:2 already"]


def test_every_fault_of_every_file_at_once(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        a="compute_resources:\n  x:\n    scheduler: fork\n    scratch: relative\n    max_connections: 0\n",
        b="applicatons: {}\nstorage_resources: [x]\n",
        c="a: [\n",
        d="just text\n",
        e="applications:\n  bad name: {deployments: {}}\n  app: 5\n",
        f="storage_resources:\n  s: {type: sftp, root: /x}\n  t: {type: local}\n  u: {type: x, name: v}\n",
    )
    text = "\n".join(found)
    for expected in (
        "a.yaml:2: compute_resources.x.connection: missing",
        "a.yaml:4: compute_resources.x.scratch: should be an absolute path",
        "a.yaml:5: compute_resources.x.max_connections: should be greater than or equal to 1, not 0",
        "b.yaml:1: applicatons: unknown section (did you mean 'applications'?)",
        "b.yaml:2: storage_resources: should be a mapping",
        "c.yaml:2: not YAML",
        "d.yaml:1: should be a mapping",
        "e.yaml:2: applications.bad name.name: should start with",
        "e.yaml:2: applications.bad name.deployments: ",
        "e.yaml:3: applications.app: should be a mapping",
        "f.yaml:2: storage_resources.s: connection: missing",
        "f.yaml:3: storage_resources.t: root: missing",
        "f.yaml:4: storage_resources.u.name: its name is its key",
    ):
        assert expected in text


def test_entries_fit_together(tmp_path: Path) -> None:
    application = "applications:\n  app:\n    deployments:\n      {0}: {{executable: x, queue: q}}\n"
    storages = "storage_resources:\n  s: {type: x, default: true}\n  t: {type: x, default: true}\n"
    found = faults(tmp_path, a=RESOURCE.format("here"), b=application.format("heer"), c=storages)
    assert found == [
        "b.yaml:4: applications.app.deployments.heer: no such compute resource (did you mean 'here'?)",
        "c.yaml:3: storage_resources.t.default: s is the default already",
    ]
    assert "has no queue 'q'" in faults(tmp_path, b=application.format("here"), c="")[0]


def test_references_are_not_blamed_when_their_target_is_broken(tmp_path: Path) -> None:
    application = "applications:\n  app:\n    deployments:\n      here: {executable: x}\n"
    found = faults(tmp_path, a="compute_resources:\n  here: {scheduler: fork}\n", b=application)
    assert not [fault for fault in found if fault.startswith("b.yaml")]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no such folder"):
        load_catalog([tmp_path / "none"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("inputs: {a: {type: WORD}}", "inputs.a.type"),
        ("inputs: {a: {type: INTEGER, default: five}}", "default: should be a whole number"),
        ("inputs: {a: {type: BOOLEAN, default: yes}}", "default: should be true or false, not 'yes'"),
        ("inputs: {a: {default: 5}}", "put it in quotes"),
        ("inputs: {a: {type: FILE, default: x}}", "default: an input of type FILE has none"),
        ("inputs: {a: {stdin: true}}", "stdin: only an input of type FILE"),
        ("inputs: {a: {choices: [x], default: y}}", "is not one of the choices"),
        ("inputs: {a: {position: 1}, b: {position: 1}}", "a and b have the same position 1"),
        (
            "inputs: {a: {type: FILE, stdin: true}, b: {type: FILE, stdin: true}}",
            "both want to be the standard input",
        ),
        ("outputs: {a: {file: ../x}}", "not a file name"),
        ("outputs: {a: {file: x, type: STRING}}", "outputs.a.type"),
        ("stdout: a/b", "not a file name"),
    ],
)
def test_applications_make_sense(tmp_path: Path, entry: str, message: str) -> None:
    text = f"applications:\n  app:\n    deployments: {{x: {{executable: x}}}}\n    {entry}\n"
    assert message in "\n".join(faults(tmp_path, a=text))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("arguments: ['{{ x']", "template"),
        ("arguments: ['{{ secret }}']", "there is no secret here"),
        ("environment: {'A B': x}", "environment"),
        ("walltime: soon", "should be minutes or HH:MM:SS"),
        ("parallelism: CUDA", "parallelism"),
        ("modules: gcc", "modules"),
    ],
)
def test_deployments_make_sense(tmp_path: Path, entry: str, message: str) -> None:
    text = f"applications:\n  app:\n    deployments:\n      x:\n        executable: x\n        {entry}\n"
    assert message in "\n".join(faults(tmp_path, a=text))


def test_queues_make_sense(tmp_path: Path) -> None:
    head = "compute_resources:\n  x:\n    connection: c\n    scheduler: fork\n    scratch: /s\n"
    assert "default_queue: missing" in faults(tmp_path, a=head + "    queues: {a: {}, b: {}}\n")[0]
    assert "no queue 'c'" in faults(tmp_path, a=head + "    queues: {a: {}}\n    default_queue: c\n")[0]
    only = load(tmp_path, a=head + "    queues: {a: , }\n").compute_resource("x")
    assert only.queue().name == "a"
    with pytest.raises(KeyError):
        only.queue("b")
