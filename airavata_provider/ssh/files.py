"""Files of a host as streams: written and read in chunks, checked by size and SHA-256.

Small files go with the command that checks them, in one session; larger ones over the shared SFTP client,
with one command after them. A file that was not written completely is never seen under its own name.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import posixpath
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, cast

import asyncssh

from airavata_provider.errors import AiravataError, FileMissing, TransferError
from airavata_provider.schedulers.base import quote
from airavata_provider.ssh import scripts
from airavata_provider.ssh.scripts import Digest, FileToWrite, Found, Look

if TYPE_CHECKING:
    from airavata_provider.ssh.host import Host

#: A stream's unit.
CHUNK = 1024 * 1024

#: Files of at most so many bytes travel with a command.
SMALL = 256 * 1024

#: Bytes that one command carries at most when it carries several files.
BATCH = 4 * 1024 * 1024

#: Files that one command looks at.
BATCH_FILES = 200

#: What a check sum may take: seconds, and bytes a second of a slow file system.
_SUM_PATIENCE_S = 120.0
_SUM_RATE = 20e6

_log = logging.getLogger(__name__)


def content_digest(data: bytes) -> Digest:
    """Of content in memory."""
    return Digest(len(data), hashlib.sha256(data).hexdigest())


class Meter:
    """Counts and hashes what flows through :meth:`add`; large chunks in a thread."""

    def __init__(self) -> None:
        self._size = 0
        self._hash = hashlib.sha256()

    async def add(self, chunk: bytes) -> None:
        """Take one chunk in."""
        self._size += len(chunk)
        if len(chunk) < SMALL:
            self._hash.update(chunk)
        else:
            await asyncio.to_thread(self._hash.update, chunk)

    @property
    def digest(self) -> Digest:
        """Of everything so far."""
        return Digest(self._size, self._hash.hexdigest())


def refused(message: str, where: str) -> TransferError:
    """A transfer that will never be done, however often it is tried."""
    error = TransferError(message, where=where)
    error.transient = False
    return error


async def write_batch(host: Host, directory: str, files: Sequence[tuple[FileToWrite, bytes]]) -> None:
    """Write small files with one command.

    :raises TransferError: not all arrived; those that did not are not there
    """
    command = scripts.write(directory, [file for file, _ in files])
    data = b"".join(content for _, content in files)
    await host.file_command(command, directory, input=data, timeout=60 + len(data) / 1e6)


async def write_stream(
    host: Host,
    chunks: AsyncIterable[bytes],
    path: str,
    mode: int = 0o600,
    *,
    expected: Digest | None = None,
    size: int | None = None,
) -> Digest:
    """Write a stream to a file, whole or not at all; makes the directories above it.

    :param expected: what must have come for the file to get its name
    :param size: bytes that are about to come, where that is known; by default what is expected. Nothing of a large
        file is asked for before there is an SFTP session to write it with

    :raises TransferError: no room, no permission, or it did not arrive whole
    """
    source = aiter(chunks)
    head = bytearray()
    large = (size if expected is None else expected.size) or 0
    if large <= SMALL:
        async for chunk in source:
            head += chunk
            if len(head) > SMALL:
                break
    directory, name = posixpath.split(path)
    directory = directory or "."
    if len(head) <= SMALL and large <= SMALL:
        digest = as_expected(content_digest(bytes(head)), expected, path)
        await write_batch(host, directory, [(FileToWrite(name, digest, mode), bytes(head))])
        return digest
    await host.file_command(scripts.make_directory(directory, private=mode & 0o077 == 0), directory)
    part = scripts.part_name()
    async with _no_part_left(host, posixpath.join(directory, part)):
        digest = await _write_part(host, bytes(head), source, posixpath.join(directory, part), mode)
        as_expected(digest, expected, path)
        command = scripts.accept(part, directory, FileToWrite(name, digest, mode))
        await host.file_command(command, path, timeout=_SUM_PATIENCE_S + digest.size / _SUM_RATE)
    return digest


async def copy(host: Host, source: str, path: str, digest: Digest, mode: int = 0o600) -> None:
    """Copy a file of a host to another place there, whole or not at all; makes the directories above it.

    Few at a time (``Host.copies``).

    :param digest: what must be there afterwards for the file to get its name

    :raises FileMissing: there is no such source
    :raises TransferError: no room, no permission, or something else came
    """
    directory, name = posixpath.split(path)
    directory = directory or "."
    part = scripts.part_name()
    command = scripts.copy(source, part, directory, FileToWrite(name, digest, mode))
    async with host.copies, _no_part_left(host, posixpath.join(directory, part)):
        await host.file_command(command, source, timeout=_SUM_PATIENCE_S + 2 * digest.size / _SUM_RATE)


@asynccontextmanager
async def _no_part_left(host: Host, part: str) -> AsyncIterator[None]:
    try:
        yield
    except (AiravataError, asyncio.CancelledError):
        # Best effort, and never long: whoever cancels this waits for it.
        with suppress(AiravataError, TimeoutError):
            async with asyncio.timeout(10):
                await host.run(f"rm -f {scripts.place(part)}")
        raise


def as_expected(digest: Digest, expected: Digest | None, path: str) -> Digest:
    """That digest.

    :raises TransferError: it is not what was expected
    """
    if expected is not None and not digest.matches(expected):
        raise TransferError(f"{path}: {digest.size} bytes came, not the {expected.size} that were sent")
    return digest


async def once(content: bytes) -> AsyncGenerator[bytes, None]:
    """Content in memory as a stream."""
    yield content


async def _write_part(host: Host, head: bytes, rest: AsyncIterator[bytes], part: str, mode: int) -> Digest:
    meter = Meter()
    attributes = asyncssh.SFTPAttrs(permissions=mode)
    async with host.sftp() as client, client.open(part, "wb", attributes) as file:
        if head:
            await asyncio.gather(file.write(head), meter.add(head))
        async for chunk in rest:
            await asyncio.gather(file.write(chunk), meter.add(chunk))
    return meter.digest


async def look_at(
    host: Host, directory: str, names: Sequence[str], *, small: int = SMALL, follow: bool = False
) -> dict[str, Look]:
    """Look at files below a directory of a host; small ones come with their content, checked.

    :param small: most bytes of a small one; -1: no content
    :param follow: follow a link wherever it leads, if it is the last component

    :raises FileMissing: there is no such directory
    :raises TransferError: the host's answer makes no sense, or a file was changed meanwhile
    """
    looks: dict[str, Look] = {}
    for start in range(0, len(names), BATCH_FILES):
        some = names[start : start + BATCH_FILES]
        command = scripts.look(directory, some, small=small, most=BATCH, follow=follow)
        raw = await host.file_command(command, directory, timeout=120, limit=BATCH + 256 * len(some))
        looks |= scripts.parse_look(raw.stdout, some)
    for name, look in looks.items():
        if look.content is not None and look.digest is not None:
            if not content_digest(look.content).matches(look.digest):
                raise TransferError(f"{name} did not arrive whole, or was changed meanwhile", where=host.name)
            if look.digest.sha256 is None:
                _log.warning("%s has no program for SHA-256: files are checked by size alone", host.name)
    return looks


def usable(look: Look, name: str, directory: str, host: Host) -> Look:
    """That look, if the file can be read.

    :raises FileMissing: there is no such file
    :raises TransferError: it may not be read
    """
    if look.found is Found.MISSING:
        raise FileMissing(f"{directory}/{name} does not exist or is no regular file", where=host.name)
    if look.found is Found.OUTSIDE:
        raise refused(f"{name} is a link that leads out of {directory}", host.name)
    if look.found is Found.UNREADABLE:
        raise refused(f"{directory}/{name} may not be read", host.name)
    return look


async def digest_of(host: Host, path: str, size: int) -> Digest:
    """Size and SHA-256 of a file on a host.

    :param size: about how large it is, for the time it may take
    :raises FileMissing: there is no such file
    """
    raw = await host.file_command(scripts.digest(path), path, timeout=_SUM_PATIENCE_S + size / _SUM_RATE)
    return scripts.parse_digest(raw.stdout.decode("ascii", "replace"))


async def read_stream(host: Host, path: str) -> AsyncGenerator[bytes, None]:
    """A file's content in chunks, over SFTP. Whoever reads checks what came (:func:`digest_of`)."""
    async with host.sftp() as client, client.open(path, "rb") as file:
        while chunk := cast(bytes, await file.read(CHUNK)):
            yield chunk


async def list_files(host: Host, directory: str, depth: int | None) -> list[str]:
    """Names of the regular files below a directory, sorted, relative to it.

    Links that lead out of it are left out, and so are this package's own files.

    :param depth: levels to go down, None for all
    :raises FileMissing: there is no such directory
    """
    raw = await host.file_command(scripts.listing(directory, depth), directory, timeout=300)
    found = raw.stdout.decode("utf-8", "surrogateescape").split("\0")
    return sorted(name.removeprefix("./") for name in found if name)


async def make_directories(host: Host, *paths: str, private: bool = True) -> None:
    """Make directories and those above them; fine where they are there."""
    text = "".join(scripts.make_directory(path, private=private) for path in paths)
    await host.file_command(text, " ".join(quote(path) for path in paths))
