"""PBS Pro and OpenPBS: ``qsub``, ``qstat``, ``qselect``, ``qdel``; and what Torque shares with them.

Read with the man pages and sources of OpenPBS 23.06. Ended jobs are asked for with ``-x``, where the server keeps
history; JSON where ``qstat`` has it (from 14.1 on), else text. Every id that is asked for must be in the answer,
shown or denied: otherwise the answer is unreadable.

PBS itself writes what a job's shell says into a file that it copies when the job ends. The script therefore writes
its own log, ``log``; PBS's is ``scheduler.log`` beside it, where it says why it killed a job.

Pure; no Airflow.
"""

from __future__ import annotations

import re
import shlex
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from airavata_provider.errors import AnswerUnreadable, ConfigurationError
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers import ends, frame
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler, SubmitWords, quote
from airavata_provider.schedulers.counting import LIMIT_S
from airavata_provider.schedulers.load import QueueLoad
from airavata_provider.schedulers.pbs_answers import (
    Attributes,
    loads_of,
    named,
    parse_jobs,
    parse_queues,
    sequence,
    status,
    unexplained,
)
from airavata_provider.schedulers.pbs_options import PBS_OPTIONS, plain_path
from airavata_provider.schedulers.record import control_directory, make_directories
from airavata_provider.schedulers.request import JobRequest, Option

_ENVIRONMENT = "unset PBS_QSTAT_NO_COMPLETE PBS_QSTAT_EXECONLY"
"""What a user's profile may set and would hide jobs."""

_ID = re.compile(r"^(\d+(?:\[\])?(?:\.[\w.-]+)?)\s*$", re.MULTILINE)
_WORDS = SubmitWords(
    command="qsub",
    missing="is PBS in the account's PATH?",
    bare=_ID,
    uncertain=re.compile(
        r"tim(?:ed?|ing)[ -]?out|cannot connect|can ?not establish connection|could not connect"
        r"|connection (?:refused|reset|closed)"
        r"|end of file|protocol|no free connections|system error|internal (?:server )?error|expired credential"
        r"|invalid credential|socket|communication|terminated|broken pipe|error in (?:reading|writing)"
        r"|server not found",
        re.IGNORECASE,
    ),
    later=re.compile(
        # max_queued, queued_jobs_threshold and their resources (PBS Pro); max_queuable, max_user_queuable (Torque).
        r"would exceed .*limit|maximum number of (?:user )?jobs|violates the global server limit"
        r"|(?:resources?|queue is) (?:temporarily|currently) (?:un|not )available"
        r"|server shutting down|connection table full|too busy|try(?: the request)? again"
        # An administrator closed it, most often for a maintenance.
        r"|queue is not enabled",
        re.IGNORECASE,
    ),
    refused=re.compile(r"\bqsub: "),
    # max_array_size (PBS Pro); max_job_array_size (Torque).
    too_long=re.compile(r"array job exceeds .*size limit|array size too large", re.IGNORECASE),
    # An error's number modulo 256.
    statuses=range(1, 256),
)
_NO_SUCH = "0|35|55|153"
"""Exit statuses of ``qstat``: good; job finished, finished element, unknown job (``PBSE_*`` modulo 256)."""

_GONE = "0|35|55|153|168|170|202"
"""The same of ``qdel``, and those of a job that is on its way out."""

HISTORY = """\
airavata_history() { # COMMAND ARGUMENTS…: with ended jobs where this server keeps them
  airavata_command=$1; shift
  for airavata_x in -x ''; do
    airavata_said=$(airavata_limit 60 "$airavata_command" $airavata_x "$@" 2>&1 >&4 4>&-)
    airavata_code=$?
    case $airavata_said in *'not configured to maintain job history'*) ;; *) break;; esac
  done
  printf '%s' "$airavata_said" >&2
  return $airavata_code
} 4>&1
airavata_qstat() { # ID…: all about these jobs, as JSON where this qstat can
  case $(airavata_limit 20 qstat --version 2>&1) in
    *'= 1'[4-9].*|*'= 2'[0-9].*|*'= 20'[0-9][0-9].*) airavata_history qstat -f -F json "$@";;
    *) airavata_history qstat -f "$@";;
  esac
}"""

WHY = """\
airavata_why() { # ID FILE: what PBS wrote into the job's output when it killed it
  [ ! -s "$2" ] || grep -hiE 'PBS: job killed|cgroup mem|oom.?kill|exceeded limit' "$2" 2>/dev/null \\
    | head -n 3 | while IFS= read -r airavata_line; do printf '%s|%s\\n' "$1" "$airavata_line"; done
}"""


class PBSFamily(Scheduler):
    """What PBS Pro, OpenPBS and Torque have in common."""

    prefix: ClassVar[str] = "#PBS"
    submit_words: ClassVar[SubmitWords | None] = _WORDS
    native_id_expression: ClassVar[str] = "${PBS_JOBID:-unknown}"
    ours: ClassVar[str]
    """Letters of options that no raw directive may have."""

    @abstractmethod
    def output(self, request: JobRequest, control: str) -> str:
        """Where PBS writes the log of a job with that control directory, all elements' for an array."""

    @abstractmethod
    def log_file(self, job: JobRef) -> str:
        """The same file once the job ended, an element's for an element."""

    @abstractmethod
    def ask(self, jobs: Sequence[JobRef]) -> str:
        """Shell lines that define ``airavata_qstat``."""

    def prologue(self, request: JobRequest, control: str) -> Sequence[str]:
        """The script writes its own log: PBS's comes when the job is over, and replaces what was there."""
        return ('exec >>"$airavata_control/log" 2>&1',)

    def fixed(self, request: JobRequest) -> Sequence[str]:
        """Name, shell, and PBS's log: nowhere when its path has characters that PBS takes for something else."""
        path = self.output(request, control_directory(request.directory, request.name))
        shell = shlex.split(request.shell)[0]
        lines = [f"-N {request.name}", "-j oe", f"-o {path if plain_path(path) else '/dev/null'}"]
        # Else the script is run by the user's login shell, whatever that is.
        return [*lines, f"-S {shell}"] if plain_path(shell) else lines

    def check_raw(self, line: str) -> None:
        """No array, no other name, no job that is interactive, waited for, or submitted without an answer."""
        try:
            words = shlex.split(line)
        except ValueError as fault:
            raise ConfigurationError(f"directive {line!r}: {fault}") from fault
        for number, word in enumerate(words):
            if re.fullmatch(rf"-[{self.ours}].*", word):
                raise ConfigurationError(f"directive {line!r}: the job could not be followed with {word[:2]}")
            value = word[2:] or "".join(words[number + 1 : number + 2])
            if word.startswith("-W") and re.search(r"\bblock\b|\barray_", value):
                raise ConfigurationError(f"directive {line!r}: the job could not be followed with {value}")

    def directive_key(self, line: str) -> str:
        """The letter, with the resource's or attribute's name for ``-l`` and ``-W``; ``-qlong`` is ``-q long``."""
        letter, value = line.strip()[:2], line.strip()[2:]
        return f"{letter} {value.partition('=')[0].strip()}".strip() if letter in ("-l", "-W") else letter

    def element_id(self, native_id: str, index: int) -> str:
        """``12[3].server`` of ``12[].server``."""
        return native_id.replace("[]", f"[{index}]", 1)

    def submission(self, words: str, script: str, request: JobRequest) -> str:
        """``qsub`` with these words. The name stands on the command line, where no directive overrides it; an array's
        elements need their control directories before one of them starts.
        """
        control = control_directory(request.directory, request.name)
        made = f"(umask 077; {make_directories(control, request.array.indices)}) && " if request.array else ""
        return f"{made}exec {words} -N {quote(request.name)} {quote(script)}"

    def status_command(self, jobs: Sequence[JobRef]) -> str:
        """``qstat`` for these ids, ended ones too where the server still knows them."""
        return "\n".join((frame.SETUP, _ENVIRONMENT, self.ask(jobs), frame.frame("queue", _qstat(jobs))))

    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """States by id. An ended job whose status PBS does not tell is left to the history."""
        answer = _shown(frame.whole(result.stdout, "queue", stderr=result.stderr), jobs)
        found = {ref.native_id: status(job, ref) for ref, job in answer}
        # An element's X has no exit status before version 20; the job's own record has one.
        return {i: each for i, each in found.items() if not _untold(each)}

    def history_command(self, jobs: Sequence[JobRef]) -> str:
        """The jobs' own exit records, what PBS wrote into their logs, and ``qstat``."""
        whys = [f"airavata_why {quote(job.native_id)} {quote(self.log_file(job))}" for job in jobs]
        return "\n".join(
            (
                frame.SETUP,
                _ENVIRONMENT,
                ends.FUNCTION,
                WHY,
                self.ask(jobs),
                # The queue first: a record that is read later is not missed because the job ended in between.
                frame.frame("queue", _qstat(jobs)),
                frame.frame("records", ends.ask(jobs)),
                frame.frame("words", "\n".join(whys) or ":"),
            )
        )

    def parse_history(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """Ends. A record of a job that PBS still has in its queue is none: the job was started again."""
        own = ends.records(frame.whole(result.stdout, "records", stderr=result.stderr).lines, jobs, sequence)
        words = _labelled(frame.whole(result.stdout, "words", stderr=result.stderr).lines)
        queue = frame.whole(result.stdout, "queue", stderr=result.stderr)
        found = {
            ref.native_id: status(job, ref, words=" ".join(words.get(ref.native_id, ())))
            for ref, job in _shown(queue, jobs)
        }
        ended: dict[str, JobStatus] = {}
        for ref in jobs:
            end = found.get(ref.native_id)
            if end is not None and not end.state.terminal:
                continue
            if (end := ends.joined(end, own.get(ref.native_id), ref)) is not None:
                ended[ref.native_id] = end
        return ended

    def cancel_command(self, jobs: Sequence[JobRef]) -> str:
        """``qdel`` for those of the jobs that are still there under their names."""
        if not jobs:
            return ":"
        ids = " ".join(quote(job.native_id) for job in jobs)
        ours = "|".join(
            f"{quote(f'{sequence(job.native_id)}|{name}|')}[!CFX]" for job in jobs for name in _names(job)
        )
        return "\n".join(
            (
                frame.SETUP,
                _ENVIRONMENT,
                f"airavata_queue=$(airavata_limit 60 qstat -f {ids} 2>&1 </dev/null)",
                f"case $? in {_NO_SUCH}) ;; *) printf '%s\\n' \"$airavata_queue\" >&2; exit 1;; esac",
                "set --",
                'while IFS= read -r airavata_line; do case "$airavata_line" in',
                '"Job Id: "*) airavata_id=${airavata_line#Job Id: } airavata_name=;;',
                '"    Job_Name = "*) airavata_name=${airavata_line#*= };;',
                '"    job_state = "*) case "${airavata_id%%.*}|$airavata_name|${airavata_line#*= }" in',
                f'{ours}) set -- "$@" "$airavata_id";; esac;;',
                "esac; done <<AIRAVATA-QUEUE",
                "$airavata_queue",
                "AIRAVATA-QUEUE",
                '[ "$#" -gt 0 ] || exit 0',
                'airavata_limit 60 qdel "$@" </dev/null',
                f"case $? in {_GONE}) exit 0;; *) exit 1;; esac",
            )
        )

    def load_command(self, queues: Sequence[str]) -> str | None:
        """``qstat`` for all queues, whose jobs the server has counted; in full, because else their names are cut."""
        return "\n".join((frame.SETUP, frame.frame("queues", f"airavata_limit {LIMIT_S} qstat -Q -f")))

    def parse_load(self, result: CommandResult, queues: Sequence[str]) -> Mapping[str, QueueLoad]:
        """By queue, "" for all of them together: which one is the default, they do not tell."""
        answer = frame.whole(result.stdout, "queues", stderr=result.stderr)
        found = parse_queues(answer.lines)
        if answer.status != 0 or not found:
            words = answer.errors[-500:] or f"status {answer.status} and {len(found)} queues"
            raise AnswerUnreadable(f"qstat: {words}")
        return loads_of(found, queues)


class PBS(PBSFamily):
    """PBS Pro and OpenPBS."""

    name: ClassVar[str] = "pbs"
    index_expression: ClassVar[str | None] = "${PBS_ARRAY_INDEX:-}"
    options: ClassVar[Sequence[Option]] = PBS_OPTIONS
    ours: ClassVar[str] = "NJIzCGX"

    def output(self, request: JobRequest, control: str) -> str:
        """PBS puts an element's index for ``^array_index^``."""
        return f"{control}/^array_index^/scheduler.log" if request.array else f"{control}/scheduler.log"

    def log_file(self, job: JobRef) -> str:
        """In the job's own control directory."""
        return f"{ends.control(job)}/scheduler.log"

    def ask(self, jobs: Sequence[JobRef]) -> str:
        """With ended jobs, as JSON."""
        return HISTORY

    def submit_command(self, script: str, request: JobRequest) -> str:
        """``-f``: without it a background process stays for a minute and keeps the submitter's lock."""
        return self.submission("qsub -f", script, request)

    def find_command(self, name: str, user: str | None, directory: str) -> str:
        """``qselect`` by name and user."""
        who = quote(user) if user else '"$(id -un)"'
        select = f"airavata_history qselect -u {who} -N {quote(name)}"
        return "\n".join((frame.SETUP, _ENVIRONMENT, HISTORY, frame.frame("queue", select)))

    def parse_find(self, result: CommandResult, name: str) -> str | None:
        """The oldest id; None when the queue, and the history where there is one, have none."""
        answer = frame.whole(result.stdout, "queue", stderr=result.stderr)
        found = [native_id for line in answer.lines if (native_id := line.strip()) and _ID.fullmatch(native_id)]
        if found:
            return min(found, key=lambda native_id: int(re.split(r"[\[.]", native_id)[0]))
        if answer.status != 0 or "qselect:" in answer.errors:
            raise AnswerUnreadable(f"qselect: {answer.errors[-500:] or f'status {answer.status}'}")
        return None


def _names(job: JobRef) -> tuple[str, ...]:
    return (job.name,) if job.index is None else (job.name, f"{job.name}-{job.index}")


def _qstat(jobs: Sequence[JobRef]) -> str:
    return " ".join(["airavata_qstat", *(quote(job.native_id) for job in jobs)]) if jobs else ":"


def _shown(answer: frame.Frame, jobs: Sequence[JobRef]) -> list[tuple[JobRef, Attributes]]:
    """Our jobs in an answer of ``qstat``.

    :raises AnswerUnreadable: a job is neither shown nor denied
    """
    shown = {sequence(job["id"]): job for job in parse_jobs(answer.lines)}
    missing = [job.native_id for job in jobs if sequence(job.native_id) not in shown]
    if lost := unexplained(missing, answer.errors):
        words = answer.errors[-500:] or f"status {answer.status} and no word of {', '.join(lost[:3])}"
        raise AnswerUnreadable(f"qstat: {words}")
    pairs = [(ref, shown[sequence(ref.native_id)]) for ref in jobs if sequence(ref.native_id) in shown]
    return [(ref, job) for ref, job in pairs if named(job, ref)]


def _untold(end: JobStatus) -> bool:
    return end.state.terminal and end.outcome is Outcome.UNKNOWN


def _labelled(lines: Iterable[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        label, separated, text = line.partition("|")
        if separated:
            found.setdefault(label, []).append(text)
    return found
