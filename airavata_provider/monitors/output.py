"""What jobs write while they run: the new end of their output, by byte offset, for the logs of the tasks that wait.

Nobody asks for it apart: the command that asks a cluster about its jobs (``monitors.poll``) reads the files as well.
What always holds: of a file at most :data:`MOST_BYTES` are read in a round, its last ones, of all together at most
:data:`MOST_IN_ALL`, and at most :data:`MOST_FILES` files are looked at; the others have their turn next. A file that
shrank begins anew. A waiting task costs an entry in a table here, and no task or timer.

:func:`tail_command`, :func:`take_tails` and :func:`told` are pure. Imports no Airflow and no store.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from airavata_provider.schedulers import frame
from airavata_provider.schedulers.base import quote

log = logging.getLogger(__name__)

LABEL = "output"
MOST_BYTES = 4096
MOST_IN_ALL = 128 * 1024
MOST_FILES = 100
MOST_TEXT = 32 * 1024
"""Characters of paths in one command, at most."""

_FUNCTION = f"""\
airavata_left={MOST_IN_ALL}
airavata_tail() {{
  [ -f "$3" ] && [ -r "$3" ] || return 0
  airavata_s=$(wc -c <"$3") || return 0
  airavata_s=$(( $airavata_s )) airavata_o=$2
  [ "$airavata_s" -ge "$airavata_o" ] || airavata_o=0
  [ "$airavata_s" -gt "$airavata_o" ] || return 0
  [ $((airavata_s - airavata_o)) -le {MOST_BYTES} ] || airavata_o=$((airavata_s - {MOST_BYTES}))
  airavata_left=$((airavata_left - airavata_s + airavata_o))
  if [ $airavata_left -lt 0 ]; then airavata_left=0; printf '%s|later|\n' "$1"; return 0; fi
  printf '%s|%s|' "$1" "$airavata_o"
  tail -c "+$((airavata_o + 1))" "$3" | head -c {MOST_BYTES} | od -An -v -tx1 | tr -d ' \\n'
  printf '\\n'
}}"""
"""``airavata_tail NUMBER OFFSET FILE``: nothing, or one line ``NUMBER|START|BYTES`` in hexadecimal; ``later`` in
place of START when there is no room left for it."""


@dataclass(frozen=True)
class Tail:
    """The new end of a file.

    :param start: offset of its first byte
    :param data: what was read from there
    """

    start: int
    data: bytes


Tails = Mapping[int, Tail | None]
"""New ends by the files' numbers; None where there is one and was no room for it."""


def tail_command(files: Sequence[tuple[str, int]]) -> str:
    """Shell text that prints the new ends of those files.

    :param files: absolute path, and how many bytes of it are known
    """
    lines = [f"airavata_tail {number} {known} {quote(path)}" for number, (path, known) in enumerate(files)]
    return "\n".join((frame.SETUP, _FUNCTION, frame.frame(LABEL, "\n".join([*lines, ":"]))))


def take_tails(stdout: str) -> tuple[Tails, str]:
    """The new ends, and the rest of the answer, which is the scheduler's; a line that is no end is left out.

    :raises AnswerUnreadable: the answer was cut
    """
    answer, rest = frame.take(stdout, LABEL)
    tails: dict[int, Tail | None] = {}
    for line in answer.lines if answer is not None else ():
        number, _, end = line.partition("|")
        start, _, data = end.partition("|")
        try:
            tails[int(number)] = None if start == "later" else Tail(int(start), bytes.fromhex(data))
        except ValueError:
            continue
    return tails, rest


def told(known: int, tail: Tail) -> tuple[list[str], int]:
    """The lines to show of a file's new end, and how many bytes of it are known then.

    A last line that is not whole waits for its rest, unless nothing else came; then its last character may wait for
    its last bytes. Control characters become spaces: a terminal or a log viewer shall not obey a job.

    :param known: how many bytes were known before
    """
    data, start = tail.data, tail.start
    lines = []
    if start > known:
        lines.append(f"[{start - known} bytes left out]")
        cut = data.find(b"\n") + 1 or _continued(data)
        data, start = data[cut:], start + cut
    whole = data.rfind(b"\n") + 1
    if not whole and len(data) >= MOST_BYTES // 2:
        whole = len(data) - _begun(data)
    for line in data[:whole].removesuffix(b"\n").decode("utf-8", "replace").split("\n"):
        # What overwrites itself (a progress bar) is shown as it stands in the end.
        shown = line.rstrip("\r").rpartition("\r")[2]
        lines.append("".join(c if c.isprintable() or c == "\t" else " " for c in shown))
    return lines if whole else [], start + whole if whole else min(known, tail.start)


def _continued(data: bytes) -> int:
    """How many bytes at the front belong to a character that began before."""
    return next((n for n, byte in enumerate(data[:3]) if byte & 0xC0 != 0x80), 0)


def _begun(data: bytes) -> int:
    """How many bytes at the end are a character's first ones."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return len(decoder.getstate()[0])


@dataclass(eq=False)
class Followed:
    """A file that somebody wants to see.

    :param show: takes its new lines
    :param context: whose log they are for
    :param known: how many bytes of it were shown
    """

    path: str
    show: Callable[[list[str]], None]
    context: Context
    known: int = 0


class Outputs:
    """The files that are followed in one event loop, by resource."""

    def __init__(self) -> None:
        self._files: dict[str, dict[Followed, None]] = {}

    @contextmanager
    def followed(self, resource: str, path: str, show: Callable[[list[str]], None]) -> Iterator[None]:
        """Meanwhile the file's new lines are shown, whenever there are some.

        :param path: absolute
        :param show: called in the context of whoever asks for it
        """
        file = Followed(path, show, copy_context())
        self._files.setdefault(resource, {})[file] = None
        try:
            yield
        finally:
            files = self._files[resource]
            del files[file]
            if not files:
                del self._files[resource]

    def any(self, resource: str) -> bool:
        """Whether a file on that resource is followed."""
        return resource in self._files

    def next(self, resource: str) -> list[Followed]:
        """The files there whose turn it is."""
        chosen: list[Followed] = []
        room = MOST_TEXT
        for file in self._files.get(resource, ()):
            room -= len(file.path)
            if len(chosen) == MOST_FILES or (chosen and room < 0):
                break
            chosen.append(file)
        return chosen

    def take_in(self, resource: str, asked: Sequence[Followed], tails: Tails) -> None:
        """Show what the files gained that were asked about, and let the others go first next time."""
        files = self._files.get(resource, {})
        for number, file in enumerate(asked):
            tail = tails.get(number)
            if file not in files or (tail is None and number in tails):
                continue
            del files[file]
            files[file] = None
            if tail is not None:
                lines, file.known = told(file.known, tail)
                if lines:
                    _show(file, lines)


def _show(file: Followed, lines: list[str]) -> None:
    try:
        file.context.run(file.show, lines)
    except Exception:  # whoever looks at one file, all others and the jobs' states go on
        log.exception("Showing what a job wrote failed in a way that it should not")


_OUTPUTS: WeakKeyDictionary[asyncio.AbstractEventLoop, Outputs] = WeakKeyDictionary()


def outputs() -> Outputs:
    """The running event loop's."""
    return _OUTPUTS.setdefault(asyncio.get_running_loop(), Outputs())
