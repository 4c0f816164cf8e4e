"""The examples load, fit each other, and do what they say when their command is run by a real shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airavata_provider.models.catalog import load_catalog
from airavata_provider.models.experiment import Experiment, command_arguments, read_experiment, resolve
from airavata_provider.models.resolved import ResolvedExperiment

EXAMPLES = Path(__file__).parents[3] / "examples"
CATALOG = load_catalog([EXAMPLES / "catalog"])
PATTERNS = [path.stem for path in (EXAMPLES.parent / "patterns").glob("*.yaml")]


def run(resolved: ResolvedExperiment, folder: Path) -> str:
    command = [resolved.deployment.executable, *command_arguments(resolved)]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout.decode()


@pytest.mark.parametrize("path", sorted((EXAMPLES / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_experiments_resolve(path: Path) -> None:
    resolved = resolve(read_experiment(path, CATALOG), CATALOG, patterns=PATTERNS)
    for file in resolved.files:
        assert (Path(CATALOG.storage_resource(file.source.storage).root) / file.source.path).is_file()
    assert resolved.outputs_to.storage == "demo_outputs"
    assert resolved.resource.scratch == str(EXAMPLES.parent / ".demo" / "scratch")


def test_wordcount_counts(tmp_path: Path) -> None:
    resolved = resolve(read_experiment(EXAMPLES / "experiments" / "wordcount.yaml", CATALOG), CATALOG)
    shutil.copy(EXAMPLES / "data" / "poem.txt", tmp_path)
    assert run(resolved, tmp_path) == "wrote words.tsv: 8 words\n"
    table = [line.split("\t") for line in (tmp_path / resolved.outputs["table"].file).read_text().splitlines()]
    assert table[:4] == [["the", "14"], ["what", "14"], ["thy", "5"], ["tyger", "5"]]
    assert len(table) == 8


@settings(max_examples=25)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
@example("$(touch x) `y` 'z' \"\n\\ -n")
@example("-n")
def test_echo_says_what_it_is_told(message: str) -> None:
    experiment = Experiment.from_conf({"application": "echo", "inputs": {"message": message}}, experiment_id="x")
    assert run(resolve(experiment, CATALOG), Path("/")) == message + "\n"
