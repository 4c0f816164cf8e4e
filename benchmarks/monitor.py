"""How the monitors do on real SLURM jobs, some of which fail, are killed or run over their walltime, while some of
their scripts' calls are lost and the mail is late.

Without Airflow: the web application, the poller with the mail reader, and whoever waits for the jobs are a process
each, with the provider's own code and one PostgreSQL. Jobs are submitted as the task ``submit`` does it. Then the end
of each job on record is compared with ``sacct``. The scripts of a second burst tell nothing: its ends are found by
the poll alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from airavata_provider.cli_report import tables
from airavata_provider.jobs.figures import END, figures, percentile, tellings
from airavata_provider.jobs.rows import StoredEvent
from airavata_provider.jobs.store import JobStore
from airavata_provider.jobs.submission import submit
from airavata_provider.jobs.tokens import WebhookTokens
from airavata_provider.models.job import Effect, EventSource, Job, JobState
from airavata_provider.plots import draw
from airavata_provider.schedulers.request import JobRequest, MailEvent
from airavata_provider.schedulers.script import Webhook
from airavata_provider.schedulers.slurm import Slurm
from airavata_provider.schedulers.slurm_states import HISTORY_STATES
from airavata_provider.ssh.host import Host
from airavata_provider.ssh.pool import SSHPool
from benchmarks.monitor_parts import RESOURCE, SILENT, Setting
from benchmarks.setup import fresh_database
from tests.bed import PROJECT, Bed
from tests.mailboxes import Maildir, maildir

SECRET = "the monitors' bench's own"
SENSOR_P95_S = 1.0
AFTER_INTERVAL_S = 2.0
KILL = (
    'for file in $(grep -lzx "SLURM_JOB_ID={id}" /proc/[0-9]*/environ 2>/dev/null); do'
    ' pid=${{file#/proc/}}; kill -9 "${{pid%/environ}}" 2>/dev/null; done; true'
)


class Fate(StrEnum):
    """What becomes of a job."""

    GOOD = "good"
    FAILING = "failing"
    KILLED = "killed"
    CANCELED = "cancelled by somebody"
    OVER = "over its walltime"


_PAYLOADS = {
    Fate.GOOD: "sleep 2",
    Fate.FAILING: "sleep 1; exit 3",
    Fate.KILLED: "sleep 600",
    Fate.CANCELED: "sleep 600",
    Fate.OVER: "sleep 600",
}


def fates(count: int) -> list[Fate]:
    """For each job: 5 % are killed (half of them by ``kill -9``, half by ``scancel``), 5 % run over their walltime,
    5 % fail."""
    each = max(1, round(count * 0.05))
    chosen = [Fate.FAILING] * each + [Fate.OVER] * each + [Fate.KILLED, Fate.CANCELED] * math.ceil(each / 2)
    chosen += [Fate.GOOD] * (count - len(chosen))
    random.Random(count).shuffle(chosen)
    return chosen


@dataclass
class Bench:
    """One burst under measurement.

    :param woken: by job: when its waiter went on
    """

    store: JobStore
    host: Host
    directory: str
    woken: dict[str, datetime] = field(default_factory=dict)

    async def burst(self, resource: str, wanted: Sequence[Fate], webhook_base: str, mail_to: str | None) -> list[Job]:
        """Submit jobs of those fates, see to these, wait until all are over; the jobs as they are then."""
        room = asyncio.Semaphore(16)

        async def one(number: int, fate: Fate) -> None:
            name = f"{resource[0]}{number:06}-{uuid.uuid4().hex[:6]}"
            async with room:
                await self._submit(name, resource, fate, webhook_base, mail_to)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._wait(name))
                if fate in (Fate.KILLED, Fate.CANCELED):
                    group.create_task(self._end(name, fate))

        async with asyncio.TaskGroup() as group:
            for number, fate in enumerate(wanted):
                group.create_task(one(number, fate))
        return [job for job in await self.store.jobs_named(list(self.woken)) if job.resource == resource]

    async def _submit(self, name: str, resource: str, fate: Fate, webhook_base: str, mail_to: str | None) -> None:
        walltime_s = 60 if fate is Fate.OVER else 1800
        now = datetime.now(UTC)
        job = await self.store.intend(
            Job(name, "bench", name, "submit", -1, 1, resource, self.directory, walltime_s=walltime_s, created_at=now)
        )
        request = JobRequest(
            name=name,
            directory=self.directory,
            executable="/bin/sh",
            arguments=("-c", _PAYLOADS[fate]),
            stdout=f"{name}.out",
            stderr=f"{name}.out",
            walltime_s=walltime_s,
            signal_before_end_s=0,
            mail_to=mail_to,
            mail_events=frozenset({MailEvent.BEGIN, MailEvent.END, MailEvent.FAIL}) if mail_to else frozenset(),
        )
        webhook = None
        if webhook_base:
            url = f"{webhook_base}/airavata/jobs/{name}/events"
            webhook = Webhook(url, WebhookTokens(SECRET).token(name))
        await submit(self.host, Slurm(), request, store=self.store, job=job, webhook=webhook, first=True)

    async def _wait(self, name: str) -> None:
        await self.store.wait(name)
        self.woken[name] = datetime.now(UTC)

    async def _end(self, name: str, fate: Fate) -> None:
        """What somebody does to the job behind our back, once it runs."""
        job = await self.store.wait(name, until=lambda job: job.ended_at is not None or job.state is JobState.ACTIVE)
        if fate is Fate.KILLED:
            await self.host.run(KILL.format(id=job.native_id))
        else:
            await self.host.run(f"scancel {job.native_id}")


async def _late_mail(held: Maildir, box: Maildir, most_s: float, counts: Counter[str]) -> None:
    """Each message reaches the mailbox that is read some time after it was written."""
    due: dict[str, float] = {}
    while True:
        await asyncio.to_thread(_hand_over, held.path / "new", box.path / "new", most_s, due, counts)
        await asyncio.sleep(0.5)


def _hand_over(held: Path, box: Path, most_s: float, due: dict[str, float], counts: Counter[str]) -> None:
    """Move the messages that are due, and say of new ones when they will be."""
    for file in held.iterdir():
        if due.setdefault(file.name, time.monotonic() + random.uniform(0.2, 1.0) * most_s) <= time.monotonic():
            file.rename(box / file.name)
            counts["mail"] += 1


async def _truth(host: Host, jobs: Sequence[Job]) -> dict[str, str]:
    """``sacct``'s states by the scheduler's id."""
    ids = [job.native_id for job in jobs if job.native_id]
    found: dict[str, str] = {}
    for start in range(0, len(ids), 500):
        some = ",".join(ids[start : start + 500])
        answer = await host.run(f"sacct -X -n -P -S now-1day -j {some} -o JobIDRaw,State", timeout=120)
        for line in answer.stdout.splitlines():
            native_id, _, state = line.partition("|")
            found[native_id] = state.split()[0] if state else ""
    return found


async def _ends(host: Host, directory: str) -> dict[str, float]:
    """When each script wrote its exit record, by the job's name."""
    command = f"find {directory}/.airavata -name exit -printf '%P %T@\\n'"
    lines = (await host.run(command, timeout=120)).stdout.splitlines()
    return {path.partition("/")[0]: float(at) for path, _, at in (line.partition(" ") for line in lines)}


async def _settled(store: JobStore, jobs: Sequence[Job], most_s: float) -> None:
    """Wait until the scheduler's own word, by poll or mail, stands beside every end; not for ever."""
    names = {job.name for job in jobs}
    until = time.monotonic() + most_s
    while time.monotonic() < until:
        told = {
            kept.event.job
            for kept in await store.news_of_jobs()
            if kept.event.source in (EventSource.POLL, EventSource.MAIL) and kept.event.state.terminal
        }
        if names <= told:
            return
        await asyncio.sleep(2)


def _sensor(news: Sequence[StoredEvent], woken: Mapping[str, datetime]) -> list[float]:
    """Seconds from the storing of an end that a webhook told first to the waiter's waking."""
    first: dict[str, StoredEvent] = {}
    for kept in news:
        if kept.event.state.terminal and kept.effect is Effect.APPLIED:
            first.setdefault(kept.event.job, kept)
    return sorted(
        (woken[job] - kept.received_at).total_seconds()
        for job, kept in first.items()
        if kept.event.source == EventSource.WEBHOOK and job in woken
    )


def _wrong(jobs: Sequence[Job], truth: Mapping[str, str]) -> list[str]:
    """Jobs whose end on record is not ``sacct``'s."""
    found = []
    for job in jobs:
        word = truth.get(job.native_id or "", "nothing")
        if job.state is not HISTORY_STATES.get(word):
            found.append(f"{job.native_id} ({job.name}): {job.state} here, {word} in sacct")
    return found


@contextlib.contextmanager
def _parts(setting: Setting, work: Path) -> Iterator[None]:
    """The processes that bring the news, until the block ends."""
    setting.write(work / "setting.json")
    environment = os.environ | {
        "AIRFLOW_HOME": str(work / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__AIRAVATA__SQL_ALCHEMY_CONN": setting.url,
        "AIRFLOW__AIRAVATA__WEBHOOK_SECRET": SECRET,
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with contextlib.ExitStack() as stack:
        for part in ("app", "sources"):
            log = stack.enter_context((work / f"{part}.log").open("w"))
            processes[part] = process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.monitor_parts", part, str(work / "setting.json")],
                cwd=PROJECT,
                env=environment,
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
        _answers(setting.app_port, processes["app"], work / "app.log")
        yield


def _answers(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the web application does not answer; see {log}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


async def _measure(
    bed: Bed, setting: Setting, mail: tuple[Maildir, Maildir], count: int, late_s: float, work: Path
) -> dict[str, Any]:
    store, pool = JobStore(setting.url), SSHPool()
    host = pool.host(setting.target)
    directory = (await host.run(f"mktemp -d {bed.scratch}/monitor.XXXXXX")).stdout.strip()
    quiet = f"{directory}/quiet"
    await host.run(f"mkdir {quiet}")
    delivered: Counter[str] = Counter()
    late = asyncio.create_task(_late_mail(*mail, late_s, delivered))
    try:
        bench = Bench(store, host, directory)
        wanted = fates(count)
        began = time.monotonic()
        await bench.burst(RESOURCE, wanted, f"http://127.0.0.1:{setting.app_port}", f"{mail[0].name}@bench.test")
        took = time.monotonic() - began
        jobs = [job for job in await store.jobs_named(list(bench.woken)) if job.resource == RESOURCE]
        await _settled(store, jobs, 120 + 2 * setting.interval)
        await asyncio.sleep(late_s + 5)  # the last mail
        news = await store.news_of_jobs()
        jobs = await store.jobs_named([job.name for job in jobs])
        wrong = _wrong(jobs, await _truth(host, jobs))
        told = tellings(news)
        calls = Counter(each.source for each in told if each.transition == END)
        sensor = _sensor(news, bench.woken)

        alone = Bench(store, host, quiet)
        silent = await alone.burst(SILENT, [Fate.GOOD] * max(10, min(200, count // 10)), "", None)
        ended = await _ends(host, quiet)
        notice = sorted(alone.woken[job.name].timestamp() - ended[job.name] for job in silent)
        wrong += _wrong(silent, await _truth(host, silent))
        report = figures(news)
        return {
            "jobs": count,
            "fates": dict(Counter(wanted)),
            "seconds": took,
            "drop": setting.drop,
            "late_s": late_s,
            "interval_s": setting.interval,
            "ends_told_by": dict(calls),
            "messages": delivered["mail"],
            "wrong": wrong,
            "sensor": {"count": len(sensor), "p50_s": _share(sensor, 0.5), "p95_s": _share(sensor, 0.95)},
            "silent": {"count": len(notice), "p50_s": _share(notice, 0.5), "most_s": max(notice, default=math.nan)},
            "report": asdict(report),
            "tables": tables(report),
            "plots": [str(file) for file in draw(told, work / "plots")],
        }
    finally:
        late.cancel()
        await asyncio.wait([late])
        await host.run(f"squeue -h -u $USER -o '%i %Z' | awk '$2 ~ \"^{directory}\" {{print $1}}' | xargs -r scancel")
        await host.run(f"rm -rf {directory}", timeout=300)
        await pool.close()
        await store.close()


def _share(ordered: Sequence[float], share: float) -> float:
    return percentile(ordered, share) if ordered else math.nan


def measure(
    bed: Bed,
    work: Path,
    count: int,
    *,
    drop: float,
    late_s: float,
    interval: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The bursts in a fresh database of the bed's PostgreSQL; figures."""
    work = work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    (work / "airflow").mkdir(parents=True)
    with fresh_database(bed, "monitor") as url, maildir(bed) as held, maildir(bed) as box:
        asyncio.run(_tables(url))
        setting = Setting(
            url=url,
            host=bed.ssh_host,
            port=bed.ssh_port,
            user=bed.ssh_user,
            key=str(bed.ssh_key),
            known_hosts=str(bed.known_hosts),
            imap_port=bed.imap_port,
            imap_password=bed.imap_password,
            mailbox=box.name,
            app_port=_free_port(),
            drop=drop,
            interval=interval,
        )
        with _parts(setting, work):
            say("monitor: the sources listen")
            return asyncio.run(_measure(bed, setting, (held, box), count, late_s, work))


async def _tables(url: str) -> None:
    store = JobStore(url)
    await store.create_tables()
    await store.close()


def faults(found: Mapping[str, Any]) -> list[str]:
    """What is not as it should be."""
    bad = [f"wrong end: {each}" for each in found["wrong"]]
    sensor, silent = found["sensor"], found["silent"]
    if not sensor["p95_s"] <= SENSOR_P95_S:
        bad.append(f"from the webhook to the sensor: {sensor['p95_s']:.2f} s at p95, more than {SENSOR_P95_S:g} s")
    most = found["interval_s"] + AFTER_INTERVAL_S
    if not silent["most_s"] <= most:
        bad.append(f"without webhooks an end was known after {silent['most_s']:.1f} s, more than {most:g} s")
    return bad


def table(found: Mapping[str, Any]) -> str:
    """The figures for people."""
    sensor, silent = found["sensor"], found["silent"]
    became = ", ".join(f"{number} {fate}" for fate, number in found["fates"].items())
    told = ", ".join(f"{source} {number}" for source, number in found["ends_told_by"].items())
    return "\n".join(
        (
            f"monitor: {found['jobs']} SLURM jobs ({became}) in {found['seconds']:.0f} s, no Airflow around them;",
            f"  {found['drop']:.0%} of the calls lost, mail up to {found['late_s']:g} s late"
            f" ({found['messages']} messages), poll every {found['interval_s']:g} s",
            f"  ends not as in sacct: {len(found['wrong'])}; ends told of by {told}",
            f"  from the webhook's storing to the waiter, s: p50 {sensor['p50_s']:.3f}, p95 {sensor['p95_s']:.3f}"
            f" (target {SENSOR_P95_S:g}) of {sensor['count']}",
            f"  without webhooks and mail, {silent['count']} jobs, from the end to the waiter, s:"
            f" p50 {silent['p50_s']:.1f}, most {silent['most_s']:.1f}"
            f" (target {found['interval_s'] + AFTER_INTERVAL_S:g})",
            *(f"  {line}".rstrip() for line in found["tables"]),
            *(f"  drawn: {file}" for file in found["plots"]),
        )
    )
