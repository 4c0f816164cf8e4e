"""A job's own record of its end, which its script keeps in its control directory, and what it proves.

The control directory is ``<working directory>/.airavata/<job name>`` (mode 700). Its files:

=============  ==================================================================================
``script``     the job script
``webhook``    the webhook's credential, mode 600
``lock``       held by whoever submits
``submitting`` nonce and time of the last submit; ``submit.out`` is its answer, ``id`` a found job's id
``started``    native id and restart count, written by the script when it starts
``process``    (``fork``) process id, start time, boot id and host
``exit``       the record of the end, one line of JSON
``pid``        the payload's process; a dot and the restart count follow, as for
``status``     its status
``log``        what the script itself writes
``submit``     HTCondor's submit description
``events``     HTCondor's event log; of an element, a dot and the index follow
=============  ==================================================================================

An array has one, with the script, the credential and the submission's files. Each of its elements has one inside it,
called after its index, with the files that tell of that element alone.

Pure; imports no Airflow.
"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airavata_provider.models.identity import CONTROL_DIRECTORY
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.request import ranges


def control_directory(directory: str, name: str, index: int | None = None) -> str:
    """The control directory of the job with that name in that working directory.

    :param name: its name in the scheduler, or its key in the store (``<array>.<index>`` is an element)
    :param index: of an array's element, which has a directory of its own inside the array's
    """
    array, _, element = name.partition(".")
    control = posixpath.join(directory, CONTROL_DIRECTORY, array)
    return posixpath.join(control, element if index is None else str(index)).rstrip("/")


def make_directories(control: str, indices: Sequence[int]) -> str:
    """Shell command, one line, that makes the control directories of an array's elements."""
    loops = " && ".join(
        f'airavata_n={first} && while [ "$airavata_n" -le {last} ]; do '
        f'mkdir -p {shlex.quote(control)}/"$airavata_n" || exit 1; airavata_n=$((airavata_n + 1)); done'
        for first, last in ranges(indices)
    )
    return loops or ":"


@dataclass(frozen=True)
class ExitRecord:
    """How the payload ended, as the script around it saw it.

    :param exit_code: the payload's status, above 128 when a signal ended it
    :param signal: that signal
    :param reason: ``WALLTIME`` or ``SIGNAL TERM`` when the end came from outside, else empty
    :param time: when
    :param native_id: the job whose end it is
    :param restart: how often the scheduler had started it again
    """

    exit_code: int
    signal: int | None
    reason: str
    time: datetime | None
    native_id: str
    restart: int = 0


def parse_exit_record(text: str) -> ExitRecord | None:
    """An exit record from its line of JSON; None for anything else (half written, edited, empty)."""
    try:
        data: Any = json.loads(text)
        code, signal = data["exit_code"], data.get("signal")
        if not isinstance(code, int) or not (signal is None or isinstance(signal, int)):
            return None
        return ExitRecord(
            exit_code=code,
            signal=signal,
            reason=str(data.get("reason") or ""),
            time=_time(data.get("time")),
            native_id=str(data.get("native_id") or ""),
            restart=int(data.get("restart") or 0),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _time(value: object) -> datetime | None:
    try:
        return datetime.strptime(str(value), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


_FROM_OUTSIDE = frozenset({1, 2, 9, 10, 12, 15})
"""HUP INT KILL USR1 USR2 TERM: what a scheduler or a person sends."""


def outcome_of_end(exit_code: int, signal: int | None, reason: str) -> Outcome:
    """What kind of end that is, as far as the script can know: it was told to stop, and not by whom."""
    if reason == "WALLTIME":
        return Outcome.WALLTIME
    if reason or signal is not None:
        return Outcome.SIGNALED
    return Outcome.COMPLETED if exit_code == 0 else Outcome.FAILED


def state_of_end(exit_code: int, signal: int | None, reason: str) -> JobState:
    """What the news "the script ended like this" says about the job, when it comes from the script itself.

    A script that was told to stop cannot know why: a scheduler that preempts or requeues a job sends the same
    SIGTERM as one that cancels it, and the job then runs again under the same id. Such an end is no terminal
    state, whatever the payload's status; the scheduler's own word (the poll, mail) decides.
    """
    if reason or signal in _FROM_OUTSIDE:
        return JobState.NON_CRITICAL_FAIL
    return JobState.COMPLETE if exit_code == 0 else JobState.FAILED
