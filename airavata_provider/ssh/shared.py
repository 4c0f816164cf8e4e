"""Commands that share a session while a host is busy: what waits when a session becomes free goes in one, one after
the other, each with an answer of its own.

A session costs a host several processes, often as much as the command in it. For many short commands of one kind
(``schedulers.frame.ShareableText``) at once. A lone caller waits for nobody.

What always holds is what holds for one command: it is never run again if it may have run. Commands that certainly
have not begun, since one before them was slow or said ``TROUBLE``, go with the next session. A command whose caller
is cancelled once it is under way runs on, for the others' sake.

Must not import Airflow.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airavata_provider.errors import CommandTimedOut
from airavata_provider.schedulers.base import CommandResult, quote
from airavata_provider.schedulers.frame import TROUBLE, ShareableText
from airavata_provider.ssh.command import RawResult, after_token, encoded, new_token

if TYPE_CHECKING:
    from airavata_provider.ssh.host import Host

MOST = 8
"""Commands in one session: with more, little is won, and a cut session leaves more to look into."""

SLOW_S = 10
"""When a session has taken so long, in seconds, what has not begun goes with another."""


@dataclass(eq=False)
class _Item:
    command: str
    timeout: float
    result: asyncio.Future[CommandResult] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Shared:
    """See the module. There is one for all that use a host's connections: ``Host.shared``."""

    def __init__(self, host: Host, sessions: int) -> None:
        self._host = host
        self._sessions = sessions
        self._waiting: deque[_Item] = deque()
        self._senders: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """The host's."""
        return self._host.name

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        """As :meth:`~airavata_provider.ssh.host.Host.run`; ``timeout`` counts together with those of the commands
        in the same session.

        :raises ValueError: a NUL in the command
        """
        encoded(command, "")  # what cannot be sent is its caller's fault alone
        item = _Item(command, timeout)
        self._waiting.append(item)
        self._start()
        return await item.result

    def _start(self) -> None:
        while self._waiting and len(self._senders) < self._sessions:
            item = self._waiting.popleft()
            if item.result.done():
                continue
            # A context of its own: it serves several callers, and what it logs is not for one of them.
            sender = asyncio.get_running_loop().create_task(self._send(item), context=contextvars.Context())
            self._senders.add(sender)
            sender.add_done_callback(self._sent)

    def _sent(self, sender: asyncio.Task[None]) -> None:
        self._senders.discard(sender)
        self._start()

    async def _send(self, first: _Item) -> None:
        group = [first]
        token = new_token()

        def text() -> tuple[bytes, float]:
            """Called once there is a session."""
            room = min(MOST, -(-(1 + len(self._waiting)) // self._sessions))
            while self._waiting and len(group) < room and _fit(first, self._waiting[0]):
                item = self._waiting.popleft()
                if not item.result.done():
                    group.append(item)
            timeout = sum(item.timeout for item in group)
            if len(group) == 1:
                return encoded(first.command, token), timeout
            texts = [item.command for item in group if isinstance(item.command, ShareableText)]
            return encoded(_reader(texts[0].limit_s, token), token, _together(texts, token)), timeout

        try:
            raw = await self._host.run_prepared(text)
        except BaseException as error:
            for item in group:
                if not item.result.done():
                    item.result.set_exception(_own(error))
            if not isinstance(error, Exception):
                raise
            return
        out = after_token(raw.stdout, token)
        if len(group) == 1:
            answers: list[RawResult | None] = [RawResult(raw.exit_status, out or b"", raw.stderr)]
        else:
            answers = _apart(out or b"", raw, token, len(group))
        for item, answer in reversed(list(zip(group, answers, strict=True))):
            if answer is None:
                self._waiting.appendleft(item)
            elif not item.result.done():
                item.result.set_result(
                    CommandResult(
                        answer.exit_status,
                        answer.stdout.decode("utf-8", "replace"),
                        answer.stderr.decode("utf-8", "replace"),
                    )
                )


def _own(error: BaseException) -> BaseException:
    """Each caller's own: a traceback grows with everyone who raises it."""
    if isinstance(error, asyncio.CancelledError):
        return CommandTimedOut("the connections were closed while a command ran")
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own


def _fit(one: _Item, other: _Item) -> bool:
    """Whether these commands can share a session."""
    a, b = one.command, other.command
    return isinstance(a, ShareableText) and isinstance(b, ShareableText) and a.common == b.common


def _reader(limit_s: int, token: str) -> str:
    """Shell text that reads another one and runs it, in a shell with a limit where there is ``timeout``.

    One limit instead of one for each command saves a process for each; it stands for all of them, since none begins
    :data:`SLOW_S` after the first.
    """
    read = f'_a=$(cat); case $_a in *"#{token}") eval "unset _a; $_a";; *) exit 65;; esac'
    limited = quote(f"airavata_within=yes; {read}")
    return (
        "if command -v timeout >/dev/null 2>&1 && [ -r /proc/uptime ]; then"
        f" exec timeout {limit_s + SLOW_S} /bin/sh -c {limited}; fi\n{read}"
    )


def _together(texts: Sequence[ShareableText], token: str) -> bytes:
    """Shell text that runs commands one after the other, marks on both streams around each; see :func:`_apart`."""
    begin = _NEXT.format(token=token, trouble=TROUBLE, slow=SLOW_S)
    parts = [begin, texts[0].common, *(text.first for text in texts)]
    for number, text in enumerate(texts):
        parts += [f"airavata_mark {number}", text.own, "airavata_next $?"]
    return "\n".join((*parts, f"#{token}")).encode("utf-8", "surrogateescape")


_NEXT = """\
airavata_mark() {{ printf '\\n%s\\n' "{token} $1"; printf '\\n%s\\n' "{token} $1" >&2; }}
airavata_clock() {{ airavata_up=0; [ ! -r /proc/uptime ] || IFS=. read -r airavata_up airavata_rest </proc/uptime; }}
airavata_next() {{
  airavata_mark "end $1"
  airavata_clock
  [ "$1" -ne {trouble} ] && [ $((airavata_up - airavata_begun)) -lt {slow} ] || {{ airavata_mark stop; exit 0; }}
}}
airavata_clock; airavata_begun=$airavata_up"""


def _apart(out: bytes, raw: RawResult, token: str, count: int) -> list[RawResult | None]:
    """What each command left; None for one that certainly has not begun.

    One of which nothing is known has the status of the whole session, and whatever it wrote.
    """
    outs, errors = _marked(out, token), _marked(raw.stderr, token)
    answers: list[RawResult | None] = []
    last = errors[max(errors)][1] if errors else raw.stderr
    stopped = f"\n{token} stop\n".encode() in out
    for number in range(count):
        if number not in outs:
            answers.append(None if stopped else RawResult(raw.exit_status or 1, b"", last))
            continue
        status, text = outs[number]
        if status is None:
            status = raw.exit_status or 1
        answers.append(RawResult(status, text, errors.get(number, (None, b""))[1]))
    return answers


def _marked(stream: bytes, token: str) -> dict[int, tuple[int | None, bytes]]:
    """Exit status (None: it is not told) and text by the command's number."""
    found: dict[int, tuple[int | None, bytes]] = {}
    mark = re.escape(token.encode())
    pieces = re.split(rb"\n%b (stop|end \d+|\d+)\n" % mark, stream)
    number = -1
    for label, text in zip(pieces[1::2], pieces[2::2], strict=True):
        if label.startswith(b"end "):
            found[number] = (int(label[4:]), found[number][1])
        elif label != b"stop":
            number = int(label)
            found[number] = (None, text)
    return found
