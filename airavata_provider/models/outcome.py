"""How a job ended, or why it does not go on: one word for each case that a user has to do something else about.

The scheduler's own words stay beside it, in the job's ``reason``. Pure; no Airflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Outcome(StrEnum):
    """The cases; see :data:`ADVICE`."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    """A status that is not 0, by the payload's own will."""

    SIGNALED = "SIGNALED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    WALLTIME = "WALLTIME"
    NODE_FAILURE = "NODE_FAILURE"
    PREEMPTED = "PREEMPTED"
    CANCELED = "CANCELED"
    NEVER_STARTS = "NEVER_STARTS"
    """No wait will cure it: an account, a quality of service or a limit that this job can never meet."""

    HELD = "HELD"
    SUSPENDED = "SUSPENDED"
    REFUSED = "REFUSED"
    """The scheduler did not take it."""

    UNKNOWN = "UNKNOWN"
    """Nobody can tell."""


STANDSTILLS = frozenset({Outcome.NEVER_STARTS, Outcome.HELD, Outcome.SUSPENDED})
"""Those of a job that has not ended and does not go on."""

ADVICE: Mapping[Outcome, str] = {
    Outcome.FAILED: "read the job's standard error; the program itself ended with this status",
    Outcome.SIGNALED: "the program crashed or was killed: read its standard error, look for a core file",
    Outcome.OUT_OF_MEMORY: "ask for more memory, or spread the work over more nodes",
    Outcome.WALLTIME: "ask for a longer walltime, or let the program write checkpoints and go on from one",
    Outcome.NODE_FAILURE: "the cluster's fault, not the program's: run it again",
    Outcome.PREEMPTED: "a job of higher priority took its place: run it again, or in another queue",
    Outcome.CANCELED: "if nobody here asked for it, ask the cluster's administrators",
    Outcome.NEVER_STARTS: "no wait will cure it: correct the account, quality of service, queue or sizes asked for",
    Outcome.HELD: "it waits until whoever holds it lets it go: release it with the scheduler's own tools",
    Outcome.SUSPENDED: "the scheduler or an administrator paused it; it goes on by itself",
    Outcome.REFUSED: "correct what the scheduler objects to and ask again",
    Outcome.UNKNOWN: "look for it with the scheduler's own tools, then mark its task as it was",
}
"""What a user can do about it; who tells it: ``models.advice``."""
