"""HTCondor keeps the contract on a stand-in that really runs jobs."""

from __future__ import annotations

from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.htcondor import HTCondor
from tests.contract.standin import STANDINS, StandIn
from tests.standins.model import Settings


class TestHTCondor(StandIn):
    """An access point that keeps a history."""

    adaptor: Scheduler = HTCondor()
    commands = STANDINS / "htcondor" / "bin"
    submitter = "condor_submit"
    timed_out = "ERROR: Failed to commit job submission into the queue."
    settings = Settings(kill_delay_s=10, keep_s=600)


class TestHTCondorWithoutHistory(TestHTCondor):
    """One that keeps none: the jobs' event logs and their own records have to do."""

    settings = Settings(kill_delay_s=10, keep_s=600, extra={"history": False})
