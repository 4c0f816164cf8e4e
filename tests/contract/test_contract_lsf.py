"""LSF keeps the contract on a stand-in that really runs jobs."""

from __future__ import annotations

from pathlib import Path

from airavata_provider.jobs.submission import RemoteHost
from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.lsf import Lsf
from tests.contract.standin import STANDINS, StandIn
from tests.standins.engine import Cluster
from tests.standins.model import Settings


class TestLsf(StandIn):
    """Its run limits are whole minutes."""

    adaptor: Scheduler = Lsf()
    commands = STANDINS / "lsf" / "bin"
    submitter = "bsub"
    timed_out = "Communication time out. Job not submitted."
    settings = Settings(kill_delay_s=10, keep_s=600, drop_unmet=False)

    async def test_the_walltime_is_kept_and_told(  # type: ignore[override]
        self, host: RemoteHost, folder: Path, cluster: Cluster
    ) -> None:
        cluster.configure(extra={"minute_s": 1.0})
        await super().test_the_walltime_is_kept_and_told(host, folder)


class TestLsfThatForgets(TestLsf):
    """Ended jobs leave ``bjobs`` soon: what is asked for then stands in ``bhist``."""

    settings = Settings(kill_delay_s=10, keep_s=2, drop_unmet=False)
