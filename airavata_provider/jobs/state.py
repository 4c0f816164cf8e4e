"""What a piece of news does to a job: the one place where that is decided.

:func:`decide` is pure and total: every event, from every source, in any order, has an answer, and none
raises. What always holds:

* News of an ended job's earlier life is kept and changes nothing (``LATE``).
* Nothing turns an unsuccessful end into ``COMPLETE``; a later unsuccessful end replaces a ``COMPLETE``.
  Whoever waited was woken by the first end, so the record is what tells: its effect is ``CONTRADICTED``.
* Of two unsuccessful ends the scheduler's own record (:data:`RECORDS`) counts more than the script's word.
* ``SUSPENDED``, ``UNKNOWN`` and ``NON_CRITICAL_FAIL`` go on; ``ACTIVE`` → ``QUEUED`` is a requeue.
* Of two states that are not ends, the one seen later (:attr:`JobEvent.at`) counts, however they arrive; but
  anything known replaces ``UNKNOWN``.

So the end of a history does not depend on the order, the delay or the repetition of its events. The states
and the legal steps are Apache Airavata's (``JobStatus`` there), without its dead ends.

No I/O, no Airflow, no SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from airavata_provider.models.job import TERMINAL, Effect, EventSource, Job, JobEvent, JobState

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

_SEVERITY = {_S.COMPLETE: 0, _S.CANCELED: 1, _S.FAILED: 2}


@dataclass(frozen=True)
class Decision:
    """What an event does.

    :param effect: what becomes of the event
    :param job: the job afterwards; the very same object when nothing changes. ``version`` and ``changed_at``
        are the store's to set
    """

    effect: Effect
    job: Job

    @property
    def state(self) -> JobState | None:
        """The job's state afterwards."""
        return self.job.state


def decide(job: Job, event: JobEvent) -> Decision:
    """What the event does to the job. Pure and total.

    Events are told apart by the store, so ``DUPLICATE`` never comes from here.

    * ``APPLIED``: the job's state is now the event's
    * ``CONFIRMED``: it was already; an end may have gained an exit code or a stronger source
    * ``CONTRADICTED``: another end than the one on record; which of the two stands, see the module
    * ``LATE``: older than what is known
    * ``IMPOSSIBLE``: about another job (ids are reused after a controller's reset)
    """
    if job.native_id is not None and event.native_id is not None and job.native_id != event.native_id:
        return Decision(Effect.IMPOSSIBLE, job)
    if event.state.terminal:
        return _end(job, event)
    if job.state is not None and job.state.terminal:
        return Decision(Effect.LATE, job)
    return _step(job, event)


def _step(job: Job, event: JobEvent) -> Decision:
    """News that is not an end, of a job that has not ended."""
    state = event.state
    if state is job.state:
        if event.given_up and state is _S.UNKNOWN and job.ended_at is None:
            ended = replace(job, ended_at=event.at, reason=event.reason, outcome=event.outcome)
            return Decision(Effect.APPLIED, ended)
        newer = job.state_at is None or event.at > job.state_at
        return Decision(Effect.CONFIRMED, replace(job, state_at=event.at) if newer else job)
    if state not in TRANSITIONS[job.state]:
        return Decision(Effect.LATE, job)
    older = job.state_at is not None and event.at < job.state_at
    if older and (state is _S.UNKNOWN or job.state not in (_S.UNKNOWN, _S.SUBMITTED)):
        return Decision(Effect.LATE, job)
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
    )


def _end(job: Job, event: JobEvent) -> Decision:
    """News of an end."""
    agreed = job.canceled_at
    if job.cancel_requested_at is not None and agreed is None and event.source in RECORDS:
        agreed = event.at
    if job.state is None or not job.state.terminal:
        ended = replace(_with_end(job, event), ended_at=event.at, canceled_at=agreed)
        return Decision(Effect.APPLIED, ended)
    if event.state is job.state:
        stronger = event.source in RECORDS and job.state_source not in RECORDS
        confirmed = replace(
            job,
            state_source=event.source if stronger else job.state_source,
            exit_code=event.exit_code if job.exit_code is None else job.exit_code,
            signal=event.signal if job.signal is None else job.signal,
            reason=job.reason or event.reason,
            outcome=job.outcome or event.outcome,
            canceled_at=agreed,
        )
        return Decision(Effect.CONFIRMED, job if confirmed == job else confirmed)
    if _weight(event.state, event.source) > _weight(job.state, job.state_source):
        return Decision(Effect.CONTRADICTED, replace(_with_end(job, event), canceled_at=agreed))
    return Decision(Effect.CONTRADICTED, job if agreed == job.canceled_at else replace(job, canceled_at=agreed))


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


def _weight(state: JobState, source: str) -> tuple[bool, bool, int]:
    """How much an end counts: success least, then hearsay, then by severity; a total order over ends."""
    return (state is not _S.COMPLETE, source in RECORDS, _SEVERITY[state])


def markdown_table() -> str:
    """The steps as a markdown table, for the docs."""
    rows = ["| from | to |", "| --- | --- |"]
    for state, following in TRANSITIONS.items():
        names = " ".join(each for each in JobState if each in following)
        note = " (corrections)" if state is not None and state.terminal else ""
        rows.append(f"| {state or 'nothing yet'}{note} | {names} |")
    return "\n".join(rows) + "\n"


def mermaid_diagram() -> str:
    """The steps as a mermaid state diagram, for the docs; corrections of an end are dotted by a label."""
    lines = ["stateDiagram-v2"]
    for state, following in TRANSITIONS.items():
        ended = state is not None and state.terminal
        lines += [
            f"    {state or '[*]'} --> {each}{' : corrected' if ended else ''}"
            for each in JobState
            if each in following
        ]
    lines += [f"    {state} --> [*]" for state in JobState if state.terminal]
    return "\n".join(lines) + "\n"
