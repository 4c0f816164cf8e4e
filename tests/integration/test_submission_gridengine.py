"""One job in Grid Engine's own records, wherever a submission is cut, and the contract, over real sshd and 8.1.9."""

from __future__ import annotations

import re
import shlex
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from airavata_provider.jobs.submission import RemoteHost
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.request import Dependency, DependencyKind
from airavata_provider.schedulers.sge import Sge
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Target
from tests.bed import Bed
from tests.contract.suite import SchedulerContract, WalltimeContract
from tests.integration.submission_suite import SubmissionSuite

_EMPTY = "echo '<?xml version=\"1.0\"?><job_info><queue_info/><job_info/></job_info>'"


class TestSubmissionToGridEngine(SubmissionSuite):
    """The fault table."""

    adaptor: ClassVar[Scheduler] = Sge()
    submitter = "qsub"
    queue = "qstat"
    history = "qacct"
    list_ids = (
        '{ qstat -xml | tr -d "\\n" | grep -o "<JB_job_number>[0-9]*</JB_job_number> *<JAT_prio>[0-9.]*</JAT_prio>'
        ' *<JB_name>$NAME<" | grep -o "r>[0-9]*"; qacct -j $NAME 2>/dev/null | grep ^jobnumber; }'
        ' | tr -dc "0-9\\n" | sort -u'
    )
    timed_out = (
        "Unable to run job: failed receiving gdi request response for mid=1 (got syncron message receive timeout)"
    )
    queue_timeout = "echo 'error: failed receiving gdi request response for mid=1' >&2; exit 1"
    empty_queue = _EMPTY
    history_down = "echo '/nfs/accounting: Stale file handle' >&2; exit 1"
    empty_history = "echo 'error: job name x not found' >&2; exit 1"
    hold = "-h"
    bad_queue = "unknown queue"


class TestGridEngineOnTheBed(SchedulerContract, WalltimeContract):
    """The contract on real Grid Engine, over real sshd; and what is only its own."""

    adaptor = Sge()
    plain: ClassVar[Mapping[str, str]] = {"reservation": "12"}

    @pytest.fixture
    async def host(self, ssh_target: Target) -> AsyncIterator[RemoteHost]:
        pool = SSHPool()
        yield pool.host(ssh_target)
        await pool.close()

    @pytest.fixture
    def folder(self, bed: Bed, bed_dir: str) -> Path:
        path = Path(bed_dir) / "it's $HOME, %j: é"
        path.mkdir()
        path.chmod(0o777)
        return path

    async def test_a_cancelled_job_in_the_queue(self, host: RemoteHost, folder: Path) -> None:
        """Of which Grid Engine keeps no record."""
        ref = await self.submitted(host, self.request_(folder, "true", directives=("-h",)))
        assert (await self.until(host, ref, JobState.QUEUED)).outcome is Outcome.HELD
        assert (await host.run(self.adaptor.cancel_command([ref]))).exit_status == 0
        end = await self.end(host, ref)
        assert (end.state, end.outcome) == (JobState.CANCELED, Outcome.CANCELED)

    async def test_the_load_is_everybody_s(self, host: RemoteHost, folder: Path) -> None:
        ref = await self.submitted(host, self.request_(folder, "sleep 60"))
        await self.until(host, ref, JobState.ACTIVE)
        command = self.adaptor.load_command(["", "all.q", "none"])
        assert command is not None
        load = self.adaptor.parse_load(await host.run(command), ["", "all.q", "none"])
        await host.run(self.adaptor.cancel_command([ref]))
        # How many of others' jobs there are beside it, the other tests know.
        assert load.keys() == {"", "all.q"}
        assert (load[""].cpus, load["all.q"].cpus) == (128, 64)
        assert load[""].busy
        assert all(each.waiting is not None for each in load.values())

    async def test_a_rescheduled_job_is_followed_under_its_id(self, host: RemoteHost, folder: Path, bed: Bed) -> None:
        request = self.request_(folder, "[ -e again ] || { touch again; sleep 60; }; exit 99", directives=("-r y",))
        ref = await self.submitted(host, request)
        await self.until(host, ref, JobState.ACTIVE)
        bed.run(f"until [ -e {shlex.quote(str(folder))}/again ]; do sleep 0.1; done")
        running = f"qstat -u '*' | awk '$1 == {ref.native_id} && $5 == \"r\"' | grep -q ."
        bed.run(f"until {running}; do sleep 0.2; done; qmod -rj {ref.native_id}")
        end = await self.end(host, ref)
        # A status of 99 would have put it back once more.
        assert (end.state, end.outcome, end.exit_code) == (JobState.FAILED, Outcome.FAILED, 99)
        # 0: Grid Engine 8.1.9 lets a job that it put back go on now and then, as its own second run.
        record = (folder / ".airavata" / ref.name / "started").read_text()
        assert record in (f"{ref.native_id} 0\n", f"{ref.native_id} 1\n")

    async def test_a_job_waits_for_another(self, host: RemoteHost, folder: Path) -> None:
        first = await self.submitted(host, self.request_(folder, "while [ ! -e go ]; do sleep 0.1; done"))
        after = (Dependency(first.native_id, DependencyKind.ENDED),)
        second = await self.submitted(host, self.request_(folder, "test -e go", after=after))
        status = await self.until(host, second, JobState.QUEUED)
        assert (status.outcome, status.reason) == (None, "waits for another job")
        (folder / "go").touch()
        assert (await self.end(host, second)).state is JobState.COMPLETE

    async def test_what_a_site_names_reaches_the_scheduler(self, host: RemoteHost, folder: Path, bed: Bed) -> None:
        words = {"parallel_environment": "smp"}
        payload = "echo $NSLOTS; while [ ! -e go ]; do sleep 0.1; done"
        request = self.request_(folder, payload, tasks=3, account="science", site_words=words)
        ref = await self.submitted(host, request)
        said = bed.run(f"qstat -j {ref.native_id}").stdout
        (folder / "go").touch()
        assert "parallel environment:  smp range: 3" in said
        assert re.search(r"^project: +science$", said, re.MULTILINE)
        assert (await self.end(host, ref)).state is JobState.COMPLETE
        assert (folder / "stdout.txt").read_text() == "3\n"
