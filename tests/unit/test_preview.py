"""Job scripts for people to read: what would be submitted, and what is told instead of a script."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airavata_provider.errors import AiravataError, ExperimentRefused
from airavata_provider.models.catalog import load_catalog
from airavata_provider.models.experiment import Experiment, resolve
from airavata_provider.preview import Preview, previews
from airavata_provider.settings import get_settings

CATALOG = load_catalog([Path(__file__).parents[1] / "fixtures" / "options_catalog"])
PATTERN = """\
name: own
tasks:
  - {id: first, type: submit, parameters: {nodes: 3, qos: "{{ experiment.queue }}", arguments: ["{{ run.id }}"]}}
  - {id: second, type: submit, after: [first], parameters: {executable: other, webhook: false}}
"""


@pytest.fixture(autouse=True)
def patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A deployment with a folder of patterns, and an address that jobs call."""
    monkeypatch.setenv("AIRFLOW__AIRAVATA__PATTERNS_FOLDERS", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__AIRAVATA__WEBHOOK_BASE_URL", "https://airflow.example.org")
    monkeypatch.setenv("AIRFLOW__AIRAVATA__WEBHOOK_SECRET", "a secret of this test's own")
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


def shown(application: str = "serial", **fields: Any) -> list[Preview]:
    experiment = Experiment.model_validate({"application": application, **fields})
    return list(previews(resolve(experiment, CATALOG)))


def test_the_script_of_a_batch_job() -> None:
    (preview,) = shown(qos="high", reservation="workshop")
    assert (preview.task, preview.left_out) == ("submit", ())
    head = preview.script.partition("\n\n")[0].splitlines()
    for line in (
        "#!/bin/bash",
        "#SBATCH --qos=high",
        "#SBATCH --reservation=workshop",
        "#SBATCH --licenses=abaqus:2",
    ):
        assert line in head
    assert 'apptainer exec --bind "$PWD" --pwd "$PWD" /images/serial.sif serial' in preview.script
    assert "airavata_url=https://airflow.example.org/airavata/jobs/a" in preview.script
    assert subprocess.run(["bash", "-n"], input=preview.script, text=True, check=False).returncode == 0


def test_each_submission_with_the_patterns_own_parameters(patterns: Path) -> None:
    (patterns / "own.yaml").write_text(PATTERN)
    first, second = shown(id="e1", pattern="own")
    assert (first.task, second.task) == ("first", "second")
    assert "#SBATCH --nodes=3\n" in first.script
    assert '#SBATCH --qos="the normal one"\n' in first.script
    assert "serial.sif serial e1 <" in first.script
    assert "serial.sif other <" in second.script
    assert "airavata_url=''" in second.script
    names = [preview.script.partition("--job-name=")[2].split("\n")[0] for preview in (first, second)]
    assert len(set(names)) == 2


def test_what_is_left_out_is_told() -> None:
    (preview,) = shown(compute_resource="host", qos="high")
    assert [fault.where for fault in preview.left_out] == ["qos"]
    assert "#SBATCH" not in preview.script


def test_a_signal_before_the_walltime_is_in_the_script_or_told() -> None:
    (preview,) = shown(walltime=60, signal_before_end_s=300, signal="TERM")
    assert (preview.left_out, "#SBATCH --signal=B:USR1@300\n" in preview.script) == ((), True)
    assert "airavata_signal=TERM " in preview.script
    (preview,) = shown(compute_resource="host", walltime=60, signal_before_end_s=300)
    assert (preview.left_out, "sleep 3300 &" in preview.script) == ((), True)
    (preview,) = shown(compute_resource="host", walltime=5, signal_before_end_s=300)
    assert [fault.where for fault in preview.left_out] == ["signal_before_end_s"]
    assert "kill -s USR1 $$" not in preview.script


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (
            "{id: b, type: monitor}\n"
            '  - {id: a, type: submit, after: [b], parameters: {qos: "{{ tasks.b.result }}"}}',
            "task a: only a run can tell",
        ),
        ("{id: a, type: submit, resource: elsewhere}", "task a submits to elsewhere"),
        ("{id: a, type: clean_up}", "submits no job"),
    ],
)
def test_what_only_a_run_could_tell(patterns: Path, task: str, says: str) -> None:
    (patterns / "own.yaml").write_text(f"name: own\ntasks:\n  - {task}\n")
    with pytest.raises(AiravataError, match=says):
        shown(pattern="own")


def test_parameters_that_make_no_sense_are_told_by_their_names(patterns: Path) -> None:
    text = '{id: a, type: submit, parameters: {nodes: "{{ experiment.queue }}", gpus: "{{ experiment.queue }}"}}'
    (patterns / "own.yaml").write_text(f"name: own\ntasks:\n  - {text}\n")
    with pytest.raises(ExperimentRefused, match="task a") as caught:
        shown(pattern="own")
    assert [fault.where for fault in caught.value.faults] == ["nodes", "gpus"]


def test_an_unknown_pattern() -> None:
    with pytest.raises(AiravataError, match="no pattern 'nope'"):
        shown(pattern="nope")


def test_where_modules_need_a_login_shell_the_script_runs_in_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "fixtures" / "options_catalog" / "site.yaml").read_text()
    site = text.replace("scheduler: slurm\n", "scheduler: slurm\n    module_system: {login_shell: true}\n", 1)
    (tmp_path / "site.yaml").write_text(site)
    experiment = Experiment.model_validate({"application": "serial"})
    (preview,) = previews(resolve(experiment, load_catalog([tmp_path])))
    assert preview.script.startswith("#!/bin/bash -l\n")
