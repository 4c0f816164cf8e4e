"""Files between a storage and a host: in chunks, checked at both ends, whole or not at all, not sent twice.

Several small files go with one command. A larger file that is there already, with the same size and
SHA-256, is not sent again: that is what makes a retry cheap. Names from a host never leave the directory
they were found in.

No connection is held while something else is waited for, with one exception: a large file that flows from one host to
another needs both at a time. All who need two take them in the same order (``Target.account``), so nobody waits for
one who waits for him; where both are reached through one jump host, or one is that, the wait is bounded. On one and
the same account a file is copied where it is, if SHA-256 can tell that it is the same.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import posixpath
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from airavata_provider.errors import FileMissing, TransferError
from airavata_provider.ssh import files
from airavata_provider.ssh.host import Host
from airavata_provider.ssh.scripts import Digest, FileToWrite, Found, Look
from airavata_provider.ssh.small import look_at_one, put_small
from airavata_provider.ssh.target import VIA
from airavata_provider.storage.base import FILE_MODE, Storage, checked

SECOND_S = 60.0
"""How long one who holds a host's connection waits for one to its jump host, or the other way round, in seconds."""

SIBLING_S = 900.0
"""The same for two hosts behind one jump host: what was let go of there, and ends with what runs through it, may be
what is waited for. That is rare; that somebody else's transfer takes long is not."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transfer:
    """One file that is where it should be.

    :param name: its path below the host's directory
    :param size: bytes
    :param sha256: in hex
    :param sent: False: it was there already
    """

    name: str
    size: int
    sha256: str
    sent: bool = True


@dataclass(frozen=True)
class Place:
    """Where a file is, or goes.

    :param path: in the storage
    """

    storage: Storage
    path: str


@dataclass(frozen=True)
class Upload:
    """One file to bring to a host.

    :param source: where it is
    :param name: path below the host's directory
    :param mode: permission bits there
    """

    source: Place
    name: str
    mode: int = 0o600


async def to_host(storage: Storage, path: str, host: Host, remote: str, *, mode: int = 0o600) -> Transfer:
    """Bring one file to a host.

    :param remote: the file's path there, absolute
    :raises FileMissing: the storage has no such file
    :raises TransferError: it did not arrive whole; the host then has what it had before
    """
    directory, name = posixpath.split(remote)
    (transfer,) = await many_to_host([Upload(Place(storage, path), name, mode)], host, directory)
    return transfer


async def many_to_host(uploads: Sequence[Upload], host: Host, directory: str) -> list[Transfer]:
    """Bring several files below one directory of a host; the small ones together.

    :raises FileMissing: a storage has no such file
    :raises TransferError: one did not arrive whole; others may have
    """
    done: dict[str, Transfer] = {}
    batch: list[tuple[FileToWrite, bytes]] = []
    for upload in uploads:
        checked(upload.name, host.name)
        content = await upload.source.storage.small(upload.source.path, files.SMALL)
        if content is None:
            done[upload.name] = await _large_to_host(upload, host, directory)
            continue
        if batch and sum(len(each) for _, each in batch) + len(content) > files.BATCH:
            done |= await _send(batch, host, directory)
            batch = []
        batch.append((FileToWrite(upload.name, files.content_digest(content), upload.mode), content))
    if batch:
        done |= await _send(batch, host, directory)
    return [done[upload.name] for upload in uploads]


async def from_host(host: Host, remote: str, storage: Storage, path: str) -> Transfer:
    """Bring one file from a host.

    :param remote: its path there, absolute
    :raises FileMissing: there is no such file
    :raises TransferError: it did not arrive whole; the storage then has what it had before
    """
    directory, name = posixpath.split(remote)
    (transfer,) = await many_from_host(host, directory, {name: path}, storage)
    return transfer


async def many_from_host(host: Host, directory: str, names: Mapping[str, str], storage: Storage) -> list[Transfer]:
    """Bring several files below one directory of a host to a storage; the small ones together.

    :param names: paths below the directory, each with its path in the storage
    :raises FileMissing: one of them is not there; others may have been brought
    :raises TransferError: one leads out of the directory, or did not arrive whole; likewise
    """
    for name, path in names.items():
        checked(name, host.name)
        checked(path, storage.where(""))
    transfers: list[Transfer] = []
    wanted = list(names)
    for start in range(0, len(wanted), files.BATCH_FILES):
        some = wanted[start : start + files.BATCH_FILES]
        if len(some) == 1:
            looks = {some[0]: await look_at_one(host, directory, some[0])}
        else:
            looks = await files.look_at(host, directory, some)
        for name, look in looks.items():
            files.usable(look, name, directory, host)
        for name, look in looks.items():
            transfers.append(await _fetch(host, directory, name, look, Place(storage, names[name])))
    return transfers


async def _fetch(host: Host, directory: str, name: str, look: Look, to: Place) -> Transfer:
    if look.content is not None:
        digest = await to.storage.write(to.path, files.once(look.content), expected=look.digest)
        return _transfer(name, digest)
    remote = posixpath.join(directory, name)
    there = await files.digest_of(host, remote, look.digest.size if look.digest else 0)
    if await _has(to, there):
        return _transfer(name, there, sent=False)
    path = _same_host(to, host) if there.sha256 is not None else None
    if path is not None:
        await files.copy(host, remote, path, there, FILE_MODE)
        return _transfer(name, there)
    digest = await streamed(
        files.read_stream(host, remote),
        host.account,
        to.storage.account,
        lambda flow: to.storage.write(to.path, flow, expected=there),
    )
    return _transfer(name, digest)


def _same_host(place: Place, host: Host) -> str | None:
    """Where a storage's file is on that host, if it is the storage's own, too."""
    account = place.storage.account
    return place.storage.host_path(place.path) if account is not None and account == host.account else None


async def streamed(
    chunks: AsyncGenerator[bytes, None],
    source: str | None,
    target: str | None,
    write: Callable[[AsyncIterator[bytes]], Awaitable[Digest]],
) -> Digest:
    """Let a large file flow from a source to a target.

    :param chunks: the source's; its connection is taken when the first is asked for
    :param source: the account whose connection it holds meanwhile, if it does
    :param target: the same for the target
    :param write: writes what flows; the target's connection is taken before the first chunk is asked for
    :raises TransferError: it did not arrive whole; or one connection could not be had in time while the other was
        held (:func:`_patience_s`)
    """
    async with aclosing(chunks):
        if source is None or target is None:
            return await write(chunks)
        held, wanted = (source, target) if source > target else (target, source)
        patience_s = _patience_s(held, wanted)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                first = None
                if source > target:
                    first = await anext(chunks, b"")
                    limit.reschedule(patience_s and loop.time() + patience_s)

                async def flow() -> AsyncGenerator[bytes, None]:
                    head = first
                    if head is None:
                        limit.reschedule(patience_s and loop.time() + patience_s)
                        head = await anext(chunks, b"")
                    limit.reschedule(None)
                    if head:
                        yield head
                    async for chunk in chunks:
                        yield chunk

                async with aclosing(flow()) as both:
                    return await write(both)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TransferError(
                f"no connection in {patience_s:g} s while one to {held} was held; let go of, for another try",
                where=wanted,
            ) from error


def _patience_s(held: str, wanted: str) -> float | None:
    """How long one account's connection is waited for while another's is held; None: as long as it takes.

    An account's text begins with that of its jump host. Between others the order leaves nobody waiting for ever.
    """
    one, other = held.split(VIA), wanted.split(VIA)
    if one[0] != other[0]:
        return None
    common = min(len(one), len(other))
    return SECOND_S if one[:common] == other[:common] else SIBLING_S


async def find_outputs(host: Host, directory: str, patterns: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The regular files below a host's directory that each pattern matches.

    A pattern is a path below the directory whose components may hold ``*``, ``?`` and ``[…]``; a ``**``
    stands for any number of directories, at the end for every file below; a name that starts with a dot is
    only matched by a dot.

    :returns: by pattern, paths relative to the directory, sorted; () where nothing matches
    :raises FileMissing: there is no such directory
    :raises TransferError: a pattern would leave the directory
    """
    wanted = {pattern: checked(pattern, host.name) for pattern in patterns}
    found: dict[str, tuple[str, ...]] = {}
    plain = [pattern for pattern in wanted if not _is_glob(pattern)]
    if plain:
        looks = await files.look_at(host, directory, plain, small=-1)
        for name, look in looks.items():
            found[name] = (name,) if look.found in {Found.BIG, Found.SMALL} else ()
            if look.found is Found.OUTSIDE:
                _log.warning("%s: %s is a link that leads out of %s: left out", host.name, name, directory)
    globs = {pattern: parts for pattern, parts in wanted.items() if _is_glob(pattern)}
    if globs:
        deep = any("**" in parts for parts in globs.values())
        depth = None if deep else max(len(parts) for parts in globs.values())
        names = await files.list_files(host, directory, depth)
        for pattern, parts in globs.items():
            found[pattern] = tuple(name for name in names if matches(tuple(name.split("/")), parts))
    return {pattern: found[pattern] for pattern in wanted}


def matches(name: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path's components match a pattern's."""
    if not pattern:
        return not name
    first, *others = pattern
    rest = tuple(others)
    if first == "**":
        if matches(name, rest):
            return True
        return bool(name) and not name[0].startswith(".") and matches(name[1:], pattern)
    if not name or (name[0].startswith(".") and not first.startswith(".")):
        return False
    return fnmatch.fnmatchcase(name[0], first) and matches(name[1:], rest)


def _is_glob(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")


async def _send(batch: Sequence[tuple[FileToWrite, bytes]], host: Host, directory: str) -> dict[str, Transfer]:
    if len(batch) == 1:
        await put_small(host, directory, *batch[0])
    else:
        await files.write_batch(host, directory, batch)
    return {file.name: _transfer(file.name, file.digest) for file, _ in batch}


async def _large_to_host(upload: Upload, host: Host, directory: str) -> Transfer:
    """Bring a large file, unless the host has it."""
    remote = posixpath.join(directory, upload.name)
    storage, path = upload.source.storage, upload.source.path
    size = await storage.size(path)
    try:
        look = (await files.look_at(host, directory, [upload.name], small=-1))[upload.name]
    except FileMissing:
        look = None
    here = None
    if look is not None and look.digest is not None and look.digest.size == size:
        there, here = await files.digest_of(host, remote, size), await storage.digest(path)
        if there.sha256 is not None and there == here:
            return _transfer(upload.name, here, sent=False)
    source = _same_host(upload.source, host)
    if source is not None:
        here = here or await storage.digest(path)
        if here.sha256 is not None:
            await files.copy(host, source, remote, here, upload.mode)
            return _transfer(upload.name, here)
    digest = await streamed(
        storage.read(path),
        storage.account,
        host.account,
        lambda flow: files.write_stream(host, flow, remote, upload.mode, size=size),
    )
    return _transfer(upload.name, digest)


async def _has(place: Place, content: Digest) -> bool:
    """Whether a storage has certainly that content there."""
    try:
        return (
            content.sha256 is not None
            and await place.storage.size(place.path) == content.size
            and await place.storage.digest(place.path) == content
        )
    except FileMissing:
        return False


def _transfer(name: str, digest: Digest, *, sent: bool = True) -> Transfer:
    return Transfer(name, digest.size, digest.sha256 or "", sent)
