"""The wheel has what a source tree has, and finds it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
LOOK = """
from airavata_provider.models.pattern_folders import builtin_patterns, pattern_files
import airavata_provider
print(airavata_provider.__file__)
print(*(each.path.name for each in pattern_files([builtin_patterns()])))
"""


@pytest.mark.slow
def test_the_wheel_is_whole(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, PROJECT], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    package = PROJECT / "airavata_provider"
    # Every file of ours but what Python compiles.
    ours = {
        str(path.relative_to(PROJECT))
        for folder in (package, PROJECT / "dag_factories")
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"airavata_provider/py.typed"} <= ours
    assert ours <= names
    installed = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", installed, wheel], check=True, timeout=300)
    # Before the tree that the tests themselves run from.
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    where, patterns = done.stdout.splitlines()
    assert Path(where).is_relative_to(installed)
    assert set(patterns.split()) == {path.name for path in (PROJECT / "patterns").glob("*.yaml")}
