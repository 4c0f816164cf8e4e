"""A directory of the machine that runs the task: a disk, or a file system that all workers share.

Links are followed inside the root, and refused where they lead out of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import ClassVar

from airavata_provider.errors import FileMissing, TransferError
from airavata_provider.ssh.disk import read_chunks, write_chunks
from airavata_provider.ssh.files import refused
from airavata_provider.ssh.scripts import PART_PREFIX, Digest
from airavata_provider.storage.base import Storage, checked


class LocalStorage(Storage):
    """Files below a directory of this machine."""

    type: ClassVar[str] = "local"

    async def size(self, path: str) -> int:
        file = self._path(path)
        with self._translated(path):
            return (await asyncio.to_thread(file.stat)).st_size

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        file = self._path(path)
        with self._translated(path):
            async with aclosing(read_chunks(file)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def write(self, path: str, chunks: AsyncIterable[bytes], *, expected: Digest | None = None) -> Digest:
        file = self._path(path)
        with self._translated(path):
            return await write_chunks(chunks, file, expected)

    async def list_files(self, path: str = "") -> list[str]:
        directory = self._path(path) if path else Path(self.root)
        return await asyncio.to_thread(self._files, directory)

    async def remove(self, path: str) -> None:
        file = self._path(path)
        with self._translated(path):
            await asyncio.to_thread(file.unlink, missing_ok=True)

    def local_path(self, path: str) -> Path | None:
        return self._path(path) if path else Path(self.root)

    def _path(self, path: str) -> Path:
        root = Path(self.root)
        full = root.joinpath(*checked(path, self.where("")))
        if not full.resolve().is_relative_to(root.resolve()):
            raise refused(f"{path!r} is a link that leads out of the storage", self.where(""))
        return full

    def _files(self, directory: Path) -> list[str]:
        root = Path(self.root)
        return sorted(
            file.relative_to(root).as_posix()
            for file in directory.rglob("*")
            if file.is_file()
            and not file.name.startswith(PART_PREFIX)
            and file.resolve().is_relative_to(root.resolve())
        )

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileMissing("there is no such file", where=self.where(path)) from error
        except IsADirectoryError as error:
            raise FileMissing("is a directory", where=self.where(path)) from error
        except PermissionError as error:
            raise refused("permission denied", self.where(path)) from error
        except OSError as error:
            raise TransferError(error.strerror or str(error), where=self.where(path)) from error
