"""One pool's part in sharing hosts with other processes: asks before each connection, and says again and again what
it has.

What always holds: a connection of a pool that shares is on record before it is made, until it has ended
(``ssh.sharing`` says who may have one). While nobody can tell what others have, the pool goes on with the
connections that it has, and makes none; nor does it right afterwards, as others may not have been heard again yet.
Whoever has none to use is told so when its patience is over.

One word at a time, so that what is on record is never older than what is. Must not import Airflow.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from typing import TYPE_CHECKING

from airavata_provider.errors import AiravataError, StoreError
from airavata_provider.ssh.sharing import ONE_MORE_S, Answer, Ask, Ledger

if TYPE_CHECKING:
    from airavata_provider.ssh.lane import Lane

RENEW_S = 10.0
"""Between two words about the connections that stand, in seconds: one for all lanes together."""

SILENCE_S = 10.0
"""When a word took so long to be heard, in seconds, what others have may have gone from the record meanwhile: nothing
is asked for until they have said it again."""

ANSWER_S = 20.0
"""How long an answer is waited for, in seconds: other lanes' words wait meanwhile."""

CLOSE_S = 5.0
"""How long a pool that ends waits for its last word to be heard; what it said before counts no more after a while."""

_LOG = logging.getLogger(__name__)


class Places:
    """See the module.

    :param ledger: where all processes say what they have
    :param modest: the pool serves one task (``ssh.sharing``)
    """

    def __init__(self, ledger: Ledger, *, modest: bool = False) -> None:
        self._ledger = ledger
        self._modest = modest
        self._told: dict[str, Lane] = {}
        self._in_line: set[str] = set()
        self._turn = asyncio.Lock()
        self._ended = asyncio.Event()
        self._renewer: asyncio.Task[None] | None = None
        self._closed = False
        self._unheard_since: float | None = None
        self._wary_until = 0.0

    async def ask(self, lane: Lane) -> float:
        """Seconds until it is worth asking again; 0: the lane may begin one connection now."""
        async with self._turn:
            # From here on it may be on record, also for who is cancelled meanwhile.
            self._told[lane.key] = lane
            if self._renewer is None:
                loop = asyncio.get_running_loop()
                self._renewer = loop.create_task(self._renew(), name="airavata connections", context=Context())
            wary = self._wary_until - time.monotonic()
            try:
                (answer,) = await self._settle([self._word(lane, now=wary <= 0)])
            except AiravataError as error:
                name = lane.target.name
                _LOG.warning("%s: not connected to while nobody can tell what others have: %s", name, error)
                lane.not_told(self._unheard_since or time.monotonic(), error)
                return _after(ONE_MORE_S)
            lane.opening = answer.granted
        if answer.granted:
            self._in_line.discard(lane.key)
            return 0.0
        if lane.key not in self._in_line and not lane.held:
            _LOG.info("%s: its limits are used up; waits for others to let go", lane.target.name)
            self._in_line.add(lane.key)
        return _after(answer.again_s or max(wary, ONE_MORE_S))

    def ended(self) -> None:
        """A connection ended: others may have one now."""
        self._ended.set()

    async def close(self) -> None:
        """Take back every word; to be called when all connections have ended."""
        self._closed = True
        self._ended.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                if self._renewer is not None:
                    await self._renewer
                await self._say()

    async def _renew(self) -> None:
        """Say what every lane has, for as long as one has something or may be on record as if it had."""
        try:
            while self._told and not self._closed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_about(RENEW_S)):
                        await self._ended.wait()
                self._ended.clear()
                await self._say()
        finally:
            self._renewer = None

    async def _say(self) -> None:
        async with self._turn:
            lanes = list(self._told.values())
            asks = [self._word(lane) for lane in lanes]
            try:
                answers = await self._settle(asks) if asks else []
                for lane, ask, answer in zip(lanes, asks, answers, strict=True):
                    self._heard(lane, ask, answer)
            except AiravataError as error:
                _LOG.warning("Cannot tell others which connections stand: %s", error)
            except Exception:
                # A fault in this package: what stands must be said again all the same.
                _LOG.exception("Cannot tell others which connections stand")

    def _heard(self, lane: Lane, ask: Ask, answer: Answer) -> None:
        if not ask.wants:
            self._in_line.discard(lane.key)
        if not (ask.held or ask.wants):
            del self._told[lane.key]
        # What ended by itself since is as good as let go.
        leaving, ended = lane.leaving, ask.held - ask.leaving - (lane.held - lane.leaving)
        lane.let_go(answer.surplus - max(0, ended))
        if lane.leaving > leaving:
            # Whoever waits in that lane is now one of those who have none, and takes his place among them.
            self._ended.set()

    async def _settle(self, asks: list[Ask]) -> list[Answer]:
        if self._unheard_since is None:
            self._unheard_since = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_S):
                answers = await self._ledger.settle(asks)
        except TimeoutError as error:
            words = f"sharing a host's connections: no answer in {ANSWER_S:g} s"
            raise StoreError(words, where="job store") from error
        now = time.monotonic()
        silent, self._unheard_since = now - self._unheard_since, None
        if silent <= SILENCE_S:
            return answers
        # Everybody says what he has within so long.
        self._wary_until = now + 1.5 * RENEW_S
        return [replace(answer, granted=False, again_s=0.0) for answer in answers]

    def _word(self, lane: Lane, *, now: bool = False) -> Ask:
        limits = lane.target.limits
        return Ask(
            host=lane.target.account,
            lane=lane.key,
            limit=limits.max_connections,
            per_minute=limits.connects_per_minute,
            held=lane.held,
            leaving=lane.leaving,
            wants=lane.wants,
            now=now,
            modest=self._modest,
        )


def _about(seconds: float) -> float:
    """Not all processes ask in step."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311


def _after(seconds: float) -> float:
    """Likewise, and never before the time has come."""
    return seconds + min(seconds, RENEW_S) * random.uniform(0.0, 0.2)  # noqa: S311
