"""Frames: what a command wrote comes back whole, what others wrote does not."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.schedulers import frame
from airavata_provider.schedulers.base import quote

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80)
# What a frame promises to carry: lines. A carriage return at a line's end belongs to the line end.
lines = text.map(lambda t: "\n".join(line.rstrip("\r") for line in t.split("\n"))).filter(
    lambda t: "AIRAVATA-" not in t
)


def run(script: str) -> str:
    done = subprocess.run(["sh", "-s"], input=script.encode(), stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


@settings(max_examples=25)
@given(noise=lines, out=lines, words=lines, status=st.integers(0, 255))
def test_a_frame_brings_back_what_was_written(noise: str, out: str, words: str, status: int) -> None:
    command = f"printf %s {quote(out)}; printf %s {quote(words)} >&2; (exit {status})"
    answer = run(f"{frame.SETUP}\nprintf %s {quote(noise)}\n{frame.frame('x', command)}\necho more")
    found = frame.whole(answer, "x")
    assert found.status == status
    assert "\n".join(found.lines).rstrip("\n") == out.rstrip("\n")
    assert found.errors == words.replace("\n", " ").strip()


@given(st.text(max_size=200))
def test_noise_alone_is_no_frame(noise: str) -> None:
    if "AIRAVATA-BEGIN " in noise:
        return
    assert frame.unframe(noise, "x") is None
    with pytest.raises(AnswerUnreadable, match="no answer to x"):
        frame.whole(noise, "x")


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_cut_answer_is_unreadable_or_missing_never_half(cut: int) -> None:
    whole = "AIRAVATA-BEGIN x\na\nb\n\nAIRAVATA-END x 0 \n"
    with pytest.raises(AnswerUnreadable):
        frame.whole(whole[: -cut - 1], "x")


def test_several_frames_stand_side_by_side() -> None:
    answer = run(f"{frame.SETUP}\n{frame.frame('a', 'echo 1')}\necho noise\n{frame.frame('b', 'echo 2; false')}")
    assert {label: (f.lines, f.status) for label, f in frame.frames(answer)} == {
        "a": (("1",), 0),
        "b": (("2",), 1),
    }


def test_noise_without_a_newline_before_the_frame_does_not_hide_it() -> None:
    assert frame.whole("Last login: todayAIRAVATA-BEGIN x\r\n1\r\n\r\nAIRAVATA-END x 0 \r\n", "x").lines == ("1",)


def test_a_frame_is_taken_out_of_the_answer() -> None:
    one = run(f"{frame.SETUP}\n{frame.frame('one', 'echo 1')}")
    two = run(f"{frame.SETUP}\n{frame.frame('two', 'echo 2')}")
    taken, rest = frame.take(f"noise {one}{two}", "one")
    assert taken == frame.Frame(0, ("1",), "")
    assert rest == f"noise {two}"
    assert frame.take(two, "one") == (None, two)
    with pytest.raises(AnswerUnreadable):
        frame.take(two[:-5].rpartition("\n")[0], "two")
