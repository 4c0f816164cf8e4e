"""SLURM: ``sbatch``, ``squeue``, ``sacct``, ``scontrol``, ``scancel``.

Read with the man pages of 22.05 (``squeue`` "JOB STATE CODES", "JOB REASON CODES") and tried on 22.05.8;
states that later versions added are in the table too. Pure; no Airflow.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import ClassVar

from airavata_provider.errors import (
    AnswerUnreadable,
    ConfigurationError,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.models.job import JobState
from airavata_provider.schedulers import frame
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler, quote
from airavata_provider.schedulers.record import ExitRecord, control_directory, parse_exit_record
from airavata_provider.schedulers.request import JobRequest

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
"""States while the controller knows the job. A job that lost its node or was preempted may be requeued
yet.
"""

HISTORY_STATES: Mapping[str, JobState] = {
    **QUEUE_STATES,
    "BOOT_FAIL": JobState.FAILED,
    "LAUNCH_FAILED": JobState.FAILED,
    "NODE_FAIL": JobState.FAILED,
    "PREEMPTED": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
}
"""States of a job that left the queue: nothing requeues it any more."""

_ENVIRONMENT = "unset SQUEUE_ACCOUNT SQUEUE_LICENSES SQUEUE_PARTITION SQUEUE_QOS SQUEUE_USERS SQUEUE_NAMES"
"""Filters that a user's profile may set would hide jobs, and a hidden job looks like an absent one."""

_MAX_NAMES = 4000
"""Names on one command line: Linux limits one argument to 128 KiB. Above it the whole user's queue is
read.
"""

_SACCT = "-X -n -P"
_TROUBLE = re.compile(r"error|timed out|unable to contact|unexpected message|expired", re.IGNORECASE)
_ACCEPTED = re.compile(r"^Submitted batch job (\d+)\b", re.MULTILINE)
_PARSABLE = re.compile(r"^(\d+)(?:;[^;\s]*)?\s*$", re.MULTILINE)
_UNCERTAIN = re.compile(
    r"timed out|unable to contact slurm controller|unexpected message|zero bytes were transmitted"
    r"|communication|connection (?:reset|closed|refused)|(?:send|receive) (?:failure|error)|terminated",
    re.IGNORECASE,
)
_LATER = re.compile(
    r"temporarily un|(?:QOS|Assoc)(?:Max|Grp)\w*Submit\w*|maximum number of jobs|in standby mode|job limit",
    re.IGNORECASE,
)
_NOT_OURS = frozenset({"-M", "--clusters", "--cluster", "-a", "--array", "-W", "--wait", "--test-only"})
_TIMEOUT_STATUS = 124


class Slurm(Scheduler):
    """The SLURM workload manager."""

    name: ClassVar[str] = "slurm"
    native_id_expression: ClassVar[str] = "${SLURM_JOB_ID:-unknown}"
    restart_expression: ClassVar[str] = "${SLURM_RESTART_COUNT:-0}"

    def directives(self, request: JobRequest) -> Sequence[str]:
        """Lines of the head.

        :raises ConfigurationError: a raw directive that would take the job out of our sight (another
            cluster, an array) or a value that no directive can carry (a newline)
        """
        control = control_directory(request.directory, request.name)
        options: list[tuple[str, str | int | None]] = [
            ("--job-name", request.name),
            ("--chdir", request.directory),
            # % starts a replacement in file names, and two of them are one.
            ("--output", f"{control}/log".replace("%", "%%")),
            ("--open-mode", "append"),
            ("--partition", request.queue),
            ("--nodes", request.nodes),
            ("--ntasks", request.tasks),
            ("--cpus-per-task", request.cpus_per_task),
            ("--mem", f"{request.memory_mb}M" if request.memory_mb else None),
            ("--gres", f"gpu:{request.gpus}" if request.gpus else None),
            ("--time", _time(request.walltime_s)),
            ("--account", request.account),
            ("--qos", request.qos),
            ("--reservation", request.reservation),
            ("--comment", _printable(request.comment)),
            ("--signal", _signal(request)),
        ]
        lines = [f"#SBATCH {key}={_word(key, str(value))}" for key, value in options if value not in (None, "")]
        lines += [f"#SBATCH {_raw(line)}" for line in request.directives]
        return lines

    def submit_command(self, script: str, request: JobRequest) -> str:
        """``sbatch``; the name stands on the command line, where no directive overrides it."""
        return f"exec sbatch --parsable --job-name={quote(request.name)} {quote(script)}"

    def parse_submit(self, result: CommandResult) -> str:
        """The job's id; wrappers that sites put around ``sbatch`` may print more before it.

        A refusal that time cures (a full queue) is a ``SubmissionRefused`` whose ``transient`` is True.
        """
        words = " ".join(f"{result.stderr} {result.stdout}".split())[-1000:]
        # Without --parsable's lone number: a wrapper may have dropped the option.
        accepted = _ACCEPTED.findall(result.stdout)
        if result.exit_status == 0:
            accepted = accepted or _PARSABLE.findall(result.stdout)
        if accepted:
            return str(accepted[-1])
        if result.exit_status in (126, 127):
            raise SubmissionRefused(f"sbatch cannot be run: {words}", advice="is SLURM in the account's PATH?")
        if 0 < result.exit_status < _TIMEOUT_STATUS or result.exit_status == 255:
            if _LATER.search(words) and not re.search("timed out", words, re.IGNORECASE):
                refused = SubmissionRefused(words)
                refused.transient = True
                raise refused
            if not _UNCERTAIN.search(words) and re.search(r"error:|unrecognized option|invalid", words):
                raise SubmissionRefused(words)
        raise SubmissionUncertain(f"sbatch ended with status {result.exit_status}: {words or 'no words'}")

    def find_command(self, name: str, user: str | None, directory: str) -> str:
        """``squeue`` and ``sacct`` by name."""
        who = quote(user) if user else '"$(id -u)"'
        squeue = f"airavata_limit 30 squeue -h -a -t all -u {who} -n {quote(name)} -o '%i|%j'"
        # Without -S, sacct looks at today only.
        asked = f"-S now-30days -u {who} --name={quote(name)} -o JobIDRaw,JobName"
        sacct = f"airavata_limit 30 sacct {_SACCT} {asked}"
        return "\n".join(
            (
                frame.SETUP,
                _ENVIRONMENT,
                frame.frame("queue", squeue),
                frame.frame("accounting", _if_sacct(sacct)),
            )
        )

    def parse_find(self, result: CommandResult, name: str) -> str | None:
        """The first id under that name; None only when the queue, and accounting where there is any, have
        none.
        """
        found: set[int] = set()
        faults = []
        for label in ("queue", "accounting"):
            answer = frame.whole(result.stdout, label, stderr=result.stderr)
            found |= {int(i) for i, n in _split(answer.lines, 2) if n == name and i.isdigit()}
            if fault := _fault(answer):
                faults.append(f"{label}: {fault}")
        if found:
            return str(min(found))
        if faults:
            raise AnswerUnreadable("; ".join(faults))
        return None

    def status_command(self, jobs: Sequence[JobRef]) -> str:
        """``squeue`` for this user, filtered by our names.

        ``-u`` is filtered by the controller, so this is the cheapest question it can be asked; ``-j`` would
        fail as a whole for an id that it forgot, names do not.
        """
        return "\n".join((frame.SETUP, _ENVIRONMENT, frame.frame("queue", _squeue(jobs, "%i|%T|%r|%j"))))

    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """States by id; a line with one of the ids and another name is another job, after ids began anew."""
        answer = frame.whole(result.stdout, "queue", stderr=result.stderr)
        if fault := _fault(answer):
            raise AnswerUnreadable(f"squeue: {fault}")
        known = {job.native_id: job for job in jobs}
        states: dict[str, JobStatus] = {}
        for native_id, native, reason, name in _split(answer.lines, 4):
            if native_id in known and known[native_id].called(name):
                states[native_id] = status(native_id, name, native, reason, QUEUE_STATES)
        return states

    def history_command(self, jobs: Sequence[JobRef]) -> str:
        """The jobs' own exit records and ``sacct``; where that does not answer, ``scontrol`` job by job for
        those without a record (it knows what ``squeue`` knows, and the exit code)."""
        if not jobs:
            return f"{frame.SETUP}\n{frame.frame('records', ':')}\n{frame.frame('accounting', ':')}"
        records, controls = [], []
        for job in jobs:
            path = quote(f"{control_directory(job.directory, job.name)}/exit")
            records.append(f"airavata_record {quote(job.native_id)} {path}")
            show = f"airavata_limit 30 scontrol -o show job {quote(job.native_id)} 2>/dev/null"
            controls.append(f"[ -s {path} ] || {show} || :")
        ids = quote(",".join(job.native_id for job in jobs))
        sacct = f"airavata_limit 60 sacct {_SACCT} -j {ids} -o JobIDRaw,State,ExitCode,JobName"
        return "\n".join(
            (
                frame.SETUP,
                RECORD_FUNCTION,
                frame.frame("records", "\n".join(records)),
                frame.frame("accounting", _if_sacct(sacct)),
                'if [ "$airavata_status" -ne 0 ] || [ -n "$airavata_words" ]; then',
                frame.frame("controller", "\n".join(controls)),
                "fi",
            )
        )

    def parse_history(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """Ends only: a state of accounting that is none (its database lags) counts as no record.

        The outcome is SLURM's word (TIMEOUT, OUT_OF_MEMORY…), the exit code the script's own: ``sacct``
        shows a script's exit 139 as ``11:0``.
        """
        known = {job.native_id: job for job in jobs}
        lines = frame.whole(result.stdout, "records", stderr=result.stderr).lines
        records = {i: r for i, text in _split(lines, 2) if (r := parse_exit_record(text)) and r.native_id == i}
        accounting = frame.whole(result.stdout, "accounting", stderr=result.stderr)
        rows = [(i, n, s, c) for i, s, c, n in _split(accounting.lines, 4)]
        if controller := frame.unframe(result.stdout, "controller"):
            rows += [row for line in controller.lines if (row := _scontrol(line))]
        ends: dict[str, JobStatus] = {}
        for native_id, name, native, code in rows:
            if native_id in known and known[native_id].called(name):
                end = status(native_id, name, native, "", HISTORY_STATES, code=code)
                if end.state.terminal:
                    ends[native_id] = end
        for native_id, record in records.items():
            if native_id in known:
                name = known[native_id].name
                ends[native_id] = with_record(ends.get(native_id), record, native_id, name)
        fault = _fault(accounting)
        if fault and not ends and jobs:
            raise AnswerUnreadable(f"sacct: {fault}")
        return ends

    def cancel_command(self, jobs: Sequence[JobRef]) -> str:
        """``scancel`` for those of the jobs that are still there under their names; no other job's id is
        touched.
        """
        if not jobs:
            return ":"
        ours = "|".join(f"{quote(f'{job.native_id}|')}*{quote(f'|{job.name}')}" for job in jobs)
        ended = "|".join(f"*'|{word}|'*" for word, state in HISTORY_STATES.items() if state.terminal)
        return "\n".join(
            (
                frame.SETUP,
                _ENVIRONMENT,
                f"airavata_queue=$({_squeue(jobs, '%i|%T|%j')} </dev/null) || exit 1",
                "set --",
                'while IFS= read -r airavata_line; do case "$airavata_line" in',
                f"{ended}) ;;",
                f'{ours}) set -- "$@" "${{airavata_line%%|*}}";;',
                "esac; done <<AIRAVATA-QUEUE",
                "$airavata_queue",
                "AIRAVATA-QUEUE",
                'if [ "$#" -gt 0 ]; then airavata_limit 60 scancel "$@" </dev/null; fi',
            )
        )


RECORD_FUNCTION = """\
airavata_record() {
  if [ -s "$2" ] && IFS= read -r airavata_line <"$2"; then printf '%s|%s\\n' "$1" "$airavata_line"; fi
}"""
"""Shell function ``airavata_record ID FILE``: one line ``ID|record`` when there is an exit record."""


def status(
    native_id: str, name: str, native: str, reason: str, states: Mapping[str, JobState], *, code: str = ""
) -> JobStatus:
    """One job's status from SLURM's words for it.

    :param native: as printed: whole, truncated (``OUT_OF_ME+``), or with who did it (``CANCELLED by 1000``)
    :param reason: ``squeue``'s reason, ``None`` for none
    :param code: ``ExitCode`` as ``status:signal``
    """
    word, state = neutral(native, states)
    exit_code, signal = _exit_code(code)
    if state is JobState.COMPLETE:
        exit_code, signal = exit_code or 0, None
    elif exit_code == 0:
        # A job that timed out or was cancelled shows 0:0, which is nobody's exit code.
        exit_code = None
    words = "" if reason in ("None", "(null)") else reason
    if state is not JobState.QUEUED and word not in ("RUNNING", "COMPLETED", "FAILED"):
        words = native.strip() if native.strip().startswith(word) else word
    return JobStatus(native_id, state, word, name, exit_code, signal, words)


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


def with_record(end: JobStatus | None, record: ExitRecord, native_id: str, name: str) -> JobStatus:
    """An end with the exit code of the job's own record; the record alone where the scheduler says
    nothing.
    """
    if end is not None:
        if end.state is JobState.COMPLETE:
            return end
        return replace(end, exit_code=record.exit_code, signal=record.signal, reason=end.reason or record.reason)
    # The job left the queue, so nothing starts it again and its record is final.
    completed = record.exit_code == 0 and not record.reason
    state = JobState.COMPLETE if completed else JobState.FAILED
    return JobStatus(native_id, state, "EXIT RECORD", name, record.exit_code, record.signal, record.reason)


def _squeue(jobs: Sequence[JobRef], columns: str) -> str:
    few = len(jobs) <= _MAX_NAMES and all(job.name for job in jobs)
    names = ",".join(job.name for job in jobs) if few else ""
    only = f"-n {quote(names)} " if names else ""
    return f"airavata_limit 60 squeue -h -a -t all -u \"$(id -u)\" {only}-o '{columns}'"


def _if_sacct(command: str) -> str:
    # The subshell keeps `exit` inside the frame.
    return f"(command -v sacct >/dev/null 2>&1 || {{ echo 'sacct: not found' >&2; exit 127; }}; {command})"


def _fault(answer: frame.Frame) -> str | None:
    """What is wrong with an answer, None for a good one or for accounting that this cluster does not have."""
    if answer.status == 127 and answer.errors.startswith("sacct:"):
        return None
    if answer.status != 0 and re.search("accounting storage is disabled", answer.errors, re.IGNORECASE):
        return None
    if answer.status == _TIMEOUT_STATUS:
        return "no answer in time"
    # squeue can time out with status 0 and words.
    if answer.status != 0 or _TROUBLE.search(answer.errors):
        return answer.errors[-500:] or f"status {answer.status}"
    return None


def _split(lines: Iterable[str], columns: int) -> list[list[str]]:
    rows = (line.split("|", columns - 1) for line in lines)
    return [row for row in rows if len(row) == columns]


def _scontrol(line: str) -> tuple[str, str, str, str] | None:
    fields = dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
    try:
        return fields["JobId"], fields["JobName"], fields["JobState"], fields.get("ExitCode", "")
    except KeyError:
        return None


def _exit_code(text: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if match is None:
        return None, None
    code, signal = int(match[1]), int(match[2])
    return (None, signal) if signal else (code, None)


def _time(seconds: int | None) -> str | None:
    if not seconds:
        return None
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02}:{minutes:02}:{rest:02}"


def _signal(request: JobRequest) -> str | None:
    """``B:`` tells the script alone. SLURM may send it up to a minute early, so a short job goes without."""
    before = request.signal_before_end_s
    if before <= 0 or (request.walltime_s is not None and request.walltime_s <= before + 60):
        return None
    return f"B:USR1@{before}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _word(key: str, value: str) -> str:
    """A value as ``sbatch`` reads it from a directive: double quotes, and a backslash before what means
    something.
    """
    if not value.isprintable():
        raise ConfigurationError(f"{key} cannot carry {value!r}")
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,=-]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _raw(line: str) -> str:
    if "\n" in line or "\r" in line:
        raise ConfigurationError(f"a directive is one line: {line!r}")
    for word in shlex.split(line):
        option = word.split("=", 1)[0]
        short = option[:2] if not option.startswith("--") else option
        if short in _NOT_OURS:
            raise ConfigurationError(f"directive {line!r}: the job could not be followed with {short}")
    return line.strip().removeprefix("#SBATCH").strip()
