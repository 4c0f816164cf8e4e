"""PBS and Torque keep the contract on stand-ins that really run jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from airavata_provider.jobs.submission import RemoteHost
from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.pbs import PBS
from airavata_provider.schedulers.torque import Torque
from tests.contract.hosts import LocalHost
from tests.contract.suite import SchedulerContract
from tests.standins.engine import Cluster
from tests.standins.model import FOLDER, Settings, Trouble

STANDINS = Path(__file__).resolve().parents[1] / "standins"


class StandIn(SchedulerContract):
    """On the stand-in of that name."""

    folder_name: str
    quick_walltime = True
    settings = Settings(kill_delay_s=3, keep_s=600)

    @pytest.fixture
    def cluster(self, tmp_path: Path) -> Iterator[Cluster]:
        cluster = Cluster(tmp_path / "cluster", self.settings)
        yield cluster
        cluster.close()

    @pytest.fixture
    async def host(self, cluster: Cluster) -> AsyncIterator[RemoteHost]:
        path = STANDINS / self.folder_name / "bin"
        yield LocalHost(path, noise="Welcome!\nAIRAVATA\n", environment=cluster.environment())

    async def lose_the_answer(self, host: RemoteHost) -> None:
        assert isinstance(host, LocalHost)
        cluster = Cluster(Path(host.environment[FOLDER]))
        cluster.misbehave("qsub", Trouble.LATE, text="qsub: End of File", status=1)


class TestPBS(StandIn):
    """OpenPBS."""

    adaptor: Scheduler = PBS()
    folder_name = "pbs"
    settings = Settings(kill_delay_s=3)


class TestTorque(StandIn):
    """Torque."""

    adaptor: Scheduler = Torque()
    folder_name = "torque"
