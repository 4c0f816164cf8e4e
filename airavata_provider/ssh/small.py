"""One small file over the shared SFTP client: no program is started for it on the host.

Several small files are cheaper with one command (``files``). What always holds is the same: a file appears whole or
not at all, and what the host has is read back and compared, as a check sum would be.
"""

from __future__ import annotations

import asyncio
import posixpath
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import asyncssh

from airavata_provider.errors import FileMissing, TransferError
from airavata_provider.ssh.files import SMALL, content_digest
from airavata_provider.ssh.scripts import Digest, FileToWrite, Found, Look, part_name

if TYPE_CHECKING:
    from airavata_provider.ssh.host import Host


async def put_small(host: Host, directory: str, file: FileToWrite, content: bytes) -> None:
    """Write one small file below a directory, over what was there; makes the directories above it.

    :raises TransferError: no room, no permission, a directory in its place, or it did not arrive whole
    """
    path = posixpath.join(directory, file.name)
    parent = posixpath.dirname(path)
    part = posixpath.join(parent, part_name())
    async with host.sftp() as client:
        try:
            async with await _create(client, part, parent, file.mode) as handle:
                await handle.write(content, 0)
                back = cast(bytes, await handle.read(len(content) + 1, 0))
            if back == content:
                await client.posix_rename(part, path)
                return
            await _forget(client, part)
        except asyncssh.SFTPError as error:
            await _forget(client, part)
            raise TransferError(f"{path}: {error.reason}", where=host.name) from error
        except asyncio.CancelledError:
            await _forget(client, part)
            raise
    raise TransferError(f"{path}: did not arrive whole", where=host.name)


async def _create(client: asyncssh.SFTPClient, part: str, parent: str, mode: int) -> asyncssh.SFTPClientFile:
    attributes = asyncssh.SFTPAttrs(permissions=mode)
    try:
        return await client.open(part, "w+b", attributes)
    except asyncssh.SFTPNoSuchFile:
        folder = asyncssh.SFTPAttrs(permissions=0o700 if mode & 0o077 == 0 else 0o755)
        await client.makedirs(parent, folder, exist_ok=True)
        return await client.open(part, "w+b", attributes)


async def _forget(client: asyncssh.SFTPClient, part: str) -> None:
    # Best effort, and never long: whoever cancels this waits for it.
    with suppress(asyncssh.Error, OSError):
        async with asyncio.timeout(5):
            await client.remove(part)


async def look_at_one(host: Host, directory: str, name: str) -> Look:
    """Look at one file below a directory; a small one comes with its content.

    A link that leads out of the directory is not followed.

    :raises FileMissing: there is no such directory
    :raises TransferError: it was changed while it was read, or cannot be read
    """
    path = posixpath.join(directory, name)
    async with host.sftp() as client:
        try:
            # stat before open: opening a named pipe would stop the SFTP server for everybody.
            base, real, attributes = await asyncio.gather(
                client.realpath(directory), client.realpath(path), client.stat(path)
            )
            if not real.startswith(base.rstrip("/") + "/"):
                return Look(Found.OUTSIDE)
            size = attributes.size or 0
            if not stat.S_ISREG(attributes.permissions or 0):
                return Look(Found.MISSING)
            if size > SMALL:
                return Look(Found.BIG, Digest(size, None))
            async with client.open(path, "rb") as handle:
                content = cast(bytes, await handle.read(size + 1, 0))
                again = cast(bytes, await handle.read(size + 1, 0))
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise FileMissing(f"{path} does not exist", where=host.name) from error
        except asyncssh.SFTPPermissionDenied:
            return Look(Found.UNREADABLE)
    if len(content) != size or again != content:
        raise TransferError(f"{path}: changed while it was read", where=host.name)
    return Look(Found.SMALL, content_digest(content), content)
