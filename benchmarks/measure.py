"""What the bench measures beside time: CPU seconds by process, SSH connections on the host."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_ESTABLISHED = "01"


def tree_cpu_seconds(pid_file: Path) -> float:
    """CPU seconds so far of the process in that file (its first word) and all its descendants."""
    total = 0.0
    with contextlib.suppress(psutil.Error, OSError, ValueError, IndexError):
        root = psutil.Process(int(pid_file.read_text().split()[0]))
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
    return total


def machine_cpu_seconds() -> float:
    """CPU seconds so far of everything on the machine: the jobs and the bench itself too."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.softirq)


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was used between two readings, by name."""
    return {name: max(0.0, after[name] - before.get(name, 0.0)) for name in after}


def connections_on(port: int) -> int:
    """Connections that a local server has open on that port at this moment."""
    # By their other ends: the kernel may list one twice, when others come and go meanwhile.
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _ESTABLISHED and int(words[1].rpartition(":")[2], 16) == port:
                    found.add(words[2])
    return len(found)


class ConnectionCounter:
    """Watches one sshd while the ``with`` block lasts.

    ``peak`` is the most connections seen open at once (looked at ten times a second), ``opened`` how many
    were opened in all, by sshd's own log.
    """

    def __init__(self, port: int, log: Path) -> None:
        self._port = port
        self._log = log
        self.peak = 0
        self.opened = 0

    def __enter__(self) -> Self:
        self._start = self._log.stat().st_size
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.peak = max(self.peak, connections_on(self._port))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with self._log.open("rb") as log:
            log.seek(self._start)
            self.opened = log.read().count(b"Connection from ")
