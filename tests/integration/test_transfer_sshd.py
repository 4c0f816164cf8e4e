"""Files to and from the bed's host, through its own sshd and programs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from airavata_provider.errors import TransferError
from airavata_provider.ssh import files
from airavata_provider.ssh.host import Host
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Limits, Target
from airavata_provider.storage.local import LocalStorage
from airavata_provider.storage.sftp import SFTPStorage
from airavata_provider.storage.transfer import (
    Place,
    Upload,
    find_outputs,
    from_host,
    many_from_host,
    many_to_host,
    to_host,
)


@pytest.fixture
async def host(ssh_target: Target) -> AsyncIterator[Host]:
    pool = SSHPool()
    yield pool.host(ssh_target)
    await pool.close()


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage("store", str(tmp_path))


async def test_there_and_back(host: Host, bed_dir: str, storage: LocalStorage, tmp_path: Path) -> None:
    contents = {
        "small": b"x" * 1000,
        "large": os.urandom(5 * files.CHUNK + 3),
        "'q' $(id) \n\\é-": b"odd",
        "-rf": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    uploads = [Upload(Place(storage, name), name) for name in contents]
    sent = await many_to_host(uploads, host, f"{bed_dir}/in 1")
    assert {each.name: each.size for each in sent} == {n: len(c) for n, c in contents.items()}
    found = await find_outputs(host, f"{bed_dir}/in 1", ["*"])
    assert found["*"] == tuple(sorted(contents))
    await many_from_host(host, f"{bed_dir}/in 1", {name: f"out/{name}" for name in contents}, storage)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in contents} == contents


async def test_between_an_sftp_storage_and_the_host(host: Host, bed_dir: str) -> None:
    store = SFTPStorage("far", f"{bed_dir}/store", host)
    content = os.urandom(files.CHUNK * 2)
    await store.write("a/big", files.once(content))
    assert (await to_host(store, "a/big", host, f"{bed_dir}/run/big")).sent
    assert not (await to_host(store, "a/big", host, f"{bed_dir}/run/big")).sent
    assert not (await from_host(host, f"{bed_dir}/run/big", store, "a/big")).sent
    assert await store.list_files() == ["a/big"]


async def test_a_cut_transfer_is_never_seen(
    ssh_target: Target, host: Host, bed_dir: str, storage: LocalStorage, tmp_path: Path
) -> None:
    """A task that is cancelled while a large file flows leaves neither half a file nor its part."""

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * files.CHUNK
            await asyncio.sleep(0.01)

    writing = asyncio.create_task(files.write_stream(host, slow(), f"{bed_dir}/big"))
    await asyncio.sleep(0.5)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert (await host.run(f"ls -A {bed_dir}")).stdout == ""


async def test_no_room_and_no_permission(host: Host, bed_dir: str) -> None:
    for path in ("/proc/f", "/root/f", "/etc/f"):
        with pytest.raises(TransferError):
            await host.put_bytes(b"x", path)
        with pytest.raises(TransferError):
            await files.write_stream(host, files.once(b"x" * files.CHUNK), path)


async def test_many_small_files_at_once_share_one_session(
    ssh_target: Target, bed_dir: str, storage: LocalStorage, tmp_path: Path
) -> None:
    pool = SSHPool()
    target = replace(ssh_target, limits=Limits(max_connections=2, sessions_per_connection=4))
    (tmp_path / "in").write_bytes(b"x" * 1000)

    async def one(number: int) -> None:
        host = pool.host(target)
        await to_host(storage, "in", host, f"{bed_dir}/{number}/in")
        await from_host(host, f"{bed_dir}/{number}/in", storage, f"out/{number}")

    await asyncio.gather(*(one(number) for number in range(100)))
    (stats,) = pool.stats.values()
    assert (stats.opened, stats.sessions) == (1, 1)
    assert all((tmp_path / "out" / str(number)).stat().st_size == 1000 for number in range(100))
    await pool.close()
