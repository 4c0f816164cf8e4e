"""Where inputs come from and outputs go: what a storage is, and how one is found by its type's word.

A storage is addressed by paths below its root: components joined by ``/``, none of them empty, ``.`` or
``..``, no leading ``/``, no NUL. What always holds: nothing above the root is read or written; a file is
written whole or not at all; content flows in chunks.

A new one is one subclass in one file and one entry point in the group ``airavata.storages``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import aclosing
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airavata_provider.errors import ConfigurationError
from airavata_provider.ssh.files import Meter, refused
from airavata_provider.ssh.scripts import PART_PREFIX, Digest

if TYPE_CHECKING:
    from airavata_provider.models.resource import StorageResource
    from airavata_provider.ssh.host import Host

GROUP = "airavata.storages"

FILE_MODE = 0o644
"""Permission bits of files in a storage on a host."""


class Storage(ABC):
    """One storage resource.

    :param name: its name in the catalog, for messages
    :param root: the directory (or whatever the type takes for one) that paths start at
    :param host: the pooled way to it, for types that :attr:`needs_host`
    :param options: a plug-in's own settings
    """

    type: ClassVar[str]
    """The word in a storage resource's ``type:``."""

    needs_host: ClassVar[bool] = False
    """Whether it is reached over SSH, by the resource's ``connection``."""

    def __init__(
        self, name: str, root: str, host: Host | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        self.root = root
        self.host = host
        self.options = dict(options or {})

    @abstractmethod
    async def size(self, path: str) -> int:
        """A file's size in bytes.

        :raises FileMissing: there is no such file
        """

    @abstractmethod
    def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """A file's content in chunks; close the iterator (``contextlib.aclosing``).

        :raises FileMissing: there is no such file
        """

    @abstractmethod
    async def write(self, path: str, chunks: AsyncIterable[bytes], *, expected: Digest | None = None) -> Digest:
        """Write a file whole or not at all, over what was there, with the directories above it.

        :param expected: what must have come for the file to get its name
        :raises TransferError: it was not written
        """

    @abstractmethod
    async def list_files(self, path: str = "") -> list[str]:
        """Paths of all files below a directory, relative to the root, sorted; none when it is not there."""

    @abstractmethod
    async def remove(self, path: str) -> None:
        """Remove a file; fine when it is not there."""

    async def digest(self, path: str) -> Digest:
        """Size and SHA-256 of a file. By default it is read.

        :raises FileMissing: there is no such file
        """
        meter = Meter()
        async for chunk in self.read(path):
            await meter.add(chunk)
        return meter.digest

    async def small(self, path: str, most: int) -> bytes | None:
        """The content of a file of at most so many bytes; None: it is larger. Holds nothing afterwards.

        :raises FileMissing: there is no such file
        """
        content = bytearray()
        async with aclosing(self.read(path)) as chunks:
            async for chunk in chunks:
                content += chunk
                if len(content) > most:
                    return None
        return bytes(content)

    @property
    def account(self) -> str | None:
        """The account (``Target.account``) on whose connection large files are read and written; None: on none that
        is limited. Who reads holds it from the first chunk to the last; who writes takes it before he asks for the
        first."""
        return self.host.account if self.needs_host and self.host is not None else None

    def host_path(self, path: str) -> str | None:
        """Where that file is on the account's host, for storages that are a directory there; else None. What is put
        there has the permissions :data:`FILE_MODE`."""
        return None

    def local_path(self, path: str) -> Path | None:
        """Where that file or directory is on this machine, for storages that are on it; else None."""
        return None

    def where(self, path: str) -> str:
        """A path's address, for messages."""
        return f"storage://{self.name}/{path}"


def checked(path: str, where: str = "path") -> tuple[str, ...]:
    """The components of a path below a root.

    :raises TransferError: it would leave the root, or is no path; not transient
    """
    parts = tuple(path.split("/"))
    if "\0" in path or any(part in {"", ".", ".."} for part in parts):
        raise refused(f"{path!r} is not a path below a directory", where)
    if any(part.startswith(PART_PREFIX) for part in parts):
        raise refused(f"names that start with {PART_PREFIX} are kept for unfinished files: {path!r}", where)
    return parts


@cache
def storage_type(word: str) -> type[Storage]:
    """The class for a storage resource's ``type:``. Looked up once: reading the entry points takes milliseconds.

    :raises ConfigurationError: nobody provides it, or its module cannot be loaded
    """
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if word not in known:
        raise ConfigurationError(
            f"no storage type {word!r}; there are {', '.join(sorted(known))}",
            advice="install the package that provides it",
        )
    try:
        cls = known[word].load()
    except Exception as error:
        raise ConfigurationError(f"storage type {word!r} cannot be loaded: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Storage)):
        raise ConfigurationError(f"storage type {word!r}: {known[word].value} is no Storage")
    return cls


def open_storage(resource: StorageResource, host: Host | None = None) -> Storage:
    """The storage that a resource describes; does no I/O.

    :param host: for types that need one (``storage_type(resource.type).needs_host``)
    :raises ConfigurationError: an unknown type, or the host is missing
    """
    cls = storage_type(resource.type)
    if cls.needs_host and host is None:
        raise ConfigurationError(f"storage resource {resource.name} of type {resource.type} needs a connection")
    return cls(resource.name, resource.root, host, resource.options)
