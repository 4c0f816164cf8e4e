"""The signal before a job's walltime: who sends it, when, and what a script runs where the script does.

SIGUSR1 tells a job's script that its walltime is near, whoever says so; the script sends its program the signal that
was asked for. A scheduler's own signal is used only where it reaches the script alone (SLURM's ``--signal=B:``):
that of Grid Engine (``-l s_rt``, ``-notify``) and of LSF (``-wa``) goes to all of the job's processes, and those
without a handler would die of it. Pure; no Airflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from airavata_provider.schedulers.request import Inexpressible, JobRequest, Option, Signal

HABIT_S = 60
"""Seconds before the walltime at which a job is told of it about which nobody said anything."""

SIGNAL_FIELDS = ("signal_before_end_s", "signal")

_BITS: Mapping[Signal, int] = {Signal.HUP: 0, Signal.USR1: 9, Signal.USR2: 11, Signal.TERM: 14}
"""Their places in a mask of signals: their numbers on Linux (signal(7)), less one."""


def before_end(request: JobRequest) -> int:
    """Seconds before the walltime at which the program gets its signal; 0: never.

    :raises Inexpressible: the job would not have begun by then
    """
    before = HABIT_S if request.signal_before_end_s is None else request.signal_before_end_s
    if before and request.walltime_s is not None and before >= request.walltime_s:
        late = f"{before} s before the end of its {request.walltime_s} s the job has not begun"
        raise Inexpressible(f"{late}; ask for less, or for none with 0")
    return before


def in_script(request: JobRequest) -> int | None:
    """Seconds after a script's begin at which the script itself would send it; None: it cannot, or nobody shall."""
    try:
        before = before_end(request)
    except Inexpressible:
        return None
    return request.walltime_s - before if before and request.walltime_s is not None else None


def _by_script(request: JobRequest) -> Iterable[str]:
    if before_end(request) and request.walltime_s is None:
        raise Inexpressible("there is no walltime that it could be before; ask for one")
    return ()


BY_SCRIPT = Option(SIGNAL_FIELDS, _by_script)
"""The entry of a scheduler that has no words for it: no directive, since the job's script sends it."""


def variables(request: JobRequest) -> str:
    """What the script's ``airavata_notice`` and ``airavata_stop`` read, as a line of shell: the signal, its place in
    a mask, how long before the end it comes, whether somebody asked for it, and whether what is run is spared.
    """
    signal = request.signal or Signal.USR1
    said = any(getattr(request, field) is not None for field in SIGNAL_FIELDS)
    asked = "yes" if said and request.signal_before_end_s != 0 else ""
    # A launcher passes it on to processes that may die of it; so does what runs containers.
    spared = "yes" if not asked and (request.launcher or request.container) else ""
    before = request.signal_before_end_s or HABIT_S
    words = f"airavata_signal={signal} airavata_bit={_BITS[signal]} airavata_before={before}"
    return f"{words} airavata_asked={asked} airavata_spared={spared}"


def watchdog(walltime_s: int, notice_s: int | None) -> str:
    """Ends the job at its walltime where no scheduler does: a notice, SIGTERM, ten seconds later SIGKILL.

    A script that is stuck in a pre command notices no signal; it is ended after another twenty seconds.

    :param notice_s: seconds after the begin
    """
    steps = [] if notice_s is None else [*_notice(notice_s)]
    steps.append(f"sleep {walltime_s - (notice_s or 0)} & wait $!")
    steps += ["kill -s ALRM $$", "sleep 10 & wait $!", "kill -s ALRM $$", "sleep 20 & wait $!"]
    return _in_background([*steps, "kill -s KILL -- -$$"])


def alarm(notice_s: int) -> str:
    """Tells the script that its walltime is near, where a scheduler ends the job and does not tell before.

    :param notice_s: seconds after the begin
    """
    return _in_background(_notice(notice_s))


def _notice(after_s: int) -> Iterable[str]:
    return f"sleep {after_s} & wait $!", "kill -s USR1 $$"


def _in_background(steps: Iterable[str]) -> str:
    body = "\n  ".join(steps)
    return (
        f"(\n  trap 'kill -s KILL $!; exit 0' TERM; trap '' USR1 ALRM\n  {body}\n) </dev/null >/dev/null 2>&1 &\n"
        "airavata_watchdog=$!"
    )
