"""Maildirs that the test bed's Dovecot serves, messages in them, and a reader of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from imapclient import IMAPClient

from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import EventSource, Job, JobEvent
from airavata_provider.models.mailbox import Mailbox
from airavata_provider.monitors.mail.imap import Account
from airavata_provider.monitors.mail.reader import FolderReader, Pace
from tests.bed import Bed

SENDER = "slurm@cluster.test"
QUICK = Pace(first=0.1, at_most=0.5, retry=0.1, retry_at_most=0.5)
BOX = {"name": "box", "connection": "imap"}


@dataclass(frozen=True)
class Maildir:
    """An account of the IMAP server with its maildir.

    :param name: of the account; mail to ``name@anything`` comes here
    :param over_tls: the same account at the port that speaks TLS
    """

    name: str
    path: Path
    account: Account
    over_tls: Account

    def deliver(self, subject: str, body: str = "", *, sender: str = SENDER, extra: str = "") -> None:
        """Put a message into the inbox, as a mail server does: under another name first."""
        self.deliver_raw(message(subject, body, sender=sender, extra=extra))

    def deliver_raw(self, raw: bytes, *, age_s: float = 0) -> None:
        """Put those bytes into the inbox.

        :param age_s: seconds since it came
        """
        name = f"{int(time.time())}.{uuid.uuid4().hex}.test"
        file = self.path / "tmp" / name
        file.write_bytes(raw)
        os.chown(file, self.path.stat().st_uid, self.path.stat().st_gid)
        if age_s:
            os.utime(file, (time.time() - age_s,) * 2)
        file.rename(self.path / "new" / name)

    def flags(self, folder: str = "INBOX") -> dict[str, set[bytes]]:
        """Flags of the folder's messages by their subjects."""
        with self.client() as client:
            client.select_folder(folder, readonly=True)
            found = client.fetch(uids, ["FLAGS", "ENVELOPE"]) if (uids := client.search()) else {}
        return {item[b"ENVELOPE"].subject.decode(): {*item[b"FLAGS"]} - {b"\\Recent"} for item in found.values()}

    def client(self) -> IMAPClient:
        """Another program that reads mail; logged in."""
        client = IMAPClient(self.account.host, self.account.port, ssl=False)
        client.login(self.account.user, self.account.password)
        return client


def message(subject: str, body: str = "", *, sender: str = SENDER, extra: str = "") -> bytes:
    """A plain message.

    :param extra: further header lines, each with its line end
    """
    head = f"From: <{sender}>\nSubject: {subject}\nDate: {format_datetime(datetime.now(UTC))}\n"
    return f"{head}Message-ID: <{uuid.uuid4().hex}@test>\n{extra}\n{body}".encode()


@contextmanager
def maildir(bed: Bed, name: str | None = None) -> Iterator[Maildir]:
    """A fresh account, removed afterwards. Anybody may deliver into it, as schedulers run as several users."""
    name = name or f"box-{uuid.uuid4().hex[:12]}"
    path = bed.mail_root / name
    path.mkdir()
    for folder, mode in (("cur", 0o700), ("new", 0o733), ("tmp", 0o733)):
        (path / folder).mkdir()
        (path / folder).chmod(mode)
        shutil.chown(path / folder, bed.ssh_user, bed.ssh_user)
    shutil.chown(path, bed.ssh_user, bed.ssh_user)
    path.chmod(0o711)
    try:
        account = Account("127.0.0.1", bed.imap_port, name, bed.imap_password, use_ssl=False)
        yield Maildir(name, path, account, replace(account, port=bed.imaps_port, use_ssl=True))
    finally:
        for _ in range(50):
            # The server may write there for as long as somebody reads.
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
            time.sleep(0.1)


async def known_job(store: JobStore, name: str, native_id: str | None, resource: str = "cluster") -> Job:
    """A job in the store, with its id when the scheduler told it."""
    job = await store.intend(
        Job(name, "dag", "run", name, -1, 1, resource=resource, directory="/scratch", created_at=datetime.now(UTC))
    )
    return job if native_id is None else await store.submitted(name, native_id, datetime.now(UTC))


@asynccontextmanager
async def reading(
    store: JobStore, account: Account, mailbox: Mailbox | None = None, *, scheduler: str = "slurm"
) -> AsyncIterator[None]:
    """A reader of that mailbox, for as long as the block takes."""

    async def connect() -> Account:
        return account

    mailbox = mailbox or Mailbox.model_validate(BOX)
    readers = [
        FolderReader(mailbox, folder, store=store, account=connect, served={"cluster": scheduler}, pace=QUICK)
        for folder in mailbox.folders
    ]
    tasks = [asyncio.create_task(reader.run()) for reader in readers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def counts(store: JobStore, folder: str = "INBOX") -> dict[str, int]:
    """How many messages of :data:`BOX` became what; without those that are none."""
    mark = await store.mail_folders.read("box", folder)
    return {} if mark is None else {name: number for name, number in mark.counts.items() if number}


async def mailed(store: JobStore, name: str) -> list[JobEvent]:
    """What mail told of that job, in order of arrival."""
    return [each.event for each in await store.events(name) if each.event.source == EventSource.MAIL]


async def told(store: JobStore, name: str, number: int) -> bool:
    """Whether mail told so many things of that job, or more."""
    return len(await mailed(store, name)) >= number


async def until(check: Callable[[], object], seconds: float = 120) -> None:
    """Wait until that is true; it may be a coroutine function."""
    end = time.monotonic() + seconds
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < end, "it never became true"
        await asyncio.sleep(0.05)
