"""What Grid Engine says of jobs: ``qstat -xml``, what a shell keeps of ``qacct -j``, and what both mean.

States are letters (sge_status(5)), ends are codes (``failed``) beside the script's exit status. Two things Grid
Engine does not tell: who killed a job (UGE's ``deleted_by`` does), and that a job which waited was deleted, of which
no record stays. Read with the man pages of 8.1.9 and tried on it. Pure; no Airflow.
"""

from __future__ import annotations

import logging
import re
import signal as signals
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from xml.etree import ElementTree

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.counting import COUNTED, ELEMENTS

log = logging.getLogger(__name__)

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_KNOWN = frozenset("dEhrRsSTtwq")

Key = tuple[str, str]
"""A job's number and its task's, the latter empty for a job without tasks."""


def key_of(native_id: str) -> Key:
    """``9.2`` is task 2 of job 9."""
    number, _, task = native_id.partition(".")
    return number, task


@dataclass(frozen=True)
class Queued:
    """A job or a task in the queue: its whole name and its state's letters."""

    name: str
    letters: str


def queue_of(text: str) -> Mapping[Key, Queued]:
    """All jobs and tasks in an answer of ``qstat -xml``.

    :raises AnswerUnreadable: it is not such an answer, or not the whole of it
    """
    found: dict[Key, Queued] = {}
    for entry in _tree(text, "job_info").iter("job_list"):
        number, name = entry.findtext("JB_job_number", ""), entry.findtext("JB_name", "")
        letters = entry.findtext("state", "")
        if not number.isdecimal():
            raise AnswerUnreadable(f"qstat: a job without a number: {name[:100]!r}")
        tasks = entry.findtext("tasks")
        for task in _tasks(tasks) if tasks else [""]:
            found[number, task] = Queued(name, letters)
    return found


def reasons_of(text: str) -> Mapping[Key, str]:
    """Why jobs and tasks are in error, from ``qstat -j … -xml``; nothing where the answer does not tell."""
    try:
        tree = _tree(text, "detailed_job_info")
    except AnswerUnreadable:
        return {}
    found: dict[Key, str] = {}
    for job in tree.iterfind("djob_info/element"):
        number = job.findtext("JB_job_number", "")
        for task in job.iterfind("JB_ja_tasks/*"):
            words = [" ".join((each.text or "").split()) for each in task.iter("QIM_message")]
            if words:
                reason = _STAMP.sub("", "; ".join(dict.fromkeys(words)))
                found[number, task.findtext("JAT_task_number", "")] = reason
                # A job without tasks has one, with the number 1.
                found.setdefault((number, ""), reason)
    return found


WAITING = (
    ELEMENTS
    + 'BEGIN{RS="<"}/^job_list/{s=t=""}sub(/^state>/,""){s=$0}sub(/^tasks>/,""){t=$0}'
    + r'/^\/job_list>/{if(s~/^R?qw?$/)w+=t==""?1:elements(t)}/^\/job_info>/{e=1}'
    + f'END{{if(e)print w+0 "\\n{COUNTED}"}}'
)
"""An awk program: how many jobs and tasks in an answer of ``qstat -xml`` wait for room; those that are held or in
error do not.
"""


def waiting_of(lines: Iterable[str]) -> int | None:
    """The number that :data:`WAITING` printed; None when it did not count."""
    rows = list(lines)
    return int(rows[0]) if len(rows) == 2 and rows[0].isdecimal() and rows[1] == COUNTED else None


def slots_of(text: str) -> Mapping[str, tuple[int, int]]:
    """Slots that are used and that are up, by queue, in an answer of ``qstat -g c -xml``.

    :raises AnswerUnreadable: it is not such an answer, or not the whole of it
    """
    found: dict[str, tuple[int, int]] = {}
    for queue in _tree(text, "job_info").iter("cluster_queue_summary"):
        name, used, free = (queue.findtext(each, "").strip() for each in ("name", "used", "available"))
        if name and used.isdecimal() and free.isdecimal():
            found[name] = int(used), int(used) + int(free)
    return found


_STAMP = re.compile(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d(?:\.\d+)? \[\d+:\d+\]: ")


def _tree(text: str, root: str) -> ElementTree.Element:
    # Job names may hold what XML does not allow. Entities are of no use to anybody honest here.
    clean = _NOT_XML.sub("?", text).strip()
    clean = clean[clean.find("<?xml") :] if "<?xml" in clean else clean
    if "<!" in clean:
        raise AnswerUnreadable("qstat: an answer with declarations is not Grid Engine's")
    try:
        tree = ElementTree.fromstring(clean)  # noqa: S314  # nothing is declared in it
    except ElementTree.ParseError as error:
        raise AnswerUnreadable(f"qstat: {error}: {clean[:200]!r}") from error
    if tree.tag != root:
        raise AnswerUnreadable(f"qstat: {tree.tag} instead of {root}")
    return tree


def _tasks(text: str) -> Iterator[str]:
    """``3``, ``3,4``, ``5-9:1`` and any list of those; a range is as large as Grid Engine's arrays at most."""
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?\s*", part)
        if match is None:
            raise AnswerUnreadable(f"qstat: tasks {text[:100]!r}")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if (last - first) // max(1, step) > _MAX_TASKS:
            raise AnswerUnreadable(f"qstat: tasks {text[:100]!r}")
        yield from map(str, range(first, last + 1, max(1, step)))


_MAX_TASKS = 10_000_000


def state_of(letters: str, *, held: bool = True, reason: str = "") -> tuple[JobState, Outcome | None, str]:
    """Neutral state, outcome and words for a state's letters.

    :param held: of a job that is held: a person or the site does that, and not another job that it waits for
    :param reason: why it is in error
    """
    if not letters or set(letters) - _KNOWN:
        _warn(letters)
    kinds = set(letters) & _KNOWN
    words = "being deleted" if "d" in kinds else ""
    if "E" in kinds:
        return JobState.QUEUED, Outcome.NEVER_STARTS, reason or "in error; Grid Engine does not say why"
    if kinds & set("sST"):
        return JobState.SUSPENDED, Outcome.SUSPENDED, words or _SUSPENDED[next(c for c in "sST" if c in kinds)]
    if kinds & set("rt"):
        return JobState.ACTIVE, None, words
    if "h" in kinds:
        return (JobState.QUEUED, Outcome.HELD, "held") if held else (JobState.QUEUED, None, "waits for another job")
    if kinds & set("qw"):
        return JobState.QUEUED, None, words
    return JobState.UNKNOWN, None, words


_SUSPENDED = {"s": "suspended", "S": "its queue is suspended", "T": "suspended, because its queue's load is too high"}


@cache
def _warn(letters: str) -> None:
    log.warning("Grid Engine's job state %r is not known here", letters)


@dataclass(frozen=True)
class Account:
    """One record of accounting.

    :param failed: Grid Engine's code for what went wrong, 0 for nothing
    :param words: its words for it
    :param exit_status: the script's, above 128 when a signal ended it
    :param deleted_by: who deleted it, where Grid Engine tells (UGE)
    :param wallclock_s: how long it ran, in seconds
    :param memory: most memory that it had, bytes
    :param limits: the resources that it asked for, as it was asked
    :param started: when, where that can be read
    """

    key: Key
    name: str
    failed: int
    words: str
    exit_status: int
    deleted_by: str
    wallclock_s: float
    memory: float
    limits: Mapping[str, str]
    started: datetime | None = None


ACCOUNTS = (
    "jobname", "jobnumber", "taskid", "failed", "exit_status", "deleted_by", "ru_wallclock", "maxvmem", "category",
    "start_time",
)  # fmt: skip
"""The fields of ``qacct -j`` that are kept, in the order in which :data:`KEEP` prints them."""

KEEP = (
    'function p(){if("jobnumber" in f && (W=="" || index(W," " f["jobnumber"] " ")))'
    'printf "%s\\n",'
    + '"|"'.join(f'f["{name}"]' for name in ACCOUNTS[1:] + ACCOUNTS[:1])
    + ';split("",f)}/^====/{p();next}'
    + r'{k=$1;sub(/^[^ \t]+[ \t]*/,"");sub(/[ \t\r]+$/,"");gsub(/[|]/,"/");f[k]=$0}END{p()}'
)
"""An awk program: one line per record of ``qacct -j`` for the job numbers in the variable ``W`` (each between blanks;
all of them when it is empty), so that an account's whole history does not travel. The name stands last.
"""


def accounts_of(lines: Iterable[str]) -> Mapping[Key, list[Account]]:
    """The records that :data:`KEEP` printed, in the order of accounting; what is none is skipped."""
    found: dict[Key, list[Account]] = {}
    for line in lines:
        values = line.split("|")
        if len(values) != len(ACCOUNTS):
            continue
        number, task, failed, status, by, wallclock, memory, category, started, name = values
        code, exit_status = re.match(r"\d+", failed), re.match(r"\d+", status)
        if not number.isdecimal() or code is None or exit_status is None:
            continue
        key = (number, task if task.isdecimal() and task != "0" else "")
        account = Account(
            key,
            name,
            int(code[0]),
            " ".join(failed[code.end() :].strip(" :").split()),
            int(exit_status[0]),
            "" if by in ("", "NONE", "undefined") else by,
            _number(wallclock, _SECONDS),
            _number(memory, _BYTES),
            _limits(category),
            _moment(started),
        )
        found.setdefault(key, []).append(account)
    return found


def _moment(text: str) -> datetime | None:
    """``Sat Nov 21 08:02:10 2026``, in UTC."""
    try:
        return datetime.strptime(text, "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    except ValueError:
        return None


def _limits(category: str) -> Mapping[str, str]:
    words = category.split()
    lists = [after for word, after in pairwise(words) if word == "-l"]
    pairs = [pair.partition("=") for each in lists for pair in each.split(",")]
    return {name: value for name, equals, value in pairs if equals}


_SECONDS: Mapping[str, float] = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES: Mapping[str, float] = {
    "": 1, "b": 1, "k": 1000, "m": 1e6, "g": 1e9, "t": 1e12, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4,
    "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "KB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4,
    "B": 1,
}  # fmt: skip


def _number(text: str, units: Mapping[str, float]) -> float:
    """``6s``, ``3.1MB``, ``300M``, ``1:00:00``; 0 for what is none of them."""
    match = re.fullmatch(r"([\d.]+)\s*([A-Za-z]{0,2})", text.strip())
    if match and match[1].count(".") <= 1 and match[1] != "." and match[2] in units:
        return float(match[1]) * units[match[2]]
    if re.fullmatch(r"(\d+:)?\d+:\d+", text):
        return sum(float(part) * 60.0**place for place, part in enumerate(reversed(text.split(":"))))
    return 0.0


AGAIN = frozenset({24, 25})
"""Codes of a run that another one follows."""

_BEFORE = frozenset({26, 27, 28, 32, 33})
"""The job could not be started because of what it asks for."""

_AFTER = frozenset({0, 12, 13, 14, 15, 16})
"""The job ran; what came after it may have failed."""

_KILLED = frozenset({17, 37, 100})


def end_of(  # noqa: PLR0911  # a case each
    account: Account,
) -> tuple[JobState, Outcome, int | None, int | None, str]:
    """State, outcome, exit code, signal and words of the record of a run that none follows."""
    words = f"{account.failed}: {account.words}" if account.failed else ""
    code, signal = account.exit_status, account.exit_status - 128 if 128 < account.exit_status <= 192 else None
    if account.deleted_by:
        return JobState.CANCELED, Outcome.CANCELED, None, signal, f"deleted by {account.deleted_by}"
    if account.failed in _AFTER:
        if code == 0:
            return JobState.COMPLETE, Outcome.COMPLETED, 0, None, words
        return JobState.FAILED, Outcome.FAILED if signal is None else Outcome.SIGNALED, code, signal, words
    if account.failed == 30:
        return JobState.FAILED, Outcome.FAILED, code, None, words
    if account.failed in _BEFORE:
        return JobState.FAILED, Outcome.NEVER_STARTS, None, None, words
    if account.failed in _KILLED and signal is not None:
        outcome = _killed(account, signal)
        state = JobState.CANCELED if outcome is Outcome.CANCELED else JobState.FAILED
        return state, outcome, code, signal, f"{words}, {_name(signal)}"
    return JobState.FAILED, Outcome.NODE_FAILURE, None, None, words


def _killed(account: Account, signal: int) -> Outcome:
    """Why a run was killed, as far as its limits tell."""
    time, memory = account.limits.get("h_rt", ""), account.limits.get("h_vmem", "")
    if time and account.wallclock_s >= _number(time, _SECONDS) > 0:
        return Outcome.WALLTIME
    if memory and account.memory >= 0.95 * _number(memory, _BYTES) > 0:
        return Outcome.OUT_OF_MEMORY
    if account.failed == 37 or signal == signals.SIGXCPU:
        # A queue has limits of its own, which the record does not name.
        return Outcome.WALLTIME
    # The whole job was killed, which qdel does: with -notify it sends SIGUSR2 first.
    return Outcome.CANCELED if signal in (signals.SIGKILL, signals.SIGUSR2) else Outcome.SIGNALED


def _name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
