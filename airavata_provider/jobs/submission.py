"""Submits a job once: whoever is killed wherever, whoever tries at the same time, and whatever gets lost.

Two phases. First the intent is saved, by the caller (``JobStore.intend``). Then one remote script
(``submit_script``), fed to a shell over one session that others may share with it (``ssh.shared``), works under a
lock in the job's control directory: it writes the job script, then a marker (``submitting``: a nonce and the time),
runs the scheduler's submit command, and writes its answer into ``submit.out``. Then the id is saved. Running all of
it again finds what the last run left:

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
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from airavata_provider.errors import (
    AnswerUnreadable,
    SchedulerError,
    SSHError,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.jobs.submit_script import NONE, Answer, Call, Kind, SubmitScript, read_answer
from airavata_provider.models.job import Job, SubmissionState
from airavata_provider.models.outcome import ADVICE, Outcome
from airavata_provider.schedulers.base import CommandResult, Scheduler
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.schedulers.script import Webhook, write_script

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
    # Where the host can: many at once share sessions.
    host = getattr(host, "shared", host)
    work = _Submission(host, scheduler, request, script, webhook, user, patience, job.created_at)
    try:
        native_id = await _until_told(work, Call(look=not first), say, deadline_s)
    except SubmissionRefused as refusal:
        if not refusal.transient:
            refusal.advice = refusal.advice or ADVICE[Outcome.REFUSED]
            await store.refused(job.name, refusal.message)
        raise
    except SubmissionUncertain as doubt:
        await store.uncertain(job.name, doubt.message)
        raise
    await store.submitted(job.name, native_id, datetime.now(UTC), scheduler.element_id)
    return native_id


async def _until_told(work: _Submission, call: Call, say: Log, deadline_s: float) -> str:
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

    call: Call
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

    async def ask(self, call: Call) -> Answer:
        """One round trip."""
        nonce = secrets.token_hex(12)
        # Well above what the lock, the submit command and the look-up may take together.
        script = SubmitScript(self.scheduler, self.request, self.script, self.webhook, self.user, SUBMIT_S)
        text = script.text(call, nonce, int(self.patience.clock()))
        result = await self.host.run(text, timeout=SUBMIT_S + 120)
        return read_answer(result, nonce, self.patience.clock())

    def decide(self, answer: Answer, call: Call) -> str | _Again:
        """The id, or the next call. Pure.

        :raises SubmissionRefused: this call's submit was refused
        :raises AnswerUnreadable: the remote script could not do its work
        """
        match answer.kind:
            case Kind.ID:
                return answer.result.stdout.strip()
            case Kind.BUSY:
                return _Again(replace(call, proven="", found=""), "another submitter holds the lock")
            case Kind.BROKEN:
                words = answer.result.stdout.strip()
                raise SchedulerError(f"no control directory for the job: {words}", where=self.host.name)
            case Kind.LOOK:
                return self._looked(answer)
        try:
            return self.scheduler.parse_submit(answer.result)
        except SubmissionRefused as refusal:
            if answer.kind is Kind.NEW:
                refusal.where = self.host.name
                raise
            return _Again(Call(proven=answer.nonce), "")
        except SubmissionUncertain as doubt:
            return _Again(Call(distrust=answer.nonce, look=True), doubt.message)

    def _looked(self, answer: Answer) -> str | _Again:
        again = Call(distrust=answer.nonce, look=True)
        try:
            native_id = self.scheduler.parse_find_within(answer.result, self.request.name, self._age_s())
        except AnswerUnreadable as doubt:
            return _Again(replace(again, trouble=answer.nonce), f"the look-up could not tell: {doubt.message}")
        if native_id is not None:
            return _Again(Call(found=native_id), "")
        if answer.nonce == NONE or answer.age_s >= self.patience.grace_s:
            return _Again(Call(proven=answer.nonce), "")
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
