"""What PBS Pro, OpenPBS and Torque say about jobs: ``qstat -f`` as text and as JSON, exit statuses, comments.

Read with the sources of OpenPBS 23.06 (``job.h``: ``JOB_EXEC_*``, substates; ``svr_jobfunc.c``: comments) and
Torque 7 (``pbs_error_db.h``, ``mom_main.c``), and their man pages; Torque's statuses with "Job Exit Status" of its
Administrator Guide, 6.1.2. Pure; no Airflow.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import JobRef, JobStatus
from airavata_provider.schedulers.load import QueueLoad, added, together

log = logging.getLogger(__name__)

Attributes = Mapping[str, str]
"""A job's attributes by name in lower case, resources as ``resource_list.walltime``; ``id`` is the job's."""

STATES: Mapping[str, JobState] = {
    "B": JobState.ACTIVE,
    "C": JobState.COMPLETE,
    "E": JobState.ACTIVE,
    "F": JobState.COMPLETE,
    "H": JobState.QUEUED,
    "M": JobState.QUEUED,
    "Q": JobState.QUEUED,
    "R": JobState.ACTIVE,
    "S": JobState.SUSPENDED,
    "T": JobState.QUEUED,
    "U": JobState.SUSPENDED,
    "W": JobState.QUEUED,
    "X": JobState.COMPLETE,
}
"""Letters of ``job_state``. C (Torque), F (PBS) and X (an element of an array, PBS) are ends of every kind: the exit
status tells which.
"""

_NO_JOB = re.compile(
    r"Unknown Job Id(?: Error)?\s+(\S+)|(\S+) Job has finished"
    r"|Job has finished (\S+)|Job not found(?: in queue)?\s+(\S+)"
)
_AROUND = re.compile(r"\bqstat: ?|, use -x or -H to obtain historical job information")
_WALLTIME = re.compile(
    r"walltime \S+ exceeded limit|exceeded resource walltime|exceeded wall(?:clock|time) limit", re.IGNORECASE
)
_MEMORY = re.compile(
    r"\bp?v?mem\b.{0,40}exceeded limit|exceeded resource v?mem|cgroup mem\w* limit|oom.?kill|out of memory",
    re.IGNORECASE,
)
_NODE = re.compile(r"\bnode (?:fail|crash|reboot|down)|mom is down|could not connect to mom", re.IGNORECASE)
_PREEMPTED = re.compile(r"preempt", re.IGNORECASE)
_DELETED = re.compile(r"\bterminated\b|\bjob deleted\b|deleted as result of dependency", re.IGNORECASE)
_NEVER = re.compile(r"can never run", re.IGNORECASE)

CODES: Mapping[int, Outcome] = {
    -4: Outcome.NODE_FAILURE,
    -5: Outcome.NODE_FAILURE,
    -6: Outcome.NODE_FAILURE,
    -14: Outcome.NODE_FAILURE,
    -20: Outcome.NODE_FAILURE,
    -26: Outcome.OUT_OF_MEMORY,
    -27: Outcome.OUT_OF_MEMORY,
    -28: Outcome.WALLTIME,
    -29: Outcome.WALLTIME,
}
"""What exit statuses below zero, which are PBS's own word, tell of an end: the execution daemon was started anew, or
it or another node's was lost; a limit of vmem, mem, cput or walltime was exceeded. With any other, the job could not
be started, or was given up.
"""

TORQUE_CODES: Mapping[int, Outcome] = {
    -4: Outcome.NODE_FAILURE,
    -5: Outcome.NODE_FAILURE,
    -6: Outcome.NODE_FAILURE,
    -10: Outcome.OUT_OF_MEMORY,
    -11: Outcome.WALLTIME,
    -12: Outcome.WALLTIME,
}
"""The same of Torque, which counts otherwise."""

_TERMINATED = "91"
"""The substate of a job that somebody deleted (PBS)."""

_SIGNALS = frozenset({2, 9, 15})
"""INT KILL TERM: what ends a job from outside."""


def signal_of(code: int) -> int | None:
    """The signal that ended a job with that exit status: from 256 up PBS tells it, from 129 on a shell does."""
    return code - 256 if code >= 256 else code - 128 if 128 < code <= 192 else None


def parse_jobs(lines: Sequence[str]) -> list[Attributes]:
    """The jobs in an answer of ``qstat -f``, JSON or text, whatever else a wrapper printed around it."""
    if any(line.strip() == "{" for line in lines):
        return _json(lines)
    return parse_text(lines)


def parse_text(lines: Iterable[str]) -> list[Attributes]:
    """Jobs as text: ``Job Id: 12.server``, then ``    name = value``; a long value goes on after a tab.

    A value may hold newlines (exported shell functions do): what stands before the environment is taken from its
    first line, what stands after it from its last, so that no value passes for another attribute.
    """
    jobs: list[dict[str, str]] = []
    last = ""
    for line in lines:
        if line.startswith("Job Id: "):
            jobs.append({"id": line.removeprefix("Job Id: ").strip()})
            last = ""
        elif not jobs:
            continue
        elif line.startswith("\t"):
            if last:
                jobs[-1][last] += line[1:]
        elif match := re.match(r" {4}([A-Za-z_][\w.]*) = (.*)$", line):
            last = match[1].lower()
            if last in ("job_name", "job_state", "substate") and last in jobs[-1]:
                last = ""
            else:
                jobs[-1][last] = match[2]
        else:
            last = ""
    return list(jobs)


def parse_queues(lines: Iterable[str]) -> Mapping[str, Attributes]:
    """Queues by name, as ``qstat -Q -f`` prints them: as jobs, and a long value goes on after a tab or blanks."""
    queues: dict[str, dict[str, str]] = {}
    queue: dict[str, str] = {}
    last = ""
    for line in lines:
        if line.startswith("Queue: "):
            queue, last = queues.setdefault(line.removeprefix("Queue: ").strip(), {}), ""
        elif match := re.match(r" {4}([A-Za-z_][\w.]*) = (.*)$", line):
            last = match[1].lower()
            queue[last] = match[2]
        elif last and re.match(r"\t| {8}", line):
            queue[last] += line.strip()
        else:
            last = ""
    return queues


def loads_of(queues: Mapping[str, Attributes], names: Iterable[str]) -> Mapping[str, QueueLoad]:
    """How full queues are, by the server's counts; "" is all of them. To a routing queue's jobs belong those of the
    queues where it leads. One that is not enabled takes no jobs, one that is not started starts none. What stands
    behind a queue's ``@`` is its server.
    """
    counts: dict[str, QueueLoad] = {}
    for name, queue in queues.items():
        states = dict(re.findall(r"(\w+):(\d+)", queue.get("state_count", "")))
        if "Queued" in states and "Running" in states:
            closed = "False" in (queue.get("enabled"), queue.get("started"))
            counts[name] = QueueLoad(int(states["Queued"]), int(states["Running"]), closed=closed)
    found = {}
    for asked in names:
        name = asked.partition("@")[0]
        goes = re.split(r"[,\s]+", queues.get(name, {}).get("route_destinations", ""))
        others = {each.partition("@")[0] for each in goes} - {name} if name else set(counts)
        # Of those that it leads to, the open ones; but nothing gets past itself when it is closed.
        leads = together(counts[each] for each in sorted(others) if each in counts)
        here = counts.get(name)
        load = leads if not name else here if here is None or leads is None else added((here, leads))
        if load is not None:
            found[asked] = load
    return found


def _json(lines: Sequence[str]) -> list[Attributes]:
    jobs: list[Attributes] = []
    start: int | None = None
    for number, line in enumerate(lines):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            document = lines[start : number + 1]
            try:
                # Not strict: a value's own newline or tab stands there as it is.
                jobs += _members(json.loads("\n".join(document), strict=False))
            except (ValueError, AttributeError, TypeError):
                jobs += _salvage(document)
            start = None
    return jobs


def _members(document: object) -> list[Attributes]:
    found: list[Attributes] = []
    if not isinstance(document, dict):
        return []
    for native_id, attributes in document.get("Jobs", {}).items():
        flat = {"id": str(native_id)}
        for name, value in attributes.items():
            if isinstance(value, dict):
                flat |= {f"{name}.{key}".lower(): str(each) for key, each in value.items()}
            else:
                flat[name.lower()] = str(value)
        found.append(flat)
    return found


def _salvage(lines: Sequence[str]) -> list[Attributes]:
    """JSON as it is printed, one member a line: versions before 20 write some values without escapes, or twice."""
    jobs: list[dict[str, str]] = []
    group = ""
    for line in lines:
        match = re.match(r'\s*"([^"]+)":\s*(.*?),?$', line)
        if match is None:
            group = "" if line.strip().startswith("}") else group
        elif match[2] == "{":
            if re.match(r"\d+(?:\[\d*\])?(?:\.|$)", match[1]):
                jobs.append({"id": match[1]})
                group = ""
            else:
                group = f"{match[1]}."
        elif jobs:
            name = f"{group}{match[1]}".lower()
            if name not in ("job_name", "job_state", "substate") or name not in jobs[-1]:
                jobs[-1][name] = match[2].removeprefix('"').removesuffix('"')
    return list(jobs)


def sequence(native_id: str) -> str:
    """An id without its server: ``12``, ``12[]``, ``12[3]``. Servers write their own name in several ways."""
    return native_id.partition(".")[0]


def named(job: Attributes, ref: JobRef) -> bool:
    """Whether a job in an answer has the name that the reference says; Torque names elements ``name-index``."""
    name = job.get("job_name", "")
    return ref.called(name) or (ref.index is not None and name == f"{ref.name}-{ref.index}")


def unexplained(missing: Iterable[str], words: str) -> list[str]:
    """Of ids that an answer did not show, those of which it did not say either that there is no such job."""
    denied = [next(group for group in match if group) for match in _NO_JOB.findall(words)]
    known = {sequence(each) for each in denied}
    return [native_id for native_id in missing if sequence(native_id) not in known]


def only_denials(words: str) -> bool:
    """Whether standard error told of nothing but jobs that are not there."""
    return not re.search(
        r"\w", re.sub(r"\bqstat: ?|, use -x or -H to obtain historical job information", "", _NO_JOB.sub("", words))
    )


def status(job: Attributes, ref: JobRef, *, words: str = "") -> JobStatus:
    """One job's status from its attributes; a letter that nobody knows is UNKNOWN.

    :param words: what the job's own output says of its end
    """
    letter = job.get("job_state", "")
    comment = " ".join(job.get("comment", "").split())
    state = STATES.get(letter)
    if state is None:
        _warn(letter)
        return JobStatus(ref.native_id, JobState.UNKNOWN, letter, ref.name, reason=comment)
    if letter in ("C", "F", "X"):
        return _end(job, ref, letter, " ".join(f"{comment} {words}".split()))
    outcome = None
    if letter == "H" and not ("depend" in job and job.get("hold_types") in ("s", None)):
        outcome = Outcome.HELD
    elif state is JobState.QUEUED and _NEVER.search(comment):
        outcome = Outcome.NEVER_STARTS
    elif state is JobState.SUSPENDED:
        outcome = Outcome.SUSPENDED
    reason = comment if state is not JobState.ACTIVE else ""
    return JobStatus(ref.native_id, state, letter, ref.name, reason=reason, outcome=outcome)


@cache
def _warn(letter: str) -> None:
    log.warning("PBS's job state %r is not known here; taken as UNKNOWN", letter)


def _end(job: Attributes, ref: JobRef, letter: str, said: str) -> JobStatus:
    code = _number(job.get("exit_status"))
    outcome, reason = _outcome(job, code, said)
    state = {Outcome.COMPLETED: JobState.COMPLETE, Outcome.CANCELED: JobState.CANCELED}.get(outcome, JobState.FAILED)
    signal = None if code is None else signal_of(code)
    if code is not None and code >= 256:
        code, signal = 128 + (code - 256) % 128, (code - 256) % 128
    elif code is not None and code < 0:
        code = None
    return JobStatus(ref.native_id, state, letter, ref.name, code, signal, reason, outcome)


def _outcome(job: Attributes, code: int | None, said: str) -> tuple[Outcome, str]:
    """What kind of end, and the words for it; the first rule that holds."""
    deleted = job.get("substate") == _TERMINATED or bool(_DELETED.search(said))
    torque = job.get("job_state") == "C"
    meant = None if code is None else (TORQUE_CODES if torque else CODES).get(code)
    signal = None if code is None else signal_of(code)
    late = bool(_WALLTIME.search(said)) or (signal in _SIGNALS and _over_time(job))
    # Torque has no substate for a deleted job; its SIGTERM is all that is seen of it.
    ended = signal == 15 and torque
    rules = (
        (late, Outcome.WALLTIME, _used(job)),
        (meant is Outcome.WALLTIME, Outcome.WALLTIME, f"Exit_status {code}: {_used(job)}"),
        (
            meant is Outcome.OUT_OF_MEMORY or (code != 0 and bool(_MEMORY.search(said))),
            Outcome.OUT_OF_MEMORY,
            "memory",
        ),
        (deleted, Outcome.CANCELED, "deleted"),
        (
            meant is Outcome.NODE_FAILURE or (code != 0 and bool(_NODE.search(said))),
            Outcome.NODE_FAILURE,
            f"Exit_status {code}",
        ),
        (code != 0 and bool(_PREEMPTED.search(said)), Outcome.PREEMPTED, "preempted"),
        (code is None, Outcome.UNKNOWN, "the scheduler tells no exit status"),
        (
            code is not None and code < 0,
            Outcome.FAILED,
            f"it could not be started, or was given up: Exit_status {code}",
        ),
        (ended, Outcome.CANCELED, f"ended by SIGTERM: exit_status {code}"),
        (signal is not None, Outcome.SIGNALED, f"signal {signal}"),
        (code != 0, Outcome.FAILED, ""),
    )
    for holds, outcome, words in rules:
        if holds:
            return outcome, said or words
    return Outcome.COMPLETED, ""


def _over_time(job: Attributes) -> bool:
    used, limit = (_seconds(job.get(f"{word}.walltime")) for word in ("resources_used", "resource_list"))
    return used is not None and limit is not None and used >= limit


def _used(job: Attributes) -> str:
    return f"walltime {job.get('resources_used.walltime')} of {job.get('resource_list.walltime')}"


def _seconds(text: str | None) -> int | None:
    total = 0
    for part in (text or "x").split(":"):
        if not part.isdecimal() or len(part) > 9:
            return None
        total = total * 60 + int(part)
    return total


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,9}", text.strip()) else None
