"""A submission in a process of its own, with the job store of a deployment, for tests that kill it or start two.

``python -m tests.integration.submitter ARGUMENTS`` connects, says that it is ready, and submits when it is told to.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airavata_provider.jobs.store import JobStore
from airavata_provider.jobs.submission import submit
from airavata_provider.models.job import Job
from airavata_provider.schedulers.registry import scheduler
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Target
from tests.contract.hosts import job
from tests.integration.bent_hosts import PATIENCE, BentShared

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Told:
    """What such a process has to know.

    :param store: URL of the job store
    :param before: shell text that its commands begin with
    :param dies: it is killed when it is to save the job's id
    """

    scheduler: str
    store: str
    host: str
    port: int
    user: str
    key: str
    known_hosts: str
    name: str
    directory: str
    directives: Sequence[str] = ()
    before: str = ""
    dies: bool = False

    @property
    def request(self) -> JobRequest:
        """A short job."""
        return JobRequest(self.name, self.directory, "true", walltime_s=300, directives=tuple(self.directives))


class Submitter:
    """The process, as its test sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ready(self) -> None:
        """Wait until it has a connection."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def go(self) -> None:
        """Let it submit, once it is ready."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Wait for its end: the exit status, negative for a signal, and the id that it was given."""
        out, _ = self._process.communicate(timeout=120)
        return self._process.returncode, out.removeprefix("ready\n")


@contextmanager
def submitter(told: Told) -> Iterator[Submitter]:
    """Such a process; gone afterwards."""
    command = [sys.executable, "-m", "tests.integration.submitter", json.dumps(asdict(told))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Submitter(process)
        finally:
            process.kill()


class DyingStore(JobStore):
    """Where a job's id is never saved."""

    async def submitted(self, *arguments: Any, **named: Any) -> Job:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


async def intend_and_submit(host: BentShared, told: Told, store: JobStore) -> str:
    """Submit the job as a task does: the intent first, then what nobody else has done."""
    request = told.request
    intent = replace(job(request.name, request.directory), created_at=datetime.now(UTC))
    saved = await store.intend(intent)
    first = saved.created_at == intent.created_at
    adaptor = scheduler(told.scheduler)
    return await submit(host, adaptor, request, store=store, job=saved, first=first, patience=PATIENCE)


async def main(told: Told) -> None:
    """The process."""
    store = (DyingStore if told.dies else JobStore)(told.store)
    pool = SSHPool()
    target = Target(told.host, told.port, told.user, private_key_file=told.key, known_hosts=told.known_hosts)
    host = pool.host(target)
    try:
        await host.check("true")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        sys.stdout.write(await intend_and_submit(BentShared(host, told.before), told, store))
    finally:
        await pool.close()
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(Told(**json.loads(sys.argv[1]))))
