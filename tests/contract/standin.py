"""The contract on a stand-in: a scheduler's commands over the tests' own batch system, which runs jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from airavata_provider.errors import AnswerUnreadable, SubmissionRefused
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

    load_commands: Sequence[str]
    """Those that tell how full it is."""

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

    async def test_the_load_is_what_runs_and_what_waits_for_room(
        self, host: RemoteHost, folder: Path, cluster: Cluster
    ) -> None:
        cluster.configure(slots=2)
        empty = await self.load(host)
        assert empty is not None
        assert (empty.waiting, empty.busy if empty.running is None else empty.running) == (0, 0)
        refs = [await self.submitted(host, self.request_(folder, "sleep 600")) for _ in range(5)]
        keys = [job.key for job in cluster.jobs()]
        cluster.hold(keys[-1])
        for ref in refs[:2]:
            await self.until(host, ref, JobState.ACTIVE)
        load = await self.load(host)
        assert load is not None
        assert (load.waiting, load.busy if load.running is None else load.running) == (2, 2)
        assert load.cpus in (None, 2)

    async def test_a_cluster_that_does_not_answer_has_no_load(
        self, host: RemoteHost, folder: Path, cluster: Cluster
    ) -> None:
        for command in self.load_commands:
            cluster.misbehave(command, Trouble.REFUSE, text="Connection refused", status=1, times=None)
        with pytest.raises(AnswerUnreadable, match="refused"):
            await self.load(host)
        cluster.behave()
        for command in self.load_commands:
            cluster.misbehave(command, Trouble.EMPTY, status=0, times=None)
        with pytest.raises(AnswerUnreadable):
            await self.load(host)

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
