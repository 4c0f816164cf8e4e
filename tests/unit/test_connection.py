"""The button that tries a connection: against a host on loopback, through another one, and what it says otherwise."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from airavata_provider.connection import SSHConnectionHook
from airavata_provider.testing import EmbeddedSSH

pytestmark = pytest.mark.slow


@pytest.fixture
async def near(tmp_path: Path) -> AsyncIterator[EmbeddedSSH]:
    async with EmbeddedSSH(tmp_path / "near", tmp_path / "near-home") as server:
        yield server


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[EmbeddedSSH]:
    async with EmbeddedSSH(tmp_path / "far", tmp_path / "far-home") as server:
        yield server


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def connect(name: str, server: EmbeddedSSH, **extra: Any) -> None:
        """Make a Connection, as Airflow finds it in the environment."""
        own = {"key_file": str(server.key), "known_hosts": str(server.known_hosts)}
        connection = {
            "conn_type": "airavata_ssh",
            "host": "127.0.0.1",
            "port": server.port,
            "login": getpass.getuser(),
            "extra": own | extra,
        }
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))

    return connect


async def tried(name: str) -> tuple[bool, str]:
    """What Airflow's API server is told, which calls from a thread."""
    return await asyncio.to_thread(SSHConnectionHook(airavata_conn_id=name).test_connection)


async def test_a_host_that_lets_us_in(far: EmbeddedSSH, connect: Callable[..., None]) -> None:
    connect("far", far)
    assert await tried("far") == (True, "Logged in, and a command ran.")
    assert far.counts.sessions == 1


async def test_through_the_host_of_another_connection(
    near: EmbeddedSSH, far: EmbeddedSSH, connect: Callable[..., None]
) -> None:
    connect("near", near)
    connect("far", far, jump_host="near")
    assert await tried("far") == (True, "Logged in, and a command ran.")
    assert (near.counts.connections, far.counts.connections) == (1, 1)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"jump_host": "nowhere"}, "`nowhere` isn't defined"),
        ({"key_file": "/no/such/key"}, "/no/such/key cannot be read"),
        ({"known_hosts": "/dev/null"}, "host key is not one that is trusted"),
        ({"jump_host": "far"}, "run in a circle"),
    ],
)
async def test_what_is_wrong_is_said(
    far: EmbeddedSSH, connect: Callable[..., None], extra: dict[str, str], words: str
) -> None:
    connect("far", far, **extra)
    well, told = await tried("far")
    assert not well
    assert words in told


async def test_a_connection_that_is_not_there() -> None:
    assert await tried("nowhere") == (False, "The conn_id `nowhere` isn't defined")
