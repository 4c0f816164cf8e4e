"""What a deployment refuses that only its patterns tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airavata_provider.deployment import Deployment
from airavata_provider.errors import ExperimentRefused

CATALOG = """\
compute_resources:
  cluster: {connection: c, scheduler: slurm, scratch: /scratch}
storage_resources:
  files: {type: local, root: /files, default: true}
applications:
  count:
    pattern: ruled
    inputs:
      number: {type: INTEGER, position: 1, each: true}
    deployments:
      cluster: {executable: /bin/true}
  one:
    pattern: ruled
    deployments:
      cluster: {executable: /bin/true}
"""
RULED = """\
tasks:
  - {id: submit, type: submit}
  - {id: wait, type: monitor, after: [submit], parameters: {on_outcome: [{outcome: NODE_FAILURE}]}}
"""
PLAIN = RULED.partition(", parameters")[0] + "}\n"


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    for folder, files in {"catalog": {"c": CATALOG}, "patterns": {"ruled": RULED, "plain": PLAIN}}.items():
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / f"{name}.yaml").write_text(text)
    return Deployment((tmp_path / "catalog",), (tmp_path / "patterns",))


def asked(**values: Any) -> dict[str, Any]:
    return {"application": "count", "compute_resource": "cluster", "inputs": {"number": [1, 2]}, **values}


def test_no_rules_for_arrays(deployment: Deployment) -> None:
    with pytest.raises(ExperimentRefused) as refused:
        deployment.check(asked(), experiment_id="e")
    (fault,) = refused.value.faults
    assert fault.where == "pattern"
    assert (
        "ruled's task wait has rules for how a job ends, which do not hold for experiments over many" in fault.message
    )


def test_others_are_fine(deployment: Deployment) -> None:
    assert len(deployment.check(asked(pattern="plain"), experiment_id="e").elements) == 2
    assert deployment.check(asked(application="one", inputs={}), experiment_id="e").pattern == "ruled"
