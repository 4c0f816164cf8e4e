"""LSF keeps the contract on a stand-in that really runs jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.lsf import Lsf
from airavata_provider.schedulers.request import JobRequest
from tests.contract.standin import STANDINS, StandIn
from tests.standins.model import Settings


class TestLsf(StandIn):
    """An LSF whose minutes take a second: its run limits are whole ones."""

    adaptor: Scheduler = Lsf()
    commands = STANDINS / "lsf" / "bin"
    submitter = "bsub"
    timed_out = "Communication time out. Job not submitted."
    settings = Settings(kill_delay_s=10, keep_s=600, drop_unmet=False, extra={"minute_s": 1.0})

    def request_(self, folder: Path, shell: str, **fields: Any) -> JobRequest:
        return super().request_(folder, shell, **({"walltime_s": 86400} | fields))


class TestLsfThatForgets(TestLsf):
    """Ended jobs leave ``bjobs`` soon: what is asked for then stands in ``bhist``."""

    settings = Settings(kill_delay_s=10, keep_s=2, drop_unmet=False, extra={"minute_s": 1.0})
