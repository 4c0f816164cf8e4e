"""Files of this machine as streams, without holding up the event loop: the disk is accessed in threads.

What always holds: a file is written whole or not at all, and checked before it gets its name.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from airavata_provider.ssh.files import CHUNK, Meter, as_expected
from airavata_provider.ssh.scripts import Digest, part_name


async def read_chunks(path: Path) -> AsyncGenerator[bytes, None]:
    """A file's content in chunks of 1 MiB.

    :raises OSError: it cannot be read
    """
    file, chunk = await asyncio.to_thread(_open_and_read, path)
    try:
        while chunk:
            yield chunk
            chunk = await asyncio.to_thread(file.read, CHUNK) if len(chunk) == CHUNK else b""
    finally:
        file.close()


def _open_and_read(path: Path) -> tuple[BinaryIO, bytes]:
    file = path.open("rb", buffering=0)
    try:
        return file, file.read(CHUNK)
    except BaseException:
        file.close()
        raise


async def write_chunks(chunks: AsyncIterable[bytes], path: Path, expected: Digest | None = None) -> Digest:
    """Write a stream to a file, over what was there; makes the directories above it.

    Permissions are what the process's umask leaves of 0666.

    :param expected: what must have come; it is put in its place only then
    :raises TransferError: something else came
    :raises OSError: it cannot be written
    """
    meter = Meter()
    part = path.with_name(part_name())
    file: BinaryIO | None = None
    pending = bytearray()
    try:
        async for chunk in chunks:
            await meter.add(chunk)
            pending += chunk
            if len(pending) >= CHUNK:
                file = await asyncio.to_thread(_append, file, part, bytes(pending))
                pending.clear()
        digest = meter.digest
        as_expected(digest, expected, path.name)
        await asyncio.to_thread(_finish, file, part, bytes(pending), path)
    except BaseException:
        if file is not None:
            file.close()
        with suppress(OSError):
            part.unlink()
        raise
    return digest


def _append(file: BinaryIO | None, part: Path, data: bytes) -> BinaryIO:
    if file is None:
        part.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.fdopen(os.open(part, flags, 0o666), "wb", buffering=0)
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    return file


def _finish(file: BinaryIO | None, part: Path, rest: bytes, path: Path) -> None:
    _append(file, part, rest).close()
    part.replace(path)
