"""A ledger in memory, for tests of pools that share hosts as those of several processes do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from airavata_provider.errors import StoreError
from airavata_provider.ssh import places, sharing
from airavata_provider.ssh.sharing import Answer, Ask, HostUse


class Book:
    """A ledger in memory.

    :ivar now: the time, in seconds
    :ivar step: so much passes with each word
    :ivar words: what was said
    :ivar down: nobody can tell
    :ivar fault: is raised instead of an answer
    :ivar held_up: answers wait for it
    """

    def __init__(self) -> None:
        self.uses: dict[str, HostUse] = {}
        self.now = 0.0
        self.step = 0.0
        self.words: list[Sequence[Ask]] = []
        self.down = False
        self.fault: Exception | None = None
        self.held_up: asyncio.Event | None = None

    async def settle(self, asks: Sequence[Ask]) -> list[Answer]:
        await asyncio.sleep(0)
        self.words.append(asks)
        self.now += self.step
        if self.down:
            raise StoreError("no database", where="job store")
        if self.fault is not None:
            raise self.fault
        answers = []
        for ask in asks:
            answer, self.uses[ask.host] = sharing.settle(ask, self.uses.get(ask.host, HostUse()), self.now)
            answers.append(answer)
        if self.held_up is not None:
            await self.held_up.wait()
        return answers

    @property
    def held(self) -> int:
        return sum(claim.held for use in self.uses.values() for claim in use.claims.values())


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words follow each other without the pauses of production."""
    monkeypatch.setattr(places, "RENEW_S", 0.001)
    for module, name in ((sharing, "AGAIN_S"), (sharing, "ONE_MORE_S"), (places, "ONE_MORE_S")):
        monkeypatch.setattr(module, name, 0.001)
