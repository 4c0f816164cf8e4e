"""Large files that need connections to two hosts: nobody waits for one who waits for him."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.errors import TransferError
from airavata_provider.ssh import files
from airavata_provider.ssh import lane as lane_module
from airavata_provider.ssh.lane import Lane
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.scripts import Digest
from airavata_provider.ssh.sharing import TURN_S
from airavata_provider.ssh.target import Limits, Target
from airavata_provider.storage import transfer
from airavata_provider.storage.base import Storage
from airavata_provider.storage.sftp import SFTPStorage
from airavata_provider.storage.transfer import from_host, streamed, to_host
from airavata_provider.testing import EmbeddedSSH
from tests.unit.ssh.conftest import HASTY
from tests.unit.ssh.ledger import Book, hasten
from tests.unit.ssh.network import FakeNetwork, enter, settle

pytestmark = pytest.mark.slow

BIG = os.urandom(files.CHUNK + 11)
NARROW = {"max_connections": 1, "sessions_per_connection": 1, "connects_per_minute": 100_000}


def narrow(name: str, jump: Target | None = None) -> Target:
    return Target(name, user="ada", jump=jump, limits=Limits(**NARROW))


class Far(Storage):
    """Files of a host that is not there: who reads or writes one holds a session meanwhile."""

    type = "far"

    def __init__(self, lane: Lane) -> None:
        super().__init__(lane.target.host, "/")
        self.lane = lane

    @property
    def account(self) -> str:
        return self.lane.target.account

    async def size(self, path: str) -> int:
        raise NotImplementedError

    async def list_files(self, path: str = "") -> list[str]:
        raise NotImplementedError

    async def remove(self, path: str) -> None:
        raise NotImplementedError

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        async with self.lane.session():
            for _ in range(3):
                await asyncio.sleep(0)
                yield b"x"

    async def write(self, path: str, chunks: AsyncIterable[bytes], *, expected: Digest | None = None) -> Digest:
        meter = files.Meter()
        async with self.lane.session():
            async for chunk in chunks:
                await meter.add(chunk)
        return meter.digest


async def brought(source: Far, target: Far) -> Digest:
    return await streamed(source.read("f"), source.account, target.account, lambda chunks: target.write("f", chunks))


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[EmbeddedSSH]:
    async with EmbeddedSSH(tmp_path / "far" / "state", tmp_path / "far" / "home") as server:
        yield server


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["ab", "ba", "bc", "cb", "ac", "ca"])), min_size=2, max_size=12
    )
)
def test_all_that_is_brought_between_hosts_arrives(copies: list[tuple[int, str]]) -> None:
    """In three processes, between hosts that allow one session each, in whatever directions."""

    async def all_of_them() -> list[Digest]:
        book = Book()
        book.step = TURN_S / 3
        pools = [SSHPool(HASTY, book) for _ in range(3)]
        try:
            async with asyncio.timeout(300):
                return await asyncio.gather(
                    *(
                        brought(*(Far(pools[process].lane(narrow(name))) for name in names))
                        for process, names in copies
                    )
                )
        finally:
            await asyncio.gather(*(pool.close() for pool in pools))

    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        network = FakeNetwork()
        patch.setattr(lane_module, "connect", network.connect)
        assert asyncio.run(all_of_them()) == [files.content_digest(b"xxx")] * len(copies)


@pytest.mark.parametrize("names", ["ab", "ba"])
async def test_both_directions_take_the_same_host_first(names: str, network: FakeNetwork, pool: SSHPool) -> None:
    hosts = {name: Far(pool.lane(narrow(name))) for name in names}
    for taken, waits in (("b", False), ("a", True)):
        async with hosts[taken].lane.session():
            bringing = asyncio.create_task(brought(*(hosts[name] for name in names)))
            for _ in range(50):
                await asyncio.sleep(0)
            other = asyncio.create_task(enter(hosts["a" if taken == "b" else "b"].lane))
            for _ in range(50):
                await asyncio.sleep(0)
            assert (other.done(), bringing.done()) == (not waits, False)
        await asyncio.gather(bringing, other)


def test_a_host_comes_before_its_jump_host() -> None:
    gate = narrow("gate")
    inner = narrow("inner", gate)
    innermost = narrow("a", inner)
    assert innermost.account > inner.account > gate.account
    assert replace(gate, port=2222).account > innermost.account


@pytest.mark.parametrize("names", ["ab", "ba"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (narrow("a"), narrow("b", narrow("a"))),
        (narrow("a", narrow("gate")), narrow("b", narrow("a", narrow("gate")))),
        (narrow("a", narrow("gate")), narrow("b", narrow("gate"))),
    ],
)
async def test_who_cannot_have_both_behind_one_jump_host_lets_go_of_the_one(
    names: str, a: Target, b: Target, network: FakeNetwork, pool: SSHPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SECOND_S", "SIBLING_S"):
        monkeypatch.setattr(transfer, name, 0.01)
    lanes = {"a": pool.lane(a), "b": pool.lane(b)}
    source, target = (Far(lanes[name]) for name in names)
    await enter(lanes["b"])
    async with lanes["a"].session():
        with pytest.raises(TransferError, match=f"in 0.01 s while one to {b.account} was held") as caught:
            await brought(source, target)
        assert (caught.value.transient, caught.value.where) == (True, a.account)
        await enter(lanes["b"])
    assert (await brought(source, target)).size == 3


@pytest.mark.parametrize("names", ["ab", "ba"])
async def test_a_transfer_that_takes_long_fails_no_other(
    names: str, network: FakeNetwork, pool: SSHPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SECOND_S", "SIBLING_S"):
        monkeypatch.setattr(transfer, name, 0.01)
    lanes = {name: pool.lane(narrow(name)) for name in names}
    async with lanes["a"].session():
        bringing = asyncio.create_task(brought(*(Far(lanes[name]) for name in names)))
        await asyncio.wait([bringing], timeout=0.1)
        assert not bringing.done()
    assert (await bringing).size == 3


def test_how_long_a_second_connection_is_waited_for() -> None:
    gate = narrow("gate")
    one, two = narrow("one", gate), narrow("two", gate)
    behind = narrow("behind", one)
    wait = transfer._patience_s
    assert wait(narrow("b").account, narrow("a").account) is None
    assert wait(replace(gate, port=220).account, gate.account) is None
    assert wait(one.account, gate.account) == wait(behind.account, gate.account) == transfer.SECOND_S
    assert wait(behind.account, one.account) == wait(one.account, one.account) == transfer.SECOND_S
    assert wait(two.account, one.account) == wait(two.account, behind.account) == transfer.SIBLING_S


async def test_a_slow_flow_is_not_cut_off(
    network: FakeNetwork, pool: SSHPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the wait for the second connection is bounded."""
    monkeypatch.setattr(transfer, "SECOND_S", 0.5)
    gate = narrow("gate")
    for pair in ((gate, narrow("inner", gate)), (narrow("inner", gate), gate)):
        source, target = (Far(pool.lane(each)) for each in pair)
        for each in pair:  # their connections stand
            await enter(pool.lane(each))

        async def slow(source: Far = source) -> AsyncGenerator[bytes, None]:
            async for chunk in source.read("f"):
                yield chunk
                await asyncio.sleep(0.2)

        async def write(chunks: AsyncIterator[bytes], target: Far = target) -> Digest:
            return await target.write("f", chunks)

        assert (await streamed(slow(), source.account, target.account, write)).size == 3


@pytest.mark.parametrize("processes", [1, 2])
async def test_large_files_in_both_directions_at_once(
    processes: int, server: EmbeddedSSH, far: EmbeddedSSH, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    book = Book()
    book.step = TURN_S / 3
    pools = [SSHPool(HASTY, book) for _ in range(processes)]
    work = []
    for number, pool in enumerate(pools):
        hosts = {each: pool.host(each.target(**NARROW)) for each in (server, far)}
        for here, there in ((server, far), (far, server)):
            (here.home / "big").write_bytes(BIG)
            storage = SFTPStorage("store", str(here.home), hosts[here])
            to = there.home / f"to-{number}"
            # One of that size is there already: that it is another one is found out before anything flows.
            to.write_bytes(bytes(len(BIG)))
            work.append(to_host(storage, "big", hosts[there], str(to)))
            work.append(from_host(hosts[there], str(there.home / "big"), storage, f"from-{number}"))
    async with asyncio.timeout(300):
        done = await asyncio.gather(*work)
    await asyncio.gather(*(pool.close() for pool in pools))
    assert all(each.sent for each in done)
    for each in (server, far):
        assert len(list(each.home.iterdir())) == 1 + 2 * processes
        assert all(path.read_bytes() == BIG for path in each.home.iterdir())


async def test_on_one_account_a_file_is_copied_where_it_is(
    server: EmbeddedSSH, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two Connections, too, which share the account's only connection."""
    hasten(monkeypatch)
    book = Book()
    book.step = TURN_S
    pool = SSHPool(HASTY, book)
    host = pool.host(server.target(**NARROW))
    other = pool.host(server.target(known_hosts=None, check_host_key=False, **NARROW))
    odd = "'$(id)`\n \udcff-"
    (server.home / odd).write_bytes(BIG)
    for each in (host, other):
        storage = SFTPStorage("store", str(server.home), each)
        async with asyncio.timeout(300):
            sent = await to_host(storage, odd, host, str(server.home / "in" / odd), mode=0o750)
            back = await from_host(host, str(server.home / "in" / odd), storage, f"out/{odd}")
            again = await from_host(host, str(server.home / "in" / odd), storage, f"out/{odd}")
        assert (sent.sent, back.sent, again.sent) == (True, True, False)
        assert sent.sha256 == back.sha256 == files.content_digest(BIG).sha256
        for folder, mode in (("in", 0o750), ("out", 0o644)):
            path = server.home / folder / odd
            assert (path.read_bytes(), path.stat().st_mode & 0o777) == (BIG, mode)
            assert [each.name for each in path.parent.iterdir()] == [odd]
            path.unlink()
    await pool.close()


async def test_a_copy_that_is_cancelled_leaves_nothing(
    server: EmbeddedSSH, pool: SSHPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "cat").write_text("#!/bin/sh\necho half\ntouch began\nwhile [ ! -e go ]; do sleep 0.01; done\n")
    (tools / "cat").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    (server.home / "big").write_bytes(BIG)
    (server.home / "there").mkdir()
    (server.home / "there" / "copy").write_bytes(b"before")
    host = pool.host(server.target())
    copying = asyncio.create_task(
        files.copy(host, str(server.home / "big"), str(server.home / "there" / "copy"), files.content_digest(BIG))
    )
    await until(server.home / "began")
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    (server.home / "go").touch()
    await asyncio.gather(*server.running)
    assert {path.name: path.read_bytes() for path in (server.home / "there").iterdir()} == {"copy": b"before"}


async def test_copies_leave_most_sessions_to_others(
    server: EmbeddedSSH, pool: SSHPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "cat").write_text(
        '#!/bin/sh\necho >> begun\nwhile [ ! -e go ]; do sleep 0.01; done\nexec /bin/cat "$@"\n'
    )
    (tools / "cat").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    (server.home / "big").write_bytes(BIG)
    host = pool.host(server.target())
    digest = files.content_digest(BIG)
    source, copies = str(server.home / "big"), [server.home / f"copy-{number}" for number in range(8)]
    copying = [asyncio.create_task(files.copy(host, source, str(path), digest)) for path in copies]
    await until(server.home / "begun")
    async with asyncio.timeout(300):
        assert (await asyncio.gather(*(host.run("echo free") for _ in range(8))))[0].stdout == "free\n"
    assert len((server.home / "begun").read_text()) <= 2
    (server.home / "go").touch()
    await asyncio.gather(*copying)
    assert all(path.read_bytes() == BIG for path in copies)


@pytest.mark.parametrize("upload", [True, False])
async def test_without_sha256_a_file_on_one_account_passes_through_us(
    upload: bool, server: EmbeddedSSH, pool: SSHPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came in between is hashed here; a copy would be checked by its size alone."""
    host = pool.host(server.target(max_connections=1, sessions_per_connection=2))
    storage = SFTPStorage("store", str(server.home), host)
    (server.home / "big").write_bytes(BIG)

    async def size_alone(*_: object) -> Digest:
        return Digest(len(BIG), None)

    async def copy(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(files, "digest_of", size_alone)
    monkeypatch.setattr(SFTPStorage, "digest", size_alone)
    monkeypatch.setattr(files, "copy", copy)
    async with asyncio.timeout(300):
        if upload:
            done = await to_host(storage, "big", host, str(server.home / "to"))
        else:
            done = await from_host(host, str(server.home / "big"), storage, "to")
    assert done.sha256 == files.content_digest(BIG).sha256
    assert (server.home / "to").read_bytes() == BIG


async def until(path: Path) -> None:
    async with asyncio.timeout(300):
        while not path.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)


async def test_nothing_is_held_while_a_large_file_is_looked_into(server: EmbeddedSSH, pool: SSHPool) -> None:
    """Reading the beginning of a file leaves no session behind."""
    host = pool.host(server.target(**NARROW))
    storage = SFTPStorage("store", str(server.home), host)
    (server.home / "big").write_bytes(BIG)
    (server.home / "small").write_bytes(b"x")
    assert await storage.small("big", files.SMALL) is None
    assert await Storage.small(storage, "big", files.SMALL) is None
    assert await storage.small("small", files.SMALL) == await Storage.small(storage, "small", files.SMALL) == b"x"
    assert (await host.run("echo free")).stdout == "free\n"
    await settle(lambda: not server.running)
