"""What a piece of news does to a job: the one place where that is decided.

:func:`decide` is pure and total: every event, from every source, in any order, has an answer, and none
raises. What always holds:

* News of an ended job's earlier life is kept and changes nothing (``LATE``).
* Nothing turns an unsuccessful end into ``COMPLETE``; a later unsuccessful end replaces a ``COMPLETE``.
  Whoever waited was woken by the first end, so the record is what tells: its effect is ``CONTRADICTED``.
* Of two unsuccessful ends the scheduler's own record (:data:`RECORDS`) counts more than the script's word, and of two
  of the same kind the one that explains more: "a signal ended it" explains least, as a cancel does it by one, too.
* ``SUSPENDED``, ``UNKNOWN`` and ``NON_CRITICAL_FAIL`` go on; ``ACTIVE`` → ``QUEUED`` is a requeue.
* A cancel changes no state: a job that completes while its end is asked for has completed. What its process ends as
  is :func:`ends_as`'s to say.
* Of two states that are not ends, the one seen later (:attr:`JobEvent.at`) counts, however they arrive; but
  anything known replaces ``UNKNOWN``. So does of one state what is said of it: the later outcome and reason count,
  also when the later news has none, because the job was released.

So the end of a history does not depend on the order, the delay or the repetition of its events. The states
and the legal steps are Apache Airavata's (``JobStatus`` there), without its dead ends.

No I/O, no Airflow, no SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import product
from types import MappingProxyType

from airavata_provider.models.job import TERMINAL, Effect, EventSource, Job, JobEvent, JobState
from airavata_provider.models.outcome import Outcome

RECORDS: frozenset[str] = frozenset({EventSource.POLL, EventSource.MAIL, EventSource.CANCEL})
"""Sources that repeat what the scheduler itself holds. All others (a job's script, a plug-in) are hearsay."""

_S = JobState
_ALIVE = frozenset(_S) - TERMINAL
_NEXT: dict[JobState | None, frozenset[JobState]] = {
    None: frozenset(_S),
    _S.SUBMITTED: frozenset(_S) - {_S.SUBMITTED},
    **{
        state: frozenset(_S) - {_S.SUBMITTED, state}
        for state in (_S.QUEUED, _S.ACTIVE, _S.SUSPENDED, _S.UNKNOWN, _S.NON_CRITICAL_FAIL)
    },
    _S.COMPLETE: frozenset({_S.FAILED, _S.CANCELED}),
    _S.FAILED: frozenset({_S.CANCELED}),
    _S.CANCELED: frozenset({_S.FAILED}),
}
TRANSITIONS: Mapping[JobState | None, frozenset[JobState]] = MappingProxyType(_NEXT)
"""The steps that can be: from a state (None: nothing heard yet) to another. Those out of an end are
corrections.
"""

_BY_SIGNAL, _CANCELED = 1, 2
_SEVERITY: Mapping[JobState | None, int] = {_S.COMPLETE: 0, _S.CANCELED: _CANCELED, _S.FAILED: 3}


class Why(StrEnum):
    """Why an event did what it did, for people."""

    FIRST = "the first that was heard of the job"
    WENT_ON = "the job went on to this state"
    REQUEUED = "the scheduler put the job back into its queue, under the same id"
    FOUND_AGAIN = "nobody could tell what the job did, and now somebody can"
    ENDED = "the job ended"
    GIVEN_UP = "nobody will look for the job any more"
    KNOWN = "this was known"
    TOLD_ANEW = "the state was known; what is said of it is new"
    BACKED = "the end was known from a source that cannot tell all of it; now the scheduler's own record does"
    COMPLETED = "the end was known; this adds what was missing of it"
    OLDER = "it is older than what is known"
    LONG_SUBMITTED = "the job is past its submission"
    AFTER_END = "the job had ended"
    NO_SUCCESS = "an end without success stands over a success"
    RECORD = "the scheduler's own record stands over hearsay"
    GRAVER = "of two ends from sources of one kind the graver stands"
    EXPLAINED = "a cancel ends a job by a signal: of the two ends the cancel explains more"
    OTHER_ID = "it is about another id of the scheduler: ids are used again after a controller's reset"


@dataclass(frozen=True)
class Decision:
    """What an event does.

    :param effect: what becomes of the event
    :param job: the job afterwards; the very same object when nothing changes. ``version`` and ``changed_at``
        are the store's to set
    :param why: for people
    """

    effect: Effect
    job: Job
    why: Why

    @property
    def state(self) -> JobState | None:
        """The job's state afterwards."""
        return self.job.state


def decide(job: Job, event: JobEvent) -> Decision:
    """What the event does to the job. Pure and total.

    Events are told apart by the store, so ``DUPLICATE`` never comes from here.

    * ``APPLIED``: the job's state is now the event's
    * ``CONFIRMED``: it was already; what is said of it may be new, and an end may have gained an exit code or a
      stronger source
    * ``CONTRADICTED``: another end than the one on record; which of the two stands, see the module
    * ``LATE``: older than what is known
    * ``IMPOSSIBLE``: about another job (ids are reused after a controller's reset)
    """
    if job.native_id is not None and event.native_id is not None and job.native_id != event.native_id:
        return Decision(Effect.IMPOSSIBLE, job, Why.OTHER_ID)
    if event.state.terminal:
        return _end(job, event)
    if job.state is not None and job.state.terminal:
        return Decision(Effect.LATE, job, Why.AFTER_END)
    return _step(job, event)


def ends_as(job: Job) -> JobState | None:
    """What the job's process ends as; None while it goes on.

    An end for which a cancel was waiting ends the process as ``CANCELED``, whatever the end is; a cancel that
    came after the end changes nothing. A job that was given up ends as ``UNKNOWN``: the cancel is still repeated.
    """
    if job.ended_at is None:
        return None
    if job.state is not None and job.state.terminal and _cancel_was_waiting(job):
        return _S.CANCELED
    return job.state


def _cancel_was_waiting(job: Job) -> bool:
    # Whoever asks for the end of an ended job is agreed with in the same moment, by the same clock.
    return job.cancel_requested_at is not None and job.canceled_at != job.cancel_requested_at


def is_backed(job: Job) -> bool:
    """Whether the scheduler's own record told the job's end, and told why.

    Mail about a job that a signal ended is not all that the scheduler knows: Grid Engine's is the same for a crash, a
    limit and a cancel, PBS's for a cancel and a limit.
    """
    return _standing(job) == 2


def _standing(end: Job | JobEvent) -> int:
    """What an end's source is worth: 0 for hearsay, 1 for mail that tells of a signal alone, 2 for a record."""
    source = end.source if isinstance(end, JobEvent) else end.state_source
    if source not in RECORDS:
        return 0
    by_signal = _by_signal(end) or (end.state is _S.CANCELED and end.signal is not None)
    return 1 if source == EventSource.MAIL and by_signal else 2


def _by_signal(end: Job | JobEvent) -> bool:
    return end.state is _S.FAILED and end.outcome is Outcome.SIGNALED


def _step(job: Job, event: JobEvent) -> Decision:
    """News that is not an end, of a job that has not ended."""
    state = event.state
    if state is job.state:
        return _same_state(job, event)
    if state not in TRANSITIONS[job.state]:
        return Decision(Effect.LATE, job, Why.LONG_SUBMITTED)
    # Who gives up looks back from now; a clock that strays shall not keep a job from it.
    older = not event.given_up and job.state_at is not None and event.at < job.state_at
    if older and (state is _S.UNKNOWN or job.state not in (_S.UNKNOWN, _S.SUBMITTED)):
        return Decision(Effect.LATE, job, Why.OLDER)
    return Decision(
        Effect.APPLIED,
        replace(
            job,
            state=state,
            state_at=event.at,
            state_source=event.source,
            reason=event.reason,
            outcome=event.outcome,
            started_at=event.at if state is _S.ACTIVE and job.started_at is None else job.started_at,
            ended_at=event.at if event.given_up and state is _S.UNKNOWN else None,
        ),
        _why_step(job, event),
    )


def _same_state(job: Job, event: JobEvent) -> Decision:
    """News of the state that the job is in, which is not an end."""
    if event.given_up and event.state is _S.UNKNOWN and job.ended_at is None:
        ended = replace(job, ended_at=event.at, reason=event.reason, outcome=event.outcome)
        return Decision(Effect.APPLIED, ended, Why.GIVEN_UP)
    same = (event.outcome, event.reason) == (job.outcome, job.reason)
    if job.state_at is not None and _in_order(event, event.at) <= _in_order(job, job.state_at):
        return Decision(Effect.CONFIRMED, job, Why.KNOWN if same else Why.OLDER)
    if same or job.ended_at is not None:  # who was given up keeps every source's last words
        return Decision(Effect.CONFIRMED, replace(job, state_at=event.at), Why.KNOWN)
    heard = replace(job, state_at=event.at, reason=event.reason, outcome=event.outcome)
    return Decision(Effect.CONFIRMED, heard, Why.TOLD_ANEW)


def _in_order(said: Job | JobEvent, at: datetime) -> tuple[datetime, str, str]:
    """What is said of one state, by its moment; of one moment, an outcome counts more than none."""
    return at, said.outcome or "", said.reason


def _why_step(job: Job, event: JobEvent) -> Why:
    if event.given_up and event.state is _S.UNKNOWN:
        return Why.GIVEN_UP
    if job.state is None:
        return Why.FIRST
    if job.state is _S.UNKNOWN:
        return Why.FOUND_AGAIN
    if event.state is _S.QUEUED and job.started_at is not None:
        return Why.REQUEUED
    return Why.WENT_ON


def _end(job: Job, event: JobEvent) -> Decision:
    """News of an end."""
    agreed = job.canceled_at
    if job.cancel_requested_at is not None and agreed is None and event.source in RECORDS:
        agreed = event.at
    if job.state is None or not job.state.terminal:
        ended = replace(_with_end(job, event), ended_at=event.at, canceled_at=agreed)
        return Decision(Effect.APPLIED, ended, Why.ENDED)
    told, held = _weight(event, event.source), _weight(job, job.state_source)
    if event.state is job.state:
        stronger = _standing(event) > _standing(job)
        more, less = (event.outcome, job.outcome) if told > held else (job.outcome, event.outcome)
        confirmed = replace(
            job,
            state_source=event.source if stronger else job.state_source,
            exit_code=event.exit_code if job.exit_code is None else job.exit_code,
            signal=event.signal if job.signal is None else job.signal,
            reason=event.reason or job.reason if stronger else job.reason or event.reason,
            # Whatever order they come in, the end weighs as much as the weightiest of them.
            outcome=more or (None if less is Outcome.SIGNALED else less),
            canceled_at=agreed,
        )
        if confirmed == job:
            return Decision(Effect.CONFIRMED, job, Why.KNOWN)
        return Decision(Effect.CONFIRMED, confirmed, Why.BACKED if stronger else Why.COMPLETED)
    why = next(why for why, a, b in zip(_BY_WEIGHT, told, held, strict=True) if a != b)
    if why is Why.GRAVER and {told[2], held[2]} == {_BY_SIGNAL, _CANCELED}:
        why = Why.EXPLAINED
    after = replace(_with_end(job, event) if told > held else job, canceled_at=agreed)
    return Decision(Effect.CONTRADICTED, job if after == job else after, why)


def _with_end(job: Job, event: JobEvent) -> Job:
    return replace(
        job,
        state=event.state,
        state_at=event.at,
        state_source=event.source,
        exit_code=event.exit_code,
        signal=event.signal,
        reason=event.reason,
        outcome=event.outcome,
    )


_BY_WEIGHT = (Why.NO_SUCCESS, Why.RECORD, Why.GRAVER)


def _weight(end: Job | JobEvent, source: str) -> tuple[bool, bool, int]:
    """How much an end counts: success least, then hearsay, then by severity; a total order over ends."""
    severity = _BY_SIGNAL if _by_signal(end) else _SEVERITY[end.state]
    return (end.state is not _S.COMPLETE, source in RECORDS, severity)


# --- for the docs


def markdown_table() -> str:
    """What each event does in each state, as a markdown table: :func:`decide` itself is asked."""
    rows = [f"| state | {' | '.join(_S)} |", "| --- |" + " --- |" * len(_S)]
    for state in (None, *_S):
        cells = " | ".join(_cell(state, news) for news in _S)
        rows.append(f"| {state or 'nothing yet'} | {cells} |")
    return "\n".join(rows) + "\n"


def _cell(state: JobState | None, news: JobState) -> str:
    """The effects of such news, whatever its source and whoever told the state; what time or source decide."""
    known_at = datetime(2000, 1, 1, tzinfo=UTC)
    by_age: dict[bool, set[str]] = {}
    for held, source, older in product(("poll", "webhook"), ("poll", "webhook"), (False, True)):
        job = Job("a", "d", "e", "t", -1, 1, resource="r", directory="/")
        if state is not None:
            job = replace(job, state=state, state_at=known_at, state_source=held)
        event = JobEvent("a", source, "i", news, known_at + timedelta(seconds=-1 if older else 1))
        decision = decide(job, event)
        replaces = decision.effect is Effect.CONTRADICTED and decision.state is news
        by_age.setdefault(older, set()).add(f"{decision.effect}{', replaces' if replaces else ''}")
    newer, old = (" or ".join(sorted(by_age[older])) for older in (False, True))
    return newer if newer == old else f"{newer}; {old} when older"


def mermaid_diagram() -> str:
    """The steps as a mermaid state diagram, for the docs.

    All living states lead to each other, so they are one box; the corrections of an end are named.
    """
    alive = [state for state in _S if not state.terminal]
    every = all(TRANSITIONS[a] >= {b} for a in alive for b in _S if b not in (a, _S.SUBMITTED))
    if not every:
        raise AssertionError("the diagram's box of living states is not what the steps say")
    lines = ["stateDiagram-v2", "    [*] --> SUBMITTED : accepted", "    state alive {"]
    lines += [f"        {a} --> {b}{note}" for a, b, note in _USUAL]
    seen = {name for a, b, _ in _USUAL for name in (a, b)}
    lines += [f"        {state}" for state in alive if state not in seen]
    lines += ["    }"]
    lines += [f"    alive --> {state}" for state in _S if state.terminal]
    ends = [state for state in _S if state.terminal]
    lines += [f"    {a} --> {b} : corrected" for a in ends for b in ends if b in TRANSITIONS[a]]
    lines += [f"    {state} --> [*]" for state in ends]
    return "\n".join(lines) + "\n"


_USUAL = (
    (_S.SUBMITTED, _S.QUEUED, ""),
    (_S.QUEUED, _S.ACTIVE, ""),
    (_S.ACTIVE, _S.QUEUED, " : requeued"),
    (_S.ACTIVE, _S.SUSPENDED, ""),
    (_S.SUSPENDED, _S.ACTIVE, ""),
    (_S.ACTIVE, _S.NON_CRITICAL_FAIL, " : stopped from outside"),
    (_S.NON_CRITICAL_FAIL, _S.QUEUED, " : requeued"),
    (_S.ACTIVE, _S.UNKNOWN, " : nobody can tell"),
    (_S.UNKNOWN, _S.ACTIVE, " : found again"),
)
