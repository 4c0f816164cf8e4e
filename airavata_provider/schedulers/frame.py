"""Frames around a remote command's answer, so that login banners and ``.bashrc`` noise cannot be taken for
it.

A framed command writes ``AIRAVATA-BEGIN <label>``, its standard output, then ``AIRAVATA-END <label>
<status>`` with what it wrote to standard error behind. A frame that is not whole was cut, and means
nothing.

Pure; imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from airavata_provider.errors import AnswerUnreadable

SETUP = """\
exec 3>&1
if command -v timeout >/dev/null 2>&1; then airavata_limit() { timeout "$@"; }
else airavata_limit() { shift; "$@"; }; fi"""
"""Shell lines that every script with framed commands starts with: fd 3 and ``airavata_limit SECONDS
WORDS…``.
"""

_BEGIN = "AIRAVATA-BEGIN"
_END = "AIRAVATA-END"


def frame(label: str, command: str) -> str:
    """Shell lines that run one command (one line or group) in a frame, after :data:`SETUP`.

    The command's standard input is empty; its status is afterwards in ``$airavata_status``.
    """
    return (
        f"printf '%s\\n' '{_BEGIN} {label}'\n"
        f"airavata_words=$({{ {command}\n}} 2>&1 >&3 3>&- </dev/null)\n"
        "airavata_status=$?\n"
        f"printf '\\n{_END} {label} %s ' \"$airavata_status\"\n"
        "printf '%s' \"$airavata_words\" | tr '\\n' ' '\n"
        "printf '\\n'"
    )


TROUBLE = 75
"""Exit status (``EX_TEMPFAIL`` of sysexits.h) of a command that found the host slow or in trouble: others that share
its session shall not wait for it.
"""


class ShareableText(str):
    """A command's whole text, which other commands can share a session with.

    What is common to all is said once. None has a shell of its own, so each leaves what the next one needs as it was;
    a command that ends with :data:`TROUBLE` is the last one in its session.

    :ivar common: functions and settings
    :ivar first: what all of them do before the first of them runs
    :ivar own: the rest
    :ivar limit_s: seconds that it may take. With ``airavata_within=yes`` somebody else sees to that; else it does
    """

    common: str
    first: str
    own: str
    limit_s: int

    def __new__(cls, common: str, first: str, own: str, limit_s: int) -> ShareableText:
        # A function, so that the shell has read all of it when it begins.
        text = super().__new__(cls, f"airavata_main() {{\n{common}\n{first}\n{own}\n}}\nairavata_main\n")
        text.common, text.first, text.own, text.limit_s = common, first, own, limit_s
        return text


@dataclass(frozen=True)
class Frame:
    """What one framed command left: its status, the lines it wrote, its standard error on one line."""

    status: int
    lines: tuple[str, ...]
    errors: str


def unframe(text: str, label: str) -> Frame | None:
    """The frame with that label in a command's standard output, None when there is none.

    :raises AnswerUnreadable: it begins and does not end, so the answer was cut
    """
    for found, frame_ in frames(text):
        if found == label:
            return frame_
    return None


def take(text: str, label: str) -> tuple[Frame | None, str]:
    """The frame with that label, None when there is none, and the text without it.

    :raises AnswerUnreadable: it begins and does not end, so the answer was cut
    """
    begin = text.find(f"{_BEGIN} {label}\n")
    if begin < 0:
        return None, text
    end = text.find(f"\n{_END} {label} ", begin)
    if end < 0:
        raise AnswerUnreadable(f"the answer {label} was cut")
    after = text.find("\n", end + 1)
    after = len(text) if after < 0 else after + 1
    return unframe(text[begin:after], label), text[:begin] + text[after:]


def frames(text: str) -> Iterator[tuple[str, Frame]]:
    """All frames in a command's standard output with their labels, in order.

    :raises AnswerUnreadable: one begins and does not end
    """
    label: str | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        line = line.rstrip("\r")  # noqa: PLW2901
        if label is None:
            # Noise without a newline at its end stands before the sentinel on the same line.
            _, found, rest = line.rpartition(f"{_BEGIN} ")
            if found and rest and " " not in rest:
                label, lines = rest, []
        elif line.startswith(f"{_END} {label} "):
            status, whole_, errors = line[len(_END) + len(label) + 2 :].partition(" ")
            if not (whole_ and status.isdecimal()):
                raise AnswerUnreadable(f"no status at the end of the answer {label}: {line[:200]!r}")
            kept = lines[:-1] if lines and not lines[-1] else lines
            yield label, Frame(int(status), tuple(kept), errors.strip())
            label = None
        else:
            lines.append(line)
    if label is not None:
        raise AnswerUnreadable(f"the answer {label} was cut after {len(lines)} lines")


def whole(text: str, label: str, *, stderr: str = "") -> Frame:
    """Like :func:`unframe`, for a frame that has to be there.

    :raises AnswerUnreadable: it is not
    """
    found = unframe(text, label)
    if found is None:
        said = (stderr.strip() or text.strip())[-300:]
        raise AnswerUnreadable(f"the host gave no answer to {label}: {said!r}")
    return found
