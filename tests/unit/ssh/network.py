"""Connections that are not there, for tests of the pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from airavata_provider.errors import AiravataError
from airavata_provider.ssh.lane import Lane
from airavata_provider.ssh.target import Limits, Target


class FakeConnection:
    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def close(self) -> None:
        self.ended.set()

    async def wait_closed(self) -> None:
        await self.ended.wait()


class FakeNetwork:
    """Stands in for ``connect``: answers with connections, or with the errors put before it."""

    def __init__(self) -> None:
        self.errors: list[AiravataError] = []
        self.attempts = self.peak = 0
        self.connections: list[FakeConnection] = []
        self.tunnels: list[object] = []
        self.held_up: dict[str, asyncio.Event] = {}

    async def connect(self, target: Target, tunnel: object) -> FakeConnection:
        self.attempts += 1
        self.tunnels.append(tunnel)
        await asyncio.sleep(0)
        if target.host in self.held_up:
            await self.held_up[target.host].wait()
        if self.errors:
            raise self.errors.pop(0)
        connection = FakeConnection()
        self.connections.append(connection)
        self.peak = max(self.peak, self.standing)
        return connection

    @property
    def standing(self) -> int:
        return sum(not connection.ended.is_set() for connection in self.connections)


def target(**limits: float) -> Target:
    return Target("example.org", user="ada", limits=Limits(**limits))  # type: ignore[arg-type]


async def enter(lane: Lane) -> None:
    async with lane.session():
        pass


async def settle(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
