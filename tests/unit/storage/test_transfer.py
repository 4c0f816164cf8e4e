"""Files between a storage and a host: checked, not sent twice, never out of their directory."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.errors import FileMissing, TransferError
from airavata_provider.ssh import files, scripts
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.scripts import Digest, FileToWrite, Found, parse_digest, parse_look
from airavata_provider.storage.local import LocalStorage
from airavata_provider.storage.transfer import (
    Place,
    Upload,
    find_outputs,
    from_host,
    many_from_host,
    many_to_host,
    matches,
    to_host,
)
from airavata_provider.testing import EmbeddedSSH, LocalHost

pytestmark = pytest.mark.slow

BIG = os.urandom(files.CHUNK + 11)

# One component of a path: any bytes but NUL and /, not "." and "..", not a name of our own.
names = (
    st.text(
        st.characters(codec="utf-8", exclude_characters="\0/")
        | st.sampled_from("'\"\\$`!*?[]{}()<>|&;#~ \t\n\r-\x01\x80\udc81\udcff"),
        min_size=1,
        max_size=30,
    )
    .filter(lambda name: name not in {".", ".."} and not name.startswith(".airavata"))
    .filter(lambda name: len(os.fsencode(name)) < 200)
)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    (tmp_path / "storage").mkdir()
    return LocalStorage("store", str(tmp_path / "storage"))


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def put(storage: LocalStorage, name: str, content: bytes) -> Place:
    (Path(storage.root) / name).write_bytes(content)
    return Place(storage, name)


async def test_several_files_to_a_host_and_back(server: EmbeddedSSH, pool: SSHPool, storage: LocalStorage) -> None:
    host = pool.host(server.target())
    directory = str(server.home / "ex 1")
    uploads = [
        Upload(put(storage, "one", b"1"), "in/one", 0o755),
        Upload(put(storage, "big", BIG), "in/big"),
        Upload(put(storage, "two", b""), "in/two", 0o644),
    ]
    done = await many_to_host(uploads, host, directory)
    assert [(each.name, each.size, each.sent) for each in done] == [
        ("in/one", 1, True),
        ("in/big", len(BIG), True),
        ("in/two", 0, True),
    ]
    there = server.home / "ex 1" / "in"
    assert {path.name: path.stat().st_mode & 0o777 for path in there.iterdir()} == {
        "one": 0o755,
        "big": 0o600,
        "two": 0o644,
    }
    back = await many_from_host(host, directory, {f"in/{n}": f"out/{n}" for n in ("one", "big", "two")}, storage)
    assert [each.sha256 for each in back] == [each.sha256 for each in done]
    assert (Path(storage.root) / "out" / "big").read_bytes() == BIG


async def test_a_large_file_is_not_sent_twice(server: EmbeddedSSH, pool: SSHPool, storage: LocalStorage) -> None:
    host, remote = pool.host(server.target()), str(server.home / "big")
    place = put(storage, "big", BIG)
    assert (await to_host(storage, place.path, host, remote)).sent
    assert not (await to_host(storage, place.path, host, remote)).sent
    assert (await from_host(host, remote, storage, "copy")).sent
    assert not (await from_host(host, remote, storage, "copy")).sent
    (server.home / "big").write_bytes(BIG[:-1] + bytes([BIG[-1] ^ 1]))
    assert (await to_host(storage, place.path, host, remote)).sent
    assert (server.home / "big").read_bytes() == BIG


async def test_many_files_go_with_few_commands(server: EmbeddedSSH, pool: SSHPool, storage: LocalStorage) -> None:
    host = pool.host(server.target())
    uploads = [Upload(put(storage, f"f{n}", b"%d" % n), f"f{n}") for n in range(50)]
    await many_to_host(uploads, host, str(server.home))
    await many_from_host(host, str(server.home), {f"f{n}": f"out/f{n}" for n in range(50)}, storage)
    assert server.counts.sessions == 2
    assert (Path(storage.root) / "out" / "f49").read_bytes() == b"49"


@pytest.mark.parametrize("content", [b"", b"odd \x00\xff"])
async def test_one_small_file(server: EmbeddedSSH, pool: SSHPool, storage: LocalStorage, content: bytes) -> None:
    """Over SFTP, in one session, however many there are."""
    host, place = pool.host(server.target()), put(storage, "f", content)
    for name in ("a/b/f", "a/b/f", "'$(id)\n", "\udcff"):
        remote = server.home / name
        assert (await to_host(storage, place.path, host, str(remote), mode=0o640)).sent
        assert (remote.read_bytes(), remote.stat().st_mode & 0o777) == (content, 0o640)
        assert (await from_host(host, str(remote), storage, "back")).size == len(content)
        assert (Path(storage.root) / "back").read_bytes() == content
    assert listed(server.home / "a" / "b") == ["f"]
    assert server.counts.sessions == 1


async def test_one_small_file_that_cannot_be_moved(server: EmbeddedSSH, pool: SSHPool, storage: LocalStorage) -> None:
    host, place = pool.host(server.target()), put(storage, "f", b"content")
    (server.home / "directory" / "full").mkdir(parents=True)
    os.mkfifo(server.home / "pipe")
    for name in ("directory", "directory/full"):
        with pytest.raises(TransferError):
            await to_host(storage, place.path, host, str(server.home / name))
    for name in ("directory", "pipe"):
        with pytest.raises(FileMissing):
            await from_host(host, str(server.home / name), storage, "back")
    assert listed(server.home / "directory") == ["full"]
    assert listed(server.home) == ["directory", "pipe"]


async def test_what_is_missing_is_missing(server: EmbeddedSSH, pool: SSHPool, storage: LocalStorage) -> None:
    host = pool.host(server.target())
    with pytest.raises(FileMissing):
        await to_host(storage, "none", host, str(server.home / "f"))
    for remote in ("none", "none/none"):
        with pytest.raises(FileMissing):
            await from_host(host, str(server.home / remote), storage, "f")


async def test_links_out_of_the_directory_are_not_followed(
    server: EmbeddedSSH, pool: SSHPool, storage: LocalStorage
) -> None:
    host = pool.host(server.target())
    directory = server.home / "ex"
    (directory / "sub").mkdir(parents=True)
    (server.home / "secret").write_text("s")
    (directory / "f").write_text("f")
    (directory / "out").symlink_to("../secret")
    (directory / "up").symlink_to("..")
    (directory / "dangling").symlink_to("nowhere")
    (directory / "sub" / "in").symlink_to("../f")
    found = await find_outputs(host, str(directory), ["**/*", "out", "up/secret", "sub/in"])
    assert found == {"**/*": ("f", "sub/in"), "out": (), "up/secret": (), "sub/in": ("sub/in",)}
    for name in ("out", "up/secret"):
        with pytest.raises(TransferError, match="leads out") as caught:
            await many_from_host(host, str(directory), {name: "stolen"}, storage)
        assert not caught.value.transient
    for name in ("../secret", "/etc/passwd", "sub/../../secret"):
        with pytest.raises(TransferError, match="not a path below"):
            await many_from_host(host, str(directory), {name: "stolen"}, storage)
        with pytest.raises(TransferError, match="not a path below"):
            await find_outputs(host, str(directory), [name])
    assert await storage.list_files() == []


async def test_outputs_by_pattern(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    for name in ("a.dat", "b.dat", ".hidden", "sub/c.dat", "sub/deep/d.dat", ".airavata/x.dat", "[x]"):
        path = server.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    patterns = ["*.dat", "**/*.dat", "sub/*", "[ab].dat", ".*", "none*", "a.dat", "[x]"]
    assert await find_outputs(host, ".", patterns) == {
        "*.dat": ("a.dat", "b.dat"),
        "**/*.dat": ("a.dat", "b.dat", "sub/c.dat", "sub/deep/d.dat"),
        "sub/*": ("sub/c.dat",),
        "[ab].dat": ("a.dat", "b.dat"),
        ".*": (".hidden",),
        "none*": (),
        "a.dat": ("a.dat",),
        "[x]": (),
    }
    with pytest.raises(FileMissing):
        await find_outputs(host, "none", ["*"])


@given(st.dictionaries(names, st.binary(max_size=300), min_size=1, max_size=4), st.lists(names, max_size=2))
@settings(max_examples=25)
def test_odd_names_and_contents_survive(contents: dict[str, bytes], folders: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        host, directory = LocalHost(Path(folder)), "/".join([folder, *folders])
        batch = [(FileToWrite(name, files.content_digest(content)), content) for name, content in contents.items()]

        async def there_and_back() -> None:
            await files.write_batch(host, directory, batch)
            looks = await files.look_at(host, directory, list(contents))
            assert {name: look.content for name, look in looks.items()} == contents
            assert await files.list_files(host, directory, None) == sorted(contents)

        asyncio.run(there_and_back())
        assert {path.name: path.read_bytes() for path in Path(directory).iterdir()} == contents


@given(names, names, st.binary(max_size=300), st.sampled_from([0o600, 0o644, 0o755, 0o440]))
@settings(max_examples=25)
def test_a_copy_on_the_host_is_the_same_whatever_its_name(source: str, name: str, content: bytes, mode: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        host, target = LocalHost(Path(folder)), Path(folder) / "new" / "er" / name
        here = Path(folder) / "here" / source
        here.parent.mkdir()
        here.write_bytes(content)

        async def copy(digest: Digest) -> None:
            await files.copy(host, f"here/{source}", str(target), digest, mode)

        asyncio.run(copy(files.content_digest(content)))
        assert (target.read_bytes(), target.stat().st_mode & 0o777) == (content, mode)
        with pytest.raises(TransferError, match="whole"):
            asyncio.run(copy(files.content_digest(content + b"!")))
        here.unlink()
        with pytest.raises(FileMissing):
            asyncio.run(copy(files.content_digest(content)))
        assert listed(target.parent) == [name]
        assert target.read_bytes() == content


@pytest.mark.parametrize("programs", [["shasum"], ["python3"], []])
async def test_hosts_without_sha256sum(tmp_path: Path, programs: list[str]) -> None:
    """With other programs for SHA-256, or with none: by size."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ["cat", "head", "mkdir", "mv", "rm", "wc", *(each for each in programs if each != "shasum")]:
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    if "shasum" in programs:
        (tools / "shasum").write_text("#!/bin/sh\nexec /usr/bin/sha256sum\n")
        (tools / "shasum").chmod(0o755)
    host = LocalHost(tmp_path, {"PATH": str(tools)})
    good, bad = files.content_digest(b"content"), files.content_digest(b"CONTENT")
    await files.write_batch(host, ".", [(FileToWrite("f", good), b"content")])
    look = (await files.look_at(host, ".", ["f"]))["f"]
    assert look.digest == (good if programs else Digest(7, None))
    with pytest.raises(TransferError, match="whole"):
        await files.write_batch(host, ".", [(FileToWrite("f", bad), b"content" if programs else b"short")])
    assert listed(tmp_path) == ["bin", "f"]


async def test_a_batch_that_is_cut_short_leaves_nothing(tmp_path: Path) -> None:
    host = LocalHost(tmp_path)
    batch = [(FileToWrite(name, files.content_digest(b"12345")), b"12345") for name in ("a", "b")]
    command = scripts.write(".", [file for file, _ in batch])
    with pytest.raises(TransferError, match="did not arrive whole"):
        await host.file_command(command, ".", input=b"1234512")
    assert listed(tmp_path) == []


@given(st.binary(max_size=200))
def test_an_answer_that_makes_no_sense_is_told(answer: bytes) -> None:
    try:
        look = parse_look(answer, ["f"])["f"]
    except TransferError:
        return
    assert look.found in Found


@pytest.mark.parametrize("answer", ["", "x", "12 abc", "-1 " + "0" * 64])
def test_an_unreadable_check_sum(answer: str) -> None:
    with pytest.raises(TransferError):
        parse_digest(answer)


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("a", "**", True),
        ("a/b", "a/**", True),
        ("a", "**/*", True),
        ("a/b/c", "a/**/c", True),
        ("a/c", "a/**/c", True),
        ("a/.b/c", "a/**/c", False),
        (".a", "*", False),
        (".a", ".*", True),
        ("A", "a", False),
        ("a/b", "*", False),
    ],
)
def test_patterns(name: str, pattern: str, expected: bool) -> None:
    assert matches(tuple(name.split("/")), tuple(pattern.split("/"))) is expected
