"""SLURM: ``sbatch``, ``squeue``, ``sacct``, ``scontrol``, ``scancel``.

Read with the man pages of 22.05 and tried on 22.05.8. Its words for options are in ``slurm_options``, those for
states in ``slurm_states``. Pure; no Airflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from signal import SIGTERM
from typing import ClassVar

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers import ends, frame, slurm_options
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler, SubmitWords, quote
from airavata_provider.schedulers.counting import LIMIT_S, counted
from airavata_provider.schedulers.load import QueueLoad
from airavata_provider.schedulers.record import control_directory, make_directories
from airavata_provider.schedulers.request import JobRequest, Option
from airavata_provider.schedulers.slurm_states import (
    COUNT,
    HISTORY_STATES,
    QUEUE_STATES,
    counts_of,
    cpus_of,
    fits_in,
    holds,
    loads_of,
    neutral,
    partitions_of,
    status,
)

__all__ = ["HISTORY_STATES", "QUEUE_STATES", "Slurm", "neutral"]

_ENVIRONMENT = """\
unset SQUEUE_ACCOUNT SQUEUE_ARRAY SQUEUE_LICENSES SQUEUE_PARTITION SQUEUE_QOS SQUEUE_USERS SQUEUE_NAMES
unset SINFO_PARTITION
export SLURM_BITSTR_LEN=0 SLURM_TIME_FORMAT=%s"""
"""Filters that a user's profile may set would hide jobs, and a hidden job looks like an absent one. Lists of elements
come whole, and times as seconds.
"""

_MAX_NAMES = 4000
"""Names on one command line: Linux limits one argument to 128 KiB. Above it the whole user's queue is
read.
"""

_SACCT = "-X -n -P"
_TROUBLE = re.compile(r"error|timed out|unable to contact|unexpected message|expired", re.IGNORECASE)
_TIMEOUT_STATUS = 124

_WORDS = SubmitWords(
    command="sbatch",
    missing="is SLURM in the account's PATH?",
    said=re.compile(r"^Submitted batch job (\d+)\b", re.MULTILINE),
    # Without --parsable's lone number: a wrapper may have dropped the option.
    bare=re.compile(r"^(\d+)(?:;[^;\s]*)?\s*$", re.MULTILINE),
    uncertain=re.compile(
        r"timed out|unable to contact slurm controller|unexpected message|zero bytes were transmitted"
        r"|communication|connection (?:reset|closed|refused)|(?:send|receive) (?:failure|error)|terminated",
        re.IGNORECASE,
    ),
    later=re.compile(
        r"(?:QOS|Assoc)(?:Max|Grp)\w*Submit\w*|job limit|maximum number of jobs"
        # MaxJobCount, in the words of sbatch, of 22.05 and of later versions.
        r"|job queue full|create job record, try again|MaxJobCount limit"
        r"|temporarily (?:un|disabled)|rate limit exceeded|in standby mode"
        # An administrator closed it, most often for a maintenance.
        r"|partition not available \(inactive or drain\)",
        re.IGNORECASE,
    ),
    refused=re.compile(r"error:|unrecognized option|invalid"),
    # An index that is not below MaxArraySize.
    too_long=re.compile(r"invalid job array specification", re.IGNORECASE),
)


class Slurm(Scheduler):
    """The SLURM workload manager."""

    name: ClassVar[str] = "slurm"
    native_id_expression: ClassVar[str] = (
        "${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-unknown}}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    )
    index_expression: ClassVar[str | None] = "$SLURM_ARRAY_TASK_ID"
    restart_expression: ClassVar[str] = "${SLURM_RESTART_COUNT:-0}"
    prefix: ClassVar[str] = "#SBATCH"
    options: ClassVar[Sequence[Option]] = slurm_options.OPTIONS
    submit_words: ClassVar[SubmitWords | None] = _WORDS

    def prologue(self, request: JobRequest, control: str) -> Sequence[str]:
        """``srun`` would take ``--export`` for its own, and its tasks would miss what the script exports."""
        return () if request.export is None else ("unset SLURM_EXPORT_ENV",)

    def fixed(self, request: JobRequest) -> Sequence[str]:
        """What makes the job one of ours."""
        return slurm_options.fixed(request)

    def directive_key(self, line: str) -> str:
        """The option's long name."""
        return slurm_options.key(line)

    def check_raw(self, line: str) -> None:
        """:raises ConfigurationError: another cluster's job, an array, a submission that lasts as long as the job."""
        slurm_options.check_raw(line)

    def element_id(self, native_id: str, index: int) -> str:
        """``123_4``."""
        return f"{native_id}_{index}"

    def submit_command(self, script: str, request: JobRequest) -> str:
        """``sbatch``; the name stands on the command line, where no directive overrides it.

        The directories of an array's elements have to be there before: their logs are in them.
        """
        control = control_directory(request.directory, request.name)
        made = [f"(umask 077; {make_directories(control, request.array.indices)}) &&"] if request.array else []
        return " ".join((*made, f"exec sbatch --parsable --job-name={quote(request.name)} {quote(script)}"))

    def find_command(self, name: str, user: str | None, directory: str) -> str:
        """``squeue`` and ``sacct`` by name, and the cluster's clock."""
        who = quote(user) if user else '"$(id -u)"'
        # %F: an array's own id, also for its elements.
        squeue = f"airavata_limit 30 squeue -h -a -t all -u {who} -n {quote(name)} -o '%F|%j|%V'"
        # Without -S, sacct looks at today only.
        asked = f"-S now-30days -u {who} --name={quote(name)} -o JobID,JobName,Submit"
        sacct = f"airavata_limit 30 sacct {_SACCT} {asked}"
        return "\n".join(
            (
                frame.SETUP,
                _ENVIRONMENT,
                frame.frame("clock", "date +%s"),
                frame.frame("queue", squeue),
                frame.frame("accounting", _if_sacct(sacct)),
            )
        )

    def parse_find(self, result: CommandResult, name: str) -> str | None:
        """The first id under that name; None only when the queue, and accounting where there is any, have none."""
        return self.parse_find_within(result, name, float("inf"))

    def parse_find_within(self, result: CommandResult, name: str, age_s: float) -> str | None:
        """The same, of the jobs that are not older. A time that cannot be read hides no job."""
        found: set[int] = set()
        faults = []
        clock = frame.unframe(result.stdout, "clock")
        now = int(clock.lines[0]) if clock and clock.lines and clock.lines[0].isdecimal() else None
        for label in ("queue", "accounting"):
            answer = frame.whole(result.stdout, label, stderr=result.stderr)
            for native, job_name, submitted in _split(answer.lines, 3):
                base = native.partition("_")[0]
                old = now is not None and submitted.isdecimal() and now - int(submitted) > age_s
                if job_name == name and base.isdecimal() and not old:
                    found.add(int(base))
            if fault := _fault(answer):
                faults.append(f"{label}: {fault}")
        if found:
            return str(min(found))
        if faults:
            raise AnswerUnreadable("; ".join(faults))
        return None

    def status_command(self, jobs: Sequence[JobRef]) -> str:
        """``squeue`` for this user, filtered by our names; ``sinfo`` when a job may be too large for its partition.

        ``-u`` is filtered by the controller, so this is the cheapest question it can be asked; ``-j`` would
        fail as a whole for an id that it forgot, names do not.
        """
        queue = "\n".join(
            (
                f"airavata_lines=$({_squeue(jobs, '%i|%T|%r|%j|%P|%D|%C')}) || exit",
                "printf '%s\\n' \"$airavata_lines\"",
                'case "$airavata_lines" in *"|PartitionConfig|"*|*"|PartitionNodeLimit|"*)',
                "  airavata_limit 30 sinfo -h -a -o 'sizes|%R|%D|%C|%s' 2>/dev/null;; esac || :",
            )
        )
        return "\n".join((frame.SETUP, _ENVIRONMENT, frame.frame("queue", queue)))

    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """States by id; a line with one of the ids and another name is another job, after ids began anew."""
        answer = frame.whole(result.stdout, "queue", stderr=result.stderr)
        if fault := _fault(answer):
            raise AnswerUnreadable(f"squeue: {fault}")
        known = _Known(jobs)
        partitions = partitions_of(answer.lines)
        states: dict[str, JobStatus] = {}
        for line in answer.lines:
            native_id, native, reason, name, *rest = [*line.split("|"), "", "", ""]
            fits = fits_in(rest, partitions)
            for job in known.of(native_id, name):
                states[job.native_id] = status(job.native_id, name, native, reason, QUEUE_STATES, fits=fits)
        return states

    def history_command(self, jobs: Sequence[JobRef]) -> str:
        """The jobs' own exit records and ``sacct``; where that does not answer, ``scontrol`` job by job for
        those without a record (it knows what ``squeue`` knows, and the exit code).

        About elements of arrays, which jobs the controller knows, too; see :meth:`parse_history`.
        """
        if not jobs:
            return f"{frame.SETUP}\n{frame.frame('records', ':')}\n{frame.frame('accounting', ':')}"
        records, controls = [], []
        for job in jobs:
            control = quote(control_directory(job.directory, job.name, job.index))
            records.append(f"airavata_record {quote(job.native_id)} {control}")
            show = f"airavata_limit 30 scontrol -o show job {quote(job.native_id)} 2>/dev/null"
            controls.append(f"[ -s {control}/exit ] || {show} || :")
        ids = quote(",".join(dict.fromkeys(_base(job) for job in jobs)))
        sacct = f"airavata_limit 60 sacct {_SACCT} -j {ids} -o JobID,State,ExitCode,JobName"
        elements = [frame.frame("elements", _squeue(jobs, "%i|%F|%j"))] if any(map(_is_element, jobs)) else []
        return "\n".join(
            (
                frame.SETUP,
                _ENVIRONMENT,
                RECORD_FUNCTION,
                *elements,
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

        A job that is cancelled at the moment of its launch may be ``FAILED`` with the signal as its exit code.
        An element that is cancelled while it waits is forgotten at once, by the controller and by accounting. So an
        element that never started, of an array that is known, and which itself is nowhere, was cancelled.
        """
        known = _Known(jobs)
        lines = frame.whole(result.stdout, "records", stderr=result.stderr).lines
        notes = dict(_split(lines, 2))
        accounting = frame.whole(result.stdout, "accounting", stderr=result.stderr)
        rows = [(i, n, s, c) for i, s, c, n in _split(accounting.lines, 4)]
        if controller := frame.unframe(result.stdout, "controller"):
            rows += [row for line in controller.lines if (row := _scontrol(line))]
        found: dict[str, JobStatus] = {}
        seen: set[str] = set()
        arrays: set[tuple[str, str]] = set()
        for native_id, name, native, code in rows:
            arrays.add((native_id.partition("_")[0], name))
            for job in known.of(native_id, name):
                seen.add(job.native_id)
                end = status(job.native_id, name, native, "", HISTORY_STATES, code=code)
                if end.state.terminal:
                    found[job.native_id] = end if job.native_id in notes else _told_at_launch(end)
        fault = _fault(accounting)
        fresh = {native_id for native_id, note in _split(lines, 2) if note == "FRESH"}
        for native_id, record in ends.records(lines, jobs).items():
            if record.reason and native_id in fresh and native_id not in found and not fault:
                # Accounting will tell who ended it.
                continue
            # A job that left the queue is not started again, so its record is final.
            if (own := ends.joined(found.get(native_id), record, known.by_id[native_id])) is not None:
                found[native_id] = own
        elements = frame.unframe(result.stdout, "elements")
        if elements is not None and not _fault(elements) and not fault:
            there = _split(elements.lines, 3)
            seen |= {native_id for native_id, _, _ in there} | notes.keys()
            arrays |= {(base, name) for _, base, name in there}
            for job in filter(_is_element, jobs):
                if job.native_id not in seen and (_base(job), job.name) in arrays:
                    why = "cancelled while it waited"
                    found[job.native_id] = JobStatus(
                        job.native_id, JobState.CANCELED, "CANCELLED", job.name, reason=why, outcome=Outcome.CANCELED
                    )
        if fault and not found and jobs:
            raise AnswerUnreadable(f"sacct: {fault}")
        return found

    def cancel_command(self, jobs: Sequence[JobRef]) -> str:
        """``scancel`` for those of the jobs that are still there under their names; no other job's id is
        touched. An array's own id ends all of its elements.
        """
        if not jobs:
            return ":"
        ours = "|".join(f"{quote(f'{job.native_id}|')}*{quote(f'|{job.name}')}" for job in jobs)
        whole = "|".join(
            f"{quote(f'{job.native_id}_')}*{quote(f'|{job.name}')}" for job in jobs if not _is_element(job)
        )
        ended = "|".join(f"*'|{word}|'*" for word, state in HISTORY_STATES.items() if state.terminal)
        return "\n".join(
            (
                frame.SETUP,
                _ENVIRONMENT,
                f"airavata_queue=$({_squeue(jobs, '%i|%T|%j')} </dev/null) || exit 1",
                "set -- ; airavata_array=",
                'while IFS= read -r airavata_line; do case "$airavata_line" in',
                f"{ended}) ;;",
                f'{ours}) set -- "$@" "${{airavata_line%%|*}}";;',
                *(
                    (
                        f'{whole}) if [ "${{airavata_line%%_*}}" != "$airavata_array" ]; then',
                        'airavata_array=${airavata_line%%_*}; set -- "$@" "$airavata_array"; fi;;',
                    )
                    if whole
                    else ()
                ),
                "esac; done <<AIRAVATA-QUEUE",
                "$airavata_queue",
                "AIRAVATA-QUEUE",
                'if [ "$#" -gt 0 ]; then airavata_limit 60 scancel "$@" </dev/null; fi',
            )
        )

    def load_command(self, queues: Sequence[str]) -> str | None:
        """``sinfo`` for CPUs, ``squeue`` for everybody's jobs, which are counted where it runs."""
        squeue = f"airavata_limit {LIMIT_S} squeue -h -a -t PD,R -o '%P|%t|%r|%i'"
        return "\n".join(
            (
                frame.SETUP,
                _ENVIRONMENT,
                frame.frame("cpus", f"airavata_limit {LIMIT_S} sinfo -h -a -o '%P|%a|%C'"),
                frame.frame("jobs", counted(squeue, COUNT, "|")),
            )
        )

    def parse_load(self, result: CommandResult, queues: Sequence[str]) -> Mapping[str, QueueLoad]:
        """By partition, "" for the default one, ``a,b`` for both together; what one of the two commands told
        counts without the other.
        """
        sinfo, squeue = (frame.whole(result.stdout, label, stderr=result.stderr) for label in ("cpus", "jobs"))
        faults = {name: _fault(answer) for name, answer in (("sinfo", sinfo), ("squeue", squeue))}
        cpus, default = cpus_of(() if faults["sinfo"] else sinfo.lines)
        counts = None if faults["squeue"] else counts_of(squeue.lines)
        if not cpus and counts is None:
            words = "; ".join(f"{name}: {fault or 'an answer without figures'}" for name, fault in faults.items())
            raise AnswerUnreadable(words)
        return loads_of(cpus, counts, {queue: queue or default for queue in queues})


RECORD_FUNCTION = """\
airavata_record() {
  if [ -s "$2/exit" ] && IFS= read -r airavata_line <"$2/exit"; then
    printf '%s|%s\\n' "$1" "$airavata_line"
    [ -z "$(find "$2/exit" -mmin -2 2>/dev/null)" ] || printf '%s|FRESH\\n' "$1"
  elif [ -e "$2/started" ]; then printf '%s|STARTED\\n' "$1"; fi
}"""
"""Shell function ``airavata_record ID CONTROL``: one line ``ID|record`` when there is an exit record, one more,
``ID|FRESH``, while that is not two minutes old; else ``ID|STARTED`` when the job has begun.
"""


def _told_at_launch(end: JobStatus) -> JobStatus:
    """The end of a job of whose script there is no trace: ``15:0`` is SIGTERM, which met it as it was launched."""
    if (end.outcome, end.exit_code) != (Outcome.FAILED, SIGTERM):
        return end
    words = "ended by SIGTERM before its script began"
    return replace(end, state=JobState.CANCELED, exit_code=None, outcome=Outcome.CANCELED, reason=words)


class _Known:
    """Jobs by what SLURM calls them: a plain id, an element's, or several elements' in one (``123_[4-9,12%2]``)."""

    def __init__(self, jobs: Sequence[JobRef]) -> None:
        self.by_id = {job.native_id: job for job in jobs}
        self._elements: dict[str, list[JobRef]] = {}
        for job in filter(_is_element, jobs):
            self._elements.setdefault(_base(job), []).append(job)

    def of(self, native_id: str, name: str) -> Iterator[JobRef]:
        """Those of the jobs that a line with that id and that name is about."""
        job = self.by_id.get(native_id)
        if job is not None:
            if job.called(name):
                yield job
            return
        base, _, elements = native_id.partition("_")
        if re.fullmatch(r"\[?[\d,:%-]+\]?", elements):
            for job in self._elements.get(base, ()):
                if job.called(name) and job.index is not None and holds(elements, job.index):
                    yield job


def _is_element(job: JobRef) -> bool:
    return job.index is not None


def _base(job: JobRef) -> str:
    return job.native_id.partition("_")[0]


def _squeue(jobs: Sequence[JobRef], columns: str) -> str:
    few = len(jobs) <= _MAX_NAMES and all(job.name for job in jobs)
    names = list(dict.fromkeys(job.name for job in jobs)) if few else []
    only = f"-n {quote(','.join(names))} " if names else ""
    each = "-r " if any(map(_is_element, jobs)) else ""
    return f"airavata_limit 60 squeue -h {each}-a -t all -u \"$(id -u)\" {only}-o '{columns}'"


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
        native_id = fields["JobId"]
        if "ArrayTaskId" in fields:
            native_id = f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}"
        return native_id, fields["JobName"], fields["JobState"], fields.get("ExitCode", "")
    except KeyError:
        return None
