"""Grid Engine (SGE, Son of Grid Engine, UGE): ``qsub``, ``qstat``, ``qacct``, ``qdel``.

What always holds here:

- ``qstat`` knows jobs until they end, ``qacct`` knows them some time after that, and of a job that was deleted while
  it waited neither knows anything: the mark that :meth:`Sge.cancel_command` leaves in its control directory tells
  that it was us.
- Plain ``qstat`` cuts names to ten characters; ``-xml`` does not.
- Grid Engine kills without a warning, so a job's own record is missing when it was deleted or ran too long. The
  notice before the walltime is the script's own: Grid Engine's (``s_rt``, ``-notify``) goes to the whole process
  group, and a program that does not expect it dies of it.
- A status of 99 puts a job back into the queue, and 100 into error: scripts here end with neither.
- An array's tasks are numbered from 1: element *i* is task *i* + 1, and its id is ``<job>.<task>``. An array is one
  range with one step; indices with other gaps are not expressible, and whoever asks for them submits an array per
  range. To submit positions instead, and to look indices up in the script, would make an element's id depend on which
  others were submitted with it, and a retry of a few elements would have the ids of others.

Read with the man pages of Son of Grid Engine 8.1.9 and tried on Debian's. Pure; no Airflow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import ClassVar

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers import ends, frame, sge_options, sge_states
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler, SubmitWords, quote
from airavata_provider.schedulers.counting import LIMIT_S, counted
from airavata_provider.schedulers.load import QueueLoad
from airavata_provider.schedulers.record import ExitRecord
from airavata_provider.schedulers.request import JobRequest, Option
from airavata_provider.schedulers.sge_states import Account, Key, key_of

_TIMEOUT_STATUS = 124

_WORDS = SubmitWords(
    command="qsub",
    missing="is Grid Engine in the account's PATH, and SGE_ROOT set?",
    said=re.compile(r"^Your job(?:-array)? (\d+)", re.MULTILINE),
    bare=re.compile(r"^(\d+)(?:\.[\d,:-]+)?\s*$", re.MULTILINE),
    uncertain=re.compile(
        r"commlib|unable to (?:send|contact)|failed receiving|got (?:\w+ )*error|time-?out|timed out|answer list"
        r"|connect|communication|qmaster (?:is )?(?:not|down)",
        re.IGNORECASE,
    ),
    # max_u_jobs and max_jobs (sge_conf(5)); what a site's verifier (JSV) calls for now.
    later=re.compile(r"only \d+ jobs are allowed per|try (?:again )?later|temporar", re.IGNORECASE),
    # STATUS_NOTOK_DOAGAIN, of those two limits: also where the words are in another language.
    later_statuses=(25,),
    refused=re.compile(
        r"unable to run job|job (?:was )?rejected|denied|invalid option|unable to read script|error opening"
        r"|no suitable queues|unable to initialize environment|is not a valid",
        re.IGNORECASE,
    ),
    # max_aj_tasks (sge_conf(5)).
    too_long=re.compile(r"submit a job with more than \d+ tasks", re.IGNORECASE),
)

_NO_ACCOUNTING = re.compile(r"no jobs running since startup|qacct: (?:command )?not found")
_NO_SUCH_JOB = re.compile(r"job (?:name|id) \S+ not found")

_NAMES = 'BEGIN{RS="<"} sub(/^JB_job_number>/,""){n=$0} sub(/^JB_name>/,""){print n "|" $0}'
"""An awk program: ``number|name`` of each job in an answer of ``qstat -xml``."""


class Sge(Scheduler):
    """Grid Engine and its descendants."""

    name: ClassVar[str] = "sge"
    prefix: ClassVar[str] = sge_options.PREFIX
    options: ClassVar[Sequence[Option]] = sge_options.OPTIONS
    submit_words: ClassVar[SubmitWords | None] = _WORDS
    native_id_expression: ClassVar[str] = "${JOB_ID:-unknown}$airavata_task"
    index_expression: ClassVar[str | None] = "$((SGE_TASK_ID - 1))"
    restart_expression: ClassVar[str] = "$airavata_restarts"
    reserved_exits: ClassVar[Sequence[int]] = (99, 100)

    def fixed(self, request: JobRequest) -> Sequence[str]:
        """Directory, log, shell."""
        return sge_options.fixed(request)

    def check_raw(self, line: str) -> None:
        """:raises ConfigurationError: with it, the job could not be followed."""
        sge_options.check_raw(line)

    def element_id(self, native_id: str, index: int) -> str:
        """``<job>.<task>``, as ``qdel`` takes it."""
        return f"{native_id}.{index + 1}"

    def prologue(self, request: JobRequest, control: str) -> Sequence[str]:
        """Opens the log, names the task, counts restarts (Grid Engine tells one from none), heeds ``-notify``."""
        return (
            'exec >>"$airavata_control/log" 2>&1',
            'airavata_task=; [ "${SGE_TASK_ID:-undefined}" = undefined ] || airavata_task=.$SGE_TASK_ID',
            "airavata_restarts=0",
            'if [ "${RESTARTED:-0}" != 0 ]; then',
            "  airavata_restarts=1",
            '  [ -s "$airavata_control/started" ] && read -r airavata_was airavata_n <"$airavata_control/started" \\',
            '    && [ "$airavata_was" = "$JOB_ID$airavata_task" ] && airavata_restarts=$((airavata_n + 1))',
            "fi",
            "trap 'airavata_stop \"SIGNAL USR2\"' USR2",
        )

    def submit_command(self, script: str, request: JobRequest) -> str:
        """``qsub``; what no default of the account or the site may change stands on the command line."""
        return f"exec qsub -terse -b n -C '#$' -N {quote(request.name)} {quote(script)}"

    def find_command(self, name: str, user: str | None, directory: str) -> str:
        """``qstat`` for the account, ``qacct`` for the name."""
        who = quote(user) if user else '"$(id -un)"'
        accounting = _qacct(f"-o {who} -j {quote(name)}", "")
        return "\n".join((frame.SETUP, frame.frame("queue", _qstat(who)), frame.frame("accounting", accounting)))

    def parse_find(self, result: CommandResult, name: str) -> str | None:
        """The first number under that name; None only when queue and accounting, where there is any, have none."""
        found: set[int] = set()
        faults = []
        try:
            jobs = _queue(result, "queue")
            found |= {int(number) for (number, _), job in jobs.items() if job.name == name}
        except AnswerUnreadable as unreadable:
            faults.append(unreadable.message)
        answer = frame.whole(result.stdout, "accounting", stderr=result.stderr)
        accounts = sge_states.accounts_of(answer.lines)
        found |= {int(number) for (number, _), runs in accounts.items() if any(run.name == name for run in runs)}
        if fault := _fault(answer):
            faults.append(f"qacct: {fault}")
        if found:
            return str(min(found))
        if faults:
            raise AnswerUnreadable("; ".join(faults))
        return None

    def status_command(self, jobs: Sequence[JobRef]) -> str:
        """``qstat`` for this account; once more for holds and for errors' reasons, where there are such jobs."""
        who = '"$(id -un)"'
        numbers = quote(",".join(dict.fromkeys(key_of(job.native_id)[0] for job in jobs)) or "0")
        ask = (
            f"{_qstat(who, keep=True)}\n"
            # Of several kinds of holds in one question, qstat answers with all there are, job dependencies too.
            f"case $airavata_queue in *'<state>h'*|*'<state>d'*h*) for airavata_kind in hu ho hs; do echo {_HELD}\n"
            f"airavata_limit 60 qstat -u {who} -s $airavata_kind -xml 2>/dev/null || :; done;; esac\n"
            f"case $airavata_queue in *'<state>'*E*) echo {_ERRORS}\n"
            f"airavata_limit 60 qstat -j {numbers} -xml 2>/dev/null || :;; esac"
        )
        return "\n".join((frame.SETUP, frame.frame("queue", ask)))

    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """States by id; a job with one of the numbers and another name is another one, after numbers began anew."""
        answer = frame.whole(result.stdout, "queue", stderr=result.stderr)
        queue, held, reasons = _parts(answer)
        states: dict[str, JobStatus] = {}
        for job in jobs:
            key = key_of(job.native_id)
            queued = queue.get(key)
            if queued is None or queued.name != job.name or "z" in queued.letters:
                continue
            state, outcome, words = sge_states.state_of(
                queued.letters, held=held is None or key in held, reason=reasons.get(key, "")
            )
            states[job.native_id] = JobStatus(
                job.native_id, state, queued.letters, queued.name, reason=words, outcome=outcome
            )
        return states

    def history_command(self, jobs: Sequence[JobRef]) -> str:
        """What the jobs themselves left, and one pass of ``qacct`` over the account's records for all of them."""
        # What the job itself left, and whoever cancelled it.
        told = [ends.ask(jobs)]
        for job in jobs:
            mark = quote(f"{ends.control(job)}/cancel")
            told.append(f"[ ! -s {mark} ] || printf '%s|CANCEL\\n' {quote(job.native_id)}")
        numbers = " ".join(dict.fromkeys(key_of(job.native_id)[0] for job in jobs))
        accounting = _qacct('-o "$(id -un)" -j "*"', f" {numbers} ") if jobs else ":"
        return "\n".join(
            (
                frame.SETUP,
                ends.FUNCTION,
                frame.frame("told", "\n".join(told)),
                frame.frame("accounting", accounting),
            )
        )

    def parse_history(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """Ends only: of a run that another one follows, nothing is said.

        The outcome is Grid Engine's, the exit code the script's own. A job that neither left anything was deleted
        while it waited, if it was us who deleted it; else nobody knows.
        """
        told = frame.whole(result.stdout, "told", stderr=result.stderr).lines
        records = ends.records(told, jobs)
        cancelled = {line.removesuffix("|CANCEL") for line in told if line.endswith("|CANCEL")}
        answer = frame.whole(result.stdout, "accounting", stderr=result.stderr)
        accounts = sge_states.accounts_of(answer.lines)
        fault = _fault(answer)
        found: dict[str, JobStatus] = {}
        for job in jobs:
            runs = [run for run in accounts.get(key_of(job.native_id), ()) if run.name == job.name]
            end = _end(job, runs, records.get(job.native_id), job.native_id in cancelled and not fault)
            if end is not None:
                found[job.native_id] = end
        if fault and not found and jobs:
            raise AnswerUnreadable(f"qacct: {fault}")
        return found

    def cancel_command(self, jobs: Sequence[JobRef]) -> str:
        """``qdel`` for those of the jobs that are still there under their names, each marked as ours to end; no other
        job's number is touched.
        """
        if not jobs:
            return ":"
        asks = [
            f"airavata_end {quote(job.native_id)} {quote(f'{key_of(job.native_id)[0]}|{job.name}')} "
            f"{quote(ends.control(job))}"
            for job in jobs
        ]
        return "\n".join((frame.SETUP, _CANCEL.replace("@NAMES@", quote(_NAMES)), *asks, _DELETE))

    def load_command(self, queues: Sequence[str]) -> str | None:
        """``qstat`` for the slots of all queues, and for everybody's jobs that wait, counted where it runs."""
        waiting = f"airavata_limit {LIMIT_S} qstat -u '*' -s p -xml"
        return "\n".join(
            (
                frame.SETUP,
                frame.frame("slots", f"airavata_limit {LIMIT_S} qstat -g c -xml"),
                frame.frame("waiting", counted(waiting, sge_states.WAITING)),
            )
        )

    def parse_load(self, result: CommandResult, queues: Sequence[str]) -> Mapping[str, QueueLoad]:
        """Slots by queue, "" for all of them, ``a.q,b.q@@group`` for those that it names, on whatever hosts.
        A job that waits belongs to no queue yet: all of them count in each.
        """
        answer = frame.whole(result.stdout, "slots", stderr=result.stderr)
        waiting = frame.whole(result.stdout, "waiting", stderr=result.stderr)
        if answer.status != 0:
            raise AnswerUnreadable(f"qstat: {answer.errors[-500:] or f'status {answer.status}'}")
        slots = sge_states.slots_of("\n".join(answer.lines))
        count = sge_states.waiting_of(waiting.lines) if waiting.status == 0 else None
        found = {}
        for queue in queues:
            names = [each.partition("@")[0] or "*" for each in queue.split(",")]
            here = [each for name, each in slots.items() if any(fnmatchcase(name, asked) for asked in names)]
            if here:
                found[queue] = QueueLoad(count, None, sum(up for _, up in here), sum(used for used, _ in here))
        return found


_CANCEL = """\
airavata_queue=$(airavata_limit 60 qstat -u "$(id -un)" -s prs -xml </dev/null) || exit 1
airavata_names="
$(printf '%s\\n' "$airavata_queue" | awk @NAMES@)
"
airavata_ids=
airavata_end() { # ID NUMBER|NAME CONTROL
  case $airavata_names in *"
$2
"*) ;; *) return 0;; esac
  [ ! -d "$3" ] || date +%s >"$3/cancel"
  airavata_ids="$airavata_ids $1"
} 2>/dev/null"""

_DELETE = """\
[ -n "$airavata_ids" ] || exit 0
# What ended meanwhile, and what is being deleted already, is no fault.
airavata_words=$(airavata_limit 60 qdel $airavata_ids 2>&1 </dev/null) && exit 0
airavata_words=$(printf '%s\\n' "$airavata_words" | grep -v -e 'does not exist' -e 'deletion' -e 'has deleted')
[ -z "$airavata_words" ] || { printf '%s\\n' "$airavata_words" >&2; exit 1; }"""

_HELD, _ERRORS = "AIRAVATA-HELD", "AIRAVATA-ERRORS"


def _qstat(who: str, *, keep: bool = False) -> str:
    """``qstat``'s answer, whole or not at all; in ``$airavata_queue`` too.

    Options in the account's own ``.sge_qstat`` could hide jobs, and a hidden job looks like an absent one: user and
    states are said here.
    """
    ask = f"airavata_limit 30 qstat -u {who} -s prs -xml"
    if not keep:
        return ask
    return f"airavata_queue=$({ask}) || exit $?\nprintf '%s\\n' \"$airavata_queue\""


def _qacct(options: str, numbers: str) -> str:
    """``qacct`` through a filter, with its own status; its times are in UTC."""
    # Its standard output goes through the filter, its status past it.
    return (
        "command -v qacct >/dev/null 2>&1 || { echo 'qacct: not found' >&2; exit 127; }\n"
        "exec 5>&1\n"
        f"airavata_left=$({{ {{ airavata_limit 30 env TZ=UTC0 LC_ALL=C qacct {options}; echo $? >&4; }} "
        f"| awk -v W={quote(numbers)} {quote(sge_states.KEEP)} >&5; }} 4>&1)\n"
        'exit "$airavata_left"'
    )


def _queue(result: CommandResult, label: str) -> Mapping[Key, sge_states.Queued]:
    return _parts(frame.whole(result.stdout, label, stderr=result.stderr))[0]


def _parts(
    answer: frame.Frame,
) -> tuple[Mapping[Key, sge_states.Queued], frozenset[Key] | None, Mapping[Key, str]]:
    """The queue, which of its jobs a person holds (None: nobody can tell), and errors' reasons.

    :raises AnswerUnreadable: the queue cannot be read
    """
    if answer.status == _TIMEOUT_STATUS:
        raise AnswerUnreadable("qstat: no answer in time")
    if answer.status != 0:
        raise AnswerUnreadable(f"qstat: {answer.errors[-500:] or f'status {answer.status}'}")
    parts: list[tuple[str, list[str]]] = [("", [])]
    for line in answer.lines:
        if line in (_HELD, _ERRORS):
            parts.append((line, []))
        else:
            parts[-1][1].append(line)
    queue = sge_states.queue_of("\n".join(parts[0][1]))
    held: frozenset[Key] | None = frozenset()
    reasons: dict[Key, str] = {}
    for label, lines in parts[1:]:
        text = "\n".join(lines)
        if label == _ERRORS:
            reasons |= sge_states.reasons_of(text)
            continue
        try:
            held = None if held is None else held | sge_states.queue_of(text).keys()
        except AnswerUnreadable:
            held = None
    return queue, held, reasons


def _fault(answer: frame.Frame) -> str | None:
    """What is wrong with accounting's answer, None for a good one or for accounting that is not there."""
    if answer.status == 0 or _NO_SUCH_JOB.search(answer.errors) or _NO_ACCOUNTING.search(answer.errors):
        return None
    if answer.status == 127 and answer.errors.startswith("qacct:"):
        return None
    if answer.status == _TIMEOUT_STATUS:
        return "no answer in time"
    return answer.errors[-500:] or f"status {answer.status}"


def _of(run: Account, record: ExitRecord) -> bool:
    """Whether the record was written in that run. 8.1.9 may put a job back, not end it on its node, and take it for
    its own next run there; the job itself knows of one start.
    """
    return run.started is not None and record.time is not None and record.time >= run.started


def _end(job: JobRef, runs: Sequence[Account], record: ExitRecord | None, cancelled: bool) -> JobStatus | None:
    """How a job that left the queue ended, from all that is known of it; None: nobody can tell, or not yet."""
    again = not runs or runs[-1].failed in sge_states.AGAIN
    # Of a run that accounting does not know yet, too: nothing starts the job any more, so it was the last.
    last = len(runs) if again else len(runs) - 1
    if record is not None and record.restart < last and (again or not _of(runs[-1], record)):
        record = None
    if again:
        if record is None and cancelled:
            why = Outcome.CANCELED
            return JobStatus(job.native_id, JobState.CANCELED, "deleted", job.name, reason="qdel", outcome=why)
        return ends.joined(None, record, job, cancelled=cancelled)
    state, outcome, code, signal, words = sge_states.end_of(runs[-1])
    end = JobStatus(job.native_id, state, f"failed {runs[-1].failed}", job.name, code, signal, words, outcome)
    return ends.joined(end, record, job, cancelled=cancelled)
