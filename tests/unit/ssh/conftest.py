from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from airavata_provider.ssh import lane as lane_module
from airavata_provider.ssh.breaker import BreakerPolicy
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.testing import EmbeddedSSH
from tests.unit.ssh.network import FakeNetwork

#: A breaker whose pauses a test need not wait for.
HASTY = BreakerPolicy(threshold=3, backoff_s=0.001, pause_s=0.001, longest_pause_s=0.01)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedSSH]:
    async with EmbeddedSSH(tmp_path / "state", tmp_path / "home") as server:
        yield server


@pytest.fixture
async def pool() -> AsyncIterator[SSHPool]:
    pool = SSHPool(HASTY)
    yield pool
    await pool.close()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> FakeNetwork:
    network = FakeNetwork()
    monkeypatch.setattr(lane_module, "connect", network.connect)
    return network
