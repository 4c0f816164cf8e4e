"""Submits a job once: whoever is killed wherever, whoever tries at the same time, and whatever gets lost.

Two phases. First the intent is saved, by the caller (``JobStore.intend``). Then one remote script, fed to a
shell over one session, works under a lock in the job's control directory: it writes the job script, then a
marker (``submitting``: a nonce and the time), runs the scheduler's submit command, and writes its answer
into ``submit.out``. Then the id is saved. Running all of it again finds what the last run left:

============================================  =============================================================
found in the control directory                then
============================================  =============================================================
``id``, or ``started`` (the job's own word)   that id
``submit.out`` with an id                     that id
``submit.out`` with a refusal, an old one     submit
``submit.out`` that could not tell            look the job up by name
marker without ``submit.out``                 look the job up by name
no marker, and this is not a first try        look the job up by name: somebody may have wiped the directory
no marker, and the intent is seconds old      submit: nobody can have been here before
============================================  =============================================================

The last line saves a question to the scheduler for each job of a burst. It is safe because the marker is
written, under the lock, before the submit command starts: a try that got that far has left one, and a try
of which nothing is left made no intent either, unless the directory was removed, which is a later try's
case.

A look-up has three answers. *Found*: that id. *Could not tell*: the marker's time starts anew, and after a
pause somebody looks again. *Absent* is proof only when the queue and the history say so :data:`GRACE_S`
seconds after the marker's time, because a controller that was slow may accept a request whose sender gave
up; then the script is given the marker's nonce as proven, and submits if the marker is still that one. Of
two submitters with the same proof the first replaces the marker, so the second's proof is void and it finds
the first one's answer.

The lock is flock(1)'s on a descriptor that the submit command inherits: when the session is cut and
``sbatch`` goes on alone, the lock is held until it ends. Times are the callers', so clocks of triggerers
have to agree within seconds.

Imports no Airflow; the outside world is a ``Host`` and a store.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from airavata_provider.errors import (
    AnswerUnreadable,
    SchedulerError,
    SSHError,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.models.job import Job, SubmissionState
from airavata_provider.schedulers import frame
from airavata_provider.schedulers.base import CommandResult, Scheduler, quote
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.schedulers.script import Webhook, credential, write_script

GRACE_S = 120.0
"""How long after the last trouble a job that nobody knows may still turn up, in seconds."""

SUBMIT_S = 90
"""How long the submit command may take, in seconds; SLURM's own patience is ten to sixty."""

CLOCKS_S = 300.0
"""How far a login node's clock may be from its controller's, and a triggerer's from another's, in seconds."""

DEADLINE_S = 900.0
"""How long :func:`submit` goes on looking before it hands over to a person, in seconds."""


@dataclass(frozen=True)
class Patience:
    """How :func:`submit` waits; tests have none.

    :param grace_s: seconds after the last trouble in which a job that nobody knows may still turn up
    :param pauses_s: seconds between looks; the last one is repeated
    """

    grace_s: float = GRACE_S
    pauses_s: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.time


PATIENCE = Patience()
_NONE = "none"


class RemoteHost(Protocol):
    """The part of ``ssh.host.Host`` that is needed here."""

    @property
    def name(self) -> str:
        """The host's name, for messages."""

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        """Run a text with a POSIX shell; a status that is not 0 is an answer."""


class SubmissionStore(Protocol):
    """The part of ``jobs.store.JobStore`` that is needed here."""

    async def submitted(
        self, name: str, native_id: str, at: datetime, element_id: Callable[[str, int], str] | None = None
    ) -> object:
        """The scheduler accepted it; of an array, its elements' ids follow."""

    async def refused(self, name: str, reason: str) -> object:
        """The scheduler refused it, for good."""

    async def uncertain(self, name: str, reason: str) -> object:
        """Nobody can tell."""


class _Kind(StrEnum):
    """What the remote script answers."""

    ID = "ID"
    OUT = "OUT"
    NEW = "NEW"
    LOOK = "LOOK"
    BUSY = "BUSY"
    BROKEN = "BROKEN"


@dataclass(frozen=True)
class _Answer:
    """One answer of the remote script.

    :param kind: ``ID`` and ``LOOK`` speak for themselves; ``OUT`` is an earlier submit's answer, ``NEW``
        this call's
    :param nonce: the marker's
    :param age_s: seconds since the marker's time
    :param result: the submit command's or the look-up's
    """

    kind: _Kind
    nonce: str
    age_s: float
    result: CommandResult


@dataclass(frozen=True)
class _Call:
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


Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


async def submit(
    host: RemoteHost,
    scheduler: Scheduler,
    request: JobRequest,
    *,
    store: SubmissionStore,
    job: Job,
    webhook: Webhook | None = None,
    first: bool = False,
    user: str | None = None,
    log: Log | None = None,
    deadline_s: float = DEADLINE_S,
    patience: Patience = PATIENCE,
) -> str:
    """Submit one job, or find the one that an earlier try submitted.

    :param job: the job as the store has it, its intent saved; its name and directory are the request's
    :param webhook: where the job's script sends its news
    :param first: the caller's own call of ``intend`` made this intent just now; False is always safe, and
        costs a question to the scheduler
    :param user: the account whose jobs are looked at, None for the one that we log in as
    :param deadline_s: seconds after which "could not tell" is handed to a person
    :return: the scheduler's id
    :raises SubmissionRefused: the scheduler's words; ``transient`` is True when time may cure it
    :raises SubmissionUncertain: the deadline passed and nobody can tell; nothing was submitted a second time
    :raises SSHError: the host cannot be reached, before anything was sent
    :raises SchedulerError: the control directory cannot be made
    """
    say = log or logging.getLogger(__name__)
    if job.native_id and job.submission is SubmissionState.SUBMITTED:
        say.info("Job %s was submitted before, as %s", job.name, job.native_id)
        return job.native_id
    script = write_script(scheduler, request, webhook, control_directory(request.directory, request.name))
    work = _Submission(host, scheduler, request, script, webhook, user, patience, job.created_at)
    try:
        native_id = await _until_told(work, _Call(look=not first), say, deadline_s)
    except SubmissionRefused as refusal:
        if not refusal.transient:
            await store.refused(job.name, refusal.message)
        raise
    except SubmissionUncertain as doubt:
        await store.uncertain(job.name, doubt.message)
        raise
    await store.submitted(job.name, native_id, datetime.now(UTC), scheduler.element_id)
    return native_id


async def _until_told(work: _Submission, call: _Call, say: Log, deadline_s: float) -> str:
    """Ask until there is an id, a refusal, or no time left."""
    clock = work.patience.clock
    end = clock() + deadline_s
    pauses = iter(work.patience.pauses_s)
    pause = 0.0
    asked = False
    while True:
        try:
            step = work.decide(await work.ask(call), call)
        except SSHError as error:
            if not error.started and not asked:
                # Nothing was sent, so nothing is uncertain: the caller's retry begins where we are.
                raise
            step = _Again(replace(call, look=True, found=""), str(error))
        except (SubmissionRefused, SubmissionUncertain):
            raise
        except AnswerUnreadable as doubt:
            step = _Again(replace(call, look=True, found=""), str(doubt))
        except SchedulerError as broken:
            if not asked:
                raise
            # The call before may have been accepted.
            step = _Again(replace(call, look=True, found=""), str(broken))
        asked = True
        if isinstance(step, str):
            return step
        call = step.call
        if step.reason:
            if clock() >= end:
                raise work.uncertain(step.reason)
            pause = next(pauses, pause)
            say.warning("Job %s: %s; looking again in %g s", work.request.name, step.reason, pause)
            await work.patience.sleep(pause)


@dataclass(frozen=True)
class _Again:
    """Call again: at once without a reason, after a pause with one."""

    call: _Call
    reason: str


@dataclass(frozen=True)
class _Submission:
    """One submission: builds the remote script, reads its answer, decides what follows."""

    host: RemoteHost
    scheduler: Scheduler
    request: JobRequest
    script: str
    webhook: Webhook | None
    user: str | None
    patience: Patience
    intended_at: datetime | None = None

    async def ask(self, call: _Call) -> _Answer:
        """One round trip."""
        nonce = secrets.token_hex(12)
        # Well above what the lock, the submit command and the look-up may take together.
        result = await self.host.run(self.text(call, nonce), timeout=SUBMIT_S + 120)
        return _read(result, nonce, self.patience.clock())

    def decide(self, answer: _Answer, call: _Call) -> str | _Again:
        """The id, or the next call. Pure.

        :raises SubmissionRefused: this call's submit was refused
        :raises AnswerUnreadable: the remote script could not do its work
        """
        match answer.kind:
            case _Kind.ID:
                return answer.result.stdout.strip()
            case _Kind.BUSY:
                return _Again(replace(call, proven="", found=""), "another submitter holds the lock")
            case _Kind.BROKEN:
                words = answer.result.stdout.strip()
                raise SchedulerError(f"no control directory for the job: {words}", where=self.host.name)
            case _Kind.LOOK:
                return self._looked(answer)
        try:
            return self.scheduler.parse_submit(answer.result)
        except SubmissionRefused as refusal:
            if answer.kind is _Kind.NEW:
                refusal.where = self.host.name
                raise
            return _Again(_Call(proven=answer.nonce), "")
        except SubmissionUncertain as doubt:
            return _Again(_Call(distrust=answer.nonce, look=True), doubt.message)

    def _looked(self, answer: _Answer) -> str | _Again:
        again = _Call(distrust=answer.nonce, look=True)
        try:
            native_id = self.scheduler.parse_find_within(answer.result, self.request.name, self._age_s())
        except AnswerUnreadable as doubt:
            return _Again(replace(again, trouble=answer.nonce), f"the look-up could not tell: {doubt.message}")
        if native_id is not None:
            return _Again(_Call(found=native_id), "")
        if answer.nonce == _NONE or answer.age_s >= self.patience.grace_s:
            return _Again(_Call(proven=answer.nonce), "")
        return _Again(again, f"not in the queue {answer.age_s:.0f} s after the submit; it may turn up yet")

    def _age_s(self) -> float:
        """How old a job of ours can be: its intent was saved before anybody could submit it."""
        if self.intended_at is None:
            return float("inf")
        return self.patience.clock() - self.intended_at.timestamp() + CLOCKS_S

    def uncertain(self, reason: str) -> SubmissionUncertain:
        """The error that hands over to a person."""
        control = control_directory(self.request.directory, self.request.name)
        return SubmissionUncertain(
            f"cannot tell whether job {self.request.name} was accepted: {reason}",
            where=self.host.name,
            advice=f"look for a job named {self.request.name} in {self.scheduler.name}'s queue and"
            f" history; if there is one, write its id into {control}/id and retry; if there certainly is"
            f" none, remove {control}/submitting and retry. Until then it counts as a job there; to give it up,"
            " cancel its experiment",
        )

    def text(self, call: _Call, nonce: str) -> str:
        """The remote script. It is read whole before any of it runs: a cut script does nothing."""
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
            "now": str(int(self.patience.clock())),
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
            f"{frame.SETUP}\n{head}\nairavata_submit_s={SUBMIT_S}\n"
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


def _read(result: CommandResult, nonce: str, now: float) -> _Answer:
    """The remote script's answer out of everything that a login may print around it.

    :raises AnswerUnreadable: there is none, or not the whole of it
    """
    match = re.search(
        rf"^{nonce}-BEGIN (\w+) (\w+) (\d+) (\d+)\n(.*)\n{nonce}-END$",
        result.stdout,
        re.DOTALL | re.MULTILINE,
    )
    if match is None or match[1] not in _Kind.__members__:
        words = " ".join(f"{result.stderr} {result.stdout}".split())[-300:]
        raise AnswerUnreadable(f"the host's shell gave no answer (status {result.exit_status}): {words!r}")
    kind, text = _Kind(match[1]), match[5]
    out, error = text, ""
    if kind in (_Kind.OUT, _Kind.NEW):
        head, _, rest = text.partition("\n")
        out, _, error = rest.partition(f"\nstderr {head.split()[0]}\n")
        error = error.rpartition(f"\nend {head.split()[0]}")[0]
    return _Answer(kind, match[2], now - int(match[3]), CommandResult(int(match[4]), out, error))
