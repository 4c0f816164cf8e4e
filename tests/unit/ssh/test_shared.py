"""Commands that share a session, over the embedded server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from airavata_provider.errors import ConnectFailed, SSHError
from airavata_provider.schedulers.base import CommandResult
from airavata_provider.schedulers.frame import TROUBLE, ShareableText
from airavata_provider.ssh import shared
from airavata_provider.ssh.host import Host
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Limits
from airavata_provider.testing import EmbeddedSSH

pytestmark = pytest.mark.slow

COMMON = 'say() { echo "$1"; echo "$1" >>log; }'
ONE = Limits(max_connections=1, sessions_per_connection=1)
"""One session at a time: the first command has it, and the others wait together."""


def text(own: str, common: str = COMMON, limit_s: int = 60) -> ShareableText:
    return ShareableText(common, "echo first >>log", own, limit_s)


@pytest.fixture
def host(server: EmbeddedSSH, pool: SSHPool) -> Host:
    return pool.host(server.target(limits=ONE))


async def both(host: Host, *texts: str) -> list[CommandResult | BaseException]:
    """The answers to commands that are asked for at once; the first one has a session of its own."""
    asked = (host.shared.run(each, timeout=20) for each in ("true", *texts))
    return (await asyncio.gather(*asked, return_exceptions=True))[1:]


def log(server: EmbeddedSSH) -> list[str]:
    return (server.home / "log").read_text().split()


async def test_each_has_its_own_answer(host: Host, server: EmbeddedSSH) -> None:
    answers = await both(
        host,
        text("say one; echo no >&2; (exit 3)"),
        text("printf 'no newline'; cat"),
        text("say three; echo; echo"),
    )
    assert answers == [
        CommandResult(3, "one\n", "no\n"),
        CommandResult(0, "no newline", ""),
        CommandResult(0, "three\n\n\n", ""),
    ]
    assert log(server) == ["first", "first", "first", "one", "three"]


async def test_who_is_alone_has_a_session_alone(host: Host, server: EmbeddedSSH) -> None:
    assert await host.shared.run(text("say alone; exit 4")) == CommandResult(4, "alone\n", "")
    assert host.shared.name == host.name
    with pytest.raises(ValueError, match="NUL"):
        await host.shared.run("a\0b")


async def test_only_commands_of_one_kind_share(host: Host, server: EmbeddedSSH) -> None:
    answers = await both(
        host, text("say $$"), "echo $$", text("echo $$", common="a=1"), text("echo $$", common="a=1")
    )
    pids = [answer.stdout for answer in answers if isinstance(answer, CommandResult)]
    assert pids[2] == pids[3]
    assert len(set(pids)) == 3


async def test_those_after_trouble_go_with_the_next_session(host: Host, server: EmbeddedSSH) -> None:
    answers = await both(
        host, text("say one"), text(f"say two; (exit {TROUBLE})"), text("say three"), text("say four")
    )
    assert [answer.exit_status for answer in answers if isinstance(answer, CommandResult)] == [0, TROUBLE, 0, 0]
    assert log(server) == ["first"] * 4 + ["one", "two"] + ["first"] * 2 + ["three", "four"]


async def test_those_after_a_slow_one_go_with_the_next_session(
    host: Host, server: EmbeddedSSH, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "SLOW_S", 0)
    answers = await both(host, text("say one"), text("say two"))
    assert [answer.stdout for answer in answers if isinstance(answer, CommandResult)] == ["one\n", "two\n"]
    assert log(server) == ["first", "first", "one", "first", "two"]


async def test_a_shell_that_ends_leaves_those_after_it_in_doubt(host: Host, server: EmbeddedSSH) -> None:
    answers = await both(host, text("say one"), text("echo some; exit 7"), text("say three"))
    assert answers == [CommandResult(0, "one\n", ""), CommandResult(7, "some\n", ""), CommandResult(7, "", "")]
    assert "three" not in log(server)


async def test_one_that_hangs_is_ended_with_its_session(
    host: Host, server: EmbeddedSSH, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "SLOW_S", 6)
    answers = await both(host, text("say one", limit_s=0), text("say $airavata_within; sleep 20"), text("say three"))
    assert [answer.exit_status for answer in answers if isinstance(answer, CommandResult)] == [0, 124, 124]
    assert log(server) == ["first"] * 3 + ["one", "yes"]


async def test_a_cut_session_cuts_all_who_share_it(host: Host, server: EmbeddedSSH) -> None:
    asked = asyncio.ensure_future(both(host, text("say one"), text("say two; sleep 20"), text("say three")))
    async with asyncio.timeout(60):
        while not (server.home / "log").exists() or "two" not in log(server):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await server.drop_connections()
    answers = await asked
    assert all(isinstance(answer, ConnectFailed) and answer.started for answer in answers)
    assert len(set(map(id, answers))) == 3


async def test_one_who_gives_up_takes_nobody_along(host: Host, server: EmbeddedSSH) -> None:
    before = asyncio.ensure_future(host.shared.run("sleep 0.1"))
    given_up = asyncio.ensure_future(host.shared.run(text("while [ ! -e go ]; do sleep 0.02; done; say mine")))
    after = asyncio.ensure_future(host.shared.run(text("say yours")))
    while not (server.home / "log").exists() or log(server).count("first") < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    given_up.cancel()
    (server.home / "go").touch()
    assert (await before).exit_status == 0
    assert (await after).stdout == "yours\n"
    assert given_up.cancelled()
    assert log(server) == ["first", "first", "mine", "yours"]


async def test_a_host_that_cannot_be_reached_is_told_to_all(tmp_path: Path, pool: SSHPool) -> None:
    async with EmbeddedSSH(tmp_path / "s", tmp_path / "h") as server:
        target = server.target(limits=Limits(max_connections=1, sessions_per_connection=1, patience_s=0.0))
    answers = await both(pool.host(target), text("true"), text("true"))
    assert all(isinstance(answer, SSHError) and not answer.started for answer in answers)
    assert len(set(map(id, answers))) == 2


async def test_no_more_share_than_may(host: Host, server: EmbeddedSSH, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MOST", 2)
    answers = await both(host, *(text("echo $$") for _ in range(5)))
    pids = [answer.stdout for answer in answers if isinstance(answer, CommandResult)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 1]
