"""Reading Airflow Connections over a worker's line to its supervisor: Airflow's own decoder, a supervisor of ours."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder, _RequestFrame, _ResponseFrame

from airavata_provider import settings
from airavata_provider.errors import ConfigurationError
from airavata_provider.jobs import store as store_module
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.resource import Reachable
from airavata_provider.settings import Settings
from airavata_provider.triggers import connections
from airavata_provider.triggers.connections import Connections, FoundConnection
from airavata_provider.triggers.services import AirflowServices

NAMES = [f"cluster_{number}" for number in range(6)]


class Supervisor:
    """Answers what a task asks, each after a pause, in order."""

    def __init__(self, line: socket.socket) -> None:
        self.asked = threading.Semaphore(0)
        self.pause_s = 0.01
        self.missing = 0
        self.denied = False
        self._line = line
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        decoder = msgspec.msgpack.Decoder(_RequestFrame)
        with self._line.makefile("rb") as stream:
            while length := stream.read(4):
                frame = decoder.decode(stream.read(int.from_bytes(length, "big")))
                body = frame.body or {}
                if body["type"] == "GetConnection":
                    self.asked.release()
                time.sleep(self.pause_s)
                answer: dict[str, str | None] | None = None
                if body["type"] == "GetConnection" and self.denied:
                    answer = {"type": "ErrorResponse", "error": "PERMISSION_DENIED"}
                elif body["type"] == "GetConnection" and self.missing:
                    self.missing -= 1
                    answer = {"type": "ErrorResponse", "error": "API_SERVER_ERROR"}
                elif body["type"] == "GetConnection":
                    answer = {
                        "type": "ConnectionResult",
                        "conn_id": body["conn_id"],
                        "conn_type": "ssh",
                        "host": f"{body['conn_id']}.example.org",
                        "login": "ada",
                        "schema": None,
                        "password": None,
                        "port": None,
                        "extra": json.dumps({"no_host_key_check": True, "passphrase": f"of {body['conn_id']}"}),
                    }
                self._line.sendall(_ResponseFrame(frame.id, answer).as_bytes())


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line: CommsDecoder[object, object] = CommsDecoder(socket=ours)  # type: ignore[type-var]
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", line, raising=False)
        yield Supervisor(theirs)
        theirs.shutdown(socket.SHUT_RDWR)


async def test_several_hosts_are_looked_up_at_once(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow ends a task that looks at a Connection's extra while another of its coroutines waits for an answer."""
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    monkeypatch.setattr(settings, "get_settings", Settings)
    monkeypatch.setattr(store_module, "get_store", lambda **_: store)
    services = AirflowServices(of_task=True)
    hosts = await asyncio.gather(*(services.host(Reachable(connection=name)) for name in NAMES))
    assert [host.name for host in hosts] == [f"ada@{name}.example.org:22" for name in NAMES]
    await services.close()
    await store.close()


async def test_who_is_cancelled_leaves_nobody_his_answer(supervisor: Supervisor) -> None:
    known = Connections()
    async with asyncio.timeout(300):
        for _ in range(20):
            for name in NAMES:
                asking = asyncio.create_task(known.get(name))
                await asyncio.to_thread(supervisor.asked.acquire)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
            found = await known.get("mine")
            supervisor.asked.acquire()
            assert (found.host, dict(found.extra_dejson)["passphrase"]) == ("mine.example.org", "of mine")
        await known.close()


async def test_its_secrets_are_not_in_its_text(supervisor: Supervisor) -> None:
    found = await Connections().get("mine")
    assert "of mine" not in repr(found)
    assert "s3cret" not in repr(FoundConnection("c", password="s3cret"))


async def test_one_that_is_not_there_is_looked_for_again(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow tells no difference between that and an API server that does not answer."""
    monkeypatch.setattr(connections, "AGAIN_S", (0.0, 0.0))
    supervisor.missing = 2
    assert (await Connections().get("mine")).host == "mine.example.org"
    supervisor.missing = 3
    with pytest.raises(ConfigurationError, match="no Airflow connection 'gone'"):
        await Connections().get("gone")


async def test_one_that_is_denied(supervisor: Supervisor) -> None:
    supervisor.denied = True
    with pytest.raises(ConfigurationError, match="denies this task the connection 'theirs'"):
        await Connections().get("theirs")
