"""The remote half of a submission: one shell script that submits at most once, and how its answer is read.

What it does with what it finds in the job's control directory is told in ``jobs.submission``, which decides what to
call it with. A cut script does nothing; everything is done under a lock; the answer is framed by a nonce, since a
login may print whatever it likes around it.

Pure: builds text and parses text. Imports no Airflow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.schedulers import frame
from airavata_provider.schedulers.base import CommandResult, Scheduler, quote
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.schedulers.script import Webhook, credential

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

    def text(self, call: Call, nonce: str, now: int) -> str:
        """The script for one call. It is read whole before any of it runs.

        :param nonce: this call's, which no other has
        :param now: seconds since the epoch
        """
        control = control_directory(self.request.directory, self.request.name)
        path = f"{control}/script"
        # By a rename: a shell reads its script as it goes, and an earlier one may be reading.
        writes = [f"printf %s {quote(self.script)} >script.new && mv -f script.new script"]
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
            "command": command,
        }
        head = "\n".join(f"airavata_{key}={quote(value)}" for key, value in values.items())
        find = self.scheduler.find_command(self.request.name, self.user, self.request.directory)
        return (
            "airavata_main() {\n"
            f"{frame.SETUP}\n{head}\nairavata_submit_s={self.submit_s}\n"
            f"airavata_find() {{ (\n{find}\n) </dev/null 9>&-; }}\n"
            f"airavata_write() {{ {' && '.join(writes)}; }}\n"
            f"{_SCRIPT}\n}}\n"
            "airavata_main\n"
        )


_SCRIPT = r"""
airavata_answer() { # KIND NONCE TIME STATUS, then what is on standard input
  printf '\n%s-BEGIN %s %s %s %s\n' "$airavata_nonce" "$1" "$2" "$3" "$4"
  cat
  printf '\n%s-END\n' "$airavata_nonce"
}
# A cut session must not end the work in the middle, nor the writing of its answer.
trap '' HUP PIPE
(umask 077; [ -d "$airavata_control" ] || mkdir -p "$airavata_control") && cd "$airavata_control" || {
  echo "cannot make $airavata_control on $(uname -n)" | airavata_answer BROKEN none 0 0; exit 0; }
if command -v flock >/dev/null 2>&1; then
  exec 9>>lock
  flock -w 20 9 || { airavata_answer BUSY none 0 0 </dev/null; exit 0; }
else
  # Without flock a directory is the lock; one that is old lost its owner.
  airavata_n=0
  until mkdir lock.d 2>/dev/null; do
    [ -z "$(find lock.d -prune -mmin +10 2>/dev/null)" ] || rmdir lock.d 2>/dev/null
    airavata_n=$((airavata_n + 1))
    [ $airavata_n -le 20 ] || { airavata_answer BUSY none 0 0 </dev/null; exit 0; }
    sleep 1
  done
  trap 'rmdir "$airavata_control/lock.d"' EXIT
fi
[ -z "$airavata_found" ] || echo "$airavata_found end" >id
for airavata_file in id started; do
  if [ -s $airavata_file ] && read -r airavata_native airavata_rest <$airavata_file; then
    if [ -n "$airavata_rest" ] || [ $airavata_file = id ]; then
      echo "$airavata_native" | airavata_answer ID none 0 0; exit 0; fi
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
        airavata_answer OUT "$airavata_last" "$airavata_since" "$airavata_status" <submit.out; exit 0;;
    esac
  fi
  airavata_find | airavata_answer LOOK "$airavata_last" "$airavata_since" 0
  exit 0
fi
(umask 077; airavata_write) && echo "$airavata_nonce $airavata_now end" >submitting || {
  echo "cannot write into $airavata_control on $(uname -n)" | airavata_answer BROKEN none 0 0; exit 0; }
# The command gets signals' defaults back, not the lines that it could read as its input.
airavata_out=$(
  trap - HUP PIPE
  cd "$airavata_directory" && exec </dev/null 2>"$airavata_control/submit.err"
  airavata_limit $airavata_submit_s /bin/sh -c "$airavata_command"
)
airavata_status=$?
{
  printf '%s %s\n%s\n%s\n' "$airavata_nonce" "$airavata_status" "$airavata_out" "stderr $airavata_nonce"
  [ ! -s submit.err ] || cat submit.err
  printf '\nend %s\n' "$airavata_nonce"
} >submit.out
airavata_answer NEW "$airavata_nonce" "$airavata_now" "$airavata_status" <submit.out
"""


def read_answer(result: CommandResult, nonce: str, now: float) -> Answer:
    """The remote script's answer out of everything that a login may print around it.

    :raises AnswerUnreadable: there is none, or not the whole of it
    """
    match = re.search(
        rf"^{nonce}-BEGIN (\w+) (\w+) (\d+) (\d+)\n(.*)\n{nonce}-END$",
        result.stdout,
        re.DOTALL | re.MULTILINE,
    )
    if match is None or match[1] not in Kind.__members__:
        words = " ".join(f"{result.stderr} {result.stdout}".split())[-300:]
        raise AnswerUnreadable(f"the host's shell gave no answer (status {result.exit_status}): {words!r}")
    kind, text = Kind(match[1]), match[5]
    out, error = text, ""
    if kind in (Kind.OUT, Kind.NEW):
        head, _, rest = text.partition("\n")
        out, _, error = rest.partition(f"\nstderr {head.split()[0]}\n")
        error = error.rpartition(f"\nend {head.split()[0]}")[0]
    return Answer(kind, match[2], now - int(match[3]), CommandResult(int(match[4]), out, error))
