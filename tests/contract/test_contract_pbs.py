"""PBS and Torque keep the contract on stand-ins that really run jobs."""

from __future__ import annotations

from pathlib import Path

from airavata_provider.jobs.submission import RemoteHost
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.pbs import PBS
from airavata_provider.schedulers.torque import Torque
from tests.contract.standin import STANDINS, StandIn
from tests.standins.engine import Cluster
from tests.standins.model import Settings


class TestPBS(StandIn):
    """OpenPBS, which keeps a history of ended jobs."""

    adaptor: Scheduler = PBS()
    commands = STANDINS / "pbs" / "bin"
    submitter = "qsub"
    load_commands = ("qstat",)
    timed_out = "qsub: End of File"

    async def test_an_old_one_without_json_and_without_elements_statuses(
        self, host: RemoteHost, folder: Path, cluster: Cluster
    ) -> None:
        cluster.configure(extra={"json": False, "told": False})
        for ref, state in zip(
            await self.array(host, folder, "true", "exit 5"), (JobState.COMPLETE, JobState.FAILED), strict=True
        ):
            assert (await self.end(host, ref)).state is state

    async def test_without_history_the_job_s_own_record_tells(
        self, host: RemoteHost, folder: Path, cluster: Cluster
    ) -> None:
        cluster.configure(extra={"history": False})
        ref = await self.submitted(host, self.request_(folder, "sleep 1; exit 3"))
        end = await self.end(host, ref)
        assert (end.state, end.exit_code, end.outcome) == (JobState.FAILED, 3, Outcome.FAILED)
        assert await self.states(host, ref) == {}


class TestTorque(StandIn):
    """Torque, which shows ended jobs for some minutes."""

    adaptor: Scheduler = Torque()
    commands = STANDINS / "torque" / "bin"
    submitter = "qsub"
    load_commands = ("qstat",)
    timed_out = "qsub: End of File"
    settings = Settings(kill_delay_s=30, keep_s=600)
