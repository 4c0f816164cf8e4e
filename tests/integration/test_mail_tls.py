"""Mail over TLS and without: who is believed to be the server, and that IDLE misses nothing, wherever it waits."""

from __future__ import annotations

import asyncio
import contextlib
import io
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from imapclient import IMAPClient

from airavata_provider.errors import MailError
from airavata_provider.models.mailbox import Mailbox
from airavata_provider.monitors.mail.imap import Account, Folder
from tests.bed import Bed
from tests.mailboxes import BOX, Maildir

LONG_S = 600
"""Longer than any of these tests may take."""

SOON_S = 60
both_ways = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@asynccontextmanager
async def opened(account: Account) -> AsyncIterator[Folder]:
    folder = Folder(account, Mailbox.model_validate(BOX), "INBOX")
    try:
        await folder.open()
        yield folder
    finally:
        folder.close()


# --- who is believed


async def test_a_certificate_that_nobody_knows_is_refused(box: Maildir) -> None:
    words = r"127\.0\.0\.1:\d+ cannot prove who it is: self-signed certificate .*SSL_CERT_FILE"
    with pytest.raises(MailError, match=words):
        async with opened(box.over_tls):
            pass


@pytest.mark.usefixtures("certificate_known")
async def test_a_certificate_of_another_host_is_refused(bed: Bed) -> None:
    async with scripted(bed, b"", tls=True, host="127.0.0.2") as account:
        with pytest.raises(MailError, match=r"127\.0\.0\.2:\d+ cannot prove who it is: IP address mismatch"):
            async with opened(account):
                pass


@pytest.mark.usefixtures("certificate_known")
async def test_a_certificate_that_is_known_is_believed(box: Maildir) -> None:
    async with opened(box.over_tls) as folder:
        assert await folder.uids(0) == []


async def test_any_certificate_will_do_where_the_connection_says_so(box: Maildir) -> None:
    async with opened(replace(box.over_tls, check_certificate=False)) as folder:
        assert await folder.uids(0) == []


# --- IDLE


@both_ways
@pytest.mark.usefixtures("certificate_known")
async def test_who_idles_is_told_of_new_mail(box: Maildir, monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    idle, idles = IMAPClient.idle, threading.Event()

    def noted(client: IMAPClient) -> None:
        idle(client)
        idles.set()

    monkeypatch.setattr(IMAPClient, "idle", noted)
    async with opened(box.over_tls if tls else box.account) as folder:
        for number in range(1, 4):
            waiting = asyncio.create_task(folder.wait(LONG_S))
            assert await asyncio.to_thread(idles.wait, SOON_S)
            idles.clear()
            box.deliver("Minutes")
            await asyncio.wait_for(waiting, SOON_S)
            while len(await folder.uids(0)) < number:
                await asyncio.wait_for(folder.wait(LONG_S), SOON_S)
            idles.clear()


ANSWERS = {
    b"CAPABILITY": b"* CAPABILITY IMAP4rev1 IDLE\r\n",
    b"SELECT": b"* 0 EXISTS\r\n* OK [UIDVALIDITY 1] valid\r\n",
    b"UID": b"* SEARCH\r\n",
}


@asynccontextmanager
async def scripted(bed: Bed, assent: bytes, *, tls: bool, host: str = "127.0.0.1") -> AsyncIterator[Account]:
    """A server with an empty inbox that says this when a client begins to idle, in one piece, and then is silent."""
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        idle = b""
        writer.write(b"* OK ready\r\n")
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                tag, _, command = line.strip().partition(b" ")
                verb = command.partition(b" ")[0].upper()
                if verb == b"IDLE":
                    idle = tag
                    writer.write(assent)
                else:
                    writer.write(ANSWERS.get(verb, b"") + (idle if tag == b"DONE" else tag) + b" OK done\r\n")
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bed.imap_certificate, bed.imap_key)
    server = await asyncio.start_server(serve, host, 0, ssl=context if tls else None)
    try:
        yield Account(host, server.sockets[0].getsockname()[1], "me", "secret", use_ssl=tls)
    finally:
        server.close()
        if serving:
            await asyncio.wait([task for task in serving if task is not None])


FILLS_A_BUFFER = b"+ %s\r\n" % (b"x" * (io.DEFAULT_BUFFER_SIZE - 4))


@both_ways
@pytest.mark.parametrize("assent", [b"+ idling\r\n", FILLS_A_BUFFER], ids=["short", "fills a buffer"])
@pytest.mark.usefixtures("certificate_known")
async def test_what_comes_with_the_servers_assent_is_not_missed(bed: Bed, tls: bool, assent: bytes) -> None:
    async with scripted(bed, assent + b"* 1 EXISTS\r\n", tls=tls) as account, opened(account) as folder:
        for _ in range(2):
            await asyncio.wait_for(folder.wait(LONG_S), SOON_S)


@both_ways
@pytest.mark.usefixtures("certificate_known")
async def test_a_server_that_is_silent_has_told_nothing(bed: Bed, tls: bool) -> None:
    async with scripted(bed, b"+ idling\r\n", tls=tls) as account, opened(account) as folder:
        assert await folder._call(folder._start_idle) is False
