"""HTCondor's words for what a job is doing and how it ended: job ads and event logs, as neutral states and outcomes.

Read with the manual of 23.0 (job ClassAd attributes, hold reason codes, job event log codes). What nobody knows is
UNKNOWN, never an exception. Pure; no Airflow.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import JobRef, JobStatus
from airavata_provider.schedulers.ends import code_and_signal

log = logging.getLogger(__name__)

ATTRIBUTES = (
    "ClusterId", "ProcId", "AiravataJob", "AiravataIndex", "JobStatus", "NumJobStarts", "ExitCode", "ExitBySignal",
    "ExitSignal", "HoldReason", "HoldReasonCode", "HoldReasonSubCode", "LastHoldReason", "LastHoldReasonCode",
    "LastHoldReasonSubCode", "RemoveReason",
)  # fmt: skip
"""What is asked of a job's ad."""

FACTORY = ("ClusterId", "AiravataJob", "AiravataIndices", "JobMaterializeNextProcId")
"""What is asked of the ad of an array that HTCondor puts into the queue bit by bit."""

WORDS: Mapping[int, tuple[str, JobState]] = {
    1: ("IDLE", JobState.QUEUED),
    2: ("RUNNING", JobState.ACTIVE),
    3: ("REMOVED", JobState.CANCELED),
    4: ("COMPLETED", JobState.COMPLETE),
    5: ("HELD", JobState.QUEUED),
    6: ("TRANSFERRING_OUTPUT", JobState.ACTIVE),
    7: ("SUSPENDED", JobState.SUSPENDED),
}
"""``JobStatus``. A held job is no longer on a machine and goes on, when it is released, by waiting."""

_HOLDS: Mapping[int, Outcome] = {
    34: Outcome.OUT_OF_MEMORY,
    46: Outcome.WALLTIME,
    47: Outcome.WALLTIME,
}
_DISK = 104
"""``HoldReasonSubCode`` of 34 when it was the disk; 102 is the memory."""

_MEMORY = re.compile(r"memory limit|out.of.memory|exceeded .*memory|memory usage", re.IGNORECASE)
_ASKED = re.compile(r"via condor_rm|by user|removed by|DAG", re.IGNORECASE)


@dataclass(frozen=True)
class Ad:
    """The part of a job's ad that is looked at."""

    native_id: str
    name: str
    data: Mapping[str, Any]


def ads(text: str) -> list[Mapping[str, Any]]:
    """Ads out of ``-json``: one list, or nothing at all when there is none.

    :raises AnswerUnreadable: something else
    """
    found: list[Mapping[str, Any]] = []
    decoder = json.JSONDecoder()
    rest = text.strip()
    while rest:
        try:
            data, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError) as fault:
            raise AnswerUnreadable(f"no ads: {rest[:200]!r}") from fault
        if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
            raise AnswerUnreadable(f"no ads: {rest[:200]!r}")
        found += data
        rest = rest[end:].lstrip()
    return found


def ours(data: Iterable[Mapping[str, Any]]) -> Iterable[Ad]:
    """Those of our jobs, with the ids that we know them by: ``12.0``, or ``12[3]`` for an element."""
    for ad in data:
        cluster, proc, name, index = (ad.get(key) for key in ("ClusterId", "ProcId", "AiravataJob", "AiravataIndex"))
        if isinstance(cluster, int) and isinstance(proc, int) and isinstance(name, str):
            native_id = f"{cluster}.{proc}" if index is None else f"{cluster}[{index}]"
            yield Ad(native_id, name, ad)


def from_ad(job: JobRef, ad: Mapping[str, Any]) -> JobStatus:
    """One job's status from its ad."""
    number = ad.get("JobStatus")
    if not isinstance(number, int) or number not in WORDS:
        _warn(str(number))
        return JobStatus(job.native_id, JobState.UNKNOWN, str(number), job.name)
    word, state = WORDS[number]
    if number == 4:
        return _completed(job, ad)
    if number == 3:
        return removed(job, _text(ad, "RemoveReason"), _number(ad, "LastHoldReasonCode", "HoldReasonCode"), ad)
    if number == 5:
        return JobStatus(job.native_id, state, word, job.name, reason=_text(ad, "HoldReason"), outcome=Outcome.HELD)
    reason = ""
    if number == 1 and (starts := _number(ad, "NumJobStarts")):
        reason = f"evicted; was started {starts} times and waits to be started again"
    outcome = Outcome.SUSPENDED if number == 7 else None
    return JobStatus(job.native_id, state, word, job.name, reason=reason, outcome=outcome)


def _completed(job: JobRef, ad: Mapping[str, Any]) -> JobStatus:
    if ad.get("ExitBySignal") is True:
        return ended(job, None, _number(ad, "ExitSignal"))
    return ended(job, _number(ad, "ExitCode"), None)


def ended(job: JobRef, code: int | None, signal: int | None) -> JobStatus:
    """A job that ended by itself; a script's status above 128 tells of its program's signal."""
    if signal is None and code is not None:
        code, signal = code_and_signal(code)
    if code == 0:
        return JobStatus(job.native_id, JobState.COMPLETE, "COMPLETED", job.name, 0, outcome=Outcome.COMPLETED)
    outcome = Outcome.FAILED if signal is None else Outcome.SIGNALED
    return JobStatus(job.native_id, JobState.FAILED, "COMPLETED", job.name, code, signal, outcome=outcome)


def removed(job: JobRef, reason: str, hold: int | None, ad: Mapping[str, Any] | None = None) -> JobStatus:
    """A job that left without having completed: by somebody's wish, or by a policy, ours for hopeless holds among
    them.
    """
    ad = ad or {}
    words = "; ".join(dict.fromkeys(filter(None, (_text(ad, "LastHoldReason", "HoldReason"), reason))))
    if not reason or _ASKED.search(reason):
        return JobStatus(
            job.native_id, JobState.CANCELED, "REMOVED", job.name, reason=words, outcome=Outcome.CANCELED
        )
    outcome = _HOLDS.get(hold or 0, Outcome.FAILED)
    if hold == 34 and _number(ad, "LastHoldReasonSubCode", "HoldReasonSubCode") == _DISK:
        outcome = Outcome.FAILED
    elif outcome is Outcome.FAILED and _MEMORY.search(words):
        outcome = Outcome.OUT_OF_MEMORY
    return JobStatus(job.native_id, JobState.FAILED, "REMOVED", job.name, reason=words, outcome=outcome)


# --- the job's event log

_EVENT = re.compile(r"(\d{3}) \(0*(\d+)\.0*(\d+)\.\d+\) ")
_NORMAL = re.compile(r"\(1\) Normal termination \(return value (-?\d+)\)")
_SIGNAL = re.compile(r"\(0\) Abnormal termination \(signal (\d+)\)")
_CODE = re.compile(r"Code (\d+) Subcode (\d+)")


def log_cluster(lines: Iterable[str]) -> str | None:
    """The cluster that an event log tells of."""
    for line in lines:
        if match := _EVENT.match(line):
            return match[2]
    return None


def from_log(job: JobRef, lines: Iterable[str]) -> JobStatus | None:
    """A job's end from the lines of its event log, None when they tell of none.

    The last event that starts or ends it counts, as long as it is this job's: its cluster's.
    """
    cluster = re.split(r"[.\[]", job.native_id, maxsplit=1)[0]
    kind, body = "", list[str]()
    hold: dict[str, Any] = {}
    events: list[tuple[str, list[str]]] = []
    for line in lines:
        if match := _EVENT.match(line):
            mine = match[2] == cluster
            events.append((match[1] if mine else "", []))
        elif events and line != "...":
            events[-1][1].append(line.strip())
    for number, words in events:
        if number == "012":
            hold = {"LastHoldReason": words[0] if words else ""}
            if (match := _CODE.search(" ".join(words))) is not None:
                hold |= {"LastHoldReasonCode": int(match[1]), "LastHoldReasonSubCode": int(match[2])}
        elif number == "001":
            hold = {}
        if number in ("000", "001", "004", "005", "009", "012", "013"):
            kind, body = number, words
    text = " ".join(body)
    if kind == "005":
        if match := _NORMAL.search(text):
            return ended(job, int(match[1]), None)
        if match := _SIGNAL.search(text):
            return ended(job, None, int(match[1]))
        return None
    if kind == "009":
        return removed(job, text, _number(hold, "LastHoldReasonCode"), hold)
    return None


def _text(ad: Mapping[str, Any], *keys: str) -> str:
    for key in keys:
        if isinstance(found := ad.get(key), str) and found:
            return " ".join(found.split())
    return ""


def _number(ad: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        if isinstance(found := ad.get(key), int) and not isinstance(found, bool):
            return found
    return None


@cache
def _warn(number: str) -> None:
    log.warning("HTCondor's JobStatus %s is not known here; taken as UNKNOWN", number)
