"""A scheduler of another package, in one file: it is found by its entry point and keeps the contract."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from airavata_provider.errors import SubmissionRefused
from airavata_provider.schedulers.base import CommandResult, Scheduler
from airavata_provider.schedulers.registry import known_schedulers, scheduler
from tests.contract.hosts import LocalHost
from tests.contract.suite import JobsContract
from tests.standins.engine import Cluster
from tests.standins.model import Settings

PACKAGE = Path(__file__).resolve().parents[1] / "packages" / "imaginary"


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package as an installer leaves it: its module and its metadata on the path."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    information = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
            for group, entries in project["entry-points"].items()
        )
    )
    (site / "imaginary_scheduler.py").symlink_to(PACKAGE / "imaginary_scheduler.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        scheduler.cache_clear()
        yield
    scheduler.cache_clear()
    sys.modules.pop("imaginary_scheduler", None)


@pytest.mark.slow
class TestImaginary(JobsContract):
    """The example of the documentation."""

    @property
    def adaptor(self) -> Scheduler:  # type: ignore[override]
        """As the provider finds it."""
        return scheduler("imaginary")

    @pytest.fixture
    def host(self, tmp_path: Path) -> Iterator[LocalHost]:
        cluster = Cluster(tmp_path / "cluster", Settings(kill_delay_s=30, keep_s=600))
        yield LocalHost(PACKAGE / "bin", noise="Welcome!\n", environment=cluster.environment())
        cluster.close()

    def test_it_stands_beside_the_provider_s_own(self) -> None:
        assert {"imaginary", "slurm", "fork"} <= set(known_schedulers())

    @pytest.mark.parametrize(("words", "later"), [("qadd: full", True), ("qadd: refused: no such queue", False)])
    def test_the_base_reads_what_its_submit_command_says(self, words: str, later: bool) -> None:
        with pytest.raises(SubmissionRefused) as refused:
            self.adaptor.parse_submit(CommandResult(1, "", words))
        assert refused.value.transient is later
