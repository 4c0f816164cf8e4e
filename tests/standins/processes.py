"""Processes and sessions, from ``/proc`` (proc(5))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def start_time(process: int) -> str:
    """A process's start time, empty when there is none or it is a zombie."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def alive(process: int, since: str) -> bool:
    """Whether the process with that start time still lives."""
    return bool(since) and start_time(process) == since


def signal_session(leader: int, number: int) -> None:
    """Send a signal to all processes of a session."""
    for process in session(leader):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def session(leader: int) -> Iterable[int]:
    """Processes of the session with that leader."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except (OSError, ProcessLookupError):
                continue
            if int(text.rpartition(")")[2].split()[3]) == leader:
                yield int(entry.name)
