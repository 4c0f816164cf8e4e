"""How full clusters' queues are, everybody's jobs counted: asks the clusters, seldom and all at once.

However many experiments begin at a time, a cluster is asked at most every ``fresh_s``, and more seldom while it does
not answer. Nobody waits for a question longer than ``limit_s``, and nothing raises: what a cluster does not tell is
not known, and why not is told. What it told before counts some minutes longer, because it may well be our own way
there that is busy.

Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Mapping
from contextvars import Context
from dataclasses import dataclass, field

from airavata_provider.jobs.limits import Place
from airavata_provider.jobs.poller import Connect
from airavata_provider.schedulers.load import QueueLoad

log = logging.getLogger(__name__)

FRESH_S = 60.0
LIMIT_S = 15.0
SELDOM_S = 600.0
"""The longest pause between two questions to a cluster that does not answer."""

KEPT_S = 600.0
"""How long the last answer is told, with its age, by a cluster that does not answer any more."""

_WORDS = 200
"""Characters of an error that are told."""


def pause_s(fresh_s: float, failures: int) -> float:
    """Seconds until a cluster is asked again, after so many questions in a row that it did not answer."""
    return max(fresh_s, min(SELDOM_S, fresh_s * 2.0 ** min(max(0, failures - 1), 10)))


@dataclass(frozen=True)
class Told:
    """What a cluster tells of a queue.

    :param load: None: nothing
    :param fault: why nothing, or nothing newer
    :param askable: False: its scheduler tells nobody about that queue
    :param at: when it was told, by the loop's clock
    """

    load: QueueLoad | None = None
    fault: str = ""
    askable: bool = True
    at: float = field(default=float("-inf"), compare=False)


@dataclass
class _Cluster:
    """What one cluster told last.

    :param queues: all queues that anybody wanted to know of
    :param answered: those that the last question was about
    :param loads: its last answer; None: it cannot be asked
    :param told_at: when that was, by the loop's clock
    :param fault: why there is no newer answer
    :param due_at: when it may be asked again, by the loop's clock
    :param asking: the question that is under way
    :param failures: how many in a row had no answer
    """

    queues: set[str] = field(default_factory=set)
    answered: frozenset[str] = frozenset()
    loads: Mapping[str, QueueLoad] | None = None
    told_at: float = float("-inf")
    fault: str = ""
    due_at: float = float("-inf")
    asking: asyncio.Task[None] | None = None
    failures: int = 0

    def told(self, queue: str, now: float) -> Told:
        load = (self.loads or {}).get(queue)
        if self.fault:
            if load is None or now - self.told_at > KEPT_S:
                return Told(fault=self.fault)
            words = f"told {(now - self.told_at) / 60:.0f} min ago; since then: {self.fault}"
            return Told(load, words, at=self.told_at)
        if self.loads is not None and load is None:
            # Its own name for several queues, perhaps; a name that is wrong is refused when a job goes there.
            return Told(fault="its answer has nothing about that queue", askable=False, at=self.told_at)
        return Told(load, askable=load is not None or not self.answered, at=self.told_at)


class Loads:
    """See the module; of one event loop.

    :param connect: the way to a compute resource
    :param fresh_s: seconds that an answer counts, and some more so that not all clusters are asked at one moment
    :param limit_s: seconds that an answer may take
    """

    def __init__(self, connect: Connect, *, fresh_s: float = FRESH_S, limit_s: float = LIMIT_S) -> None:
        self._connect = connect
        self._fresh_s = fresh_s
        self._limit_s = limit_s
        self._clusters: dict[str, _Cluster] = {}
        self._closed = False

    async def of(self, places: Collection[Place]) -> Mapping[Place, Told]:
        """What is told of those places now; asks the clusters whose answers are old."""
        for resource, queue in places:
            self._clusters.setdefault(resource, _Cluster()).queues.add(queue)
        await self._answers({resource for resource, _ in places})
        # A question that was under way may have been about other queues.
        clusters = {resource: self._clusters[resource] for resource, _ in places}
        await self._answers(
            {
                resource
                for resource, queue in places
                if (known := clusters[resource]).answered and not known.fault and queue not in known.answered
            }
        )
        now = asyncio.get_running_loop().time()
        return {(resource, queue): clusters[resource].told(queue, now) for resource, queue in places}

    async def close(self) -> None:
        """Stop asking."""
        self._closed = True
        asking = [each.asking for each in self._clusters.values() if each.asking is not None]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _answers(self, resources: Collection[str]) -> None:
        """Wait until those clusters have been asked, as far as they are due."""
        asking = [task for resource in sorted(resources) if (task := self._asked(resource)) is not None]
        if asking:
            # Who is cancelled meanwhile does not take the answer from the others that wait for it.
            await asyncio.wait(asking)

    def _asked(self, resource: str) -> asyncio.Task[None] | None:
        """The question to that cluster that is under way or due; None while its last answer counts."""
        cluster = self._clusters[resource]
        if self._closed:
            return None
        if cluster.asking is None or cluster.asking.done():
            now = asyncio.get_running_loop().time()
            # A queue that the answer is not about is asked for at once, unless the cluster does not answer anyway.
            new = not cluster.fault and not cluster.queues <= cluster.answered
            if now < cluster.due_at and not new:
                return None
            # Many experiments wait for it: it does not write into the log of the one that is first.
            cluster.asking = asyncio.create_task(self._ask(resource, cluster), context=Context())
        return cluster.asking

    async def _ask(self, resource: str, cluster: _Cluster) -> None:
        queues = sorted(cluster.queues)
        try:
            async with asyncio.timeout(self._limit_s):
                way = await self._connect(resource)
                command = way.scheduler.load_command(queues)
                if command is None:
                    cluster.loads = None
                else:
                    result = await way.host.run(command, timeout=self._limit_s)
                    cluster.loads = way.scheduler.parse_load(result, queues)
            cluster.told_at = asyncio.get_running_loop().time()
            cluster.fault, cluster.failures = "", 0
        except Exception as error:  # whatever it is, experiments go on without it
            words = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, TimeoutError):
                words = f"no answer in {self._limit_s:g} s"
            cluster.fault = words[:_WORDS]
            cluster.failures += 1
            log.warning("%s does not tell how full its queues are: %s", resource, words)
        cluster.answered = frozenset(queues)
        later_s = pause_s(self._fresh_s, cluster.failures) * random.uniform(1.0, 1.2)  # noqa: S311
        cluster.due_at = asyncio.get_running_loop().time() + later_s
