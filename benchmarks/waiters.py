"""What thousands of tasks cost that wait for jobs in one process, and how soon they hear of the ends.

Each waiter is what a trigger runs: the segment of a pattern's ``monitor``, with an experiment as its conf, over a
real store, with the process' watcher, its reconciler and the live log. The cluster is pretended: it says at once that
every job runs. Beside it stand as many tasks that wait for nothing, as a trigger that does no work would: what is
told is the difference. Each side is measured in a process of its own, so that memory is its own.

While nothing happens, the process' CPU time is read. Then another process stores the ends as scripts' calls, evenly
over a time; a waiter's delay counts from the moment that is on the event's record to the moment at which the wait
returned.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from airavata_provider.jobs.poller import Way
from airavata_provider.jobs.reconcile import ensure_reconciler, stop_reconciler
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.catalog import Catalog, load_catalog
from airavata_provider.models.identity import TaskIdentity, job_name
from airavata_provider.models.job import EventSource, Job, JobEvent, JobState
from airavata_provider.schedulers.base import CommandResult
from airavata_provider.schedulers.registry import scheduler
from airavata_provider.triggers.host import Segment, run_segment
from airavata_provider.triggers.hosted import HostedTask, Run
from airavata_provider.triggers.services import HostServices
from benchmarks.measure import difference, tree_cpu_seconds
from benchmarks.setup import EXPERIMENT, catalog, fresh_database
from benchmarks.webhook import percentile
from tests.bed import PROJECT, Bed

IDLE_S = 30.0
ENDS_S = 60.0
SETTLE_S = 15.0
LATE_S = 120.0
"""How long after the last end the waiters may take before they count as lost."""

CPU_SHARE = 0.05
"""Of one core, on top of what the tasks cost that wait for nothing."""
WAKE_S = 0.5
_DAG = "hpc_batch"
_BORN = "bench"
_LABEL = re.compile(r"AIRAVATA-BEGIN (\w+)")


def _identity(number: int, task: str = "submit") -> TaskIdentity:
    return TaskIdentity(_DAG, f"run-{number}", task, -1, _BORN)


def _names(count: int) -> dict[str, int]:
    return {job_name(_identity(number), 1): number for number in range(count)}


class _Cluster:
    """A host on which every job runs, whatever is asked."""

    def __init__(self, names: Mapping[str, int]) -> None:
        self._lines = {name: f"{number}|RUNNING|None|{name}|debug|1|1" for name, number in names.items()}
        self.commands = 0

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        self.commands += 1
        asked = dict.fromkeys(re.split(r"[^\w.-]", command)) if "squeue" in command else {}
        answers = []
        for label in _LABEL.findall(command):
            lines = [self._lines[word] for word in asked if word in self._lines] if label == "queue" else []
            text = "".join(f"{line}\n" for line in lines)
            answers.append(f"AIRAVATA-BEGIN {label}\n{text}\nAIRAVATA-END {label} 0 \n")
        return CommandResult(0, "".join(answers), "")


class _Store(JobStore):
    """The store, which notes when each wait for an end returned."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.woken: dict[str, float] = {}

    async def wait(
        self, name: str, timeout_s: float | None = None, until: Callable[[Job], bool] | None = None
    ) -> Job:
        job = await super().wait(name, timeout_s, until)
        if job.ended_at is not None:
            self.woken.setdefault(name, time.time())
        return job


class _Services(HostServices):
    """A store, a catalog and a pretended cluster."""

    def __init__(self, store: JobStore, catalog_: Catalog, cluster: _Cluster) -> None:
        self.store = store
        self._catalog = catalog_
        self._cluster: Any = cluster

    def catalog(self) -> Catalog:
        return self._catalog

    async def host(self, resource: Any) -> Any:
        return self._cluster

    async def storage(self, name: str) -> Any:
        raise NotImplementedError

    def webhook_url(self, resource: Any, job: str) -> str | None:
        return None

    def webhook_token(self, job: str) -> str:
        return ""

    async def watch(self) -> None:
        async def way(resource: str) -> Way:
            return Way(self._cluster, scheduler("slurm"))

        ensure_reconciler(self.store, way)


# --- the process that is measured


async def _nothing() -> AsyncIterator[str]:
    await asyncio.Event().wait()
    yield ""


async def _segment(services: _Services, log: logging.Logger, number: int) -> AsyncIterator[str]:
    segment = Segment(
        tasks=[HostedTask(id="monitor", type="monitor", parameters={"job": "submit"})],
        run=Run(_DAG, f"run-{number}", -1, 1, conf=dict(EXPERIMENT), born=_BORN),
        services=services,
        log=log,
    )
    results = await run_segment(segment)
    yield str(results["monitor"]["state"])


async def _drain(events: AsyncIterator[str]) -> str:
    """What the triggerer does with a trigger."""
    return [event async for event in events][-1]


async def _until_quiet(store: JobStore, waiting: Sequence[asyncio.Task[str]]) -> float:
    """Until each waits, or has failed; the seconds that took."""
    began = time.monotonic()
    while store._watcher.waiting + sum(task.done() for task in waiting) < len(waiting):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def _worst_block(over: asyncio.Event) -> float:
    """Seconds for which the event loop did nothing else at the most."""
    worst = 0.0
    while not over.is_set():
        asked = time.perf_counter()
        await asyncio.sleep(0.05)
        worst = max(worst, time.perf_counter() - asked - 0.05)
    return worst


async def _measured(options: argparse.Namespace) -> None:
    """Wait, tell what that costs, then tell when each was woken. Speaks JSON lines."""
    log = logging.getLogger("benchmarks.waiters.task")
    log.setLevel(logging.WARNING)
    cluster = _Cluster(_names(options.count))
    store = _Store(options.store)
    services = _Services(store, load_catalog([options.catalog]), cluster)
    await store.jobs_named(["nobody"])  # what is loaded once is loaded now
    first = asyncio.create_task(_drain(_nothing() if options.idle else _segment(services, log, 0)))
    await asyncio.sleep(1.0)
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    waiting = [first]
    for number in range(1, options.count):
        events = _nothing() if options.idle else _segment(services, log, number)
        waiting.append(asyncio.create_task(_drain(events)))
        if number % 50 == 0:
            await asyncio.sleep(0)
    started = 0.0 if options.idle else await _until_quiet(store, waiting)
    await asyncio.sleep(SETTLE_S)
    gc.collect()
    memory = process.memory_info().rss - before
    over, commands = asyncio.Event(), cluster.commands
    blocks = asyncio.create_task(_worst_block(over))
    used, began = sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(options.idle_s)
    share = (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - began)
    over.set()
    _say(
        cpu_share=share,
        bytes_per_waiter=memory / options.count,
        commands=cluster.commands - commands,
        worst_block_s=await blocks,
        started_s=started,
        failed=sum(task.done() for task in waiting),
    )
    if not options.idle:
        used = sum(process.cpu_times()[:2])
        done, _ = await asyncio.wait(waiting, timeout=options.ends_s + LATE_S)
        states = [task.result() for task in done if task.exception() is None]
        used = sum(process.cpu_times()[:2]) - used
        _say(woken=store.woken, completed=states.count(JobState.COMPLETE.value), cpu_s=used)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await stop_reconciler()
    await store.close()


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


# --- the other side


async def _jobs(url: str, count: int) -> None:
    """Jobs as they are when their scripts have told that they began."""
    store = JobStore(url)
    await store.create_tables()
    now = datetime.now(UTC)

    async def one(name: str, number: int) -> None:
        me = _identity(number)
        job = Job(name, me.dag_id, me.experiment_id, me.task_id, -1, 1, "bench", f"/scratch/{number}")
        await store.intend(replace(job, born=_BORN, created_at=now, walltime_s=86400))
        await store.submitted(name, str(number), now)
        await store.append(JobEvent(name, EventSource.WEBHOOK, "start", JobState.ACTIVE, datetime.now(UTC)))

    names = list(_names(count).items())
    try:
        for start in range(0, count, 500):
            await asyncio.gather(*(one(name, number) for name, number in names[start : start + 500]))
    finally:
        await store.close()


async def _ends(url: str, count: int, seconds: float) -> dict[str, float]:
    """Store all ends, evenly over that time; the moments on their events' records, by job."""
    store = JobStore(url)
    begin = time.monotonic()

    async def one(name: str) -> None:
        end = JobEvent(name, EventSource.WEBHOOK, "end", JobState.COMPLETE, datetime.now(UTC), exit_code=0)
        await store.append(end)

    try:
        async with asyncio.TaskGroup() as group:
            for position, name in enumerate(_names(count)):
                await asyncio.sleep(max(0.0, begin + position * seconds / count - time.monotonic()))
                group.create_task(one(name))
        kept = await store.news_of_jobs()
    finally:
        await store.close()
    return {each.event.job: each.received_at.timestamp() for each in kept if each.event.event_id == "end"}


@contextlib.contextmanager
def _process(count: int, url: str, folder: Path, *, idle: bool, idle_s: float, ends_s: float) -> Any:
    command = [sys.executable, "-m", "benchmarks.waiters", url, str(count), "--catalog", str(folder)]
    command += ["--idle-s", str(idle_s), "--ends-s", str(ends_s), *(["--idle"] if idle else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as child:
        try:
            yield child
        finally:
            child.terminate()


def _told(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"the process with the waiters ended with {child.wait()}")
    told: dict[str, Any] = json.loads(line)
    return told


def _one(url: str, folder: Path, server: Path | None, count: int, idle_s: float, ends_s: float) -> dict[str, Any]:
    """The figures over one database."""
    asyncio.run(_jobs(url, count))
    with _process(count, url, folder, idle=True, idle_s=idle_s, ends_s=0) as child:
        nothing = _told(child)
    with _process(count, url, folder, idle=False, idle_s=idle_s, ends_s=ends_s) as child:
        cpu = {"database": tree_cpu_seconds(server)} if server is not None else {}
        ours = _told(child)
        used = difference(cpu, {"database": tree_cpu_seconds(server)}) if server is not None else {}
        stored = asyncio.run(_ends(url, count, ends_s))
        ends = _told(child)
    delays = [ends["woken"][name] - at for name, at in stored.items() if name in ends["woken"]]
    return {
        "cpu_share": ours["cpu_share"],
        "cpu_share_of_nothing": nothing["cpu_share"],
        "cpu_share_on_top": ours["cpu_share"] - nothing["cpu_share"],
        "bytes_per_waiter": ours["bytes_per_waiter"],
        "bytes_per_nothing": nothing["bytes_per_waiter"],
        "started_s": ours["started_s"],
        "failed": ours["failed"],
        "commands": ours["commands"],
        "worst_block_s": ours["worst_block_s"],
        "database_cpu_s": used.get("database"),
        "ended": len(stored),
        "ends_cpu_s": ends["cpu_s"],
        "delivered": ends["completed"],
        "p50_s": percentile(delays, 0.50),
        "p95_s": percentile(delays, 0.95),
        "p99_s": percentile(delays, 0.99),
        "worst_s": max(delays, default=float("nan")),
    }


def measure(bed: Bed, count: int, *, idle_s: float = IDLE_S, ends_s: float = ENDS_S) -> dict[str, Any]:
    """Figures over PostgreSQL and over SQLite, by database."""
    server = bed.sshd_pid_file.parent.parent / "postgres" / "data" / "postmaster.pid"
    with tempfile.TemporaryDirectory() as name, fresh_database(bed, "waiters") as postgres:
        folder = Path(name)
        (folder / "catalog").mkdir()
        text = yaml.safe_dump(catalog(bed, folder), sort_keys=False)
        (folder / "catalog" / "bench.yaml").write_text(text)
        urls: Sequence[tuple[str, str, Path | None]] = (
            ("postgresql", postgres, server),
            ("sqlite", f"sqlite:///{folder}/jobs.db", None),
        )
        figures = {
            kind: _one(url, folder / "catalog", pid_file, count, idle_s, ends_s) for kind, url, pid_file in urls
        }
    return {"count": count, "idle_s": idle_s, "ends_s": ends_s, **figures}


def _databases(figures: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {kind: value for kind, value in figures.items() if isinstance(value, Mapping)}


def faults(figures: Mapping[str, Any]) -> list[str]:
    """What is not as it should be."""
    found = []
    for kind, each in _databases(figures).items():
        if each["failed"]:
            found.append(f"{kind}: {each['failed']} waiters failed while nothing happened")
        if each["delivered"] != figures["count"]:
            found.append(f"{kind}: {each['delivered']} of {figures['count']} ends were delivered")
        if each["cpu_share_on_top"] > CPU_SHARE:
            found.append(f"{kind}: waiting takes {each['cpu_share_on_top']:.1%} of a core")
        if each["p99_s"] > WAKE_S:
            found.append(f"{kind}: 1 % of the waiters heard of the end after more than {each['p99_s']:.2f} s")
    return found


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"waiters: {figures['count']} in one process, idle for {figures['idle_s']:g} s,"
        f" then all ends within {figures['ends_s']:g} s",
    ]
    for kind, each in _databases(figures).items():
        kib, nothing = each["bytes_per_waiter"] / 1024, each["bytes_per_nothing"] / 1024
        lines += [
            f"  {kind}: {each['cpu_share']:.1%} of a core, {each['cpu_share_on_top']:.1%} on top of waiting for"
            f" nothing (target {CPU_SHARE:.0%}); {kib:.1f} KiB each, {nothing:.1f} for nothing",
            f"    {each['started_s']:.1f} s until all waited, {each['failed']} failed; {each['commands']} commands to"
            f" the cluster; the event loop was busy for {each['worst_block_s'] * 1000:.0f} ms at most",
            f"    {each['delivered']} of {each['ended']} ends delivered with {each['ends_cpu_s']:.1f} s of CPU",
            f"    from storing to the waiter, s: p50 {each['p50_s']:.3f}, p95 {each['p95_s']:.3f},"
            f" p99 {each['p99_s']:.3f} (target {WAKE_S:g}), worst {each['worst_s']:.3f}",
        ]
    return "\n".join(lines)


def main() -> None:
    """The process that is measured; started by :func:`measure`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("count", type=int)
    parser.add_argument("--catalog", type=Path, required=True)
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--idle-s", type=float, default=IDLE_S)
    parser.add_argument("--ends-s", type=float, default=ENDS_S)
    asyncio.run(_measured(parser.parse_args()))


if __name__ == "__main__":
    main()
