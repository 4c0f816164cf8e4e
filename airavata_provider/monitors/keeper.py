"""Keeps every monitor's listeners running, each in one place of the deployment, whoever dies.

Each listener has a lease in the store. Whoever holds it runs the listener and renews the lease; a holder that died
loses it after
:attr:`Pace.lease` seconds, and one that cannot reach the store stops by itself in that time. Two at the same moment
do no harm: events are idempotent, and a reader's mark refuses the second writer.

:func:`ensure_keeper` starts one in this event loop, :func:`stop_keeper` ends it. Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import socket
import uuid
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from airavata_provider.errors import AiravataError
from airavata_provider.monitors.base import Listener, Monitor, MonitorContext, monitors

_LOG = logging.getLogger(__name__)
_LEASE_NAME = 64


@dataclass(frozen=True)
class Pace:
    """How often things are done, in seconds.

    :param look: between two looks at what is to be listened to
    :param lease: how long a dead holder keeps the others off
    :param again: before a listener that ended is started again, at first; doubled up to ``at_most``
    """

    look: float = 5.0
    lease: float = 30.0
    again: float = 5.0
    at_most: float = 300.0


@dataclass
class _Kept:
    """A listener whose lease is ours."""

    listener: Listener
    task: asyncio.Task[None]
    renewed_at: float
    failures: int = 0
    again_at: float | None = None


class Keeper:
    """See the module.

    :param found: monitors by name
    """

    def __init__(self, found: Mapping[str, Monitor], context: MonitorContext, *, pace: Pace | None = None) -> None:
        self._monitors = dict(found)
        self._context = context
        self._pace = pace or Pace()
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._kept: dict[str, _Kept] = {}

    async def run(self) -> None:
        """Keep them until cancelled, then let go of all."""
        try:
            while True:
                await self._round()
                await asyncio.sleep(self._pace.look * random.uniform(0.8, 1.0))  # noqa: S311
        finally:
            for name in list(self._kept):
                await self._let_go(name)

    async def _round(self) -> None:
        wanted = self._wanted()
        for name, kept in list(self._kept.items()):
            # A lambda would be another listener at each look: equality is the listener's to define.
            if wanted.get(name) != kept.listener:
                await self._let_go(name)
        clock = asyncio.get_running_loop().time
        for name, listener in wanted.items():
            try:
                held = await self._context.store.lease(name, self._holder, self._pace.lease)
            except AiravataError as error:
                _LOG.warning("%s: cannot tell who listens: %s", name, error)
                kept_since = self._kept[name].renewed_at if name in self._kept else clock()
                held = clock() - kept_since < self._pace.lease * 2 / 3 and name in self._kept
            else:
                if held and name in self._kept:
                    self._kept[name].renewed_at = clock()
            if not held:
                await self._let_go(name, give_back=False)
            elif name not in self._kept:
                _LOG.info("%s: listening", name)
                self._kept[name] = _Kept(listener, self._start(name, listener), clock())
            else:
                self._revive(name)

    def _wanted(self) -> dict[str, Listener]:
        wanted: dict[str, Listener] = {}
        for word, monitor in self._monitors.items():
            try:
                found = monitor.listeners(self._context)
            except Exception as error:
                # What runs goes on as it is: a broken edit of the catalog must not end it.
                _LOG.warning("Monitor %s cannot tell what to listen to: %s", word, error)
                wanted |= {n: kept.listener for n, kept in self._kept.items() if n.startswith(f"{word}:")}
                continue
            wanted |= {_lease_name(word, name): listener for name, listener in found.items()}
        return wanted

    def _start(self, name: str, listener: Listener) -> asyncio.Task[None]:
        # A context of its own: what it says is not for the log of whoever happened to start it.
        return asyncio.get_running_loop().create_task(listener.run(), name=f"airavata {name}", context=Context())

    def _revive(self, name: str) -> None:
        """Start a listener again that ended, after a pause."""
        kept, now = self._kept[name], asyncio.get_running_loop().time()
        if not kept.task.done():
            return
        if kept.again_at is None:
            error = None if kept.task.cancelled() else kept.task.exception()
            pause = min(self._pace.again * 2 ** min(kept.failures, 20), self._pace.at_most)
            kept.failures += 1
            kept.again_at = now + pause * random.uniform(0.5, 1.0)  # noqa: S311
            _LOG.error("%s: ended by itself; again in about %.0f s", name, pause, exc_info=error)
        elif now >= kept.again_at:
            kept.task, kept.again_at = self._start(name, kept.listener), None

    async def _let_go(self, name: str, *, give_back: bool = True) -> None:
        kept = self._kept.pop(name, None)
        if kept is None:
            return
        kept.task.cancel()
        await asyncio.wait([kept.task])
        _LOG.info("%s: listening no more", name)
        if give_back:
            try:
                await self._context.store.lease(name, self._holder, 0)
            except AiravataError as error:
                _LOG.info("%s: the lease runs out by itself: %s", name, error)


def _lease_name(monitor: str, name: str) -> str:
    whole = f"{monitor}:{name}"
    if len(whole) <= _LEASE_NAME:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:16]
    return f"{whole[: _LEASE_NAME - 17]}~{digest}"


_RUNNING: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()


def ensure_keeper(context: MonitorContext) -> None:
    """See to it that a keeper of all installed monitors runs in this event loop.

    :raises ConfigurationError: a monitor does not load
    """
    loop = asyncio.get_running_loop()
    running = _RUNNING.get(loop)
    if running is not None and not running.done():
        return
    if running is not None and not running.cancelled() and running.exception() is not None:
        _LOG.error("The keeper of monitors ended in a way that it should not", exc_info=running.exception())
    keeper = Keeper(monitors(), context)
    _RUNNING[loop] = loop.create_task(keeper.run(), name="airavata monitors", context=Context())


async def stop_keeper() -> None:
    """End this event loop's keeper, if one runs, and all its listeners."""
    running = _RUNNING.pop(asyncio.get_running_loop(), None)
    if running is not None:
        running.cancel()
        await asyncio.wait([running])
