from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.schedulers.base import quote
from airavata_provider.ssh.command import BOOTSTRAP, LONG, after_token, encoded, signal_number

SHELLS = [shell for shell in ("dash", "bash", "busybox", "csh", "tcsh", "fish", "zsh") if shutil.which(shell)]

TOKEN = "airavata-0123456789abcdef"

# Anything that a file name may hold: bytes but NUL, as text.
odd_text = st.text(
    st.characters(codec="utf-8", exclude_characters="\0")
    | st.sampled_from("'\"\\$`!*?[]{}()<>|&;#~ \t\n\r%-\x01\x7f\x80\x81\x88\udc81\udcff"),
    max_size=40,
)


def answer(command: str, data: bytes = b"", shell: str = "sh") -> subprocess.CompletedProcess[bytes]:
    """What the login shell of a host does with a command of ours."""
    argv = ["busybox", "sh"] if shell == "busybox" else [shell]
    return subprocess.run(
        [*argv, "-c", BOOTSTRAP], input=encoded(command, TOKEN, data), capture_output=True, check=False
    )


@given(words=st.lists(odd_text, max_size=4), data=st.binary(max_size=200))
@settings(max_examples=25)
def test_text_and_input_reach_the_shell_as_they_are(words: list[str], data: bytes) -> None:
    command = "printf '<%s>' " + " ".join(quote(word) for word in words) + "\ncat"
    done = answer(command, data)
    expected = b"".join(b"<%s>" % os.fsencode(word) for word in words) or b"<>"
    assert after_token(done.stdout, TOKEN) == expected + data
    assert done.returncode == 0


PADDING = "\n: " + "x" * LONG
"""Makes a text a long one."""


@given(words=st.lists(odd_text, max_size=4))
@settings(max_examples=25)
def test_a_long_text_reaches_the_shell_as_it_is(words: list[str]) -> None:
    command = "printf '<%s>' " + " ".join(quote(word) for word in words) + "; cat" + PADDING
    done = answer(command)
    expected = b"".join(b"<%s>" % os.fsencode(word) for word in words) or b"<>"
    assert after_token(done.stdout, TOKEN) == expected
    assert done.returncode == 0


def test_a_long_text_has_its_input() -> None:
    assert after_token(answer("cat" + PADDING, b"its\ninput").stdout, TOKEN) == b"its\ninput"


@pytest.mark.parametrize("padding", ["", PADDING], ids=["short", "long"])
@pytest.mark.parametrize("shell", SHELLS)
def test_any_login_shell_will_do(shell: str, padding: str) -> None:
    command = (
        f": {padding}\n"
        + "a='it''s \"$HOME\" !x \\n'\nif true; then\n  printf '%s\\n' \"$a\"\nfi\ncat <<'E'\n\\t$a\nE\nexit 7"
    )
    done = answer(command, shell=shell)
    assert after_token(done.stdout, TOKEN) == b'its "$HOME" !x \\n\n\\t$a\n'
    assert (done.returncode, done.stderr) == (7, b"")


def test_a_command_that_reads_does_not_eat_its_own_text() -> None:
    assert after_token(answer("cat; echo after").stdout, TOKEN) == b"after\n"


def test_a_text_that_is_no_shell_program_fails() -> None:
    done = answer("if true; then")
    assert done.returncode != 0
    assert after_token(done.stdout, TOKEN) == b""


@pytest.mark.parametrize("end", ["; true", PADDING, f"{PADDING}; true"])
def test_nothing_of_a_text_that_arrives_in_part_runs(tmp_path: Path, end: str) -> None:
    whole = encoded(f"touch {quote(str(tmp_path))}/ran{end}", TOKEN)
    for cut in (whole[: whole.index(b"/ran") + 4], whole[:-30], whole[:-2]):
        subprocess.run(["sh", "-c", BOOTSTRAP], input=cut, check=False)
    done = subprocess.run(["sh", "-c", BOOTSTRAP], input=b"", capture_output=True, check=False)
    assert after_token(done.stdout, TOKEN) is None
    assert not (tmp_path / "ran").exists()


def test_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        encoded("a\0b", TOKEN)


def test_noise_before_the_token_is_cut_off() -> None:
    mark = TOKEN.encode()
    assert after_token(b"Welcome\n%b\nhere\n%b\n" % (mark, mark), TOKEN) == b"here\n%b\n" % mark
    assert after_token(b"This account is not available.\n", TOKEN) is None


def test_signals_by_name() -> None:
    assert [signal_number(name) for name in ("KILL", "TERM", "USR1", "FOO@example.org")] == [9, 15, 10, 1]
