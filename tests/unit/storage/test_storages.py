"""What every storage promises, over the local and the SFTP one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from airavata_provider.errors import AiravataError, ConfigurationError, FileMissing, TransferError
from airavata_provider.models.resource import StorageResource
from airavata_provider.ssh.files import CHUNK, SMALL, content_digest, once
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.scripts import Digest
from airavata_provider.storage.base import Storage, checked, open_storage, storage_type
from airavata_provider.storage.local import LocalStorage
from airavata_provider.storage.sftp import SFTPStorage
from airavata_provider.testing import EmbeddedSSH


@pytest.fixture(params=["local", "sftp"])
def storage(request: pytest.FixtureRequest, server: EmbeddedSSH, pool: SSHPool) -> Storage:
    root = server.home / "root"
    root.mkdir()
    host = pool.host(server.target())
    return storage_type(request.param)("store", str(root), host)


def names(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


async def content(storage: Storage, path: str) -> bytes:
    async with aclosing(storage.read(path)) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("size", [0, 10, SMALL, SMALL + 1, CHUNK, CHUNK + 1])
async def test_what_is_written_is_read(storage: Storage, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    digest = content_digest(data)
    assert await storage.write("a b/'c'", once(data), expected=digest) == digest
    assert await content(storage, "a b/'c'") == data
    assert await storage.size("a b/'c'") == size
    assert await storage.digest("a b/'c'") == digest
    assert await storage.list_files() == await storage.list_files("a b") == ["a b/'c'"]


async def test_a_file_is_written_whole_or_not_at_all(storage: Storage) -> None:
    await storage.write("f", once(b"before"))
    with pytest.raises(TransferError):
        await storage.write("f", once(b"after"), expected=Digest(6, None))
    for size in (100, SMALL * 8):

        async def breaks(size: int = size) -> AsyncIterator[bytes]:
            yield b"x" * size
            raise TransferError("the source broke")

        with pytest.raises(TransferError, match="the source broke"):
            await storage.write("f", breaks())
    assert await content(storage, "f") == b"before"
    assert names(storage.root) == ["f"]


async def test_what_is_not_there(storage: Storage) -> None:
    for path in ("none", "none/none"):
        with pytest.raises(FileMissing):
            await storage.size(path)
        with pytest.raises(FileMissing):
            await content(storage, path)
        with pytest.raises(FileMissing):
            await storage.digest(path)
        await storage.remove(path)
    assert await storage.list_files("none") == []
    await storage.write("f", once(b""))
    await storage.remove("f")
    assert await storage.list_files() == []


@pytest.mark.parametrize("path", ["", "..", "../f", "a/../../f", "/etc/passwd", "a//b", ".", "a\0b", ".airavata-x"])
async def test_nothing_above_the_root(storage: Storage, path: str) -> None:
    for attempt in (storage.size(path), content(storage, path), storage.write(path, once(b"x"))):
        with pytest.raises(TransferError) as caught:
            await attempt
        assert not caught.value.transient


async def test_local_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("s")
    (tmp_path / "root" / "link").symlink_to("../secret")
    (tmp_path / "root" / "up").symlink_to("..")
    storage = LocalStorage("store", str(tmp_path / "root"))
    for path in ("link", "up/secret"):
        with pytest.raises(TransferError, match="leads out"):
            await content(storage, path)
        with pytest.raises(TransferError, match="leads out"):
            await storage.write(path, once(b"x"))
    assert await storage.list_files() == []
    assert (tmp_path / "secret").read_text() == "s"
    assert storage.local_path("x") == tmp_path / "root" / "x"


async def test_local_disk_errors_are_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    storage = LocalStorage("store", str(tmp_path))
    for path in ("file/below", "directory"):
        with pytest.raises(AiravataError):
            await storage.write(path, once(b"x"))


def test_storages_are_found_by_their_word() -> None:
    resource = StorageResource(name="scratch", type="local", root="/tmp")
    storage = open_storage(resource)
    assert isinstance(storage, LocalStorage)
    assert storage.where("a/b") == "storage://scratch/a/b"
    assert storage_type("sftp") is SFTPStorage
    with pytest.raises(ConfigurationError, match="local, sftp"):
        storage_type("s3")
    with pytest.raises(ConfigurationError, match="needs a connection"):
        open_storage(StorageResource(name="far", type="sftp", root="/tmp", connection="c"))


def test_components_of_a_path() -> None:
    assert checked("a/b c") == ("a", "b c")
