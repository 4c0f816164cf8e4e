"""One command in one SSH session: how its text reaches a POSIX shell, and how its answer is told from noise.

What always holds: the command line that a host sees, and that other users see in its process list, is the
same constant for every command. The command's text comes over standard input, as one line, and its own
input after it; so csh and fish as login shells get nothing to misread, and before the text was sent the
command has certainly not started. Standard output begins where the command begins: whatever start-up files
print before is cut off."""

from __future__ import annotations

import asyncio
import secrets
import signal
from dataclasses import dataclass

import asyncssh

# `read` takes no byte beyond the newline (POSIX), so what follows is the command's own input.
# It fails when the line has no end: a text that was cut off by a broken connection must not run in part.
# %b undoes what `encoded` does. But `read` takes a system call for each byte: a long text that has no input comes
# after a line with its mark, and ends with that mark.
BOOTSTRAP = (
    """exec /bin/sh -c 'IFS= read -r _a || exit 65; case $_a in"""
    """ airavata-????????????????) _b=$(cat); case $_b in *"#$_a") eval "$_b";; *) exit 65;; esac;;"""
    """ *) eval "$(printf %b "$_a")";; esac'"""
)

LONG = 2000
"""Bytes from which on starting ``cat`` costs the host less than reading each of them."""


@dataclass(frozen=True)
class RawResult:
    """What a command left: exit status (negative for a signal) and its streams, as they came."""

    exit_status: int
    stdout: bytes
    stderr: bytes


def encoded(command: str, token: str, data: bytes = b"") -> bytes:
    """A shell text and its input as :data:`BOOTSTRAP` reads them.

    Text that is not UTF-8 may be in it as surrogate escapes (file names).

    :param token: what marks the start of the command's output, see :func:`new_token`
    :param data: the command's standard input
    :raises ValueError: a NUL in the text
    """
    if "\0" in command:
        raise ValueError("a NUL character cannot be passed to a command")
    text = f"unset _a _b; echo {token}\n{command}"
    if not data and len(text) >= LONG:
        text = f"{token}\n{text}\n#{token}\n"
    else:
        text = text.replace("\\", "\\\\").replace("\n", "\\n") + "\n"
    return text.encode("utf-8", "surrogateescape") + data


def new_token() -> str:
    """A mark that no start-up file prints."""
    return f"airavata-{secrets.token_hex(8)}"


def after_token(stdout: bytes, token: str) -> bytes | None:
    """What the command itself wrote; None when it was never reached."""
    _, found, rest = stdout.partition(token.encode() + b"\n")
    return rest if found else None


class TooMuchOutputError(Exception):
    """A command wrote more than its caller is ready to hold."""


class Collector(asyncssh.SSHClientSession[bytes]):
    """Gathers one command's answer.

    :param limit: most bytes of each stream
    :ivar done: resolves when the channel has closed; raises what ended it, TooMuchOutputError among that
    """

    def __init__(self, limit: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.exit_status: int | None = None
        self._limit = limit
        self._streams: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._too_much = False

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        stream = self._streams[datatype == asyncssh.EXTENDED_DATA_STDERR]
        if len(stream) + len(data) > self._limit:
            self._too_much = True
            if self._channel is not None:
                self._channel.abort()
        elif not self._too_much:
            stream += data

    def exit_status_received(self, status: int) -> None:
        self.exit_status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.exit_status = -signal_number(signal)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done.done():
            return
        if self._too_much:
            self.done.set_exception(TooMuchOutputError())
        elif exc is not None:
            self.done.set_exception(exc)
        else:
            self.done.set_result(None)

    def result(self) -> RawResult | None:
        """The answer after :attr:`done`; None when the host told no exit status."""
        if self.exit_status is None:
            return None
        return RawResult(self.exit_status, bytes(self._streams[0]), bytes(self._streams[1]))


def signal_number(name: str) -> int:
    """A signal's number here, from its name in RFC 4254 §6.10 (``TERM``); 1 for one that nobody knows."""
    return int(getattr(signal, f"SIG{name.partition('@')[0]}", 1))
