"""A directory of a host that is reached over SSH.

Paths are taken as they stand below the root: a link that someone with an account there made is followed.
"""

from __future__ import annotations

import posixpath
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import ClassVar

from airavata_provider.errors import ConfigurationError, FileMissing, TransferError
from airavata_provider.ssh import files, scripts
from airavata_provider.ssh.host import Host
from airavata_provider.ssh.scripts import Digest, Look
from airavata_provider.storage.base import FILE_MODE, Storage, checked


class SFTPStorage(Storage):
    """Files below a directory of a host."""

    type: ClassVar[str] = "sftp"
    needs_host: ClassVar[bool] = True

    async def size(self, path: str) -> int:
        look = await self._look(path, small=-1)
        return look.digest.size if look.digest else 0

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        look = await self._look(path, small=files.SMALL)
        if look.content is not None:
            yield look.content
            return
        async with aclosing(files.read_stream(self._host, self._path(path))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def write(self, path: str, chunks: AsyncIterable[bytes], *, expected: Digest | None = None) -> Digest:
        digest = await files.write_stream(self._host, chunks, self._path(path), FILE_MODE, expected=expected)
        return digest

    async def list_files(self, path: str = "") -> list[str]:
        directory = self._path(path) if path else self.root
        try:
            names = await files.list_files(self._host, directory, None)
        except FileMissing:
            return []
        return [posixpath.join(path, name) for name in names]

    async def remove(self, path: str) -> None:
        result = await self._host.run(f"rm -f {scripts.place(self._path(path))}")
        if result.exit_status != 0:
            raise TransferError(result.stderr.strip()[-500:], where=self.where(path))

    async def digest(self, path: str) -> Digest:
        look = await self._look(path, small=-1)
        size = look.digest.size if look.digest else 0
        digest = await files.digest_of(self._host, self._path(path), size)
        return digest if digest.sha256 else await super().digest(path)

    async def small(self, path: str, most: int) -> bytes | None:
        look = await self._look(path, small=most)
        return look.content

    def host_path(self, path: str) -> str:
        return self._path(path)

    async def _look(self, path: str, *, small: int) -> Look:
        directory, name = posixpath.split(self._path(path))
        try:
            looks = await files.look_at(self._host, directory, [name], small=small, follow=True)
        except FileMissing as error:
            raise FileMissing("there is no such file", where=self.where(path)) from error
        return files.usable(looks[name], name, directory, self._host)

    def _path(self, path: str) -> str:
        return posixpath.join(self.root, *checked(path, self.where("")))

    @property
    def _host(self) -> Host:
        if self.host is None:
            raise ConfigurationError(f"storage resource {self.name} of type sftp needs a connection")
        return self.host
