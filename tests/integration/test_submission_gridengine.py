"""One job in Grid Engine's own records, wherever a submission is cut, and the contract, over real sshd and 8.1.9."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from airavata_provider.jobs.submission import RemoteHost
from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.sge import Sge
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Target
from tests.bed import Bed
from tests.contract.suite import SchedulerContract
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


class TestGridEngineOnTheBed(SchedulerContract):
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
