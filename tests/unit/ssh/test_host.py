"""A host over the embedded server: commands, files, and what is known when something breaks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from airavata_provider.errors import (
    CommandFailed,
    CommandTimedOut,
    ConnectFailed,
    FileMissing,
    SSHError,
    TransferError,
)
from airavata_provider.ssh import files
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.testing import EmbeddedSSH

pytestmark = pytest.mark.slow


async def until(path: Path) -> None:
    """Wait for a file that a remote command makes."""
    async with asyncio.timeout(60):
        while not path.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.005)


async def test_a_command_and_its_answer(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    result = await host.run("pwd; cat; printf '\\377' >&2; exit 3", input="in\n")
    assert (result.exit_status, result.stdout, result.stderr) == (3, f"{server.home}\nin\n", "\ufffd")
    assert (await host.run_bytes("printf '\\377'")).stdout == b"\xff"
    assert (await host.run("kill -9 $$")).exit_status == -9
    assert host.name == server.target().name


async def test_check_raises_with_the_commands_own_words(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    with pytest.raises(CommandFailed, match="no such thing") as caught:
        await host.check("echo no such thing >&2; exit 5")
    assert (caught.value.exit_status, caught.value.stderr) == (5, "no such thing")


async def test_a_greeting_is_no_part_of_an_answer(tmp_path: Path, pool: SSHPool) -> None:
    async with EmbeddedSSH(tmp_path / "s", tmp_path / "h", greeting="Welcome to\nairavata-\n") as server:
        host = pool.host(server.target())
        assert (await host.run("echo answer")).stdout == "answer\n"
        await host.put_bytes(b"\0\1", "f")
        assert await host.read_bytes("f") == b"\0\1"


async def test_a_host_that_does_something_else_is_found_out(tmp_path: Path, pool: SSHPool) -> None:
    shell = tmp_path / "shell"
    shell.write_text("#!/bin/sh\necho This account is closed.\nexit ${CODE:-0}\n")
    shell.chmod(0o755)
    async with EmbeddedSSH(tmp_path / "s", tmp_path / "h", login_shell=str(shell)) as server:
        with pytest.raises(SSHError, match="did not run the command"):
            await pool.host(server.target()).run("true")
        shell.write_text("#!/bin/sh\necho This account is closed.\nexit 1\n")
        result = await pool.host(server.target()).run("true")
        assert (result.exit_status, result.stdout) == (1, "This account is closed.\n")


async def test_too_much_output_is_an_error(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    with pytest.raises(SSHError, match="too much") as caught:
        await host.run_bytes("head -c 1000000 /dev/zero", limit=1000)
    assert caught.value.started
    assert (await host.run("echo fine")).stdout == "fine\n"


async def test_a_timeout_says_that_nobody_knows(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    # A shell may take longer than that to begin.
    for seconds in (1, 5, 25):
        begun, termed = f"begun{seconds}", f"termed{seconds}"
        command = f"trap 'touch {termed}; exit' TERM; touch {begun}; while :; do sleep 0.02; done"
        with pytest.raises(CommandTimedOut) as caught:
            await host.run(command, timeout=seconds)
        assert caught.value.started
        if (server.home / begun).exists():
            break
    await until(server.home / termed)


async def test_a_connection_that_breaks_under_a_command(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    running = asyncio.create_task(host.run("touch begun; while [ ! -e go ]; do sleep 0.02; done; touch ended"))
    await until(server.home / "begun")
    await server.drop_connections()
    with pytest.raises(ConnectFailed) as caught:
        await running
    assert caught.value.started
    assert (await host.run("touch go; echo again")).stdout == "again\n"
    await until(server.home / "ended")
    assert server.counts.connections == 2


async def test_a_dropped_connection_is_not_noticed_by_the_next_command(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    for turn in range(5):
        assert (await host.run(f"echo {turn}")).stdout == f"{turn}\n"
        await server.drop_connections()


async def test_refused_connections_are_tried_again(server: EmbeddedSSH, pool: SSHPool) -> None:
    server.refuse_next = 4
    assert (await pool.host(server.target()).run("echo in")).stdout == "in\n"
    assert server.counts.refused == 4


async def test_refused_sessions_are_asked_for_again(
    tmp_path: Path, pool: SSHPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airavata_provider.ssh.host.SESSION_REFUSED_TRIES", 10_000)
    async with EmbeddedSSH(tmp_path / "s", tmp_path / "h", max_sessions=2) as server:
        host = pool.host(server.target(sessions_per_connection=4, max_connections=1))
        results = await asyncio.gather(*(host.run(f"echo {n}") for n in range(20)))
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(20)]
        assert server.counts.refused_sessions > 0
        assert server.counts.sessions_peak <= 2


async def test_a_cancelled_command_gives_its_place_back(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target(max_connections=1, sessions_per_connection=1))
    running = asyncio.create_task(host.run("touch begun; exec sleep 60"))
    await until(server.home / "begun")
    waiting = asyncio.create_task(host.run("echo never"))
    last = asyncio.create_task(host.run("echo last"))
    await asyncio.sleep(0)
    for task in (waiting, running):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await last).stdout == "last\n"


async def test_a_detached_child_outlives_its_session(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    command = "while [ ! -e go ]; do sleep 0.02; done; touch ended"
    await host.check(f"setsid sh -c '{command}' </dev/null >/dev/null 2>&1 &")
    await pool.close()
    await server.drop_connections()
    (server.home / "go").touch()
    await until(server.home / "ended")


async def test_files_are_written_with_their_mode_and_parents(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    await host.put_bytes(b"secret", "-odd dir/'x'/f")
    await host.put_bytes(b"script", "run me", 0o755)
    file = server.home / "-odd dir" / "'x'" / "f"
    assert (file.read_bytes(), file.stat().st_mode & 0o7777) == (b"secret", 0o600)
    assert file.parent.stat().st_mode & 0o7777 == 0o700
    assert (server.home / "run me").stat().st_mode & 0o7777 == 0o755
    await host.put_bytes(b"", "run me")
    assert await host.read_bytes("run me") == b""
    await host.remove("-odd dir")
    assert sorted(path.name for path in server.home.iterdir()) == ["run me"]


async def test_what_cannot_be_written_leaves_nothing(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    (server.home / "directory").mkdir()
    (server.home / "file").touch()
    for path in ("directory", "file/below"):
        with pytest.raises(TransferError):
            await host.put_bytes(b"x", path)
    assert sorted(path.name for path in server.home.rglob("*")) == ["directory", "file"]


async def test_read_bytes_tells_missing_from_too_long(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    (server.home / "five").write_bytes(b"12345")
    assert await host.read_bytes("five", 5) == b"12345"
    with pytest.raises(TransferError, match="longer than 4"):
        await host.read_bytes("five", 4)
    for path in ("none", "."):
        with pytest.raises(FileMissing):
            await host.read_bytes(path)


@pytest.mark.parametrize("size", [0, 1, files.SMALL, files.SMALL + 1, 2 * files.CHUNK + 7])
async def test_files_travel_both_ways(server: EmbeddedSSH, pool: SSHPool, tmp_path: Path, size: int) -> None:
    host = pool.host(server.target())
    content = bytes(range(251)) * (size // 251 + 1)
    source, back = tmp_path / "source", tmp_path / "below" / "back"
    source.write_bytes(content[:size])
    sent = await host.put_file(source, str(server.home / "there" / "f"))
    assert await host.get_file("there/f", back) == sent == files.content_digest(content[:size])
    assert back.read_bytes() == content[:size]
    assert [path.name for path in (server.home / "there").iterdir()] == ["f"]
    assert [path.name for path in back.parent.iterdir()] == ["back"]


async def test_missing_files_are_missing(server: EmbeddedSSH, pool: SSHPool, tmp_path: Path) -> None:
    host = pool.host(server.target())
    with pytest.raises(FileMissing):
        await host.put_file(tmp_path / "none", "f")
    for remote in ("none", "no/ne"):
        with pytest.raises(FileMissing):
            await host.get_file(remote, tmp_path / "f")


async def test_sftp_errors_are_ours(server: EmbeddedSSH, pool: SSHPool) -> None:
    host = pool.host(server.target())
    with pytest.raises(FileMissing):
        async with host.sftp() as client:
            await client.stat("none")
    with pytest.raises(TransferError):
        async with host.sftp() as client:
            await client.mkdir("/")
    async with host.sftp() as client:
        await server.drop_connections()
        with pytest.raises(ConnectFailed):
            async with host.sftp() as second:
                await second.stat(".")
                await client.stat(".")


async def test_a_local_fault_while_sftp_is_held_stays_what_it_is(server: EmbeddedSSH, pool: SSHPool) -> None:
    with pytest.raises(PermissionError):
        async with pool.host(server.target()).sftp():
            raise PermissionError("a disk of this machine")


async def test_one_session_is_enough_for_commands_and_sftp(tmp_path: Path, pool: SSHPool) -> None:
    async with EmbeddedSSH(tmp_path / "s", tmp_path / "h", max_sessions=1) as server:
        host = pool.host(server.target(max_connections=1, sessions_per_connection=1))
        source = tmp_path / "big"
        source.write_bytes(b"x" * (files.SMALL * 2))
        await asyncio.gather(*(host.put_file(source, f"f{n}") for n in range(3)), host.run("true"))
        assert await files.list_files(host, ".", None) == ["f0", "f1", "f2"]
        assert server.counts.connections == 1
