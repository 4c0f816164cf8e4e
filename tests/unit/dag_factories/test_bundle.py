"""The bundle: versions that stay, faults that disturb nobody, processes that do not meet."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import runpy
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.bundles import base

from airavata_provider.errors import ConfigurationError, PatternError
from dag_factories import bundle as module
from dag_factories.bundle import PatternBundle, builtin_patterns


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Airflow's place for bundles, in the test's own directory."""
    root = tmp_path / "bundles"
    monkeypatch.setattr(base, "get_bundle_storage_root_path", lambda: root)
    return root


@pytest.fixture(autouse=True)
def factory(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Path, str]]]:
    """A factory that only notes what it was asked for."""
    calls: list[tuple[Path, str]] = []

    def dags_from_file(path: Path, *, shown_as: str) -> tuple[str, None]:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if "boom" in text:
            raise ValueError(f"{shown_as}:1: boom")
        if path.name != "pattern.yaml":  # the bundle's own trial
            calls.append((path, shown_as))
        return text, None

    stub = types.ModuleType("dag_factories.factory")
    stub.dags_from_file = dags_from_file  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dag_factories.factory", stub)
    module._is_good.cache_clear()
    yield calls
    module._is_good.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "patterns"
    path.mkdir()
    return path


def make(tmp_path: Path, *folders: Path, version: str | None = None, **kwargs: Any) -> PatternBundle:
    kwargs.setdefault("archive", str(tmp_path / "archive"))
    return PatternBundle(
        name="airavata", folders=[str(each) for each in folders], builtin=False, version=version, **kwargs
    )


KEEPER = "airavata_reconciler.py"
"""The service DAG that is beside the patterns in every version."""


def served(bundle: PatternBundle) -> set[str]:
    names = {path.name for pattern in ("*.zip", "*.py") for path in bundle.path.glob(pattern)}
    assert KEEPER in names
    return names - {KEEPER}


def run_archive(archive: Path) -> dict[str, Any]:
    """What a DAG file defines, in its archive or in the directory in its place."""
    name = f"airavata_pattern_{archive.stem}"
    files = [path.name for path in archive.iterdir()] if archive.is_dir() else zipfile.ZipFile(archive).namelist()
    assert files == [f"{name}.py"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(archive))
        patch.delitem(sys.modules, name, raising=False)
        made = vars(importlib.import_module(name))
        del sys.modules[name]
    return made


def test_each_pattern_becomes_a_stub_that_calls_the_factory(
    tmp_path: Path, folder: Path, factory: list[tuple[Path, str]]
) -> None:
    (folder / "one.yaml").write_text("name: one\n")
    (folder / "two.yml").write_text("name: two\n")
    (folder / ".hidden.yaml").write_text("name: hidden\n")
    (folder / "notes.txt").write_text("no pattern\n")
    bundle = make(tmp_path, folder)
    bundle.initialize()
    assert served(bundle) == {"one.zip", "two.zip"}
    assert run_archive(bundle.path / "one.zip")["dag"] == "name: one\n"
    assert factory == [(bundle.path / "one.yaml", str(folder / "one.yaml"))]


def test_stubs_pass_airflows_safe_mode(tmp_path: Path, folder: Path) -> None:
    from airflow.utils.file import list_py_file_paths

    (folder / "one.yaml").write_text("name: one\n")
    (folder / "other.yaml").write_text("name: one\n")
    bundle = make(tmp_path, folder)
    bundle.initialize()
    assert {Path(path).name for path in list_py_file_paths(bundle.path, safe_mode=True)} == served(bundle) | {KEEPER}


def test_a_stub_changes_with_its_pattern_and_only_that_one_is_newer(tmp_path: Path, folder: Path) -> None:
    (folder / "one.yaml").write_text("name: one\n")
    (folder / "two.yaml").write_text("name: two\n")
    bundle = make(tmp_path, folder)
    bundle.initialize()
    before = bundle.path
    for stub in before.glob("*.zip"):
        os.utime(stub, (1000, 1000))
    (folder / "two.yaml").write_text("name: two\ndescription: changed\n")
    bundle.refresh()
    assert bundle.path != before
    assert (bundle.path / "one.zip").stat().st_mtime == 1000
    assert (bundle.path / "two.zip").stat().st_mtime > 1000
    assert (bundle.path / "two.zip").read_bytes() != (before / "two.zip").read_bytes()
    # Back to the first content: its files are old, and Airflow is to parse them again.
    (folder / "two.yaml").write_text("name: two\n")
    bundle.refresh()
    assert bundle.path == before
    assert (bundle.path / "one.zip").stat().st_mtime == 1000
    assert (bundle.path / "two.zip").stat().st_mtime > 1000


def test_a_version_stays_when_the_folder_changes(tmp_path: Path, folder: Path) -> None:
    (folder / "one.yaml").write_text("name: one\n")
    first = make(tmp_path, folder)
    first.initialize()
    pinned = first.get_current_version()
    assert pinned is not None
    (folder / "one.yaml").write_text("name: one\ndescription: new\n")
    (folder / "more.yaml").write_text("name: more\n")
    first.refresh()
    assert first.get_current_version() != pinned

    worker = make(tmp_path, folder, version=pinned.version)
    worker.initialize()
    worker.refresh()
    assert worker.get_current_version() == pinned
    assert served(worker) == {"one.zip"}
    assert (worker.path / "one.yaml").read_text() == "name: one\n"


def test_another_machine_makes_a_version_from_the_archive(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "one.yaml").write_text("name: one\n")
    here = make(tmp_path, folder)
    here.initialize()
    version = here.path.name
    (folder / "one.yaml").unlink()

    monkeypatch.setattr(base, "get_bundle_storage_root_path", lambda: tmp_path / "elsewhere")
    there = make(tmp_path, folder, version=version)
    there.initialize()
    assert there.path != here.path
    assert {path.name for path in there.path.iterdir()} == {path.name for path in here.path.iterdir()}
    for same in ("one.yaml", KEEPER):
        assert (there.path / same).read_bytes() == (here.path / same).read_bytes()
    assert run_archive(there.path / "one.zip")["dag"] == "name: one\n"


def test_another_machine_makes_a_version_from_the_same_folders(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "one.yaml").write_text("name: one\n")
    here = make(tmp_path, folder)
    here.initialize()
    monkeypatch.setattr(base, "get_bundle_storage_root_path", lambda: tmp_path / "elsewhere")
    there = make(tmp_path, folder, version=here.path.name, archive=str(tmp_path / "no archive"))
    there.initialize()
    assert served(there) == {"one.zip"}


def test_a_version_that_nobody_kept_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="nor what the patterns folders hold now"):
        make(tmp_path, folder, version="0" * 32).initialize()


def test_an_archive_file_that_was_changed_is_refused(tmp_path: Path, folder: Path) -> None:
    (folder / "one.yaml").write_text("name: one\n")
    bundle = make(tmp_path, folder)
    bundle.initialize()
    version = bundle.path.name
    archived = tmp_path / "archive" / "airavata" / f"{version}.json"
    manifest = json.loads(archived.read_text())
    manifest["patterns"]["one"]["text"] = "name: evil\n"
    archived.write_text(json.dumps(manifest))
    bundle.path.rename(tmp_path / "gone")
    with pytest.raises(ConfigurationError):
        make(tmp_path, folder, version=version).initialize()


def test_an_archive_that_cannot_be_written_does_not_stop_the_service(tmp_path: Path, folder: Path) -> None:
    (folder / "one.yaml").write_text("name: one\n")
    (tmp_path / "file").write_text("")
    bundle = make(tmp_path, folder, archive=str(tmp_path / "file"))
    bundle.initialize()
    assert served(bundle) == {"one.zip"}


def test_the_second_pattern_of_a_name_is_an_import_error_naming_both(
    tmp_path: Path, folder: Path, factory: list[tuple[Path, str]]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (folder / "same.yaml").write_text("name: same\n")
    (other / "same.yaml").write_text("name: same\n")
    (other / "fine.yaml").write_text("name: fine\n")
    bundle = make(tmp_path, folder, other)
    bundle.initialize()
    assert served(bundle) == {"same.zip", "same__2.zip", "fine.zip"}
    assert run_archive(bundle.path / "same.zip")["dag"] == "name: same\n"
    assert run_archive(bundle.path / "fine.zip")["dag"] == "name: fine\n"
    with pytest.raises(PatternError) as caught:
        run_archive(bundle.path / "same__2.zip")
    assert str(folder / "same.yaml") in str(caught.value)
    assert str(other / "same.yaml") in str(caught.value)


@pytest.mark.parametrize("content", [b"name: [\n", b"\xff\xfe\x00", b"", b"- a\n- list\n", b"name: {a: b}\n"])
def test_a_broken_pattern_is_served_as_it_is(
    tmp_path: Path, folder: Path, factory: list[tuple[Path, str]], content: bytes
) -> None:
    (folder / "broken.yaml").write_bytes(content)
    (folder / "fine.yaml").write_text("name: fine\n")
    bundle = make(tmp_path, folder)
    bundle.initialize()
    assert served(bundle) == {"broken.zip", "fine.zip"}
    assert (bundle.path / "broken.yaml").read_bytes() == content


def test_a_good_pattern_that_breaks_is_served_on_beside_its_error(tmp_path: Path, folder: Path) -> None:
    """Airflow would not go on with running experiments of a DAG whose file does not parse."""
    (folder / "one.yaml").write_text("name: one\n")
    bundle = make(tmp_path, folder)
    bundle.initialize()
    (folder / "one.yaml").write_text("name: one\nboom: 1\n")
    bundle.refresh()
    restarted = make(tmp_path, folder)
    restarted.initialize()
    assert restarted.path == bundle.path
    assert served(bundle) == {"one.zip", "one__new.zip"}
    assert run_archive(bundle.path / "one.zip")["dag"] == "name: one\n"
    with pytest.raises(ValueError, match=r"one\.yaml:1: boom"):
        run_archive(bundle.path / "one__new.zip")
    (folder / "one.yaml").write_text("name: one\ndescription: mended\n")
    bundle.refresh()
    assert served(bundle) == {"one.zip"}
    assert "mended" in (bundle.path / "one.yaml").read_text()


def test_a_file_that_cannot_be_read_is_an_import_error(tmp_path: Path, folder: Path) -> None:
    (folder / "dangling.yaml").symlink_to(tmp_path / "nowhere")
    (folder / "fine.yaml").write_text("name: fine\n")
    bundle = make(tmp_path, folder)
    bundle.initialize()
    with pytest.raises(PatternError, match=r"dangling\.yaml"):
        run_archive(bundle.path / "dangling.zip")
    assert "fine.zip" in served(bundle)


def test_file_names_of_any_kind_reach_the_stub_as_data(
    tmp_path: Path, folder: Path, factory: list[tuple[Path, str]]
) -> None:
    names = ['it\'s "q"', "new\nline", "a b", "ünï", "-rf", "{x}", "'''", "a.b"]
    for name in names:
        (folder / f"{name}.yaml").write_text("description: x\n")
    bundle = make(tmp_path, folder)
    bundle.initialize()
    assert len(served(bundle)) == len(names)
    for stub in served(bundle):
        run_archive(bundle.path / stub)
    assert {shown for _, shown in factory} == {str(folder / f"{name}.yaml") for name in names}


def test_a_missing_folder_is_empty_and_a_deleted_pattern_goes(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "one.yaml").write_text("name: one\n")
    bundle = make(tmp_path, tmp_path / "absent", folder)
    bundle.initialize()
    assert "absent" in caplog.text
    assert served(bundle) == {"one.zip"}
    (folder / "one.yaml").unlink()
    bundle.refresh()
    assert served(bundle) == set()


def test_who_has_a_version_finds_the_same_paths_without_archives(tmp_path: Path, folder: Path) -> None:
    (folder / "one.yaml").write_text("name: one\n")
    bundle = make(tmp_path, folder)
    bundle.initialize()
    current = bundle.get_current_version()
    assert current is not None
    pinned = make(tmp_path, folder, version=current.version)
    pinned.initialize()
    assert pinned.path != bundle.path
    assert zipfile.is_zipfile(bundle.path / "one.zip")
    assert (pinned.path / "one.zip").is_dir()
    assert run_archive(pinned.path / "one.zip")["dag"] == run_archive(bundle.path / "one.zip")["dag"] == "name: one\n"


def test_archives_of_old_versions_go(tmp_path: Path, folder: Path) -> None:
    bundle, paths = make(tmp_path, folder), []
    for number in range(3):
        (folder / "one.yaml").write_text(f"name: one\ndescription: {number}\n")
        bundle.refresh()
        paths.append(bundle.path)
        if number == 1:
            os.utime(paths[0], (0, 0))
    assert [path.is_dir() for path in paths] == [False, True, True]


def test_a_removed_directory_is_made_again(tmp_path: Path, folder: Path) -> None:
    (folder / "one.yaml").write_text("name: one\n")
    bundle = make(tmp_path, folder)
    bundle.initialize()
    for path in bundle.path.iterdir():
        path.unlink()
    bundle.path.rmdir()
    bundle.refresh()
    assert served(bundle) == {"one.zip"}


def test_the_path_can_be_asked_for_before_anything_is_there(tmp_path: Path, folder: Path) -> None:
    bundle = make(tmp_path, folder)
    assert not bundle.path.exists()
    assert bundle.get_current_version() is None


def test_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = PatternBundle(name="airavata")
    assert bundle.folders[0] == builtin_patterns()
    assert bundle.refresh_interval == 15
    assert PatternBundle(name="airavata", builtin=False, folders=["/x"]).folders == (Path("/x"),)


def _initialise(root: str, tmp_path: str, folder: str, start: Any) -> None:
    base.get_bundle_storage_root_path = lambda: Path(root)
    start.wait(300)
    bundle = make(Path(tmp_path), Path(folder))
    bundle.initialize()
    if served(bundle) != {f"{path.stem}.zip" for path in Path(folder).iterdir()}:
        raise SystemExit(3)


def test_many_processes_at_once(tmp_path: Path, folder: Path, storage: Path) -> None:
    for number in range(30):
        (folder / f"p{number}.yaml").write_text(f"name: p{number}\n")
    context = multiprocessing.get_context("fork")
    start = context.Barrier(6)
    processes = [
        context.Process(target=_initialise, args=(str(storage), str(tmp_path), str(folder), start)) for _ in range(6)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * 6
    assert len(list((make(tmp_path, folder).base_dir / "packed").iterdir())) == 1
    assert module._FORMAT == 3


def test_the_service_dag_comes_with_every_version_and_its_name_is_taken(tmp_path: Path, folder: Path) -> None:
    (folder / "mine.yaml").write_text("name: airavata_reconciler\n")
    (folder / "airavata_reconciler.yaml").write_text("name: other\n")
    bundle = make(tmp_path, folder)
    bundle.initialize()
    assert served(bundle) == {"mine.zip", "airavata_reconciler__2.zip"}
    dag = runpy.run_path(str(bundle.path / KEEPER))["dag"]
    assert dag.dag_id == "airavata_reconciler"
    with pytest.raises(PatternError, match="from this package"):
        run_archive(bundle.path / "mine.zip")
