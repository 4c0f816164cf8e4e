"""SLURM's words for what a job is doing, how it ended and why it waits, as neutral states and outcomes.

Read with squeue(1) of 22.05, "JOB STATE CODES" and "JOB REASON CODES", and ``job_reason_string`` of later sources;
states that later versions added are in the table too. A word that nobody knows is UNKNOWN, never an exception. Pure;
no Airflow.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import JobStatus
from airavata_provider.schedulers.counting import COUNTED, ELEMENTS
from airavata_provider.schedulers.load import QueueLoad, together

log = logging.getLogger(__name__)

QUEUE_STATES: Mapping[str, JobState] = {
    "BOOT_FAIL": JobState.NON_CRITICAL_FAIL,
    "CANCELLED": JobState.CANCELED,
    "COMPLETED": JobState.COMPLETE,
    "COMPLETING": JobState.ACTIVE,
    "CONFIGURING": JobState.QUEUED,
    "DEADLINE": JobState.FAILED,
    "EXPEDITING": JobState.QUEUED,
    "FAILED": JobState.FAILED,
    "LAUNCH_FAILED": JobState.NON_CRITICAL_FAIL,
    "NODE_FAIL": JobState.NON_CRITICAL_FAIL,
    "OUT_OF_MEMORY": JobState.FAILED,
    "PENDING": JobState.QUEUED,
    "POWER_UP_NODE": JobState.QUEUED,
    "PREEMPTED": JobState.NON_CRITICAL_FAIL,
    "RECONFIG_FAIL": JobState.NON_CRITICAL_FAIL,
    "REQUEUED": JobState.QUEUED,
    "REQUEUE_FED": JobState.QUEUED,
    "REQUEUE_HOLD": JobState.QUEUED,
    "RESIZING": JobState.ACTIVE,
    "RESV_DEL_HOLD": JobState.QUEUED,
    "REVOKED": JobState.UNKNOWN,
    "RUNNING": JobState.ACTIVE,
    "SIGNALING": JobState.ACTIVE,
    "SPECIAL_EXIT": JobState.QUEUED,
    "STAGE_OUT": JobState.ACTIVE,
    "STOPPED": JobState.SUSPENDED,
    "SUSPENDED": JobState.SUSPENDED,
    "TIMEOUT": JobState.FAILED,
    "UPDATE_DB": JobState.UNKNOWN,
}
"""States while the controller knows the job. A job that lost its node or was preempted may be requeued yet."""

HISTORY_STATES: Mapping[str, JobState] = {
    **QUEUE_STATES,
    "BOOT_FAIL": JobState.FAILED,
    "LAUNCH_FAILED": JobState.FAILED,
    "NODE_FAIL": JobState.FAILED,
    "PREEMPTED": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
}
"""States of a job that left the queue: nothing requeues it any more."""

_ENDS: Mapping[str, Outcome] = {
    "BOOT_FAIL": Outcome.NODE_FAILURE,
    "CANCELLED": Outcome.CANCELED,
    "COMPLETED": Outcome.COMPLETED,
    "DEADLINE": Outcome.WALLTIME,
    "LAUNCH_FAILED": Outcome.NODE_FAILURE,
    "NODE_FAIL": Outcome.NODE_FAILURE,
    "OUT_OF_MEMORY": Outcome.OUT_OF_MEMORY,
    "PREEMPTED": Outcome.PREEMPTED,
    "RECONFIG_FAIL": Outcome.NODE_FAILURE,
    "REQUEUE_HOLD": Outcome.HELD,
    "RESV_DEL_HOLD": Outcome.HELD,
    "SPECIAL_EXIT": Outcome.HELD,
    "STOPPED": Outcome.SUSPENDED,
    "SUSPENDED": Outcome.SUSPENDED,
    "TIMEOUT": Outcome.WALLTIME,
}
"""States that say the outcome by themselves."""

_NEVER = re.compile(
    r"AccountNotAllowed|BadConstraints|DependencyNeverSatisfied|InvalidAccount|InvalidQOS|MaxMemPerLimit"
    r"|PartitionTimeLimit|QOSNotAllowed|QOSMin\w+"
    # One job's own limits. Those of users and groups are cured by the end of other jobs.
    r"|(?:QOS|Assoc)Max\w+(?:PerJob|PerNode|PerJobLimit|PerNodeLimit)"
)
_HELD = re.compile(r"JobHeld(?:User|Admin)|JobHoldMaxRequeue|ReservationDeleted|launch_failed_requeued_held")

_SIZES = frozenset({"PartitionConfig", "PartitionNodeLimit"})
"""Reasons that mean "larger than the partition" as well as "its nodes are down just now"."""


@dataclass(frozen=True)
class Sizes:
    """Nodes and processors: what a job asks for, or what a partition has and allows one job at most."""

    nodes: int
    cpus: int


def outcome_of(word: str, state: JobState, reason: str, *, fits: bool | None = None) -> Outcome | None:
    """What SLURM's words mean for a user; None when they say no more than the state.

    :param word: state, whole
    :param reason: ``squeue``'s reason
    :param fits: whether the job's sizes fit its partition at all, where that is known
    """
    if word in _ENDS:
        return _ENDS[word]
    never = _NEVER.fullmatch(reason) or (reason in _SIZES and fits is False)
    if never and state in (JobState.QUEUED, JobState.FAILED):
        return Outcome.NEVER_STARTS
    if state is JobState.QUEUED and _HELD.fullmatch(reason):
        return Outcome.HELD
    if word == "FAILED":
        return Outcome.SIGNALED if reason.startswith("RaisedSignal") else Outcome.FAILED
    return None


def status(
    native_id: str,
    name: str,
    native: str,
    reason: str,
    states: Mapping[str, JobState],
    *,
    code: str = "",
    fits: bool | None = None,
) -> JobStatus:
    """One job's status from SLURM's words for it.

    :param native: as printed: whole, truncated (``OUT_OF_ME+``), or with who did it (``CANCELLED by 1000``)
    :param reason: ``squeue``'s reason, ``None`` for none
    :param code: ``ExitCode`` as ``status:signal``
    :param fits: see :func:`outcome_of`
    """
    word, state = neutral(native, states)
    exit_code, signal = _exit_code(code)
    if state is JobState.COMPLETE:
        exit_code, signal = exit_code or 0, None
    elif exit_code == 0:
        # A job that timed out or was cancelled shows 0:0, which is nobody's exit code.
        exit_code = None
    reason = "" if reason in ("None", "(null)") else reason
    outcome = outcome_of(word, state, reason, fits=fits)
    if outcome is Outcome.FAILED and signal is not None:
        outcome = Outcome.SIGNALED
    words = reason
    if state is not JobState.QUEUED and word not in ("RUNNING", "COMPLETED", "FAILED"):
        words = native.strip() if native.strip().startswith(word) else word
    return JobStatus(native_id, state, word, name, exit_code, signal, words, outcome)


def neutral(native: str, states: Mapping[str, JobState]) -> tuple[str, JobState]:
    """SLURM's full word and the neutral state for a state as it is printed; UNKNOWN for a new one."""
    words = native.split()
    word = words[0].upper() if words else ""
    if word.endswith("+"):
        fits = [known for known in states if known.startswith(word[:-1])]
        if fits and len({states[fit] for fit in fits}) == 1:
            word = fits[0]
    if word not in states:
        _warn(native)
        return word, JobState.UNKNOWN
    return word, states[word]


@cache
def _warn(native: str) -> None:
    log.warning("SLURM's job state %r is not known here; taken as UNKNOWN", native)


def _exit_code(text: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if match is None:
        return None, None
    code, signal = int(match[1]), int(match[2])
    return (None, signal) if signal else (code, None)


def holds(elements: str, index: int) -> bool:
    """Whether ``[4-9,12%2]`` holds an index; ``0-8:4`` counts in steps."""
    for part in elements.strip("[]").partition("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match:
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1) or 1
            if first <= index <= last and (index - first) % step == 0:
                return True
    return False


def partitions_of(lines: Iterable[str]) -> Mapping[str, Sizes]:
    """What partitions have, all nodes counted, whatever their state, and what they allow one job."""
    found: dict[str, Sizes] = {}
    for line in lines:
        # Allocated/idle/other/total processors; fewest-most nodes for one job.
        match = re.fullmatch(r"sizes\|(.+)\|(\d+)\|\d+/\d+/\d+/(\d+)\|\d+(?:-(\d+|infinite))?", line.strip())
        if match:
            nodes, most = int(match[2]), match[4] or "infinite"
            before = found.get(match[1], Sizes(0, 0))
            found[match[1]] = Sizes(
                before.nodes + (nodes if most == "infinite" else min(nodes, int(most))), before.cpus + int(match[3])
            )
    return found


def fits_in(asked: Sequence[str], partitions: Mapping[str, Sizes]) -> bool | None:
    """Whether ``partition, nodes, cpus`` of a line of ``squeue`` fit; None when that is not known."""
    if len(asked) < 3 or not (asked[1].isdecimal() and asked[2].isdecimal()):
        return None
    found = [partitions.get(name) for name in asked[0].split(",")]
    if None in found:
        return None
    return any(size and int(asked[1]) <= size.nodes and int(asked[2]) <= size.cpus for size in found)


COUNT = (
    ELEMENTS
    + '{k=1;if(i=index($4,"[")){k=elements(substr($4,i+1));if(split($4,z,"%")>1&&z[2]+0<k)k=z[2]+0}'
    + 'm=split($1,q,",");for(j=1;j<=m;j++){s[q[j]];if($2=="R")r[q[j]]+=k;'
    + "else if($3!~/^(JobH[eo]ld|ReservationDeleted|Dependency|BeginTime|JobArrayTaskLimit)|requeued.*held/)"
    + "w[q[j]]+=k}}"
    + f'END{{for(x in s)printf "%s|%d|%d\\n",x,r[x],w[x];print "{COUNTED}"}}'
)
"""An awk program: of lines ``partition|state|reason|id`` how many jobs run and wait for room, by partition. A job
that may go to several waits in each of them; each element of an array is a job, as far as its throttle lets it be.
"""


def counts_of(lines: Iterable[str]) -> Mapping[str, tuple[int, int]] | None:
    """Jobs that run and that wait, by partition, as :data:`COUNT` printed them; None when it did not count."""
    rows = list(lines)
    if COUNTED not in rows:
        return None
    found = (re.fullmatch(r"(.+)\|(\d+)\|(\d+)", row) for row in rows)
    return {match[1]: (int(match[2]), int(match[3])) for match in found if match}


def cpus_of(lines: Iterable[str]) -> tuple[Mapping[str, tuple[int, int]], str]:
    """CPUs that are busy and that are up, by partition, and the default one's name, "" where there is none. Of a
    partition that takes no jobs none are up.
    """
    found: dict[str, tuple[int, int]] = {}
    default = ""
    for line in lines:
        # Allocated/idle/other/total; a star behind the default partition's name.
        match = re.fullmatch(r"(.+?)(\*?)\|(\w+)\|(\d+)/(\d+)/\d+/\d+", line.strip())
        if match:
            name, star, state, busy, idle = match.groups()
            default = name if star else default
            before = found.get(name, (0, 0))
            here = (int(busy), int(busy) + int(idle)) if state == "up" else (0, 0)
            found[name] = before[0] + here[0], before[1] + here[1]
    return found, default


def loads_of(
    cpus: Mapping[str, tuple[int, int]],
    counts: Mapping[str, tuple[int, int]] | None,
    partitions: Mapping[str, str],
) -> Mapping[str, QueueLoad]:
    """How full partitions are.

    :param cpus: empty: nobody knows
    :param counts: a partition that is not among them has no jobs; None: nobody knows
    :param partitions: what is asked for: by the name that it is asked by, its own, or several with
        commas between; "" where that is not known
    """
    found = {}
    for asked, partition in partitions.items():
        here = []
        for each in partition.split(","):
            if each and (each in cpus or not cpus):
                busy, up = cpus.get(each, (None, None))
                running, waiting = (None, None) if counts is None else counts.get(each, (0, 0))
                here.append(QueueLoad(waiting, running, up, busy))
        if (load := together(here)) is not None:
            found[asked] = load
    return found
