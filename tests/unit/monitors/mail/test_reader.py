"""The reader over a mailbox in memory: what it does in which order, and what it makes of failures.

Over a real server: ``tests/integration/test_mail_dovecot.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airavata_provider.errors import MailError, MailLoginRefused, StoreError
from airavata_provider.jobs.mail_folders import MailFolder
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.job import EventSource, JobState
from airavata_provider.models.mailbox import Mailbox
from airavata_provider.models.resource import ComputeResource
from airavata_provider.monitors.base import MonitorContext
from airavata_provider.monitors.mail import reader as module
from airavata_provider.monitors.mail import sge, slurm
from airavata_provider.monitors.mail.imap import Account, Fetched
from airavata_provider.monitors.mail.monitor import MailMonitor
from airavata_provider.monitors.mail.news import Decoder
from airavata_provider.monitors.mail.reader import FolderReader, Pace
from tests.unit.jobs.factory import make_job

pytestmark = pytest.mark.slow

QUICK = Pace(first=0.001, at_most=0.002, retry=0.001, retry_at_most=0.002)
ACCOUNT = Account("imap.test", 993, "me", "secret")


@dataclass
class Server:
    """A folder in memory."""

    uidvalidity: int = 1
    messages: dict[int, Fetched] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)
    bodies: list[int] = field(default_factory=list)
    headers: list[int] = field(default_factory=list)
    opened: int = 0
    failures: list[Exception] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, subject: str, head: str = "", *, age_s: float = 0) -> int:
        uid = max(self.messages, default=0) + 1
        raw = f"Subject: {subject}\r\nFrom: slurm@cluster.test\r\nMessage-ID: <{uid}>\r\n{head}\r\n".encode()
        self.messages[uid] = Fetched(datetime.now(UTC) - timedelta(seconds=age_s), raw)
        self.news.set()
        return uid


class FakeFolder:
    """As :class:`airavata_provider.monitors.mail.imap.Folder`."""

    server: Server

    def __init__(self, account: Account, mailbox: Mailbox, name: str) -> None:
        assert account is ACCOUNT

    async def open(self) -> tuple[int, int]:
        self.server.opened += 1
        if self.server.failures:
            raise self.server.failures.pop(0)
        return self.server.uidvalidity, max(self.server.messages, default=0)

    async def uids(self, above: int, up_to: int | None = None) -> list[int]:
        return sorted(uid for uid in self.server.messages if uid > above and (up_to is None or uid <= up_to))

    async def headers(self, uids: Sequence[int]) -> dict[int, Fetched]:
        self.server.headers += uids
        return {uid: self.server.messages[uid] for uid in uids if uid in self.server.messages}

    async def messages(self, uids: Sequence[int]) -> dict[int, Fetched]:
        self.server.bodies += uids
        return {uid: self.server.messages[uid] for uid in uids if uid in self.server.messages}

    async def finish(self, uids: Sequence[int]) -> None:
        self.server.done += uids

    async def wait(self, seconds: float) -> None:
        self.server.news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self.server.news.wait()
        except TimeoutError:
            pass

    async def think(self, work: Callable[[], Any]) -> Any:
        return work()

    def close(self) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    FakeFolder.server = Server()
    monkeypatch.setattr(module, "Folder", FakeFolder)
    return FakeFolder.server


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}", watch_interval=0.01)
    await store.create_tables()
    yield store
    await store.close()


@pytest.fixture
async def read(store: JobStore, server: Server) -> AsyncIterator[Callable[..., asyncio.Task[None]]]:
    tasks: list[asyncio.Task[None]] = []

    async def account() -> Account:
        return ACCOUNT

    def start(**values: Any) -> asyncio.Task[None]:
        mailbox = Mailbox.model_validate({"name": "box", "connection": "c", **values})
        reader = FolderReader(mailbox, "INBOX", store=store, account=account, served={"cluster": "slurm"}, pace=QUICK)
        tasks.append(asyncio.create_task(reader.run()))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await check():  # noqa: ASYNC110  # the store tells nobody of a mark
            await asyncio.sleep(0.005)


async def mark_of(store: JobStore) -> MailFolder:
    mark = await store.mail_folders.read("box", "INBOX")
    return mark or MailFolder("box", "INBOX", 0)


async def counted(store: JobStore, **expected: int) -> None:
    async def check() -> bool:
        return {name: number for name, number in (await mark_of(store)).counts.items() if number} == expected

    await until(check)


async def known(store: JobStore, name: str, native_id: str) -> None:
    await store.intend(make_job(name))
    await store.submitted(name, native_id, datetime.now(UTC))


def ended(name: str, native_id: str) -> str:
    return f"Slurm Job_id={native_id} Name={name} Ended, Run time 00:00:05, COMPLETED, ExitCode 0"


Read = Callable[..., asyncio.Task[None]]


async def test_news_is_stored_then_done_with(store: JobStore, server: Server, read: Read) -> None:
    await known(store, "a1", "7")
    read()
    server.put("Minutes")
    uid = server.put(ended("a1", "7"))
    assert (await store.wait("a1", 10)).state is JobState.COMPLETE
    await counted(store, news=1, other=1)
    assert server.done == [uid]
    assert server.bodies == []  # SLURM's subjects say it all
    assert (await mark_of(store)).uid == uid


async def test_bodies_are_fetched_of_those_that_may_be_news(
    store: JobStore, server: Server, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "decoder", lambda word: sge.DECODER)
    read()
    server.put("Minutes")
    uid = server.put("Job 7 (a1) Complete")
    await counted(store, other=1, silent=1)
    assert server.bodies == [uid]


async def test_nothing_is_done_with_that_is_not_stored(
    store: JobStore, server: Server, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    await known(store, "a1", "7")
    real, tries = store.append, 0

    async def append(event: Any) -> Any:
        nonlocal tries
        tries += 1
        assert server.done == []
        if tries < 3:
            raise StoreError("no database")
        return await real(event)

    monkeypatch.setattr(store, "append", append)
    server.put(ended("a1", "7"))
    read()
    await counted(store, news=1)
    assert (tries, server.done, server.opened) == (3, [1], 3)


async def test_what_failed_after_storing_is_done_again_and_is_the_same_event(
    store: JobStore, server: Server, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    await known(store, "a1", "7")
    real, tries = store.mail_folders.write, 0

    async def write(mark: MailFolder) -> MailFolder:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreError("no database")
        return await real(mark)

    monkeypatch.setattr(store.mail_folders, "write", write)
    server.put(ended("a1", "7"))
    read()
    await counted(store, news=1)
    assert server.done == [1, 1]
    assert len([each for each in await store.events("a1") if each.event.source == EventSource.MAIL]) == 1


async def test_failures_are_tried_again(
    store: JobStore, server: Server, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    await known(store, "a1", "7")
    server.failures = [MailError("gone"), MailLoginRefused("may not"), RuntimeError("a bug"), MailError("gone")]
    server.put(ended("a1", "7"))
    read()
    await counted(store, news=1)
    assert server.opened == 5
    for words in ("gone", "may not", "reading failed unexpectedly"):
        assert words in caplog.text
    assert "secret" not in caplog.text


async def test_what_nobody_expected_is_tried_again_soon_too(
    store: JobStore, server: Server, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "QUICK", Pace(first=0.001, at_most=3600))
    await known(store, "a1", "7")
    server.failures = [RuntimeError("Airflow's API server is away")]
    server.put(ended("a1", "7"))
    read()
    await counted(store, news=1)


async def test_new_mail_comes_before_old(
    store: JobStore, server: Server, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    for number in range(6):
        server.put(f"Letter {number}", age_s=10_000)
    read()
    await counted(store, other=6)
    assert server.headers == [5, 6, 3, 4, 1, 2]  # what was there: the latest first
    server.put("Letter")
    await counted(store, other=7)
    assert server.headers[6:] == [7]
    mark = await mark_of(store)
    assert (mark.uid, mark.old_uid) == (7, 0)


async def test_reading_goes_on_where_another_reader_ended(store: JobStore, server: Server, read: Read) -> None:
    server.put("Letter")
    first = read()
    await counted(store, other=1)
    first.cancel()
    server.put("Another")
    read()
    await counted(store, other=2)
    assert server.headers == [1, 2]


async def test_another_uidvalidity_begins_anew(store: JobStore, server: Server, read: Read) -> None:
    server.put("Letter")
    first = read()
    await counted(store, other=1)
    first.cancel()
    server.uidvalidity = 2
    read()
    await counted(store, other=2)
    assert (await mark_of(store)).uidvalidity == 2


async def test_mail_before_the_jobs_id(store: JobStore, server: Server, read: Read) -> None:
    server.put(ended("a1", "7"))
    read(wait=600)

    async def waits() -> bool:
        return len((await mark_of(store)).waiting) == 1

    await until(waits)
    assert server.done == []
    await known(store, "a1", "7")
    assert (await store.wait("a1", 10)).state is JobState.COMPLETE
    await counted(store, news=1)
    assert (await mark_of(store)).waiting == {}


async def test_mail_about_nobodys_job_is_given_up(store: JobStore, server: Server, read: Read) -> None:
    await known(store, "a1", "7")
    server.put(ended("theirs", "8"), age_s=700)
    server.put(ended("a1", "8"), age_s=700)
    server.put(ended("theirs", "7"), age_s=700)
    read(wait=600)
    await counted(store, foreign=1, mismatched=2)
    assert server.done == []
    assert not (await mark_of(store)).waiting
    assert [each.event.state for each in await store.events("a1")] == [JobState.SUBMITTED]


RESULTS = "Authentication-Results: mx.test; dmarc={}\r\n"


@pytest.mark.parametrize(
    ("settings", "head"),
    [
        ({"senders": ["@elsewhere.test"]}, ""),
        ({"trust": "mx.test"}, ""),
        ({"trust": "mx.test"}, RESULTS.format("fail")),
        ({"trust": "mx.test"}, RESULTS.format("pass").replace("mx.test", "evil.test")),
    ],
)
async def test_forged_mail_changes_nothing(
    store: JobStore, server: Server, read: Read, settings: dict[str, Any], head: str
) -> None:
    await known(store, "a1", "7")
    server.put(ended("a1", "7"), head)
    read(**settings)
    await counted(store, refused=1)
    assert server.done == []
    assert len(await store.events("a1")) == 1


async def test_vouched_mail_counts(store: JobStore, server: Server, read: Read) -> None:
    await known(store, "a1", "7")
    server.put(ended("a1", "7"), RESULTS.format("pass"))
    read(trust="mx.test", senders=["@cluster.test"])
    await counted(store, news=1)


async def test_a_decoder_that_fails_holds_nothing_up(
    store: JobStore, server: Server, read: Read, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def decode(mail: Any) -> Any:
        if "bad" in mail.subject:
            raise ValueError("a bug")
        return slurm.DECODER.decode(mail)

    broken = Decoder(slurm.DECODER.subject, decode, needs_body=False)
    monkeypatch.setattr(module, "decoder", lambda word: broken)
    await known(store, "a1", "7")
    server.put(ended("bad", "6"))
    server.put(ended("a1", "7"))
    read()
    await counted(store, news=1, silent=1)
    assert "a bug" in caplog.text


async def test_listeners_follow_the_catalog(store: JobStore) -> None:
    async def connection(name: str) -> Any:
        raise AssertionError(name)

    def listeners(*resources: str, **values: Any) -> Any:
        known = {
            name: ComputeResource.model_validate(
                {"name": name, "connection": "c", "scheduler": "slurm", "scratch": "/s"}
            )
            for name in resources
        }
        mailbox = Mailbox.model_validate({"name": "box", "connection": "c", **values})
        catalog = Catalog(compute_resources=known, mailboxes={"box": mailbox})
        return MailMonitor().listeners(MonitorContext(store, lambda: catalog, connection))

    assert listeners("a") == listeners("a")
    assert listeners("a") != listeners("a", "b")
    assert listeners("a", resources=["a"]) == listeners("a", "b", resources=["a"])
    assert listeners("a") != listeners("a", done="flag")
    assert listeners("a", "b")["box"].served == (("a", "slurm"), ("b", "slurm"))
