"""A catalog follows its files; a broken edit stops nobody who is at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from airavata_provider.errors import CatalogError
from airavata_provider.models import catalog_folders
from airavata_provider.models.catalog_folders import CatalogFolders

GOOD = "storage_resources:\n  {name}: {{type: local, root: /data}}\n"


@pytest.fixture(autouse=True)
def looks_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_folders, "LOOK_AGAIN_S", 0.0)


def test_it_follows_its_files(tmp_path: Path) -> None:
    file, folders = tmp_path / "catalog.yaml", CatalogFolders([tmp_path])
    file.write_text(GOOD.format(name="first"))
    assert list(folders.current().storage_resources) == ["first"]
    file.write_text(GOOD.format(name="another"))
    assert list(folders.current().storage_resources) == ["another"]
    assert folders.current() is folders.last_good()


def test_a_broken_edit_is_refused_at_the_door_and_harmless_within(tmp_path: Path) -> None:
    file, folders = tmp_path / "catalog.yaml", CatalogFolders([tmp_path])
    file.write_text(GOOD.format(name="first"))
    good = folders.last_good()
    file.write_text("storage_resources: [")
    with pytest.raises(CatalogError, match=r"catalog\.yaml"):
        folders.current()
    assert folders.last_good() is good
    file.write_text(GOOD.format(name="mended"))
    assert list(folders.current().storage_resources) == ["mended"]


def test_one_that_never_was_good(tmp_path: Path) -> None:
    folders = CatalogFolders([tmp_path / "nowhere"])
    with pytest.raises(CatalogError, match="no such folder"):
        folders.last_good()
