"""How many job scripts' calls a real API server takes, and what its users notice of it.

Calls come at a fixed rate, each on a connection of its own, as scripts make them, with the tokens of real jobs: first
each job's start, later its end. A call's latency counts from the moment at which it was due, so a server that falls
behind cannot hide it. Beside them somebody uses Airflow: a page's worth of its API, again and again.

The API server is the only component that runs; PostgreSQL holds the job store. All of it, the callers included,
shares the machine's cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airavata_provider.jobs.store import JobStore
from airavata_provider.jobs.tokens import WebhookTokens
from airavata_provider.models.job import Job
from benchmarks.setup import fresh_database
from tests.airflow_instance import AirflowInstance
from tests.bed import Bed

SECRET = "the bench's own"
RATE = 300.0
SECONDS = 20.0
P99_S = 0.150
RATE_SHARE = 0.99
"""Of the calls asked for in a second, the share that is answered in one: answers come a little after their calls."""
UI_P95_S = 1.0
"""What a page's request takes at most beside the calls: after a second people's flow of thought is interrupted (J.
Nielsen, *Usability Engineering*, 1993, 5.5)."""
UI_PATHS = ("/api/v2/dags?limit=50", "/api/v2/dags/~/dagRuns?limit=50", "/api/v2/monitor/health")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


async def _call(host: str, port: int, job: str, token: str, body: bytes) -> int:
    """One script's call on a connection of its own; the answer's status."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(
            f"POST /airavata/jobs/{job}/events HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        status = await reader.readline()
        await reader.read()
        return int(status.split()[1])
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _body(event: str, number: int) -> bytes:
    end = event == "end"
    return json.dumps(
        {
            "event": event,
            "id": f"{event}-{number}-0",
            "exit_code": 0 if end else None,
            "signal": None,
            "reason": "",
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "native_id": str(number),
        }
    ).encode()


async def _load(url: str, calls: Sequence[tuple[str, int]], rate: float) -> tuple[list[float], Counter[str]]:
    """Make the calls, each when it is due; latencies and answers."""
    address = urlsplit(url)
    tokens = WebhookTokens(SECRET)
    latencies: list[float] = []
    answers: Counter[str] = Counter()
    begin = time.perf_counter() + 0.5

    async def one(due: float, event: str, number: int) -> None:
        job = _name(number)
        try:
            status = await _call(
                address.hostname or "", address.port or 80, job, tokens.token(job), _body(event, number)
            )
            answers[str(status)] += 1
        except (OSError, IndexError, ValueError) as error:
            answers[type(error).__name__] += 1
        latencies.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as group:
        for position, (event, number) in enumerate(calls):
            due = begin + position / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(due, event, number))
    return latencies, answers


async def _use(airflow: AirflowInstance, over: asyncio.Event) -> tuple[list[float], int]:
    """Somebody at Airflow's pages; seconds of each request, and how many failed."""
    import httpx

    seconds, failed = [], 0
    headers = {"Authorization": airflow.client.headers["Authorization"]}
    async with httpx.AsyncClient(base_url=airflow.url, headers=headers, timeout=60) as client:
        while not over.is_set():
            for path in UI_PATHS:
                asked = time.perf_counter()
                try:
                    (await client.get(path)).raise_for_status()
                except httpx.HTTPError:
                    failed += 1
                seconds.append(time.perf_counter() - asked)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.5)
    return seconds, failed


def _name(number: int) -> str:
    return f"abench{number:09d}"


async def _jobs(url: str, count: int) -> None:
    """Jobs as submissions leave them."""
    store = JobStore(url)
    try:
        now = datetime.now(UTC)

        async def one(number: int) -> None:
            await store.intend(
                Job(_name(number), "hpc_batch", f"run-{number}", "submit", -1, 1, "bench", f"/scratch/{number}")
            )
            await store.submitted(_name(number), str(number), now)

        for start in range(0, count, 500):
            await asyncio.gather(*(one(number) for number in range(start, min(count, start + 500))))
    finally:
        await store.close()


async def _measure(airflow: AirflowInstance, rate: float, seconds: float) -> dict[str, Any]:
    count = int(rate * seconds / 2)
    calls = [("start", number) for number in range(count)] + [("end", number) for number in range(count)]
    await _load(airflow.url, [("start", count)], rate)  # what is loaded once is loaded now
    over = asyncio.Event()
    idle = asyncio.create_task(_use(airflow, over))
    await asyncio.sleep(5)
    over.set()
    alone, failed_alone = await idle
    over.clear()
    beside = asyncio.create_task(_use(airflow, over))
    before = airflow.cpu_seconds()["api-server"]
    began = time.perf_counter()
    latencies, answers = await _load(airflow.url, calls, rate)
    took = time.perf_counter() - began - 0.5
    over.set()
    ui, failed = await beside
    return {
        "asked_per_s": rate,
        "answered_per_s": sum(count for answer, count in answers.items() if answer.isdigit()) / took,
        "answers": dict(answers),
        "p50_s": percentile(latencies, 0.5),
        "p95_s": percentile(latencies, 0.95),
        "p99_s": percentile(latencies, 0.99),
        "worst_s": max(latencies),
        "ui_alone_p50_s": percentile(alone, 0.5),
        "ui_alone_p95_s": percentile(alone, 0.95),
        "ui_p50_s": percentile(ui, 0.5),
        "ui_p95_s": percentile(ui, 0.95),
        "ui_failed": failed_alone + failed,
        "server_cpu_s_per_call": (airflow.cpu_seconds()["api-server"] - before) / len(calls),
    }


def measure(bed: Bed, work: Path, *, rate: float = RATE, seconds: float = SECONDS) -> dict[str, Any]:
    """Start an API server, let scripts call it; figures."""
    shutil.rmtree(work, ignore_errors=True)
    settings = {
        "AIRFLOW__AIRAVATA__WEBHOOK_BASE_URL": "http://127.0.0.1",
        "AIRFLOW__AIRAVATA__WEBHOOK_SECRET": SECRET,
    }
    with (
        fresh_database(bed, "airflow") as airflow_url,
        fresh_database(bed, "airavata") as airavata_url,
        contextlib.ExitStack() as stack,
    ):
        airflow = AirflowInstance(
            work, database_url=airflow_url, airavata_url=airavata_url, settings=settings, log_level="WARNING"
        )
        stack.callback(airflow.stop)
        airflow.migrate()
        asyncio.run(_jobs(airavata_url, int(rate * seconds / 2) + 1))
        airflow.launch("api-server")
        airflow.wait("the API server", airflow.health, timeout=180)
        return asyncio.run(_measure(airflow, rate, seconds))


def faults(figures: Mapping[str, Any]) -> list[str]:
    """What must not be."""
    wrong = {answer: count for answer, count in figures["answers"].items() if answer != "204"}
    bad = [f"{count} calls were answered {answer}" for answer, count in sorted(wrong.items())]
    asked, answered = figures["asked_per_s"], figures["answered_per_s"]
    if not answered >= RATE_SHARE * asked:
        bad.append(f"{answered:.1f} calls a second were answered of {asked:g}")
    if not figures["p99_s"] <= P99_S:
        bad.append(f"a call took {figures['p99_s'] * 1000:.0f} ms at p99, more than {P99_S * 1000:.0f}")
    if figures["ui_failed"]:
        bad.append(f"{figures['ui_failed']} requests of Airflow's pages failed")
    if not figures["ui_p95_s"] <= UI_P95_S:
        took = f"{figures['ui_p95_s']:.2f} s at p95"
        bad.append(f"beside it, requests of Airflow's pages took {took}, more than {UI_P95_S:g}")
    return bad


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    answers = ", ".join(f"{count} x {answer}" for answer, count in sorted(figures["answers"].items()))

    def ms(name: str) -> str:
        return f"{figures[name] * 1000:.0f}"

    return "\n".join(
        (
            f"webhook: {figures['asked_per_s']:.0f} calls/s asked, {figures['answered_per_s']:.0f}/s answered:"
            f" {answers}",
            f"  ms: p50 {ms('p50_s')}, p95 {ms('p95_s')}, p99 {ms('p99_s')} (target {P99_S * 1000:.0f}),"
            f" worst {ms('worst_s')}",
            f"  Airflow's API beside it, ms: p50 {ms('ui_p50_s')} (alone {ms('ui_alone_p50_s')}),"
            f" p95 {ms('ui_p95_s')} (target {UI_P95_S * 1000:.0f}, alone {ms('ui_alone_p95_s')})",
            f"  API server's CPU: {figures['server_cpu_s_per_call'] * 1000:.2f} ms a call",
        )
    )
