"""What jobs write while they run: read by a real shell, shown in whole lines, each once."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from contextvars import ContextVar, copy_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.monitors import output
from airavata_provider.monitors.output import (
    MOST_BYTES,
    MOST_FILES,
    MOST_IN_ALL,
    MOST_TEXT,
    Outputs,
    Tail,
    Tails,
    tail_command,
    take_tails,
    told,
)


def read(*files: tuple[Path, int]) -> Tails:
    command = tail_command([(str(path), known) for path, known in files])
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    return take_tails(done.stdout)[0]


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    grown, same, shrunk, absent = (tmp_path / name for name in ("it's $(grown)", "same", "shrunk", "absent"))
    grown.write_bytes(b"known\nnew \x00\xff\n")
    same.write_bytes(b"known\n")
    shrunk.write_bytes(b"anew\n")
    found = read((grown, 6), (same, 6), (shrunk, 100), (absent, 0), (tmp_path, 0))
    assert found == {0: Tail(6, b"new \x00\xff\n"), 2: Tail(0, b"anew\n")}


def test_the_next_command_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_bytes(b"AIRAVATA-END output 0 \nAIRAVATA-BEGIN queue\n")
    command = f'{tail_command([(str(file), 0), ("/nowhere", 0)])}\ncat; echo "the rest $#" >&1; exit 3'
    done = subprocess.run(["/bin/sh", "-c", command], input="in\n", capture_output=True, text=True, check=False)
    assert take_tails(done.stdout) == ({0: Tail(0, file.read_bytes())}, "in\nthe rest 0\n")
    assert (done.returncode, done.stderr) == (3, "")


def test_of_much_the_end_is_read(tmp_path: Path) -> None:
    file = tmp_path / "much"
    file.write_bytes(b"x" * 10 * MOST_BYTES + b"\nend\n")
    (tail,) = read((file, 5)).values()
    assert tail is not None
    assert len(tail.data) == MOST_BYTES
    lines, known = told(5, tail)
    assert lines == [f"[{tail.start - 5} bytes left out]", "end"]
    assert known == 10 * MOST_BYTES + 5


def test_of_many_files_no_more_is_read_than_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / str(number) for number in range(4)]
    for file in files:
        file.write_bytes(b"x" * 100)
    monkeypatch.setattr(output, "_FUNCTION", output._FUNCTION.replace(f"left={MOST_IN_ALL}", "left=250"))
    assert read(*((file, 0) for file in files[:3]), (files[3], 100)) == {
        0: Tail(0, b"x" * 100),
        1: Tail(0, b"x" * 100),
        2: None,
    }


def test_what_is_no_answer() -> None:
    with pytest.raises(AnswerUnreadable):
        take_tails("AIRAVATA-BEGIN output\n0|0|41\n")
    text = "AIRAVATA-BEGIN output\nnoise\n1|x|41\n2|0|4\n3|0|41\n4|later|\n\nAIRAVATA-END output 0 \n"
    assert take_tails(f"banner\n{text}the scheduler's\n") == (
        {3: Tail(0, b"A"), 4: None},
        "banner\nthe scheduler's\n",
    )


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


def test_a_character_that_is_cut_waits_for_its_rest() -> None:
    line = "x" * MOST_BYTES + "\N{EURO SIGN}" * 3
    content = line.encode() + b"\n"
    begin, end = MOST_BYTES - 2, len(content) - 3
    lines, known = told(begin, Tail(begin, content[begin : begin + 1] * MOST_BYTES + content[MOST_BYTES:end]))
    assert lines == ["x" * MOST_BYTES + "\N{EURO SIGN}" * 2]
    assert known == begin + MOST_BYTES + 6
    # What was left out ended in the middle of one.
    lines, _ = told(0, Tail(MOST_BYTES + 1, content[MOST_BYTES + 1 : -1] + b"y" * MOST_BYTES))
    assert lines[1] == "\N{EURO SIGN}" * 2 + "y" * MOST_BYTES


def test_each_file_has_its_turn() -> None:
    followed, shown = Outputs(), list[str]()
    with ExitStack() as stack:
        for number in range(MOST_FILES * 2 + 1):
            stack.enter_context(followed.followed("cluster", f"/job/{number}/out", shown.extend))
        asked = [followed.next("cluster") for _ in range(1)]
        for _ in range(2):
            followed.take_in("cluster", asked[-1], {0: Tail(0, b"whole\npart"), 1: None})
            asked.append(followed.next("cluster"))
        paths = [[file.path for file in each] for each in asked]
        # Number 1 had no room, and goes first.
        assert paths[1][0] == "/job/1/out"
        assert paths[2][:2] == [f"/job/{MOST_FILES}/out", f"/job/{MOST_FILES * 2 - 1}/out"]
        assert asked[0][0].known == 6
        assert shown == ["whole", "whole"]
        assert not followed.any("other")
    assert not followed.any("cluster")
    assert followed.next("cluster") == []


def test_long_paths_take_turns() -> None:
    followed = Outputs()
    with ExitStack() as stack:
        for number in range(3):
            path = f"/{number}" + "x" * (MOST_TEXT // 2)
            stack.enter_context(followed.followed("cluster", path, lambda lines: None))
        assert len(followed.next("cluster")) == 1


def test_lines_go_to_the_log_of_whoever_asked(caplog: pytest.LogCaptureFixture) -> None:
    whose, found = ContextVar[str]("whose"), list[tuple[str, list[str]]]()
    followed = Outputs()

    def broken(lines: list[str]) -> None:
        raise OSError("no room")

    def ask() -> ExitStack:
        whose.set("ada")
        stack = ExitStack()
        stack.enter_context(followed.followed("cluster", "/a", broken))
        stack.enter_context(followed.followed("cluster", "/b", lambda lines: found.append((whose.get(), lines))))
        return stack

    with copy_context().run(ask):
        files = followed.next("cluster")
        followed.take_in("cluster", files, {0: Tail(0, b"one\n"), 1: Tail(0, b"two\n")})
    assert found == [("ada", ["two"])]
    assert "no room" in caplog.text
    followed.take_in("cluster", files, {0: Tail(0, b"late\n")})
    assert followed.next("cluster") == []
