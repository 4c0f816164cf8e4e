"""``fork``: no scheduler at all; a job is a detached process on the login node, with its own exit record.

The job's script is the leader of its own session (``setsid``), so it outlives the SSH session. First of all
it claims the file ``process`` in its control directory, which only one process ever can, so that two
submits of one job run it once. The file names process id, start time, boot id and host: an id alone may be
another process's by now, and behind one address there may be several login nodes.

A process that is gone (its id is free, or another start time or boot holds it) on the host that ran it,
without an exit record, was killed: the script writes the record from its exit trap before it dies, and the
same host sees its own writes at once. So that is FAILED and no UNKNOWN. A job on another host is UNKNOWN,
whatever this one sees.

Pure; no Airflow.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from airavata_provider.errors import AnswerUnreadable, SubmissionRefused, SubmissionUncertain
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers import ends, frame
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler, quote
from airavata_provider.schedulers.record import control_directory, parse_exit_record
from airavata_provider.schedulers.request import JobRequest, Option

_START = """\
airavata_start() { # PID: start time and state of a process into $airavata_started and $airavata_run
  airavata_started= airavata_run=
  if [ -r "/proc/$$/stat" ]; then
    [ -r "/proc/$1/stat" ] && IFS= read -r airavata_stat <"/proc/$1/stat" || return 1
    # The command's name may hold anything; what follows its last parenthesis are fields 3 and on (proc(5)).
    set -- ${airavata_stat##*) }
    airavata_run=$1 airavata_started=${20}
  else
    airavata_started=$(LC_ALL=C TZ=UTC ps -o lstart= -p "$1" 2>/dev/null | tr -c 'A-Za-z0-9\\n' _)
    airavata_run=$(ps -o state= -p "$1" 2>/dev/null)
  fi
  [ -n "$airavata_started" ]
} 2>/dev/null
airavata_boot=none
[ -r /proc/sys/kernel/random/boot_id ] && read -r airavata_boot </proc/sys/kernel/random/boot_id
airavata_host=$(uname -n)"""

_STATUS = """\
airavata_job() { # ID CONTROL: one line "ID|WORD|more", nothing when the job never started
  [ -s "$2/process" ] && read -r airavata_pid airavata_since airavata_at airavata_on <"$2/process" || return 0
  [ "$airavata_pid.$airavata_since" = "$1" ] || return 0
  if [ "$airavata_on" != "$airavata_host" ]; then
    printf '%s|ELSEWHERE|%s, asked on %s\\n' "$1" "$airavata_on" "$airavata_host"; return 0; fi
  if [ "$airavata_at" = "$airavata_boot" ] && airavata_start "$airavata_pid" \\
      && [ "$airavata_started" = "$airavata_since" ]; then
    case "$airavata_run" in
      Z*|X*) ;;
      T*) printf '%s|STOPPED|\\n' "$1"; return 0;;
      *) printf '%s|RUNNING|\\n' "$1"; return 0;;
    esac
  fi
  airavata_word=ENDED
  [ ! -e "$2/cancel" ] || airavata_word=CANCELED
  if [ -s "$2/exit" ] && IFS= read -r airavata_line <"$2/exit"; then
    printf '%s|%s|%s\\n' "$1" "$airavata_word" "$airavata_line"
  elif [ "$airavata_word" = CANCELED ]; then printf '%s|CANCELED|\\n' "$1"
  elif [ "$airavata_at" = "$airavata_boot" ]; then printf '%s|KILLED|\\n' "$1"
  else printf '%s|REBOOTED|\\n' "$1"; fi
}"""

_CANCEL = """\
airavata_end() { # ID NAME CONTROL
  [ -s "$3/process" ] && read -r airavata_pid airavata_since airavata_at airavata_on <"$3/process" || return 0
  [ "$airavata_pid.$airavata_since" = "$1" ] || return 0
  [ "$airavata_on" = "$airavata_host" ] || { airavata_fault="job $2 runs on $airavata_on"; return 0; }
  [ "$airavata_at" = "$airavata_boot" ] || return 0
  # The first ask is kind; five seconds later nothing is spared, and nothing is once the script is gone.
  airavata_now=$(date +%s) airavata_signal=KILL
  if airavata_start "$airavata_pid" && [ "$airavata_started" = "$airavata_since" ]; then
    if [ -s "$3/cancel" ] && read -r airavata_asked <"$3/cancel"; then
      airavata_age=$((airavata_now - airavata_asked))
      [ "$airavata_age" -ge 5 ] || [ "$airavata_age" -lt 0 ] || return 0
    else echo "$airavata_now" >"$3/cancel"; airavata_signal=TERM airavata_kind=yes; fi
    kill -s CONT -- "-$airavata_pid"; kill -s "$airavata_signal" -- "-$airavata_pid"
  # Nobody has the script's id, so whoever is left in its group is of this job.
  elif ! kill -0 "$airavata_pid"; then kill -s KILL -- "-$airavata_pid"; fi
  # The script's descendants carry its mark wherever they went.
  for airavata_p in $(grep -lszxF "AIRAVATA_JOB=$2" /proc/[0-9]*/environ | tr -dc '0-9\\n'); do
    [ "$airavata_signal" = TERM ] && [ "$airavata_p" = "$airavata_pid" ] && continue
    kill -s "$airavata_signal" "$airavata_p"
  done
} 2>/dev/null"""

_STATES: Mapping[str, tuple[JobState, str, Outcome | None]] = {
    "RUNNING": (JobState.ACTIVE, "", None),
    "STOPPED": (JobState.SUSPENDED, "the process is stopped", Outcome.SUSPENDED),
    "CANCELED": (JobState.CANCELED, "killed when its end was asked for", Outcome.CANCELED),
    "KILLED": (
        JobState.FAILED,
        "the process is gone and left no exit record: it was killed, or the disk is full",
        Outcome.SIGNALED,
    ),
    "REBOOTED": (JobState.FAILED, "the host was started anew while the job ran", Outcome.NODE_FAILURE),
}


class Fork(Scheduler):
    """Detached processes on a host without a scheduler."""

    name: ClassVar[str] = "fork"
    native_id_expression: ClassVar[str] = "$airavata_native"
    enforces_walltime: ClassVar[bool] = False
    options: ClassVar[Sequence[Option]] = (
        # The job's script keeps it.
        Option(("walltime_s",), lambda request: ()),
        # A queue here is the catalog's own word for limits and defaults.
        Option(("queue",), lambda request: ()),
    )

    def unsupported(self, request: JobRequest) -> Mapping[str, str]:
        """Raw directives have nobody to read them, either."""
        found = dict(super().unsupported(request))
        if request.directives:
            found["directives"] = "there is no scheduler that reads them"
        return found

    def directives(self, request: JobRequest) -> Sequence[str]:
        """None: there is nobody to read them."""
        return ()

    def prologue(self, request: JobRequest, control: str) -> Sequence[str]:
        """Claims ``process``; whoever comes second leaves without having done anything."""
        return (
            *_START.split("\n"),
            'airavata_start "$$"',
            'airavata_native="$$.$airavata_started"',
            # O_EXCL: exactly one process gets through.
            '(set -C; echo "$$ $airavata_started $airavata_boot $airavata_host"'
            f" >{quote(f'{control}/process')}) 2>/dev/null || exit 0",
        )

    def submit_command(self, script: str, request: JobRequest) -> str:
        """Starts the script in its own session and prints its id once it has claimed ``process``."""
        control = control_directory(request.directory, request.name)
        shell = " ".join(quote(word) for word in shlex.split(request.shell))
        process, log = quote(f"{control}/process"), quote(f"{control}/log")
        # fd 9 is the submitter's lock: a job that kept it open would hold it for hours.
        start = f"{shell} {quote(script)} </dev/null >>{log} 2>&1 3>&- 9>&- &"
        python = quote("import os,sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])")
        perl = quote("use POSIX; POSIX::setsid(); exec @ARGV or exit 127")
        return "\n".join(
            (
                f"if command -v setsid >/dev/null 2>&1; then setsid {start}",
                f"elif command -v python3 >/dev/null 2>&1; then python3 -c {python} {start}",
                f"elif command -v perl >/dev/null 2>&1; then perl -e {perl} {start}",
                "else echo 'fork: neither setsid nor python3 nor perl on this host' >&2; exit 69; fi",
                "airavata_n=0",
                f"while [ ! -s {process} ] && [ $airavata_n -lt 200 ]; do",
                "  sleep 0.05 2>/dev/null || sleep 1; airavata_n=$((airavata_n + 1))",
                "done",
                f"echo AIRAVATA-PROCESS; cat {process}",
            )
        )

    def parse_submit(self, result: CommandResult) -> str:
        """``<process id>.<start time>``."""
        _, found, rest = result.stdout.rpartition("AIRAVATA-PROCESS\n")
        native_id = _native_id(rest) if found else None
        if native_id is not None:
            return native_id
        words = " ".join(result.stderr.split())[-500:]
        if result.exit_status == 69:
            raise SubmissionRefused(words)
        raise SubmissionUncertain(f"the process did not show up (status {result.exit_status}): {words}")

    def find_command(self, name: str, user: str | None, directory: str) -> str:
        """Reads ``process``, which every job of that name has written before it does anything."""
        process = quote(f"{control_directory(directory, name)}/process")
        return f"{frame.SETUP}\n{frame.frame('process', f'[ ! -s {process} ] || cat {process}')}"

    def parse_find(self, result: CommandResult, name: str) -> str | None:
        """The id; None when no process has claimed the name."""
        answer = frame.whole(result.stdout, "process", stderr=result.stderr)
        if answer.status != 0:
            raise AnswerUnreadable(answer.errors or f"status {answer.status}")
        text = "\n".join(answer.lines)
        native_id = _native_id(text)
        if text.strip() and native_id is None:
            raise AnswerUnreadable(f"not a process: {text[:200]!r}")
        return native_id

    def status_command(self, jobs: Sequence[JobRef]) -> str:
        """One loop over all jobs, in shell built-ins: no process per job."""
        asks = [
            f"airavata_job {quote(job.native_id)} {quote(control_directory(job.directory, job.name))}" for job in jobs
        ]
        return "\n".join((frame.SETUP, _START, _STATUS, frame.frame("processes", "\n".join(asks) or ":")))

    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """States, and ends with their exit codes."""
        answer = frame.whole(result.stdout, "processes", stderr=result.stderr)
        known = {job.native_id: job for job in jobs}
        states: dict[str, JobStatus] = {}
        for line in answer.lines:
            native_id, _, rest = line.partition("|")
            word, separated, more = rest.partition("|")
            if separated and native_id in known:
                states[native_id] = _status(known[native_id], word, more)
        if answer.status != 0 and not states:
            raise AnswerUnreadable(answer.errors or f"status {answer.status}")
        return states

    def history_command(self, jobs: Sequence[JobRef]) -> str:
        """The same question: a process and its record are all there is."""
        return self.status_command(jobs)

    def parse_history(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """Only those that ended."""
        return {i: s for i, s in self.parse_status(result, jobs).items() if s.state.terminal}

    def cancel_command(self, jobs: Sequence[JobRef]) -> str:
        """SIGTERM to the job's session, so that its script writes its end; seconds later SIGKILL to all that is left,
        whether anybody asks again or not.

        Descendants that left the session are found by ``AIRAVATA_JOB`` in their environment (Linux).
        """
        asks = [
            f"airavata_end {quote(job.native_id)} {quote(job.name)} "
            f"{quote(control_directory(job.directory, job.name))}"
            for job in jobs
        ]
        return "\n".join(
            (
                _START,
                _CANCEL,
                "airavata_all() {",
                ":",
                *asks,
                "}",
                "airavata_fault= airavata_kind=",
                "airavata_all",
                # Once the script has ended the job is over for whoever asked, and what ignored SIGTERM would live on.
                "[ -z \"$airavata_kind\" ] || (trap '' HUP; sleep 6; airavata_all; sleep 2; airavata_all)"
                " </dev/null >/dev/null 2>&1 3>&- 9>&- &",
                '[ -z "$airavata_fault" ] || { echo "$airavata_fault" >&2; exit 1; }',
            )
        )


def _native_id(text: str) -> str | None:
    words = text.split()
    if len(words) != 4 or not words[0].isdecimal():
        return None
    return f"{words[0]}.{words[1]}"


def _status(job: JobRef, word: str, more: str) -> JobStatus:
    if word in ("ENDED", "CANCELED") and (record := parse_exit_record(more)) is not None:
        return replace(ends.alone(record, job, cancelled=word == "CANCELED"), native_state=word)
    if word == "ELSEWHERE":
        return JobStatus(job.native_id, JobState.UNKNOWN, word, job.name, reason=f"runs on {more}")
    state, reason, what = _STATES.get(word, (JobState.UNKNOWN, f"unknown answer {word!r}", None))
    return JobStatus(job.native_id, state, word, job.name, reason=reason, outcome=what)
