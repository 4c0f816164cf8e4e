"""What jobs write while they run: the new end of their output, by byte offset, for the logs of the tasks that wait.

One command per resource and round asks about all files that are followed in this process. What always holds: at most
:data:`MOST_BYTES` of a file are read in a round, its last ones, and at most :data:`MOST_FILES` files; the others have
their turn next. A file that shrank begins anew. Nothing here is news of a job: a host that does not answer is asked
less often, and nobody fails.

:func:`tail_command`, :func:`parse_tails` and :func:`told` are pure. Imports no Airflow and no store.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from airavata_provider.errors import AiravataError
from airavata_provider.monitors.poll import Runs
from airavata_provider.schedulers import frame
from airavata_provider.schedulers.base import quote

log = logging.getLogger(__name__)

LABEL = "output"
MOST_BYTES = 4096
MOST_FILES = 100
COMMAND_TIMEOUT_S = 60.0
SLOWEST_S = 600.0

_FUNCTION = f"""\
airavata_tail() {{
  [ -f "$3" ] && [ -r "$3" ] || return 0
  airavata_s=$(($(wc -c <"$3"))) airavata_o=$2
  [ "$airavata_s" -ge "$airavata_o" ] || airavata_o=0
  [ "$airavata_s" -gt "$airavata_o" ] || return 0
  [ $((airavata_s - airavata_o)) -le {MOST_BYTES} ] || airavata_o=$((airavata_s - {MOST_BYTES}))
  printf '%s|%s|' "$1" "$airavata_o"
  tail -c "+$((airavata_o + 1))" "$3" | head -c {MOST_BYTES} | od -An -v -tx1 | tr -d ' \\n'
  printf '\\n'
}}"""
"""``airavata_tail NUMBER OFFSET FILE``: nothing, or one line ``NUMBER|START|BYTES`` in hexadecimal."""


@dataclass(frozen=True)
class Tail:
    """The new end of a file.

    :param start: offset of its first byte
    :param data: what was read from there
    """

    start: int
    data: bytes


def tail_command(files: Sequence[tuple[str, int]]) -> str:
    """Shell text that prints the new ends of those files.

    :param files: absolute path, and how many bytes of it are known
    """
    lines = [f"airavata_tail {number} {known} {quote(path)}" for number, (path, known) in enumerate(files)]
    return "\n".join((frame.SETUP, _FUNCTION, frame.frame(LABEL, "\n".join([*lines, ":"]))))


def parse_tails(stdout: str) -> dict[int, Tail]:
    """The new ends, by the files' numbers; a line that is none is left out.

    :raises AnswerUnreadable: the answer was cut
    """
    tails = {}
    for line in frame.whole(stdout, LABEL).lines:
        number, _, rest = line.partition("|")
        start, _, data = rest.partition("|")
        try:
            tails[int(number)] = Tail(int(start), bytes.fromhex(data))
        except ValueError:
            continue
    return tails


def told(known: int, tail: Tail) -> tuple[list[str], int]:
    """The lines to show of a file's new end, and how many bytes of it are known then.

    A last line that is not whole waits for its rest, unless nothing else came. Control characters become spaces:
    a terminal or a log viewer shall not obey a job.

    :param known: how many bytes were known before
    """
    data = tail.data
    lines = []
    if tail.start > known:
        lines.append(f"[{tail.start - known} bytes left out]")
        cut = data.find(b"\n") + 1
        data, start = data[cut:], tail.start + cut
    else:
        start = tail.start
    whole = data.rfind(b"\n") + 1
    if not whole and len(data) >= MOST_BYTES // 2:
        whole = len(data)
    for line in data[:whole].removesuffix(b"\n").decode("utf-8", "replace").split("\n"):
        # What overwrites itself (a progress bar) is shown as it stands in the end.
        shown = line.rstrip("\r").rpartition("\r")[2]
        lines.append("".join(c if c.isprintable() or c == "\t" else " " for c in shown))
    return lines if whole else [], start + whole if whole else min(known, tail.start)


@dataclass(eq=False)
class _Followed:
    path: str
    known: int = 0
    lines: asyncio.Queue[list[str]] = field(default_factory=asyncio.Queue)


@dataclass(eq=False)
class _Group:
    """The files that are followed on one resource."""

    host: Callable[[], Awaitable[Runs]]
    every_s: float
    files: list[_Followed] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Outputs:
    """Follows files for whoever asks; belongs to one event loop."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    async def follow(
        self, resource: str, host: Callable[[], Awaitable[Runs]], path: str, every_s: float
    ) -> AsyncGenerator[list[str], None]:
        """The new lines of that file, whenever there are some; never ends by itself.

        :param resource: all files of one are asked about together
        :param host: the way to it
        :param path: absolute
        :param every_s: seconds between two looks
        """
        group = self._groups.setdefault(resource, _Group(host, every_s))
        followed = _Followed(path)
        group.files.append(followed)
        if group.task is None:
            # A context of its own: it serves all, and what it says is not for the log of one task.
            group.task = asyncio.create_task(self._run(resource, group), name="airavata output", context=Context())
        try:
            while True:
                yield await followed.lines.get()
        finally:
            group.files.remove(followed)
            if not group.files:
                group.task.cancel()
                if self._groups.get(resource) is group:
                    del self._groups[resource]

    async def _run(self, resource: str, group: _Group) -> None:
        failures = 0
        while True:
            pause = min(group.every_s * 2**failures, max(SLOWEST_S, group.every_s))
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311
            try:
                await look(await group.host(), group.files)
                failures = 0
            except AiravataError as error:
                failures = min(failures + 1, 10)
                log.info("%s: what its jobs write cannot be read: %s", resource, error)
            except Exception:
                failures = min(failures + 1, 10)
                log.exception("%s: reading what its jobs write failed in a way that it should not", resource)


async def look(host: Runs, files: list[_Followed]) -> None:
    """One round: ask about the first files, hand their new lines on, and put those files last.

    :raises AiravataError: the host does not answer, or in no way that makes sense
    """
    asked = files[:MOST_FILES]
    result = await host.run(tail_command([(each.path, each.known) for each in asked]), timeout=COMMAND_TIMEOUT_S)
    for number, tail in parse_tails(result.stdout).items():
        if 0 <= number < len(asked):
            lines, asked[number].known = told(asked[number].known, tail)
            if lines:
                asked[number].lines.put_nowait(lines)
    if len(files) > len(asked):
        there = [each for each in asked if each in files]
        files[:] = [each for each in files if each not in there] + there


_OUTPUTS: WeakKeyDictionary[asyncio.AbstractEventLoop, Outputs] = WeakKeyDictionary()


def outputs() -> Outputs:
    """The running event loop's."""
    return _OUTPUTS.setdefault(asyncio.get_running_loop(), Outputs())
