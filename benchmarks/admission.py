"""A burst for a small queue: many requests at once, of which the scheduler takes a few at a time.

Store, rounds of admission and waiting are the provider's own, on PostgreSQL, as two triggerers have them that share
the requests. The scheduler is a pretended one within this process: it counts what is there, refuses what is one too
many, and tells the end of each job after its time. So nothing but admission is measured.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psutil
import psycopg

from airavata_provider.errors import AiravataError, SubmissionRefused
from airavata_provider.jobs.admitter import Admitter
from airavata_provider.jobs.limits import Limits
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import EventSource, Job, JobEvent, JobState
from tests.bed import Bed

LOG = logging.getLogger(__name__)
LEAST = 0.9
"""The part of the queue that should be in use as long as there is work for all of it."""
FLAT = 1.2
"""How much more memory may be in use at the most than when all requests wait."""


@dataclass
class Queue:
    """The pretended scheduler's queue.

    :param most: jobs that it takes at a time
    :param left: requests that it has not had yet
    """

    most: int
    left: int
    there: int = 0
    peak: int = 0
    low: int | None = None
    refused: int = 0
    used: list[tuple[float, int]] = field(default_factory=list)

    def take(self) -> None:
        """:raises SubmissionRefused: one too many"""
        if self.there >= self.most:
            self.refused += 1
            raise SubmissionRefused("the queue is full")
        self.there += 1
        self.left -= 1
        self.peak = max(self.peak, self.there)
        self._note()

    def leave(self) -> None:
        """A job has ended."""
        self.there -= 1
        filled = self.peak == self.most
        if filled and self.there + self.left >= self.most:
            self.low = self.there if self.low is None else min(self.low, self.there)
        self._note()

    def _note(self) -> None:
        self.used.append((time.monotonic(), self.there if self.there + self.left >= self.most else self.most))


def mean_use(used: list[tuple[float, int]]) -> float:
    """How many were there on the average of the time, from when it was full first."""
    full = max(there for _, there in used)
    start = next(n for n, (_, there) in enumerate(used) if there == full)
    spans = [(after - at, there) for (at, there), (after, _) in zip(used[start:], used[start + 1 :], strict=False)]
    whole = sum(seconds for seconds, _ in spans)
    return sum(seconds * there for seconds, there in spans) / whole if whole else float(full)


async def _burst(url: str, requests: int, most: int, seconds: float) -> dict[str, Any]:
    queue = Queue(most, requests)
    limits = Limits({("cluster", "small"): most})
    stores = [JobStore(url) for _ in range(2)]
    await stores[0].create_tables()
    admitters = [Admitter(store, lambda: limits) for store in stores]
    for store, admitter in zip(stores, admitters, strict=True):
        store.closers.append(admitter.close)
    failures: list[str] = []
    ends: set[asyncio.Task[None]] = set()

    async def end(store: JobStore, name: str) -> None:
        await asyncio.sleep(seconds * random.uniform(0.5, 1.5))
        queue.leave()
        await store.append(JobEvent(name, EventSource.POLL, "end", JobState.COMPLETE, datetime.now(UTC)))

    async def request(number: int) -> None:
        store, admitter = stores[number % 2], admitters[number % 2]
        job = Job(
            name=f"b{number:05}",
            dag_id="bench",
            experiment_id=str(number),
            task_id="submit",
            map_index=-1,
            attempt=1,
            gateway=f"gateway-{number % 3}",
            user="user",
            resource="cluster",
            queue="small",
            directory="/",
            created_at=datetime.now(UTC),
        )
        try:
            job = await store.intend(await admitter.stamp(job))
            job = await admitter.wait(job, LOG)
            queue.take()
            await store.submitted(job.name, f"id-{number}", datetime.now(UTC))
        except AiravataError as error:
            failures.append(str(error))
            return
        task = asyncio.create_task(end(store, job.name))
        ends.add(task)
        task.add_done_callback(ends.discard)

    process = psutil.Process()
    memory: list[float] = []
    began = time.monotonic()
    cpu = sum(process.cpu_times()[:2])
    waiting = {asyncio.create_task(request(number)) for number in range(requests)}
    all_wait = None
    while waiting or ends:
        await asyncio.wait({*waiting, *ends}, timeout=1.0, return_when=asyncio.ALL_COMPLETED)
        waiting = {task for task in waiting if not task.done()}
        memory.append(process.memory_info().rss / 2**20)
        if all_wait is None and sum(each.waiting for each in admitters) + queue.peak >= requests:
            all_wait = memory[-1]
    took = time.monotonic() - began
    for store in stores:
        await store.close()
    return {
        "requests": requests,
        "most": most,
        "job_seconds": seconds,
        "failed": len(failures),
        "failures": failures[:5],
        "refused": queue.refused,
        "peak": queue.peak,
        "low": queue.low,
        "mean": mean_use(queue.used),
        "seconds": took,
        "ideal_seconds": requests * seconds / most,
        "cpu_seconds": sum(process.cpu_times()[:2]) - cpu,
        "memory_waiting_mb": all_wait if all_wait is not None else memory[0],
        "memory_peak_mb": max(memory),
    }


def burst(bed: Bed, requests: int, most: int, seconds: float) -> dict[str, Any]:
    """The burst in a fresh database of the bed's PostgreSQL, which is dropped afterwards."""
    name = f"bench_admission_{uuid.uuid4().hex}"
    with psycopg.connect(bed.postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        return asyncio.run(_burst(f"{bed.postgres_url.rpartition('/')[0]}/{name}", requests, most, seconds))
    finally:
        with psycopg.connect(bed.postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def faults(figures: Mapping[str, Any]) -> list[str]:
    """What is not as it should be."""
    found = []
    if figures["failed"] or figures["refused"]:
        found.append(f"{figures['failed']} requests failed, {figures['refused']} were one too many")
    if figures["peak"] > figures["most"]:
        found.append(f"{figures['peak']} were there, more than {figures['most']}")
    if figures["low"] is not None and figures["low"] < LEAST * figures["most"]:
        found.append(f"only {figures['low']} of {figures['most']} were there while there was work")
    if figures["memory_peak_mb"] > FLAT * figures["memory_waiting_mb"]:
        found.append(f"memory grew from {figures['memory_waiting_mb']:.0f} to {figures['memory_peak_mb']:.0f} MiB")
    return found


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    return (
        f"admission: {figures['requests']} requests, a queue of {figures['most']},"
        f" jobs of {figures['job_seconds']:g} s:"
        f" {figures['failed']} failed; there {figures['low']} to {figures['peak']}, {figures['mean']:.1f} on average;"
        f" {figures['seconds']:.0f} s ({figures['ideal_seconds']:.0f} at least);"
        f" {figures['memory_waiting_mb']:.0f} MiB when all waited, {figures['memory_peak_mb']:.0f} at most;"
        f" {figures['cpu_seconds']:.0f} s of CPU"
    )
