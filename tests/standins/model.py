"""What the stand-ins' batch system knows: jobs, what is asked for, how it is set up.

Only the standard library; nothing of the provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

FOLDER = "STANDIN_FOLDER"
"""The environment variable with the state's folder."""

# Why a job ended, when not by itself.
WALLTIME = "walltime"
CANCELLED = "cancelled"
MEMORY = "memory"
NODE = "node"
PREEMPTED = "preempted"
DEPENDENCY = "dependency"
START = "start"
"""It could not be started at all; ``comment`` says why."""


class State(StrEnum):
    """Where a job is."""

    WAITING = "waiting"
    HELD = "held"
    RUNNING = "running"
    SUSPENDED = "suspended"
    ENDED = "ended"
    ARRAY = "array"
    """No job: the array itself, whose elements have the states."""


class Trouble(StrEnum):
    """How a command misbehaves."""

    REFUSE = "refuse"
    """It does nothing, writes ``text`` to standard error and ends with ``status``."""

    HANG = "hang"
    """It does nothing for ``seconds``, then goes on."""

    LATE = "late"
    """It does its work, swallows its answer, waits ``seconds``, writes ``text`` to standard error and ends with
    ``status``."""

    EMPTY = "empty"
    """It does nothing and writes nothing, with ``status``."""

    BANNER = "banner"
    """It writes ``text`` to both streams, then does its work."""


@dataclass(frozen=True)
class Settings:
    """How the batch system is set up.

    :param slots: jobs that run at a time
    :param keep_s: seconds that an ended job stays in the queue
    :param history_s: seconds that it stays in the history
    :param kill_delay_s: seconds between SIGTERM and SIGKILL
    :param max_jobs: jobs of one user, waiting and running; frontends refuse more with their own words
    :param paused: nothing is started
    :param drop_unmet: a job whose dependency can never be met ends (else it waits for ever)
    :param first: the first job's number
    :param extra: for a frontend: its version, what it knows
    """

    slots: int = 8
    keep_s: float = 0.0
    history_s: float = 3600.0
    kill_delay_s: float = 2.0
    max_jobs: int | None = None
    paused: bool = False
    drop_unmet: bool = True
    first: int = 1001
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """What a frontend asks for. ``@NUMBER@``, ``@INDEX@``, ``@SCRIPT@`` and an element's own ``@WORDS@`` are replaced
    in ``command``, ``directory``, ``environment`` and the three files.

    :param command: the words to run
    :param environment: all of it
    :param script: text that is kept in a file of its own (executable), ``@SCRIPT@``
    :param stdin: file; empty for none. The same for ``stdout`` and ``stderr``, which are replaced, or extended with
        ``append``; ``stderr`` empty joins ``stdout``
    :param elements: of an array: by index, the words to replace
    :param throttle: elements that run at a time
    :param after: jobs that it waits for: key and kind (``ok``, ``ended``, ``failed``, ``started``)
    :param notice: number of a signal sent to the leader so many seconds before the walltime
    :param attributes: the frontend's own: kept, never looked at
    """

    name: str
    command: list[str]
    directory: str
    environment: dict[str, str] = field(default_factory=dict)
    script: str = ""
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    append: bool = False
    owner: str = ""
    queue: str = ""
    walltime_s: float | None = None
    hold: bool = False
    elements: dict[int, dict[str, str]] = field(default_factory=dict)
    throttle: int | None = None
    after: list[tuple[str, str]] = field(default_factory=list)
    notice: tuple[int, float] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A job, an element (``index``), or a whole array (state ARRAY).

    :param why: why it ended, when not by itself: one of this module's words
    :param exit_status: the leader's; None when a signal ended it, or it never ran
    :param signal: that signal
    :param blocked: it never starts; ``comment`` says why
    :param restarts: how often it was started again
    """

    number: int
    index: int | None
    spec: Spec
    state: State
    submitted: float
    started: float | None = None
    ended: float | None = None
    exit_status: int | None = None
    signal: int | None = None
    why: str = ""
    comment: str = ""
    blocked: bool = False
    restarts: int = 0
    runner: int | None = None
    runner_since: str = ""
    leader: int | None = None

    @property
    def key(self) -> str:
        """``12``, or ``12.3`` for an element."""
        return str(self.number) if self.index is None else f"{self.number}.{self.index}"
