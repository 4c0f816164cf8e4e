"""LSF keeps the contract on a stand-in that really runs jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from airavata_provider.errors import SubmissionRefused
from airavata_provider.jobs.submission import RemoteHost
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
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
    load_commands = ("bqueues",)
    timed_out = "Communication time out. Job not submitted."
    settings = Settings(kill_delay_s=30, keep_s=600, drop_unmet=False)

    async def test_the_walltime_is_kept_and_told(  # type: ignore[override]
        self, host: RemoteHost, folder: Path, cluster: Cluster
    ) -> None:
        cluster.configure(extra={"minute_s": 5.0})
        await super().test_the_walltime_is_kept_and_told(host, folder)

    async def test_jobs_that_left_bjobs_are_in_bhist(self, host: RemoteHost, folder: Path, cluster: Cluster) -> None:
        cluster.configure(keep_s=0)
        refs = [await self.submitted(host, self.request_(folder, shell)) for shell in ("exit 3", "sleep 600")]
        await self.until(host, refs[1], JobState.ACTIVE)
        await host.run(self.adaptor.cancel_command(refs[1:]))
        ends = [await self.end(host, ref) for ref in refs]
        assert [(end.state, end.outcome) for end in ends] == [
            (JobState.FAILED, Outcome.FAILED),
            (JobState.CANCELED, Outcome.CANCELED),
        ]
        assert await self.states(host, *refs) == {}
        find = self.adaptor.find_command(refs[0].name, None, str(folder))
        assert self.adaptor.parse_find(await host.run(find), refs[0].name) == refs[0].native_id

    async def test_a_refusal_reaches_the_user(self, host: RemoteHost, folder: Path, cluster: Cluster) -> None:
        cluster.configure(extra={"queues": ["normal"]})
        with pytest.raises(SubmissionRefused, match="nightly: No such queue") as refused:
            await self.submitted(host, self.request_(folder, "true", queue="nightly"))
        assert not refused.value.transient
