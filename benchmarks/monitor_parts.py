"""The parts of the monitors' bench that are processes of their own: ``python -m benchmarks.monitor_parts PART FILE``.

``app`` is the provider's web application without Airflow's API server around it, behind a proxy that loses calls;
``sources`` polls the cluster and reads the mailbox, as a triggerer does. Both are the provider's own code.
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from airavata_provider.jobs.poller import Way
from airavata_provider.jobs.reconcile import Pace, Reconciler
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.mailbox import Mailbox
from airavata_provider.monitors.mail.imap import Account
from airavata_provider.monitors.mail.reader import FolderReader
from airavata_provider.monitors.rhythm import Rhythm
from airavata_provider.schedulers.slurm import Slurm
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Target

RESOURCE = "cluster"
SILENT = "silent"
"""The same cluster under another name, for jobs whose scripts tell nothing."""


@dataclass(frozen=True)
class Setting:
    """What the parts are told.

    :param drop: share of the scripts' calls that the proxy loses
    :param interval: of the poll, in seconds
    """

    url: str
    host: str
    port: int
    user: str
    key: str
    known_hosts: str
    imap_port: int
    imap_password: str
    mailbox: str
    app_port: int
    drop: float
    interval: float

    def write(self, file: Path) -> None:
        file.touch(mode=0o600)
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> Setting:
        found = json.loads(file.read_text())
        return cls(**{field.name: found[field.name] for field in fields(cls)})

    @property
    def target(self) -> Target:
        return Target(
            host=self.host,
            port=self.port,
            user=self.user,
            private_key_file=self.key,
            known_hosts=self.known_hosts,
        )


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def lost(path: str, event: str, share: float) -> bool:
    """Whether the proxy loses that news: all tries of a call alike."""
    return zlib.crc32(f"{path} {event}".encode()) % 1000 < share * 1000


def losing(app: App, share: float) -> App:
    """The application behind a proxy that answers some calls with 502 instead of passing them on."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if lost(scope["path"], str(json.loads(body or b"{}").get("event")), share):
            await send({"type": "http.response.start", "status": 502, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        whole = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> MutableMapping[str, Any]:
            return next(whole, None) or await receive()

        await app(scope, replay, send)

    return proxy


def serve(setting: Setting) -> None:
    import uvicorn
    from fastapi import FastAPI

    from airavata_provider.plugin.api import app

    root = FastAPI()
    root.mount("/airavata", app)
    uvicorn.run(losing(root, setting.drop), host="127.0.0.1", port=setting.app_port, log_level="warning")


async def sources(setting: Setting) -> None:
    store, pool = JobStore(setting.url), SSHPool()

    async def way(resource: str) -> Way:
        return Way(pool.host(setting.target), Slurm())

    async def account() -> Account:
        return Account("127.0.0.1", setting.imap_port, setting.mailbox, setting.imap_password, use_ssl=False)

    async def poll() -> None:
        rhythm = Rhythm(base=setting.interval, floor=setting.interval)
        while True:  # it ends when nothing is open
            await Reconciler(store, way, pace=Pace(rhythm=rhythm)).run()
            await asyncio.sleep(0.2)

    mailbox = Mailbox.model_validate({"name": "bench", "connection": "bench"})
    reader = FolderReader(mailbox, "INBOX", store=store, account=account, served={RESOURCE: "slurm"})
    await asyncio.gather(poll(), reader.run())


def main(part: str, file: str) -> None:
    setting = Setting.read(Path(file))
    if part == "app":
        serve(setting)
    else:
        asyncio.run(sources(setting))


if __name__ == "__main__":
    main(*sys.argv[1:3])
