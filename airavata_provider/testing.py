"""A host to try things on: an SSH server on loopback, and stand-ins for a host that need no server.

For tests, for the demo, and for authors of plug-ins. The server runs commands with ``/bin/sh`` as the user who
started it, with a folder of its own as home directory; it has fresh keys, listens on 127.0.0.1 only and lets in
nobody but the holder of its key. It can be told to behave as badly as real ones do. Not for production.

``python -m airavata_provider.testing --state FOLDER --home FOLDER [--port N]`` runs one until it gets a SIGINT or
SIGTERM; it writes ``FOLDER/ssh.json`` (host, port, user, key, known_hosts) when it is ready.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import asyncssh

from airavata_provider.ssh.command import RawResult
from airavata_provider.ssh.host import OUTPUT_LIMIT, Host
from airavata_provider.ssh.target import Limits, Target

ADDRESS = "127.0.0.1"


@dataclass
class Counts:
    """What a server saw.

    :param connections: connections accepted, refused ones not counted
    :param refused: connections dropped before a banner
    :param open: connections that stand now
    :param peak: most at a time
    :param sessions: sessions opened, SFTP too
    :param sessions_peak: most at a time on one connection
    :param refused_sessions: sessions refused by ``max_sessions``
    """

    connections: int = 0
    refused: int = 0
    open: int = 0
    peak: int = 0
    sessions: int = 0
    sessions_peak: int = 0
    refused_sessions: int = 0


class EmbeddedSSH:
    """An SSH server on loopback; use it with ``async with``.

    :param state: folder for its keys; made, and filled where keys are missing
    :param home: the user's home directory there; made
    :param port: 0 takes a free one
    :param max_sessions: sessions on one connection, as sshd's ``MaxSessions``
    :param password: let in who knows this too
    :param login_shell: runs the commands, as the user's shell does
    :param greeting: what that shell prints before every command, as start-up files do
    :param trusted: further lines of authorized_keys (``cert-authority …``)
    :ivar counts: what it saw
    :ivar refuse_next: so many connections are dropped before a banner, as ``MaxStartups`` does
    """

    def __init__(
        self,
        state: Path,
        home: Path,
        *,
        port: int = 0,
        max_sessions: int = 10,
        password: str | None = None,
        login_shell: str = "/bin/sh",
        greeting: str = "",
        trusted: str = "",
    ) -> None:
        self.home = home.absolute()
        self.counts = Counts()
        self.refuse_next = 0
        self.max_sessions = max_sessions
        self.password = password
        self.login_shell = login_shell
        self.greeting = greeting
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self.running: set[asyncio.Task[Any]] = set()
        self._state = state.absolute()
        self._wanted_port = port
        self._trusted = trusted
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """Where it listens; stays the same when it is stopped and started again."""
        return self._port or self._wanted_port

    @property
    def key(self) -> Path:
        """The private key that it lets in."""
        return self._state / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """A known_hosts file with its key."""
        return self._state / "known_hosts"

    def target(self, **changes: Any) -> Target:
        """How to reach it.

        :param changes: fields of the target that differ; those of ``Limits`` go to its limits
        """
        limits = {name: changes.pop(name) for name in list(changes) if name in Limits.__dataclass_fields__}
        target = Target(
            host=ADDRESS,
            port=self.port,
            user=getpass.getuser(),
            private_key_file=str(self.key),
            known_hosts=str(self.known_hosts),
            limits=Limits(**limits),
            label="embedded",
        )
        return replace(target, **changes)

    async def start(self) -> None:
        """Listen."""
        host_key = self._keys()
        self._acceptor = await asyncssh.create_server(
            lambda: _Server(self),
            ADDRESS,
            self.port,
            server_host_keys=[host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(
                self.key.with_suffix(".pub").read_text() + self._trusted
            ),
            encoding=None,
            reuse_address=True,
            login_timeout=30,
        )
        self._port = self._acceptor.get_port()
        public = host_key.export_public_key().decode().strip()
        self.known_hosts.write_text(f"[{ADDRESS}]:{self.port} {public}\n")

    async def stop(self) -> None:
        """Stop listening and drop everybody. Commands get 2 s to end, then are killed; what they detached goes on."""
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
            self._acceptor = None
        await self.drop_connections()
        if self.running:
            _, late = await asyncio.wait(self.running, timeout=2)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def drop_connections(self) -> None:
        """End all connections at once, as when sshd is killed; commands that run go on."""
        for connection in list(self.connections):
            connection.abort()
            await connection.wait_closed()

    async def __aenter__(self) -> EmbeddedSSH:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _keys(self) -> asyncssh.SSHKey:
        for folder in (self._state, self.home):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in (self.key, self._state / "host_key"):
            if not path.exists():
                key = asyncssh.generate_private_key("ssh-ed25519", comment=path.name)
                part = path.with_suffix(".part")
                part.touch(mode=0o600)
                key.write_private_key(part)
                key.write_public_key(path.with_suffix(".pub"))
                part.replace(path)
        return asyncssh.read_private_key(self._state / "host_key")


class _Server(asyncssh.SSHServer):
    """One connection's side of the server."""

    def __init__(self, embedded: EmbeddedSSH) -> None:
        self._embedded = embedded
        self._connection: asyncssh.SSHServerConnection | None = None
        self.sessions = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        counts = self._embedded.counts
        if self._embedded.refuse_next > 0:
            self._embedded.refuse_next -= 1
            counts.refused += 1
            conn.abort()
            return
        self._connection = conn
        self._embedded.connections.add(conn)
        counts.connections += 1
        counts.open = len(self._embedded.connections)
        counts.peak = max(counts.peak, counts.open)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._embedded.connections.discard(self._connection)
            self._embedded.counts.open = len(self._embedded.connections)

    def password_auth_supported(self) -> bool:
        return self._embedded.password is not None

    def validate_password(self, username: str, password: str) -> bool:
        return password == self._embedded.password

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True

    def session_requested(self) -> asyncssh.SSHServerProcess[bytes] | bool:
        counts = self._embedded.counts
        if self.sessions >= self._embedded.max_sessions:
            counts.refused_sessions += 1
            return False
        self.sessions += 1
        counts.sessions += 1
        counts.sessions_peak = max(counts.sessions_peak, self.sessions)
        return _Session(self, self._embedded)


class _Session(asyncssh.SSHServerProcess[bytes]):
    """One session: a command, or SFTP."""

    def __init__(self, server: _Server, embedded: EmbeddedSSH) -> None:
        home = str(embedded.home)
        super().__init__(
            self._run, lambda channel: _SFTP(cast("asyncssh.SSHServerChannel[bytes]", channel), home), 3, False
        )
        self._server = server
        self._embedded = embedded
        self._process: Process | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.sessions -= 1
        super().connection_lost(exc)

    def signal_received(self, signal: str) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, _number(signal))

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        # Shielded from the connection's end: a command outlives it, as under sshd.
        task = asyncio.create_task(self._command(process))
        self._embedded.running.add(task)
        task.add_done_callback(self._embedded.running.discard)
        await asyncio.shield(task)

    async def _command(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        embedded = self._embedded
        child = self._process = await asyncio.create_subprocess_exec(
            embedded.login_shell,
            "-c",
            process.command or ":",
            cwd=embedded.home,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8", "HOME": str(embedded.home)},
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
        if embedded.greeting:
            process.stdout.write(embedded.greeting.encode())
        feeding = asyncio.create_task(_feed(process, child))
        try:
            await asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
            status = await child.wait()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
            raise
        finally:
            feeding.cancel()
        with suppress(OSError, asyncssh.Error):
            if status < 0:
                process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
            else:
                process.exit(status)


async def _feed(process: asyncssh.SSHServerProcess[bytes], child: Process) -> None:
    if child.stdin is None:
        return
    with suppress(OSError, asyncssh.Error):
        while data := await process.stdin.read(65536):
            child.stdin.write(data)
            await child.stdin.drain()
    child.stdin.close()


async def _pump(source: asyncio.StreamReader | None, to: asyncssh.SSHWriter[bytes]) -> None:
    while source is not None and (data := await source.read(65536)):
        # The client may be gone; the command must go on as if somebody read.
        with suppress(OSError, asyncssh.Error):
            to.write(data)
            await to.drain()


def _number(name: str) -> int:
    return int(getattr(signal, f"SIG{name}", signal.SIGTERM))


class _SFTP(asyncssh.SFTPServer):
    """The whole file system, as commands see it; relative paths start at the home directory."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], home: str) -> None:
        super().__init__(channel)
        self._home = os.fsencode(home)

    def map_path(self, path: bytes) -> bytes:
        return os.path.normpath(os.path.join(self._home, path))  # noqa: PTH118  bytes, as the protocol has them


class LocalHost(Host):
    """A stand-in that runs commands on this machine with ``/bin/sh``; what needs SFTP does not work.

    :param home: where commands start
    :ivar commands: the texts that were run
    """

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None) -> None:
        self.commands: list[str] = []
        self.copies = asyncio.Semaphore(1)
        self._home = home
        self._environment = dict(environment or {})

    @property
    def name(self) -> str:
        return "local"

    @property
    def account(self) -> str:
        return self.name

    async def run_bytes(
        self,
        command: str,
        *,
        input: str | bytes | None = None,  # noqa: A002
        timeout: float = 60.0,
        limit: int = OUTPUT_LIMIT,
    ) -> RawResult:
        self.commands.append(command)
        data = input.encode("utf-8", "surrogateescape") if isinstance(input, str) else input or b""
        child = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            os.fsencode(command),
            cwd=self._home,
            env={**os.environ, **self._environment},
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        async with asyncio.timeout(timeout):
            stdout, stderr = await child.communicate(data)
        return RawResult(child.returncode or 0, stdout[:limit], stderr[:limit])


class ScriptedHost(Host):
    """A stand-in that answers from a function.

    :param answer: is given each command and its input; returns the result or raises
    :ivar commands: the texts that were asked for
    """

    def __init__(self, answer: Callable[[str, bytes], RawResult]) -> None:
        self.commands: list[str] = []
        self.copies = asyncio.Semaphore(1)
        self._answer = answer

    @property
    def name(self) -> str:
        return "scripted"

    @property
    def account(self) -> str:
        return self.name

    async def run_bytes(
        self,
        command: str,
        *,
        input: str | bytes | None = None,  # noqa: A002
        timeout: float = 60.0,
        limit: int = OUTPUT_LIMIT,
    ) -> RawResult:
        self.commands.append(command)
        return self._answer(command, input.encode() if isinstance(input, str) else input or b"")


@dataclass(frozen=True)
class _Address:
    """What ``ssh.json`` holds."""

    host: str
    port: int
    user: str
    key: str
    known_hosts: str


async def _serve(state: Path, home: Path, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with EmbeddedSSH(state, home, port=port) as server:
        address = _Address(ADDRESS, server.port, getpass.getuser(), str(server.key), str(server.known_hosts))
        part = state / "ssh.json.part"
        part.write_text(json.dumps(asdict(address), indent=2) + "\n")
        part.replace(state / "ssh.json")
        sys.stdout.write(json.dumps(asdict(address)) + "\n")
        sys.stdout.flush()
        await stop.wait()
    (state / "ssh.json").unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """Run a server until it is told to stop. Exit code 1: the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m airavata_provider.testing", description=__doc__.split("\n")[0])
    parser.add_argument("--state", type=Path, required=True, help="folder for its keys and ssh.json")
    parser.add_argument("--home", type=Path, required=True, help="home directory of whoever logs in")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(options.state.absolute(), options.home.absolute(), options.port))
    except OSError as error:
        sys.stderr.write(f"cannot listen on {ADDRESS}:{options.port}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
