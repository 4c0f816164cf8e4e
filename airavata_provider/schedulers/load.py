"""How full a scheduler's queue is, by the scheduler's own figures: everybody's jobs, not ours alone.

Pure; imports nothing of the provider.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class QueueLoad:
    """What a scheduler tells of a queue; None: it does not tell that.

    :param waiting: everybody's jobs that wait for room; those that are held or wait for something else are not among
        them
    :param running: everybody's jobs that run
    :param cpus: CPUs, or slots, that are up
    :param busy: those of them that are taken
    :param closed: it takes no jobs now, or starts none
    """

    waiting: int | None = None
    running: int | None = None
    cpus: int | None = None
    busy: int | None = None
    closed: bool = False

    @property
    def starts_none(self) -> bool:
        """Whether nothing starts there now, however few wait."""
        return self.closed or self.cpus == 0

    def __str__(self) -> str:
        words = []
        if self.waiting is not None:
            words.append(f"{self.waiting} jobs of everybody wait")
        if self.running is not None:
            words.append(f"{self.running} run")
        if self.cpus == 0:
            words.append("no CPU is up")
        elif self.busy is not None:
            words.append(f"{self.busy}{f' of {self.cpus}' if self.cpus is not None else ''} CPUs are busy")
        if self.closed:
            words.append("it is closed")
        return ", ".join(words)


def added(loads: Iterable[QueueLoad]) -> QueueLoad | None:
    """The sum, closed where one of them is; what one does not tell is not known. None: of nothing."""
    every = list(loads)
    if not every:
        return None
    return QueueLoad(
        _sum(each.waiting for each in every),
        _sum(each.running for each in every),
        _sum(each.cpus for each in every),
        _sum(each.busy for each in every),
        closed=any(each.closed for each in every),
    )


def together(loads: Iterable[QueueLoad]) -> QueueLoad | None:
    """Queues of which a job may go to any, as one: those where nothing starts count only where all are such."""
    every = list(loads)
    return added([each for each in every if not each.starts_none] or every)


def _sum(figures: Iterable[int | None]) -> int | None:
    known = list(figures)
    told = [each for each in known if each is not None]
    return sum(told) if len(told) == len(known) else None
