"""LSF: ``bsub``, ``bjobs``, ``bhist``, ``bkill``.

Written from the reference of IBM Spectrum LSF 10.1, which it needs: ``bjobs -o`` with ``pend_reason``, units of
memory in resource requirements (10.1 Fix Pack 2). Its words for options are in ``lsf_options``, those for states in
``lsf_states``.

An array's element is ``123[5]`` in LSF, counted from 1: our index plus one. ``bjobs`` prints ``123`` and the element
in the job's name, ``name[5]``. Pure; no Airflow.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from airavata_provider.errors import AnswerUnreadable, ConfigurationError
from airavata_provider.schedulers import ends, frame
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler, SubmitWords, quote
from airavata_provider.schedulers.counting import LIMIT_S
from airavata_provider.schedulers.load import QueueLoad, together
from airavata_provider.schedulers.lsf_options import OPTIONS, array_name
from airavata_provider.schedulers.lsf_states import loads_of, status
from airavata_provider.schedulers.record import make_directories
from airavata_provider.schedulers.request import Inexpressible, JobRequest, Option, ranges

_ENVIRONMENT = (
    "unset LSB_BJOBS_FORMAT LSB_BJOBS_CONSISTENT_EXIT_CODE LSB_BHIST_HOURS LSB_BQUEUES_FORMAT;"
    " export LSB_NTRIES=2 LC_ALL=C LANG=C"
)
"""A user's own formats change what is printed. ``LSB_NTRIES``: LSF's commands wait for their daemon for ever by
default, and ``bsub`` for a place when a user has too many pending jobs.
"""

_FIELDS = "jobid stat exit_code job_name exit_reason pend_reason delimiter='^'"
_COLUMNS = 6
_NATIVE = '${LSB_JOBID:-unknown}$([ "${LSB_JOBINDEX:-0}" -gt 0 ] && echo "[$LSB_JOBINDEX]")'

_UNCERTAIN = re.compile(
    r"timed? ?out|LSF is down|cannot (?:connect|contact|open)|not responding|LSF library call|LSF daemon"
    r"|(?:sending|receiving|reading|writing).*(?:message|reply|socket)|connection (?:reset|refused|closed)"
    r"|batch (?:daemon|library|system)[^.]*(?:not|error|fail)|communication|internal .*error|terminated",
    re.IGNORECASE,
)
_NONE = re.compile(
    r"Job <[^>]*> is not found\.?|(?:Job <[^>]*>: )?No (?:\w+ ){0,2}job found(?: in [^.;]+)?\.?", re.IGNORECASE
)
"""How LSF says that there is no such job, which is an answer, whatever the status."""

_TROUBLE = re.compile(rf"{_UNCERTAIN.pattern}|error near|unknown field|bad |illegal|denied", re.IGNORECASE)
_TIMEOUT_STATUS = 124

_WORDS = SubmitWords(
    command="bsub",
    missing="is LSF in the account's PATH?",
    said=re.compile(r"Job <(\d+)> is submitted to\b"),
    # "Communication time out. Job not submitted." is what LSF says when it cannot know.
    uncertain=_UNCERTAIN,
    later=re.compile(
        # MAX_PEND_JOBS, MAX_PEND_SLOTS; ids that are all in use; a queue's own limits; a closed one.
        r"pending job (?:threshold|slot threshold|limit)|no job id can be used now|job limit|slot limit"
        r"|limit (?:is |has been |was )?(?:reached|exceeded)"
        r"|(?:maximum|too many).{0,40}jobs|queue (?:is|has been) closed|try (?:again )?later|temporarily",
        re.IGNORECASE,
    ),
    refused=re.compile(r"not submitted|aborted by esub|bad .*option|illegal option|usage: bsub", re.IGNORECASE),
    # MAX_JOB_ARRAY_SIZE.
    too_long=re.compile(r"array index too large", re.IGNORECASE),
)
_NOT_OURS = frozenset({"-J", "-K", "-I", "-Ip", "-Is", "-IX", "-o", "-oo", "-cwd", "-pack", "-json", "-jsdl", "-H"})

_EVENT = re.compile(r"\w{3} \w{3} +\d+ \d\d:\d\d:\d\d(?: \d{4})?: (.*)")
_HEAD = re.compile(r"Job <(\d+)(?:\[(\d+)\])?>, (?:.*?Job Name <([^>]*)>)?")


@dataclass(frozen=True)
class _Row:
    """A line of ``bjobs``."""

    native_id: str
    stat: str
    code: int | None
    name: str
    ended: str
    waits: str


class Lsf(Scheduler):
    """IBM Spectrum LSF."""

    name: ClassVar[str] = "lsf"
    prefix: ClassVar[str] = "#BSUB"
    options: ClassVar[Sequence[Option]] = OPTIONS
    submit_words: ClassVar[SubmitWords | None] = _WORDS
    native_id_expression: ClassVar[str] = _NATIVE
    index_expression: ClassVar[str | None] = "$((LSB_JOBINDEX - 1))"
    restart_expression: ClassVar[str] = "${airavata_starts:-0}"

    def element_id(self, native_id: str, index: int) -> str:
        """``123[5]`` for the index 4."""
        return f"{native_id}[{index + 1}]"

    def prologue(self, request: JobRequest, control: str) -> Sequence[str]:
        """Counts the starts, and listens to what LSF sends at the walltime: SIGUSR2, long before it kills."""
        return (*ends.count_starts(_NATIVE), "trap 'airavata_stop WALLTIME' USR2")

    def fixed(self, request: JobRequest) -> Sequence[str]:
        """The name, and where the script's own log goes: below the directory that ``bsub`` is called in, because LSF
        replaces ``%J`` and its like in a path and has no way to say a per cent sign.
        """
        name = [f"-J {array_name(request)}"] if request.array is None else []
        return [*name, f"-o .airavata/{request.name}/log"]

    def check_raw(self, line: str) -> None:
        """No other name, output, directory, and nothing that waits for the job.

        :raises ConfigurationError: with it, the job could not be followed
        """
        for word in line.split():
            if word in _NOT_OURS:
                raise ConfigurationError(f"directive {line!r}: the job could not be followed with {word}")

    def directive_key(self, line: str) -> str:
        """The option; of ``-R`` its sections too, since several add up."""
        words = line.split()
        if words[:1] == ["-R"]:
            return " ".join(["-R", *re.findall(r"(\w+)\s*\[", line)])
        return (words or [""])[0]

    def submit_command(self, script: str, request: JobRequest) -> str:
        """``bsub`` reads the script; the name stands on the command line, where no directive overrides it."""
        try:
            name = array_name(request)
        except Inexpressible as fault:
            raise ConfigurationError(str(fault)) from fault
        made = ""
        if request.array is not None:
            control = posixpath.dirname(script)
            made = f"(umask 077; {make_directories(control, request.array.indices)}) && "
        return f"{_ENVIRONMENT}\n{made}exec bsub -J {quote(name)} <{quote(script)}"

    def find_command(self, name: str, user: str | None, directory: str) -> str:
        """``bjobs`` and, in all its logs, ``bhist`` by name."""
        who = f"-u {quote(user)} " if user else ""
        bjobs = f"airavata_limit 30 bjobs -a {who}-J {quote(name)} -noheader -o {quote(_FIELDS)}"
        bhist = f"airavata_limit 60 bhist -a -l -n 0 {who}-J {quote(name)}"
        return "\n".join((frame.SETUP, _ENVIRONMENT, frame.frame("queue", bjobs), frame.frame("history", bhist)))

    def parse_find(self, result: CommandResult, name: str) -> str | None:
        """The first id under that name; None only when queue and history have none."""
        found: set[int] = set()
        faults = []
        for label in ("queue", "history"):
            answer = frame.whole(result.stdout, label, stderr=result.stderr)
            rows = _rows(answer.lines) if label == "queue" else _blocks(answer.lines)
            found |= {int(row.native_id.partition("[")[0]) for row in rows if row.name == name}
            if fault := _fault(answer):
                faults.append(f"{label}: {fault}")
        if found:
            return str(min(found))
        if faults:
            raise AnswerUnreadable("; ".join(faults))
        return None

    def status_command(self, jobs: Sequence[JobRef]) -> str:
        """``bjobs`` by ids: it prints those that it knows, and says of the others that it does not."""
        bjobs = f"airavata_limit 60 bjobs -a -noheader -o {quote(_FIELDS)} {_ids(jobs)}" if jobs else ":"
        return "\n".join((frame.SETUP, _ENVIRONMENT, frame.frame("queue", bjobs)))

    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """States by id; a line with one of the ids and another name is another job, after ids began anew."""
        answer = frame.whole(result.stdout, "queue", stderr=result.stderr)
        if jobs and (fault := _fault(answer)):
            raise AnswerUnreadable(f"bjobs: {fault}")
        return _statuses(_rows(answer.lines), jobs)

    def history_command(self, jobs: Sequence[JobRef]) -> str:
        """The jobs' own exit records and ``bhist``, in all its logs."""
        bhist = f"airavata_limit 60 bhist -a -l -n 0 {_ids(jobs)}" if jobs else ":"
        return "\n".join(
            (
                frame.SETUP,
                _ENVIRONMENT,
                ends.FUNCTION,
                frame.frame("records", ends.ask(jobs)),
                frame.frame("history", bhist),
            )
        )

    def parse_history(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """Ends only. LSF's word for why (``TERM_RUNLIMIT``), and the script's own exit status."""
        own = ends.records(frame.whole(result.stdout, "records", stderr=result.stderr).lines, jobs)
        history = frame.whole(result.stdout, "history", stderr=result.stderr)
        told = _statuses(_blocks(history.lines), jobs)
        found: dict[str, JobStatus] = {}
        for job in jobs:
            end = told.get(job.native_id)
            if end is not None and not end.state.terminal:
                continue
            if (end := ends.joined(end, own.get(job.native_id), job)) is not None:
                found[job.native_id] = end
        if jobs and not found and (fault := _fault(history)):
            raise AnswerUnreadable(f"bhist: {fault}")
        return found

    def cancel_command(self, jobs: Sequence[JobRef]) -> str:
        """``bkill`` for those of the jobs that are still there under their names; no other job's id is touched."""
        if not jobs:
            return ":"
        patterns = (f'{pattern}) set -- "$@" {quote(job.native_id)};;' for job in jobs for pattern in _live(job))
        return "\n".join(
            (
                frame.SETUP,
                _ENVIRONMENT,
                "airavata_queue=$("
                f"airavata_limit 60 bjobs -noheader -o {quote(_FIELDS)} {_ids(jobs)} 2>&1 </dev/null)",
                "airavata_status=$?",
                "set --",
                "airavata_odd=",
                'while IFS= read -r airavata_line; do case "$airavata_line" in',
                "*'^DONE^'*|*'^EXIT^'*) ;;",
                *patterns,
                "*'^'*|''|*' is not found'*|*'No '*'job found'*) ;;",
                '*) airavata_odd="$airavata_odd $airavata_line";;',
                "esac; done <<AIRAVATA-QUEUE",
                "$airavata_queue",
                "AIRAVATA-QUEUE",
                'if [ "$#" -gt 0 ]; then',
                '  airavata_words=$(airavata_limit 60 bkill "$@" 2>&1 </dev/null) || case "$airavata_words" in',
                "    *'already finished'*|*'No matching job found'*) ;;",
                '    *) echo "$airavata_words" >&2; exit 1;;',
                "  esac",
                # "No such job" is said with a status that is not 0, and no words at all are no answer.
                'elif [ "$airavata_status" -ne 0 ] && { [ -n "$airavata_odd" ] || [ -z "$airavata_queue" ]; }; then',
                '  echo "bjobs: status $airavata_status $airavata_odd" >&2; exit 1',
                "fi",
            )
        )

    def load_command(self, queues: Sequence[str]) -> str | None:
        """``bqueues``, which has counted everybody's jobs."""
        return "\n".join((frame.SETUP, _ENVIRONMENT, frame.frame("queues", f"airavata_limit {LIMIT_S} bqueues -w")))

    def parse_load(self, result: CommandResult, queues: Sequence[str]) -> Mapping[str, QueueLoad]:
        """By queue, ``a b`` for both together, "" for all of them: which one is the default, they do not tell."""
        answer = frame.whole(result.stdout, "queues", stderr=result.stderr)
        found = loads_of(answer.lines)
        if (fault := _fault(answer)) or not found:
            raise AnswerUnreadable(f"bqueues: {fault or 'an answer without figures'}")
        loads = {queue: together(found[each] for each in queue.split() or [""] if each in found) for queue in queues}
        return {queue: load for queue, load in loads.items() if load is not None}


def _ids(jobs: Iterable[JobRef]) -> str:
    """The jobs' ids as arguments, elements of one array together: ``12 '34[1-3,7]'``."""
    arrays: dict[str, list[int]] = {}
    words = []
    for job in jobs:
        number, bracket, index = job.native_id.rstrip("]").partition("[")
        if bracket and index.isdecimal():
            arrays.setdefault(number, []).append(int(index))
        else:
            words.append(quote(job.native_id))
    for number, indices in arrays.items():
        spans = ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges(indices))
        words.append(quote(f"{number}[{spans}]"))
    return " ".join(words)


def _live(job: JobRef) -> Iterator[str]:
    """``case`` patterns of a line of :data:`_FIELDS` that is this job's."""
    number, _, index = job.native_id.rstrip("]").partition("[")
    name = f"{job.name}[{index}]" if index else job.name
    for native_id in {number, job.native_id}:
        yield f"{quote(f'{native_id}^')}*'^'*'^'{quote(name)}'^'*"


def _rows(lines: Iterable[str]) -> Iterator[_Row]:
    """The lines of ``bjobs``; an element's name loses its index, its id gets it."""
    for line in lines:
        cells = [cell.strip() for cell in line.split("^", _COLUMNS - 1)]
        if len(cells) != _COLUMNS:
            continue
        native_id, stat, code, name, ended, waits = ("" if cell == "-" else cell for cell in cells)
        if re.fullmatch(r"\d+(?:\[\d+\])?", native_id):
            native_id, name = _element(native_id, name)
            yield _Row(native_id, stat, int(code) if code.isdecimal() else None, name, ended, waits)


def _element(native_id: str, name: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.*)\[([0-9,:-]+)\](?:%\d+)?", name)
    if match is None:
        return native_id, name
    # A history may show the whole array's name beside an element's id.
    known = native_id.endswith("]") or not match[2].isdecimal()
    return native_id if known else f"{native_id}[{match[2]}]", match[1]


def _statuses(rows: Iterable[_Row], jobs: Iterable[JobRef]) -> dict[str, JobStatus]:
    known = {job.native_id: job for job in jobs}
    found: dict[str, JobStatus] = {}
    for row in rows:
        job = known.get(row.native_id)
        if job is not None and job.name == row.name:
            found[row.native_id] = status(job, row.stat, code=row.code, ended=row.ended, waits=row.waits)
    return found


def _blocks(lines: Iterable[str]) -> Iterator[_Row]:
    """What ``bhist -l`` says last of each job: ``DONE``, ``EXIT``, or a state that is no end."""
    # It breaks lines after 80 characters, wherever that is, and begins the next with 21 blanks.
    text = "\n".join(lines).replace(f"\n{' ' * 21}", "")
    row: _Row | None = None
    for line in text.split("\n"):
        if head := _HEAD.match(line):
            if row is not None:
                yield row
            native_id = f"{head[1]}[{head[2]}]" if head[2] else head[1]
            native_id, name = _element(native_id, head[3] or "")
            row = _Row(native_id, "PEND", None, name, "", "")
        elif row is not None and (event := _EVENT.match(line)):
            row = _after(row, event[1])
    if row is not None:
        yield row


def _after(row: _Row, event: str) -> _Row:
    """One event of a job's history; the last one counts. A signal becomes the status that a shell makes of it."""
    if re.search(r"\brequeue", event, re.IGNORECASE) and "TERM_" not in event:
        return replace(row, stat="PEND", code=None, ended="")
    if re.match(r"(?:Dispatched|Starting|Started|Running)\b", event):
        return replace(row, stat="RUN", code=None, ended="")
    if re.match(r"Done successfully|Completed <done>", event):
        return replace(row, stat="DONE", code=0)
    term = re.search(r"\bTERM_[A-Z_]+(?:: [^;]*)?", event)
    match = re.search(
        r"Exited with exit code (\d+)|Exited (?:by|with) (?:LSF )?signal (?:termination: )?(\d+)", event
    )
    if match or term or re.search(r"\bExited\b|Completed <exit>", event):
        code = int(match[1]) if match and match[1] else 128 + int(match[2]) if match else row.code
        return replace(row, stat="EXIT", code=code, ended=term[0].strip(" .") if term else row.ended)
    return row


def _fault(answer: frame.Frame) -> str | None:
    """What is wrong with an answer; None for a good one, to which "no such job" belongs."""
    if answer.status == _TIMEOUT_STATUS:
        return "no answer in time"
    words, nones = _NONE.subn("", answer.errors)
    words = words.strip()
    # bhist says it on standard output.
    nones += sum(bool(_NONE.fullmatch(line.strip())) for line in answer.lines)
    if _TROUBLE.search(words) or (answer.status != 0 and (words or not nones)):
        return words[-500:] or f"status {answer.status}"
    return None
