"""A burst for a small queue: many requests at once, of which the scheduler takes a few at a time.

Store, rounds of admission and waiting are the provider's own, on PostgreSQL, in two processes that share the
requests, as triggerers do. The scheduler is a pretended one: it counts what is there, refuses what is one too many,
and tells the end of each job after its time. So nothing but admission is measured.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

import psutil

from airavata_provider.errors import AiravataError, SubmissionRefused
from airavata_provider.jobs.admitter import Admitter
from airavata_provider.jobs.limits import Limits
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import EventSource, Job, JobEvent, JobState
from benchmarks.setup import fresh_database
from tests.bed import Bed

LOG = logging.getLogger(__name__)
LOG.addHandler(logging.NullHandler())
LOG.propagate = False  # the words of two thousand waiters
TRIGGERERS = 2
LEAST = 0.9
"""The part of the queue that should be in use as long as there is work for all of it."""
FLAT = 1.2
"""How much more memory may be in use at the most than when all requests wait."""


class Queue:
    """The pretended scheduler's queue, as one triggerer sees it. Made before the triggerers, which share it.

    :param most: jobs that it takes at a time
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._there = multiprocessing.get_context("spawn").Value("i", 0)
        self.moves: list[tuple[float, int]] = []
        """When a job came (1) or ended (-1) here; ``time.monotonic`` is one clock for all processes."""
        self.refused = 0

    def take(self) -> None:
        """:raises SubmissionRefused: one too many"""
        with self._there.get_lock():
            if self._there.value >= self.most:
                self.refused += 1
                raise SubmissionRefused("the queue is full")
            self._there.value += 1
            self.moves.append((time.monotonic(), 1))

    def leave(self) -> None:
        """A job has ended."""
        with self._there.get_lock():
            self._there.value -= 1
            self.moves.append((time.monotonic(), -1))


@dataclass
class Report:
    """What one triggerer saw.

    :param began: as ``time.monotonic`` tells it, as is ``ended``
    :param waiting_mb: its memory when all its requests waited; ``peak_mb``: at the most
    """

    began: float
    ended: float
    moves: list[tuple[float, int]]
    refused: int
    failures: list[str]
    cpu_s: float
    waiting_mb: float
    peak_mb: float


def use(moves: Sequence[tuple[float, int]], requests: int, most: int) -> list[tuple[float, int]]:
    """How many were there from each moment on, from when the queue was full first until there was no work for all of
    it."""
    found: list[tuple[float, int]] = []
    there, left = 0, requests
    for at, change in sorted(moves):
        there += change
        left -= change > 0
        if there + left < most:
            found.append((at, most))
            break
        if found or there == most:
            found.append((at, there))
    return found


def mean_use(used: Sequence[tuple[float, int]]) -> float:
    """How many were there on the average of the time."""
    spans = [(after - at, there) for (at, there), (after, _) in itertools.pairwise(used)]
    whole = sum(seconds for seconds, _ in spans)
    return sum(seconds * there for seconds, there in spans) / whole


async def _triggerer(url: str, numbers: Sequence[int], queue: Queue, seconds: float) -> Report:
    limits = Limits({("cluster", "small"): queue.most})
    store = JobStore(url)
    admitter = Admitter(store, lambda: limits)
    store.closers.append(admitter.close)
    failures: list[str] = []
    ends: set[asyncio.Task[None]] = set()

    async def end(name: str) -> None:
        await asyncio.sleep(seconds * random.uniform(0.5, 1.5))
        queue.leave()
        await store.append(JobEvent(name, EventSource.POLL, "end", JobState.COMPLETE, datetime.now(UTC)))

    async def request(number: int) -> None:
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
        task = asyncio.create_task(end(job.name))
        ends.add(task)
        task.add_done_callback(ends.discard)

    process = psutil.Process()
    memory: list[float] = []
    began = time.monotonic()
    cpu = sum(process.cpu_times()[:2])
    waiting = {asyncio.create_task(request(number)) for number in numbers}
    all_wait = None
    while waiting or ends:
        await asyncio.wait({*waiting, *ends}, timeout=1.0, return_when=asyncio.ALL_COMPLETED)
        waiting = {task for task in waiting if not task.done()}
        memory.append(process.memory_info().rss / 2**20)
        if all_wait is None and admitter.waiting >= len(waiting):
            all_wait = memory[-1]
    ended = time.monotonic()
    await store.close()
    return Report(
        began=began,
        ended=ended,
        moves=queue.moves,
        refused=queue.refused,
        failures=failures,
        cpu_s=sum(process.cpu_times()[:2]) - cpu,
        waiting_mb=all_wait if all_wait is not None else memory[0],
        peak_mb=max(memory),
    )


def _process(url: str, numbers: Sequence[int], queue: Queue, seconds: float, told: Connection) -> None:
    told.send(asyncio.run(_triggerer(url, numbers, queue, seconds)))


async def _make_tables(url: str) -> None:
    store = JobStore(url)
    await store.create_tables()
    await store.close()


def _burst(url: str, requests: int, most: int, seconds: float) -> dict[str, Any]:
    asyncio.run(_make_tables(url))
    context = multiprocessing.get_context("spawn")
    queue = Queue(most)
    hear: list[Connection] = []
    for number in range(TRIGGERERS):
        ear, told = context.Pipe(duplex=False)
        hear.append(ear)
        numbers = range(number, requests, TRIGGERERS)
        context.Process(target=_process, args=(url, numbers, queue, seconds, told), daemon=True).start()
        told.close()  # so that the end of a process that fails is heard
    reports: list[Report] = [ear.recv() for ear in hear]
    moves = [move for report in reports for move in report.moves]
    began = min(report.began for report in reports)
    used = use(moves, requests, most)
    low_at, low = min(used, key=lambda each: each[1])
    failures = [failure for report in reports for failure in report.failures]
    return {
        "requests": requests,
        "most": most,
        "job_seconds": seconds,
        "failed": len(failures),
        "failures": failures[:5],
        "refused": sum(report.refused for report in reports),
        "peak": max(itertools.accumulate(change for _, change in sorted(moves))),
        "low": low,
        "low_at_s": low_at - began,
        "mean": mean_use(used),
        "seconds": max(report.ended for report in reports) - began,
        "ideal_seconds": requests * seconds / most,
        "cpu_seconds": sum(report.cpu_s for report in reports),
        "memory_waiting_mb": sum(report.waiting_mb for report in reports),
        "memory_peak_mb": sum(report.peak_mb for report in reports),
    }


def burst(bed: Bed, requests: int, most: int, seconds: float) -> dict[str, Any]:
    """The burst in a fresh database of the bed's PostgreSQL, which is dropped afterwards."""
    with fresh_database(bed, "admission") as url:
        return _burst(url, requests, most, seconds)


def faults(figures: Mapping[str, Any]) -> list[str]:
    """What is not as it should be."""
    found = []
    if figures["failed"] or figures["refused"]:
        found.append(f"{figures['failed']} requests failed, {figures['refused']} were one too many")
    if figures["peak"] > figures["most"]:
        found.append(f"{figures['peak']} were there, more than {figures['most']}")
    if figures["low"] < LEAST * figures["most"]:
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
