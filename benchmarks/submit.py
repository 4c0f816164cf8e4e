"""A burst of submissions, beside the same burst of bare ``sbatch`` commands over one open connection.

Ours is what the task ``submit`` does: intent saved, admission, one remote script, id saved. Store (on PostgreSQL),
admitter and SSH pool are the provider's own, with a resource's usual limits, in one process with one event loop. Bare
commands have as many sessions at a time as the pool. The two take turns, and medians count. All jobs are held, so
that the machine's cycles go into submitting and not into running jobs, and cancelled in the end.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncssh
import psutil

from airavata_provider.jobs.admission import Limits
from airavata_provider.jobs.admitter import Admitter
from airavata_provider.jobs.figures import percentile
from airavata_provider.jobs.store import JobStore
from airavata_provider.jobs.submission import submit
from airavata_provider.models.job import Job
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.schedulers.script import Webhook
from airavata_provider.schedulers.slurm import Slurm
from airavata_provider.ssh.host import Host
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Target
from benchmarks.measure import difference, tree_cpu_seconds
from benchmarks.setup import fresh_database
from tests.bed import Bed

LOG = logging.getLogger(__name__)
TARGET = 1.5
"""Times the bare commands' seconds that a burst of ours may take."""

ROUNDS = 3
"""How often each of the two has its turn."""

WARM = 8
"""Submissions before the first turn: connections are opened, and what is loaded once is loaded."""

HOLD = "--hold"
LIMITS = Limits({("bench", "debug"): 100_000})
"""A queue with a ceiling, so that jobs go through a round of admission; it keeps nobody back."""


@dataclass(frozen=True)
class Burst:
    """One burst.

    :param seconds: from the first request to the last id
    :param each: for each submission, the seconds from the burst's begin to its id, in order
    :param cpu_s: seconds of CPU, of this process and of each server with what it started
    :param ids: the scheduler's id by the job's name
    """

    seconds: float
    each: Sequence[float]
    cpu_s: Mapping[str, float]
    ids: Mapping[str, str]

    @property
    def figures(self) -> dict[str, float]:
        return {
            "seconds": self.seconds,
            "p50_s": percentile(self.each, 0.5),
            "p95_s": percentile(self.each, 0.95),
            **{f"cpu_{name}_s": seconds for name, seconds in self.cpu_s.items()},
        }


Submit = Callable[[str], Awaitable[str]]
"""Submits a job of that name; its id."""


def _cpu(bed: Bed) -> dict[str, float]:
    process = psutil.Process()
    room = bed.sshd_pid_file.parent.parent
    servers = {
        "postgres": room / "postgres" / "data" / "postmaster.pid",
        "host": bed.sshd_pid_file,
        "slurmctld": bed.slurmctld_pid_file,
    }
    used = {name: tree_cpu_seconds(file) for name, file in servers.items()}
    return {"client": sum(process.cpu_times()[:2]), **used}


async def _burst(bed: Bed, names: Sequence[str], submit_one: Submit) -> Burst:
    each: list[float] = []
    ids: dict[str, str] = {}

    async def one(name: str) -> None:
        ids[name] = await submit_one(name)
        each.append(time.monotonic() - began)

    before = _cpu(bed)
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(one(name))
    seconds = time.monotonic() - began
    return Burst(seconds, sorted(each), difference(before, _cpu(bed)), ids)


@dataclass
class Ours:
    """The provider's way."""

    store: JobStore
    admitter: Admitter
    host: Host
    directory: str

    async def __call__(self, name: str) -> str:
        intent = Job(
            name=name,
            dag_id="bench",
            experiment_id=name,
            task_id="submit",
            map_index=-1,
            attempt=1,
            gateway="bench",
            user="bench",
            resource="bench",
            queue="debug",
            directory=self.directory,
            walltime_s=300,
            created_at=datetime.now(UTC),
        )
        job = await self.store.intend(await self.admitter.stamp(intent))
        job = await self.admitter.wait(job, LOG)
        request = JobRequest(
            name, self.directory, "/bin/true", queue="debug", walltime_s=300, stdout=f"{name}.out", directives=(HOLD,)
        )
        webhook = Webhook(f"http://127.0.0.1:9/airavata/jobs/{name}/events", uuid.uuid4().hex)
        return await submit(
            self.host, Slurm(), request, store=self.store, job=job, webhook=webhook, first=True, log=LOG
        )


@dataclass
class Bare:
    """``sbatch`` alone."""

    connection: asyncssh.SSHClientConnection
    directory: str
    room: asyncio.Semaphore

    async def __call__(self, name: str) -> str:
        command = f"cd {self.directory} && sbatch --parsable -J {name} {HOLD} -o /dev/null -t 5 --wrap /bin/true"
        async with self.room:
            while True:
                try:
                    return str((await self.connection.run(command, check=True)).stdout).strip()
                except asyncssh.ChannelOpenError:
                    # sshd frees a session a moment after its client saw it closed.
                    await asyncio.sleep(0.05)


@asynccontextmanager
async def _both(bed: Bed, url: str, directory: str) -> AsyncIterator[tuple[SSHPool, Host, Ours, Bare]]:
    target = Target(
        host=bed.ssh_host,
        port=bed.ssh_port,
        user=bed.ssh_user,
        private_key_file=str(bed.ssh_key),
        known_hosts=str(bed.known_hosts),
    )
    pool, store = SSHPool(), JobStore(url)
    await store.create_tables()
    admitter = Admitter(store, lambda: LIMITS)
    store.closers.append(admitter.close)
    sessions = target.limits.max_connections * target.limits.sessions_per_connection
    try:
        async with asyncssh.connect(
            bed.ssh_host,
            bed.ssh_port,
            username=bed.ssh_user,
            client_keys=[str(bed.ssh_key)],
            known_hosts=str(bed.known_hosts),
            config=None,
        ) as connection:
            host = pool.host(target)
            bare = Bare(connection, directory, asyncio.Semaphore(sessions))
            yield pool, host, Ours(store, admitter, host, directory), bare
    finally:
        await store.close()
        await pool.close()


async def _counts(host: Host, prefix: str) -> Counter[tuple[str, str]]:
    """How often the scheduler has each name and id that begins so."""
    answer = await host.check("squeue -h -t all -u \"$(id -u)\" -o '%j %i'", timeout=120)
    rows = (line.split() for line in answer.stdout.splitlines() if line.startswith(prefix))
    return Counter((row[0], row[1]) for row in rows)


async def _measure(bed: Bed, url: str, directory: str, count: int, rounds: int) -> dict[str, Any]:
    prefix = f"s{uuid.uuid4().hex[:8]}-"
    bursts: dict[str, list[Burst]] = {"ours": [], "bare": []}
    async with _both(bed, url, directory) as (pool, host, ours, bare):
        await host.check(f"mkdir {directory}")
        names: list[str] = []
        ids: list[tuple[str, str]] = []
        try:
            for turn in range(rounds + 1):
                for way, submit_one in (("ours", ours), ("bare", bare)):
                    size = count if turn else WARM
                    names = [f"{prefix}{way}-{turn}-{number:04}" for number in range(size)]
                    burst = await _burst(bed, names, submit_one)
                    ids += burst.ids.items()
                    if turn:
                        bursts[way].append(burst)
            there = await _counts(host, prefix)
            recorded = {job.name: job.native_id for job in await ours.store.jobs_named([name for name, _ in ids])}
        finally:
            cancel = f"squeue -h -t pd -u \"$(id -u)\" -o '%j %A' | sed -n 's/^{prefix}.* //p' | xargs -r scancel"
            await host.check(cancel, timeout=300)
            await host.remove(directory)
        stats = next(iter(pool.stats.values()))
    medians = {way: _median(found) for way, found in bursts.items()}
    return {
        "count": count,
        "ratio": medians["ours"]["seconds"] / medians["bare"]["seconds"],
        **medians,
        "rounds": {way: [burst.seconds for burst in found] for way, found in bursts.items()},
        "refused_sessions": stats.refused_sessions,
        "sessions": stats.sessions,
        "wrong": _wrong(ids, there, recorded),
    }


def _wrong(
    ids: Sequence[tuple[str, str]], there: Mapping[tuple[str, str], int], recorded: Mapping[str, str | None]
) -> list[str]:
    """Where a job is not exactly once in the scheduler's queue, or has another id on record."""
    wrong = [f"{each[0]} {each[1]}: {there.get(each, 0)} times in the queue" for each in ids if there.get(each) != 1]
    wrong += [f"{name} {native_id} is in the queue, and nobody's" for name, native_id in there.keys() - set(ids)]
    wrong += [
        f"{name} is {native_id}, on record {recorded[name]}"
        for name, native_id in ids
        if name in recorded and recorded[name] != native_id
    ]
    return wrong


def _median(bursts: Sequence[Burst]) -> dict[str, float]:
    each = [burst.figures for burst in bursts]
    return {name: statistics.median(figures[name] for figures in each) for name in each[0]}


def measure(bed: Bed, count: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """The two, in turns. What was submitted is cancelled, its files and its database are removed."""
    with fresh_database(bed, "submit") as url:
        return asyncio.run(_measure(bed, url, f"{bed.scratch}/bench-submit-{uuid.uuid4().hex[:8]}", count, rounds))


def faults(figures: Mapping[str, Any]) -> list[str]:
    """What is not as it should be."""
    found = list(figures["wrong"][:10])
    if figures["ratio"] > TARGET:
        found.append(f"a burst takes {figures['ratio']:.2f} times as long as bare commands, more than {TARGET}")
    return found


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    names = [name for name in figures["ours"] if name.startswith("cpu_")]
    lines = [f"{'submit':10}{'burst s':>9}{'p50 s':>9}{'p95 s':>9}   CPU ms each: {figures['count']} at once"]
    for way in ("ours", "bare"):
        each = figures[way]
        used = ", ".join(f"{name[4:-2]} {each[name] / figures['count'] * 1000:.1f}" for name in names)
        lines.append(f"{way:10}{each['seconds']:9.2f}{each['p50_s']:9.2f}{each['p95_s']:9.2f}   {used}")
    lines.append(f"ours takes {figures['ratio']:.2f} times as long (to reach: at most {TARGET})")
    return "\n".join(lines)
