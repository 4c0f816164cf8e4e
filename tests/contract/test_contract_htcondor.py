"""HTCondor keeps the contract on a stand-in that really runs jobs."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from airavata_provider.jobs.submission import RemoteHost
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.htcondor import HTCondor
from tests.contract.standin import STANDINS, StandIn
from tests.standins.engine import Cluster
from tests.standins.model import Settings


class TestHTCondor(StandIn):
    """Jobs have no more environment than they ask for."""

    adaptor: Scheduler = HTCondor()
    commands = STANDINS / "htcondor" / "bin"
    submitter = "condor_submit"
    load_commands = ("condor_status",)
    timed_out = "ERROR: Failed to commit job submission into the queue."
    settings = Settings(kill_delay_s=30, keep_s=600)

    async def test_an_access_point_without_a_history_leaves_it_to_the_log_and_the_record(
        self, host: RemoteHost, folder: Path, cluster: Cluster
    ) -> None:
        cluster.configure(extra={"history": False}, keep_s=0)
        refs = [await self.submitted(host, self.request_(folder, shell)) for shell in ("exit 3", "sleep 600")]
        await self.until(host, refs[1], JobState.ACTIVE)
        await host.run(self.adaptor.cancel_command(refs[1:]))
        deadline = time.monotonic() + 60
        while states := await self.states(host, *refs):
            assert time.monotonic() < deadline, states
            await asyncio.sleep(0.1)
        ends = [await self.end(host, ref) for ref in refs]
        assert [(end.state, end.outcome) for end in ends] == [
            (JobState.FAILED, Outcome.FAILED),
            (JobState.CANCELED, Outcome.CANCELED),
        ]
        find = self.adaptor.find_command(refs[0].name, None, str(folder))
        assert self.adaptor.parse_find(await host.run(find), refs[0].name) == refs[0].native_id

    async def test_the_environment_that_is_exported_is_there(self, folder: Path, host: RemoteHost) -> None:
        request = self.request_(folder, "echo $LANG", export=("LANG",), memory_mb=100, tasks=2)
        ref = await self.submitted(host, request)
        assert (await self.end(host, ref)).state is JobState.COMPLETE
        assert (folder / "stdout.txt").read_text().strip() == os.environ.get("LANG", "")
