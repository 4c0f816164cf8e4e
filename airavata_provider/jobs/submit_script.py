"""The remote half of a submission: one shell script that submits at most once, and how its answer is read.

What it does with what it finds in the job's control directory is told in ``jobs.submission``, which decides what to
call it with. A cut script does nothing; everything is done under a lock; the answer is framed by a nonce, since a
login may print whatever it likes around it.

A burst costs the host little more than its submit commands do: on the way of a first try every program that is
started, and every process, is one that nothing can be done without.

Pure: builds text and parses text. Imports no Airflow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.schedulers import frame
from airavata_provider.schedulers.base import CommandResult, Scheduler, quote
from airavata_provider.schedulers.frame import TROUBLE, ShareableText
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.schedulers.script import Webhook, credential
from airavata_provider.schedulers.shell import FUNCTIONS

LOCK_S = 20
"""How long another submitter of the same job is waited for, in seconds."""

_ONE_PROGRAM = re.compile(r"exec [A-Za-z_/][^\n;&|()`]*")
NONE = "none"
"""In a nonce's place: there is no marker."""


class Kind(StrEnum):
    """What the remote script answers."""

    ID = "ID"
    OUT = "OUT"
    NEW = "NEW"
    LOOK = "LOOK"
    BUSY = "BUSY"
    BROKEN = "BROKEN"


@dataclass(frozen=True)
class Answer:
    """One answer of the remote script.

    :param kind: ``ID`` and ``LOOK`` speak for themselves; ``OUT`` is an earlier submit's answer, ``NEW``
        this call's
    :param nonce: the marker's
    :param age_s: seconds since the marker's time
    :param result: the submit command's or the look-up's
    """

    kind: Kind
    nonce: str
    age_s: float
    result: CommandResult


@dataclass(frozen=True)
class Call:
    """What one call of the remote script is told.

    :param look: look the job up even if there is no marker
    :param distrust: do not take the ``submit.out`` of this nonce for an answer: it could not tell
    :param proven: the nonce of a submit that certainly was not accepted; ``none``: there was no submit at all
    :param trouble: the nonce whose time starts anew
    :param found: an id to keep
    """

    look: bool = False
    distrust: str = ""
    proven: str = ""
    trouble: str = ""
    found: str = ""


@dataclass(frozen=True)
class SubmitScript:
    """What every call of one submission's script has in common.

    :param script: the job script
    :param webhook: where the job's script sends its news
    :param user: the account whose jobs are looked at, None for the one that we log in as
    :param submit_s: how long the submit command may take, in seconds
    """

    scheduler: Scheduler
    request: JobRequest
    script: str
    webhook: Webhook | None
    user: str | None
    submit_s: int

    def text(self, call: Call, nonce: str, now: int) -> ShareableText:
        """The script for one call. It is read whole before any of it runs.

        :param nonce: this call's, which no other has
        :param now: seconds since the epoch
        """
        control = control_directory(self.request.directory, self.request.name)
        path = f"{control}/script"
        # What is the same in all scripts is sent once for all that share a session.
        head, found, tail = self.script.partition(FUNCTIONS)
        middle = "functions" if found else "nothing"
        # Over another by a rename: a shell reads its script as it goes, and an earlier one may be reading.
        writes = [
            "airavata_to=script; [ ! -e script ] || airavata_to=script.new",
            f'printf %s%s%s {quote(head)} "$airavata_{middle}" {quote(tail)} >$airavata_to',
            "{ [ $airavata_to = script ] || mv -f script.new script; }",
        ]
        for name, content in self.scheduler.side_files(self.request, control).items():
            writes.append(f"printf %s {quote(content)} >{quote(name)}")
        if self.webhook is not None and self.webhook.calls:
            writes.append(f"printf %s {quote(credential(self.webhook))} >webhook")
        command = self.scheduler.submit_command(path, self.request)
        values = {
            "nonce": nonce,
            "now": str(now),
            "control": control,
            "directory": self.request.directory,
            "look": "yes" if call.look else "",
            "distrust": call.distrust,
            "proven": call.proven,
            "trouble": call.trouble,
            "found": call.found,
        }
        told = "\n".join(f"airavata_{key}={quote(value)}" for key, value in values.items())
        find = self.scheduler.find_command(self.request.name, self.user, self.request.directory)
        one = (
            f"{told}\n"
            f"airavata_submit() {{\n{_in_place(command)}\n}}\n"
            f"airavata_find() {{ (\n{find}\n) </dev/null 9>&-; }}\n"
            f"airavata_write() {{ {' && '.join(writes)}; }}\n"
            'airavata_one "$@"'
        )
        # The first of those that share a session makes all their directories: that is one process for all.
        first = f'[ -d {quote(control)} ] || set -- "$@" {quote(control)}'
        limit = (
            f'airavata_limit_words=; [ "${{airavata_within-}}" = yes ] || ! command -v timeout >/dev/null 2>&1'
            f' || airavata_limit_words="timeout {self.submit_s}"'
        )
        return ShareableText(f"{_SCRIPT}\n{limit}", first, one, self.submit_s + LOCK_S)


def _in_place(command: str) -> str:
    """Shell text that runs a command in the place of the shell that runs this, with a limit where it needs one.

    No shell is started for a command that is one program: see ``Scheduler.submit_command``.
    """
    words = command.removeprefix("exec ") if _ONE_PROGRAM.fullmatch(command) else f"/bin/sh -c {quote(command)}"
    return f"exec $airavata_limit_words {words}"


_SCRIPT = (
    frame.SETUP
    + r"""
# A cut session must not end the work in the middle, nor the writing of its answer.
trap '' HUP PIPE
airavata_umask=$(umask)
"""
    + f"airavata_trouble_code={TROUBLE} airavata_lock_s={LOCK_S}"
    + r"""
umask 077
airavata_nothing= airavata_functions="""
    + quote(FUNCTIONS)
    + r"""
airavata_answer() { # KIND NONCE TIME STATUS COMMAND...: what it prints
  printf '\n%s-BEGIN %s %s %s %s\n' "$airavata_nonce" "$1" "$2" "$3" "$4"
  shift 4
  "$@"
  printf '\n%s-END\n' "$airavata_nonce"
}
airavata_said() {
  printf '%s %s\n%s\n%s\n' "$airavata_nonce" "$airavata_status" "$airavata_out" "stderr $airavata_nonce"
  [ ! -s submit.err ] || cat submit.err
  printf '\nend %s\n' "$airavata_nonce"
}
airavata_unwritable() {
  airavata_answer BROKEN none 0 0 echo "cannot write into $airavata_control on $(uname -n)"
}
airavata_one() { # DIRECTORY...: makes those, and submits the job that the variables tell of
  airavata_locked=
  airavata_locking "$@"
  set -- $?
  # What the submit command left behind may hold the lock on.
  exec 9>&-
  [ -z "$airavata_locked" ] || rmdir "$airavata_control/lock.d"
  return $1
}
airavata_locking() {
  [ -d "$airavata_control" ] || mkdir -p "$@"
  cd "$airavata_control" || {
    airavata_answer BROKEN none 0 0 echo "cannot make $airavata_control on $(uname -n)"; return; }
  if command -v flock >/dev/null 2>&1; then
    # "command": or else the shell would end here if it cannot.
    command exec 9>>lock || { airavata_unwritable; return; }
    flock -w $airavata_lock_s 9 || { airavata_answer BUSY none 0 0 :; return $airavata_trouble_code; }
  else
    # Without flock a directory is the lock; one that is old lost its owner.
    airavata_n=0
    until mkdir lock.d 2>/dev/null; do
      [ -z "$(find lock.d -prune -mmin +10 2>/dev/null)" ] || rmdir lock.d 2>/dev/null
      airavata_n=$((airavata_n + 1))
      [ $airavata_n -le $airavata_lock_s ] || { airavata_answer BUSY none 0 0 :; return $airavata_trouble_code; }
      sleep 1
    done
    airavata_locked=yes
  fi
  [ -z "$airavata_found" ] || echo "$airavata_found end" >id
  for airavata_file in id started; do
    if [ -s $airavata_file ] && read -r airavata_native airavata_rest <$airavata_file; then
      if [ -n "$airavata_rest" ] || [ $airavata_file = id ]; then
        airavata_answer ID none 0 0 echo "$airavata_native"; return; fi
    fi
  done
  airavata_last=none airavata_since=0 airavata_whole=
  [ -s submitting ] && read -r airavata_last airavata_since airavata_whole <submitting
  # A marker that was cut while it was written: what comes after it never began.
  [ "$airavata_whole" = end ] || airavata_last=none airavata_since=0
  if [ "$airavata_last" != none ] && [ "$airavata_trouble" = "$airavata_last" ]; then
    airavata_since=$airavata_now
    echo "$airavata_last $airavata_since end" >submitting
  fi
  airavata_go=
  if [ "$airavata_proven" = "$airavata_last" ]; then airavata_go=yes
  elif [ "$airavata_last" = none ] && [ -z "$airavata_look" ]; then airavata_go=yes
  fi
  if [ -z "$airavata_go" ]; then
    if [ "$airavata_last" != none ] && [ "$airavata_distrust" != "$airavata_last" ] && [ -s submit.out ]; then
      airavata_of= airavata_status= airavata_end=
      read -r airavata_of airavata_status airavata_end <submit.out
      case "$(tail -n 1 submit.out)" in
        "end $airavata_last")
          airavata_answer OUT "$airavata_last" "$airavata_since" "$airavata_status" cat submit.out; return;;
      esac
    fi
    airavata_answer LOOK "$airavata_last" "$airavata_since" 0 airavata_find
    return $airavata_trouble_code
  fi
  airavata_write && echo "$airavata_nonce $airavata_now end" >submitting || { airavata_unwritable; return; }
  # The command gets signals' defaults back, not the lines that it could read as its input.
  airavata_out=$(
    trap - HUP PIPE
    umask $airavata_umask
    cd "$airavata_directory" && exec </dev/null 2>"$airavata_control/submit.err"
    airavata_submit
  )
  airavata_status=$?
  airavata_said >submit.out
  airavata_answer NEW "$airavata_nonce" "$airavata_now" "$airavata_status" airavata_said
  [ $airavata_status -eq 0 ] || return $airavata_trouble_code
}"""
)


_HEAD = re.compile(r"(\w+) (\w+) (\d+) (\d+)\n")


def read_answer(result: CommandResult, nonce: str, now: float) -> Answer:
    """The remote script's answer out of everything that a login may print around it.

    :raises AnswerUnreadable: there is none, or not the whole of it
    """
    _, begun, rest = result.stdout.partition(f"\n{nonce}-BEGIN ")
    framed, ended, _ = rest.partition(f"\n{nonce}-END\n")
    match = _HEAD.match(framed) if begun and ended else None
    if match is None or match[1] not in Kind.__members__:
        words = " ".join(f"{result.stderr} {result.stdout}".split())[-300:]
        raise AnswerUnreadable(f"the host's shell gave no answer (status {result.exit_status}): {words!r}")
    kind, text = Kind(match[1]), framed[match.end() :]
    out, error = text, ""
    if kind in (Kind.OUT, Kind.NEW):
        head, _, rest = text.partition("\n")
        out, _, error = rest.partition(f"\nstderr {head.split()[0]}\n")
        error = error.rpartition(f"\nend {head.split()[0]}")[0]
    return Answer(kind, match[2], now - int(match[3]), CommandResult(int(match[4]), out, error))
