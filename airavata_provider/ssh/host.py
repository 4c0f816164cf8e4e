"""What can be done on a host: run a command, write and read files. The only door of this package to a
remote side.

What always holds: a command that may have run is never run again; one that has certainly not started is, on
another connection. Every error is one of ``errors.py``; its ``started`` tells the two cases apart. Files
appear whole or not at all. A caller waits for its turn without limit, as every command before it is
bounded; ``timeout`` counts from the moment it has its turn.

Must not import Airflow.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import asyncssh

from airavata_provider.errors import (
    CommandFailed,
    CommandTimedOut,
    ConnectFailed,
    FileMissing,
    SSHError,
    TransferError,
)
from airavata_provider.schedulers.base import CommandResult
from airavata_provider.ssh import files, scripts
from airavata_provider.ssh.command import (
    BOOTSTRAP,
    Collector,
    RawResult,
    TooMuchOutputError,
    after_token,
    encoded,
    new_token,
)
from airavata_provider.ssh.connect import translated
from airavata_provider.ssh.disk import read_chunks, write_chunks
from airavata_provider.ssh.lane import CHANCE, SESSION_REFUSED_PAUSE_S, SESSION_REFUSED_TRIES
from airavata_provider.ssh.scripts import Digest, FileToWrite
from airavata_provider.ssh.shared import Shared

if TYPE_CHECKING:
    from airavata_provider.ssh.lane import Lane
    from airavata_provider.ssh.link import Link

#: Most bytes of a command's standard output, and of its standard error.
OUTPUT_LIMIT = 16 * 1024 * 1024

#: Connections that may fail before a command starts, until its caller is told.
_CONNECTION_TRIES = 3

#: Commands given up on one connection while they ran on, until it is replaced: sshd counts their sessions.
_STUCK_LIMIT = 3


class Host:
    """One account on one host, over the pool's connections. Made by ``SSHPool.host``."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        limits = lane.target.limits
        #: The host for many short commands at once, which share sessions while it is busy.
        self.shared = Shared(self, limits.max_connections * limits.sessions_per_connection)
        #: Copies of large files: they take long, and leave most sessions to others.
        self.copies = asyncio.Semaphore(max(1, limits.max_connections * limits.sessions_per_connection // 4))

    @property
    def name(self) -> str:
        """``user@host:port``, for messages."""
        return self._lane.target.name

    @property
    def account(self) -> str:
        """Whose connections these are: what is done for one account is done on one file system."""
        return self._lane.target.account

    async def run(
        self,
        command: str,
        *,
        input: str | bytes | None = None,  # noqa: A002
        timeout: float = 60.0,
    ) -> CommandResult:
        """Run a text with the host's ``/bin/sh`` and wait for its end.

        Bytes that are not UTF-8 in its answer become U+FFFD; :meth:`run_bytes` gives them as they are.

        :param input: its standard input; empty when None
        :param timeout: seconds
        :raises ConnectFailed: no connection (``started`` False), or it broke while the command ran (True)
        :raises CommandTimedOut: no end in time; it was sent a SIGTERM, and may have run
        :raises SSHError: it wrote more than 16 MiB, or the host does not run commands
        :raises ValueError: a NUL in the command
        """
        raw = await self.run_bytes(command, input=input, timeout=timeout)
        return CommandResult(
            raw.exit_status, raw.stdout.decode("utf-8", "replace"), raw.stderr.decode("utf-8", "replace")
        )

    async def check(
        self,
        command: str,
        *,
        input: str | bytes | None = None,  # noqa: A002
        timeout: float = 60.0,
    ) -> CommandResult:
        """:meth:`run`, and :class:`~airavata_provider.errors.CommandFailed` for a status that is not 0."""
        result = await self.run(command, input=input, timeout=timeout)
        if result.exit_status != 0:
            raise self._failed(result.exit_status, result.stderr or result.stdout)
        return result

    async def run_bytes(
        self,
        command: str,
        *,
        input: str | bytes | None = None,  # noqa: A002
        timeout: float = 60.0,
        limit: int = OUTPUT_LIMIT,
    ) -> RawResult:
        """:meth:`run` with the streams as bytes.

        :param limit: most bytes of each stream
        """
        token = new_token()
        data = input.encode("utf-8", "surrogateescape") if isinstance(input, str) else input or b""
        # The token and what start-up files print come on top of what the caller is ready to hold.
        payload = encoded(command, token, data)
        raw = await self._execute(lambda: (payload, timeout), limit + 65536)
        stdout = after_token(raw.stdout, token)
        if stdout is None:
            if raw.exit_status == 0:
                raise SSHError(
                    "the host did not run the command but something else",
                    where=self.name,
                    advice="a forced command, or a login shell that ignores -c?",
                )
            return raw
        return RawResult(raw.exit_status, stdout, raw.stderr)

    @asynccontextmanager
    async def sftp(self) -> AsyncIterator[asyncssh.SFTPClient]:
        """The shared SFTP client; paths are text, names that are not UTF-8 as surrogate escapes.

        Run no command and take no second one while you hold it (see ``Lane.sftp``).

        :raises FileMissing: from inside: there is no such file
        :raises TransferError: from inside: any other answer of the SFTP server
        """
        # Only what the connection raises: any other OSError is the caller's, about a disk of this machine.
        try:
            async with self._lane.sftp() as client:
                yield client
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise FileMissing(error.reason or "no such file", where=self.name) from error
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
            raise ConnectFailed(error.reason or "the SFTP session ended", where=self.name) from error
        except asyncssh.SFTPError as error:
            raise TransferError(f"SFTP: {error.reason}", where=self.name) from error
        except (asyncssh.Error, ConnectionError) as error:
            raise ConnectFailed(str(error) or type(error).__name__, where=self.name) from error

    async def put_bytes(self, data: bytes, path: str, mode: int = 0o600) -> None:
        """Write a file, whole or not at all, over what was there; makes the directories above it.

        One command, whatever the size; more than a few MiB are better with :meth:`put_file`.

        :param path: absolute, or from the home directory
        :param mode: permission bits
        :raises TransferError: no room, no permission, a directory in its place, or it did not arrive whole
        """
        directory, name = posixpath.split(path)
        file = FileToWrite(name, files.content_digest(data), mode)
        await files.write_batch(self, directory or ".", [(file, data)])

    async def put_file(self, local: Path, remote: str, mode: int = 0o600) -> Digest:
        """Send a file of this machine, whole or not at all; makes the directories above it.

        :raises FileMissing: there is no such file here
        :raises TransferError: it did not arrive whole
        """
        try:
            async with aclosing(read_chunks(local)) as chunks:
                return await files.write_stream(self, chunks, remote, mode)
        except FileNotFoundError as error:
            raise FileMissing(f"{local} does not exist") from error
        except OSError as error:
            raise TransferError(f"{local}: {error.strerror}") from error

    async def get_file(self, remote: str, local: Path) -> Digest:
        """Fetch a file, whole or not at all; makes the directories above it.

        :raises FileMissing: there is no such file on the host
        :raises TransferError: it did not arrive whole, or cannot be written here
        """
        directory, name = posixpath.split(remote)
        look = (await files.look_at(self, directory or ".", [name], follow=True))[name]
        files.usable(look, name, directory, self)
        try:
            if look.content is not None:
                return await write_chunks(files.once(look.content), local, look.digest)
            expected = await files.digest_of(self, remote, look.digest.size if look.digest else 0)
            async with aclosing(files.read_stream(self, remote)) as chunks:
                return await write_chunks(chunks, local, expected)
        except OSError as error:
            raise TransferError(f"{local}: {error.strerror}") from error

    async def read_bytes(self, path: str, limit: int = 1024 * 1024) -> bytes:
        """A file's content.

        :param limit: most bytes
        :raises FileMissing: there is no such file
        :raises TransferError: longer than the limit, or not readable
        """
        raw = await self.file_command(scripts.read(path, limit + 1), path, limit=limit + 1, timeout=60 + limit / 1e6)
        if len(raw.stdout) > limit:
            raise TransferError(f"{path} is longer than {limit} bytes", where=self.name)
        return raw.stdout

    async def remove(self, path: str) -> None:
        """Remove a file or a directory with all that is in it; nothing there is fine."""
        await self.check(f"rm -rf {scripts.place(path)}", timeout=600)

    async def file_command(
        self,
        command: str,
        path: str,
        *,
        input: bytes | None = None,  # noqa: A002
        timeout: float = 60.0,
        limit: int = OUTPUT_LIMIT,
    ) -> RawResult:
        """Run one of the texts in ``scripts``.

        :param path: what it is about, for messages
        :raises FileMissing: it says so
        :raises TransferError: it ended with any other status that is not 0
        """
        raw = await self.run_bytes(command, input=input, timeout=timeout, limit=limit)
        if raw.exit_status == 0:
            return raw
        if raw.exit_status == scripts.MISSING:
            raise FileMissing(f"{path} does not exist or is no regular file", where=self.name)
        said = raw.stderr.decode("utf-8", "replace").strip()[-500:]
        raise TransferError(f"{path}: {said or f'exit status {raw.exit_status}'}", where=self.name)

    def _failed(self, exit_status: int, words: str) -> CommandFailed:
        said = words.strip()[-2000:]
        return CommandFailed(
            f"a command ended with status {exit_status}: {said[-500:] or 'no message'}",
            exit_status=exit_status,
            stderr=said,
            where=self.name,
        )

    # --- one command in one session ---

    async def run_prepared(self, prepare: Callable[[], tuple[bytes, float]]) -> RawResult:
        """Run what is only known once there is a session for it; for ``ssh.shared``.

        :param prepare: what :func:`~airavata_provider.ssh.command.encoded` returns, and the seconds that it may take
        :raises SSHError: as :meth:`run`
        """
        return await self._execute(prepare, OUTPUT_LIMIT)

    async def _execute(self, prepare: Callable[[], tuple[bytes, float]], limit: int) -> RawResult:
        last = ConnectFailed("no connection", where=self.name)
        prepared: tuple[bytes, float] | None = None
        for _ in range(_CONNECTION_TRIES):
            async with self._lane.session() as link:
                payload, timeout = prepared = prepared or prepare()
                try:
                    channel, collector = await self._open(link, limit)
                except ConnectFailed as error:
                    self._lane.retire(link)
                    last = error
                    continue
                return await self._talk(link, channel, collector, payload, timeout)
        raise last

    async def _open(self, link: Link, limit: int) -> tuple[asyncssh.SSHClientChannel[bytes], Collector]:
        """Open a session in which :data:`BOOTSTRAP` waits for its text: the command has not started.

        :raises ConnectFailed: not on this connection
        """
        for _ in range(SESSION_REFUSED_TRIES):
            with translated(self.name):
                async with asyncio.timeout(self._lane.target.limits.connect_timeout_s):
                    try:
                        channel, collector = await link.connection.create_session(
                            lambda: Collector(limit), BOOTSTRAP, encoding=None
                        )
                        return channel, cast(Collector, collector)
                    except asyncssh.ChannelOpenError:
                        self._lane.stats.refused_sessions += 1
            await asyncio.sleep(SESSION_REFUSED_PAUSE_S * CHANCE.uniform(0.7, 1.5))
        raise ConnectFailed("refuses another session", where=self.name)

    async def _talk(
        self,
        link: Link,
        channel: asyncssh.SSHClientChannel[bytes],
        collector: Collector,
        payload: bytes,
        timeout: float,
    ) -> RawResult:
        try:
            with translated(self.name, started=True):
                async with asyncio.timeout(timeout) as limit:
                    channel.write(payload)
                    channel.write_eof()
                    await collector.done
        except TooMuchOutputError as error:
            raise self._unknown(SSHError("a command wrote too much", where=self.name)) from error
        except (ConnectFailed, asyncio.CancelledError) as error:
            if not collector.done.done() or collector.done.cancelled():
                self._give_up(link, channel)
            if isinstance(error, ConnectFailed) and limit.expired():
                raise CommandTimedOut(f"a command gave no answer in {timeout:g} s", where=self.name) from error
            raise
        result = collector.result()
        if result is None:
            raise self._unknown(ConnectFailed("a command ended without an exit status", where=self.name))
        return result

    def _unknown(self, error: SSHError) -> SSHError:
        error.started = True
        return error

    def _give_up(self, link: Link, channel: asyncssh.SSHClientChannel[bytes]) -> None:
        with suppress(OSError, asyncssh.Error):
            channel.terminate()
            channel.close()
        link.stuck += 1
        if link.stuck >= _STUCK_LIMIT:
            self._lane.retire(link)
