from __future__ import annotations

import sys
from pathlib import Path

import pytest

from airavata_provider.errors import ConfigurationError
from airavata_provider.jobs.figures import tellings
from airavata_provider.plots import draw
from tests.unit.jobs.test_figures import HISTORY

pytestmark = pytest.mark.slow

PNG = b"\x89PNG\r\n\x1a\n"


def test_pictures_are_drawn(tmp_path: Path) -> None:
    files = draw(tellings(HISTORY), tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["first.png", "notice.png", "behind.png"]
    assert all(file.read_bytes().startswith(PNG) for file in files)


def test_without_a_webhook_nobody_is_behind_it(tmp_path: Path) -> None:
    told = tellings([each for each in HISTORY if each.event.source != "webhook"])
    assert [file.name for file in draw(told, tmp_path)] == ["first.png", "notice.png"]


def test_without_news_there_is_nothing_to_draw(tmp_path: Path) -> None:
    assert draw([], tmp_path / "new") == []
    assert not (tmp_path / "new").exists()


def test_without_the_library_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigurationError, match=r"\[plots\]"):
        draw(tellings(HISTORY), tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        draw(tellings(HISTORY), tmp_path / "file")
