"""What jobs write while they run: read by a real shell, shown in whole lines, each once."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.errors import AnswerUnreadable, SSHError
from airavata_provider.monitors import output
from airavata_provider.monitors.output import MOST_BYTES, MOST_FILES, Outputs, Tail, parse_tails, tail_command, told
from airavata_provider.schedulers.base import CommandResult


def read(*files: tuple[Path, int]) -> dict[int, Tail]:
    command = tail_command([(str(path), known) for path, known in files])
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    return parse_tails(done.stdout)


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    grown, same, shrunk, absent = (tmp_path / name for name in ("it's $(grown)", "same", "shrunk", "absent"))
    grown.write_bytes(b"known\nnew \x00\xff\n")
    same.write_bytes(b"known\n")
    shrunk.write_bytes(b"anew\n")
    found = read((grown, 6), (same, 6), (shrunk, 100), (absent, 0), (tmp_path, 0))
    assert found == {0: Tail(6, b"new \x00\xff\n"), 2: Tail(0, b"anew\n")}


def test_of_much_the_end_is_read(tmp_path: Path) -> None:
    file = tmp_path / "much"
    file.write_bytes(b"x" * 10 * MOST_BYTES + b"\nend\n")
    (tail,) = read((file, 5)).values()
    assert len(tail.data) == MOST_BYTES
    lines, known = told(5, tail)
    assert lines == [f"[{tail.start - 5} bytes left out]", "end"]
    assert known == 10 * MOST_BYTES + 5


def test_what_is_no_answer() -> None:
    with pytest.raises(AnswerUnreadable):
        parse_tails("AIRAVATA-BEGIN output\n0|0|41\n")
    assert parse_tails("AIRAVATA-BEGIN output\nnoise\n1|x|41\n2|0|4\n3|0|41\n\nAIRAVATA-END output 0 \n") == {
        3: Tail(0, b"A")
    }


def test_a_job_does_not_command_a_terminal() -> None:
    assert told(0, Tail(0, b"10%\r90%\r\n\x1b[2Jgone\ttab\n")) == (["90%", " [2Jgone\ttab"], 22)


def test_an_unfinished_line_waits() -> None:
    assert told(0, Tail(0, b"whole\npart")) == (["whole"], 6)
    assert told(6, Tail(6, b"part")) == ([], 6)
    assert told(100, Tail(0, b"part")) == ([], 0)
    assert told(6, Tail(6, b"x" * MOST_BYTES)) == (["x" * MOST_BYTES], 6 + MOST_BYTES)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=20))
def test_nothing_is_lost_or_told_twice(pieces: list[bytes]) -> None:
    """However a file grows between two looks, its whole lines are told, once and in order."""
    content, known, seen = b"", 0, []
    for piece in pieces:
        content += piece
        start = max(known, len(content) - MOST_BYTES)
        if start < len(content):
            lines, known = told(known, Tail(start, content[start:]))
            seen += lines
    everything = told(0, Tail(0, content))[0] if b"\n" in content else []
    assert seen == everything
    assert known == content.rfind(b"\n") + 1


class Host:
    """Answers with what it has, or not at all."""

    def __init__(self) -> None:
        self.answers: list[str | SSHError] = []
        self.asked: list[str] = []
        self.tired = asyncio.Event()

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        self.asked.append(command)
        if not self.answers:
            self.tired.set()
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, SSHError):
            raise answer
        return CommandResult(0, f"AIRAVATA-BEGIN output\n{answer}\nAIRAVATA-END output 0 \n", "")


async def test_followed_until_nobody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    host, followers = Host(), Outputs()
    host.answers = [f"0|0|{b'one'.hex()}0a", SSHError("away"), "", f"0|4|{b'two'.hex()}0a"]

    async def way() -> Host:
        return host

    async with aclosing(followers.follow("cluster", way, "/job/out", 0.001)) as lines:
        assert await anext(lines) == ["one"]
        assert await anext(lines) == ["two"]
        await host.tired.wait()
    assert "airavata_tail 0 0 /job/out" in host.asked[0]
    assert "airavata_tail 0 8 /job/out" in host.asked[-1]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "airavata output"]


async def test_each_file_has_its_turn() -> None:
    host = Host()
    host.answers = ["", "", ""]
    files = [output._Followed(f"/job/{number}/out") for number in range(MOST_FILES * 2 + 1)]
    wanted = {each.path for each in files}
    for _ in range(3):
        await output.look(host, files)
    assert len(files) == MOST_FILES * 2 + 1
    assert all(any(f" {path}\n" in command for command in host.asked) for path in wanted)
