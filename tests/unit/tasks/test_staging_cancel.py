"""A cancel while files are on their way: nothing that comes after is done, and no half file has a file's name."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from airavata_provider.jobs.store import JobStore
from airavata_provider.models.identity import experiment_directory
from airavata_provider.models.resource import ComputeResource
from airavata_provider.ssh.files import CHUNK
from airavata_provider.ssh.host import Host
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.scripts import PART_PREFIX, Digest
from airavata_provider.storage.base import Storage
from airavata_provider.storage.local import LocalStorage
from airavata_provider.testing import EmbeddedSSH
from airavata_provider.triggers.host import Segment, cancel_segment, run_segment
from airavata_provider.triggers.hosted import HostedTask, Run
from airavata_provider.triggers.services import HostServices

pytestmark = pytest.mark.slow

RUN = Run("d", "r", -1, 1, born="born")
BIG = os.urandom(CHUNK + 11)
BRING = HostedTask(
    id="bring",
    type="stage_in",
    resource="cluster",
    parameters={"files": [{"source": "storage://files/big", "target": "big"}]},
)
SUBMIT = HostedTask(id="submit", type="submit", resource="cluster", parameters={"executable": "true"})
FETCH = HostedTask(
    id="fetch",
    type="stage_out",
    resource="cluster",
    parameters={"files": [{"source": "big"}], "to": "storage://files/out"},
)
CLEAN = HostedTask(id="clean", type="clean_up", resource="cluster")


class Slow(LocalStorage):
    """A storage through which the first chunk of a file goes, and then no more."""

    def __init__(self, root: Path) -> None:
        super().__init__("files", str(root))
        self.half = asyncio.Event()

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        async with aclosing(super().read(path)) as chunks:
            async for chunk in self._first_of(chunks):
                yield chunk

    async def write(self, path: str, chunks: AsyncIterable[bytes], *, expected: Digest | None = None) -> Digest:
        return await super().write(path, self._first_of(chunks), expected=expected)

    async def _first_of(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        went = 0
        async for chunk in chunks:
            yield chunk
            went += len(chunk)
            if went >= CHUNK:
                self.half.set()
                await asyncio.Event().wait()


class World:
    """A cluster that SSH reaches, a slow storage, and a job store."""

    def __init__(self, store: JobStore, host: Host, storage: Slow, scratch: Path) -> None:
        self.store, self.storage = store, storage
        self.directory = scratch / experiment_directory(RUN.dag_id, RUN.run_id, RUN.born)
        self.directory.mkdir(parents=True)
        resource = ComputeResource(name="cluster", connection="c", scheduler="fork", scratch=str(scratch))
        catalog = SimpleNamespace(compute_resource=lambda name: resource)

        async def reached(resource: ComputeResource) -> Host:
            return host

        async def stored(name: str) -> Storage:
            return storage

        self.services = SimpleNamespace(store=store, catalog=lambda: catalog, host=reached, storage=stored)

    async def cancel(self, tasks: Sequence[HostedTask], where: Path, *, marked: bool) -> None:
        """Cancel a segment once half a file is there.

        :param where: the directory of that half
        :param marked: a person marked it failed; else its process ends
        """
        segment = Segment(tasks, RUN, cast(HostServices, self.services), logging.getLogger("test"))
        work = asyncio.create_task(run_segment(segment))
        half = asyncio.create_task(self.storage.half.wait())
        async with asyncio.timeout(30):
            await asyncio.wait({work, half}, return_when=asyncio.FIRST_COMPLETED)
        assert half.done()
        (part,) = (size for name, size in sizes(where).items() if name.startswith(PART_PREFIX))
        assert 0 < part < len(BIG)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        if marked:
            await cancel_segment(segment)


@pytest.fixture
async def world(server: EmbeddedSSH, pool: SSHPool, tmp_path: Path) -> AsyncIterator[World]:
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    await store.create_tables()
    (tmp_path / "storage").mkdir()
    yield World(store, pool.host(server.target()), Slow(tmp_path / "storage"), server.home / "scratch")
    await store.close()


def sizes(folder: Path) -> dict[str, int]:
    return {name: len(content) for name, content in contents(folder).items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("before", [{}, {"big": b"an older one"}])
async def test_a_cancel_in_stage_in_leaves_no_job_and_no_half_file(
    world: World, before: dict[str, bytes], marked: bool
) -> None:
    (Path(world.storage.root) / "big").write_bytes(BIG)
    for name, content in before.items():
        (world.directory / name).write_bytes(content)
    await world.cancel([BRING, SUBMIT], world.directory, marked=marked)
    assert contents(world.directory) == before
    assert await world.store.jobs_of(RUN.dag_id, RUN.run_id, RUN.born) == []
    assert await world.store.task_records(RUN.dag_id, RUN.run_id, RUN.born) == {}


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("before", [{}, {"big": b"an older one"}])
async def test_a_cancel_in_stage_out_leaves_no_half_file_and_the_hosts_own(
    world: World, before: dict[str, bytes], marked: bool
) -> None:
    (world.directory / "big").write_bytes(BIG)
    out = Path(world.storage.root) / "out"
    out.mkdir()
    for name, content in before.items():
        (out / name).write_bytes(content)
    await world.cancel([FETCH, CLEAN], out, marked=marked)
    assert contents(out) == before
    # What was to be fetched is there for the next try: nothing was cleaned up.
    assert contents(world.directory) == {"big": BIG}
    assert await world.store.task_records(RUN.dag_id, RUN.run_id, RUN.born) == {}
