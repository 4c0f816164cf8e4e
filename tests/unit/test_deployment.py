"""What a deployment makes of requests for its patterns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airavata_provider.deployment import Deployment

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
AWAY = RULED.replace("NODE_FAILURE", "NODE_FAILURE, answer: elsewhere")
PLAIN = RULED.partition(", parameters")[0] + "}\n"


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    patterns = {"ruled": RULED, "away": AWAY, "plain": PLAIN}
    for folder, files in {"catalog": {"c": CATALOG}, "patterns": patterns}.items():
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / f"{name}.yaml").write_text(text)
    return Deployment((tmp_path / "catalog",), (tmp_path / "patterns",))


def asked(**values: Any) -> dict[str, Any]:
    return {"application": "count", "compute_resource": "cluster", "inputs": {"number": [1, 2]}, **values}


@pytest.mark.parametrize("pattern", ["ruled", "away", "plain"])
def test_rules_are_for_one_job_and_for_many_inputs(deployment: Deployment, pattern: str) -> None:
    assert len(deployment.check(asked(pattern=pattern), experiment_id="e").elements) == 2
    one = asked(application="one", inputs={}, pattern=pattern)
    assert deployment.check(one, experiment_id="e").pattern == pattern
