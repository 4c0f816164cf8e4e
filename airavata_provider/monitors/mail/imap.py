"""A folder of a mailbox, seen from an event loop: IMAPClient in a thread of its own.

What always holds: no call blocks the loop; nothing is marked as seen by reading it; while the server has nothing to
tell (IDLE, RFC 2177) no thread is occupied. The library's and the network's errors become
:class:`~airavata_provider.errors.MailError`. Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from airavata_provider.errors import ConfigurationError, MailError, MailLoginRefused
from airavata_provider.models.mailbox import Mailbox
from airavata_provider.monitors.mail.message import BODY_LIMIT

T = TypeVar("T")

CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 60.0
_FIELDS = "SUBJECT FROM DATE MESSAGE-ID AUTHENTICATION-RESULTS"


@dataclass(frozen=True)
class Account:
    """Where a mailbox is, and how to get in.

    :param use_ssl: TLS from the start; False only where nobody else is on the network
    :param check_certificate: whether the server has to prove who it is
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    use_ssl: bool = True
    check_certificate: bool = True

    @classmethod
    def of(cls, connection: Any) -> Account:
        """From an Airflow Connection of type ``imap``, with the extras that Airflow's own provider knows.

        :raises ConfigurationError: it has no host, login or password, or an extra that is none
        """
        extra: Mapping[str, Any] = connection.extra_dejson
        where = f"connection {connection.conn_id}"
        if not (connection.host and connection.login and connection.password):
            raise ConfigurationError("an IMAP connection needs host, login and password", where=where)
        context = extra.get("ssl_context") or "default"
        if context not in ("default", "none"):
            raise ConfigurationError(f"extra ssl_context is default or none, not {context!r}", where=where)
        use_ssl = str(extra.get("use_ssl", True)).lower() not in ("false", "0", "no")
        return cls(
            host=connection.host,
            port=connection.port or (993 if use_ssl else 143),
            user=connection.login,
            password=connection.password,
            use_ssl=use_ssl,
            check_certificate=context == "default",
        )

    def context(self) -> ssl.SSLContext | None:
        """How TLS is spoken. OpenSSL says who is trusted: the machine's authorities, or ``SSL_CERT_FILE``'s."""
        if not self.use_ssl:
            return None
        context = ssl.create_default_context()
        if not self.check_certificate:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


@dataclass(frozen=True)
class Fetched:
    """A message, or its header, as it came."""

    received_at: datetime
    raw: bytes


class Folder:
    """One folder over one connection, for one event loop. :meth:`open` first, :meth:`close` in any case."""

    def __init__(self, account: Account, mailbox: Mailbox, name: str) -> None:
        self._account = account
        self._mailbox = mailbox
        self._name = name
        self._where = f"mailbox {mailbox.name}, {name}"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"airavata-mail-{mailbox.name}")
        self._client: Any = None
        self._socket: socket.socket | None = None
        self._idles = False
        self._closed = False

    async def open(self) -> tuple[int, int]:
        """Connect, log in, select the folder.

        :return: its UIDVALIDITY, and the highest UID in it
        :raises MailLoginRefused: wrong credentials
        :raises MailError: no connection, no such folder
        """
        return await self._call(self._open)

    def _open(self) -> tuple[int, int]:
        from imapclient import IMAPClient, SocketTimeout
        from imapclient.exceptions import LoginError

        account = self._account
        client = IMAPClient(
            account.host,
            port=account.port,
            ssl=account.use_ssl,
            ssl_context=account.context(),
            timeout=SocketTimeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
        )
        self._client, self._socket = client, client.socket()
        if self._closed:
            client.shutdown()
            raise MailError("closed while connecting", where=self._where)
        client.normalise_times = False
        try:
            client.login(account.user, account.password)
        except LoginError as error:
            raise MailLoginRefused(
                f"{account.user} may not log in at {account.host}:{account.port}: {_words(error)}",
                where=self._where,
                advice=f"correct the connection {self._mailbox.connection}",
            ) from error
        self._idles = self._mailbox.idle and client.has_capability("IDLE")
        target = self._mailbox.done_folder
        if target is not None and not client.folder_exists(target):
            client.create_folder(target)
        selected = client.select_folder(self._name)
        return int(selected[b"UIDVALIDITY"]), max(client.search(["UID", "*"]), default=0)

    async def uids(self, above: int, up_to: int | None = None) -> list[int]:
        """UIDs in that range, ascending."""
        if up_to is not None and up_to <= above:
            return []
        # "n:*" always names the last message, whatever its UID.
        last = "*" if up_to is None else str(up_to)
        found = await self._call(lambda: self._client.search(["UID", f"{above + 1}:{last}"]))
        return sorted(each for each in found if each > above)

    async def headers(self, uids: Sequence[int]) -> dict[int, Fetched]:
        """What is needed of the headers of those messages that are still there."""
        return await self._fetch(uids, f"BODY.PEEK[HEADER.FIELDS ({_FIELDS})]")

    async def messages(self, uids: Sequence[int]) -> dict[int, Fetched]:
        """Those messages that are still there, each up to :data:`~.message.BODY_LIMIT`."""
        return await self._fetch(uids, f"BODY.PEEK[]<0.{BODY_LIMIT}>")

    async def _fetch(self, uids: Sequence[int], part: str) -> dict[int, Fetched]:
        if not uids:
            return {}
        answer = await self._call(lambda: self._client.fetch(uids, ["INTERNALDATE", part]))
        found = {}
        for uid in uids:
            items = answer.get(uid, {})
            raw = next((value for key, value in items.items() if key.startswith(b"BODY[")), None)
            if isinstance(raw, bytes):
                at = items.get(b"INTERNALDATE")
                known = isinstance(at, datetime) and at.tzinfo is not None
                found[uid] = Fetched(at.astimezone(UTC) if known else datetime.now(UTC), raw)
        return found

    async def finish(self, uids: Sequence[int]) -> None:
        """Do with those messages what the mailbox says is done with messages whose news is stored."""
        if uids:
            await self._call(lambda: self._finish(uids))

    def _finish(self, uids: Sequence[int]) -> None:
        from imapclient import DELETED, FLAGGED, SEEN

        client, target = self._client, self._mailbox.done_folder
        if target is None:
            client.add_flags(uids, [FLAGGED if self._mailbox.done == "flag" else SEEN], silent=True)
        elif client.has_capability("MOVE"):
            client.move(uids, target)
        else:
            client.copy(uids, target)
            client.add_flags(uids, [DELETED], silent=True)
            # A plain EXPUNGE would remove what others marked as deleted.
            if client.has_capability("UIDPLUS"):
                client.uid_expunge(uids)

    async def wait(self, seconds: float) -> None:
        """Return when there may be something new, at the latest after that many seconds; at once when the connection
        broke, which the next call then tells."""
        if not self._idles:
            await asyncio.sleep(seconds)
            await self._call(self._client.noop)
            return
        if not await self._call(self._start_idle):
            loop, descriptor = asyncio.get_running_loop(), self._socket.fileno() if self._socket else -1
            readable = asyncio.Event()
            loop.add_reader(descriptor, readable.set)
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(readable.wait(), seconds)
            finally:
                loop.remove_reader(descriptor)
        await self._call(self._client.idle_done)

    def _start_idle(self) -> bool:
        """Begin to idle; whether the server told of something at once.

        What comes with the server's assent may be in a buffer already, the library's or TLS's, and the socket stays
        silent.
        """
        client = self._client
        client.idle()
        connection, imap = client.socket(), client._imap
        kept = getattr(imap, "_readbuf", None)
        if kept is not None and type(imap).readline is imaplib.IMAP4.readline:
            # From Python 3.14 on it reads from the socket itself, and what its file took would be lost to it.
            return any(kept) or (isinstance(connection, ssl.SSLSocket) and connection.pending() > 0)
        buffer = getattr(imap, "_file", None) or imap.file
        connection.setblocking(False)
        try:
            with contextlib.suppress(OSError):  # TLS has nothing to read
                return bool(buffer.peek(1))
            return False
        finally:
            connection.settimeout(READ_TIMEOUT_S)

    async def think(self, work: Callable[[], T]) -> T:
        """Run work that takes the processor for longer in the folder's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Let go of the connection, whatever is under way on it. Does not wait."""
        self._closed = True
        if self._socket is not None:
            with contextlib.suppress(OSError, ValueError):
                # A thread that reads from it wakes up. A TLS socket's own method would let go of TLS first, and what
                # the thread sends next would go in clear.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self._thread.submit(self._shut)
        self._thread.shutdown(wait=False)

    def _shut(self) -> None:
        if self._client is not None:
            with contextlib.suppress(Exception):  # it is gone either way
                self._client.shutdown()

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._translated, work)

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            from imapclient.exceptions import IMAPClientError
        except ImportError as error:
            raise ConfigurationError(
                "reading mail needs IMAPClient", where=self._where, advice="install this package with [mail]"
            ) from error
        if self._closed:
            raise MailError("the connection is closed", where=self._where)
        try:
            return work()
        except ssl.SSLCertVerificationError as error:
            raise MailError(
                f"{self._account.host}:{self._account.port} cannot prove who it is: {error.verify_message}",
                where=self._where,
                advice="name the host as its certificate does; where a private authority signed that, "
                "let the triggerers know it: SSL_CERT_FILE",
            ) from error
        except (IMAPClientError, OSError, EOFError) as error:
            raise MailError(f"{type(error).__name__}: {_words(error)}", where=self._where) from error


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
