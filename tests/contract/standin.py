"""The contract on a stand-in: a scheduler's commands over the tests' own batch system, which runs jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from airavata_provider.errors import SubmissionRefused
from airavata_provider.jobs.submission import RemoteHost
from airavata_provider.models.job import JobState
from tests.contract.hosts import LocalHost
from tests.contract.suite import SchedulerContract, WalltimeContract
from tests.standins.engine import Cluster
from tests.standins.model import FOLDER, Settings, Trouble

STANDINS = Path(__file__).resolve().parents[1] / "standins"


@pytest.mark.slow
class StandIn(SchedulerContract, WalltimeContract):
    """On the stand-in of that name."""

    commands: Path
    """The folder with its commands."""

    submitter: str
    """Its submit command."""

    timed_out = ""
    """What that says when it lost the answer, with status 1."""

    settings = Settings(kill_delay_s=30)

    @pytest.fixture
    def cluster(self, tmp_path: Path) -> Iterator[Cluster]:
        cluster = Cluster(tmp_path / "cluster", self.settings)
        yield cluster
        cluster.close()

    @pytest.fixture
    async def host(self, cluster: Cluster) -> AsyncIterator[RemoteHost]:
        yield LocalHost(self.commands, noise="Welcome!\nAIRAVATA\n", environment=cluster.environment())

    async def losing(self, host: RemoteHost) -> RemoteHost:
        assert isinstance(host, LocalHost)
        Cluster(Path(host.environment[FOLDER])).misbehave(self.submitter, Trouble.LATE, text=self.timed_out, status=1)
        return host

    async def test_a_program_is_told_before_its_walltime(self, host: RemoteHost, folder: Path) -> None:
        shell = "trap 'echo noticed; exit 4' USR1; echo ready; while :; do sleep 0.1; done"
        ref = await self.submitted(host, self.request_(folder, shell, walltime_s=30, signal_before_end_s=28))
        assert (await self.end(host, ref)).exit_code == 4
        assert (folder / "stdout.txt").read_text() == "ready\nnoticed\n"

    async def test_a_full_queue_is_later_and_then_there_is_room(
        self, host: RemoteHost, folder: Path, cluster: Cluster
    ) -> None:
        request = self.request_(folder, "true")
        cluster.configure(max_jobs=0)
        with pytest.raises(SubmissionRefused) as later:
            await self.submitted(host, request)
        assert later.value.transient
        cluster.configure(max_jobs=1)
        assert (await self.end(host, await self.submitted(host, request))).state is JobState.COMPLETE
