"""What an array is doing, from how many of its elements are where.

An array's row keeps a tally of its elements, which the transaction that changes an element keeps up; so a piece of
news costs the same whether the array has ten elements or ten thousand. :func:`derived` says what a tally means: it
looks at nothing else, so the order in which news came does not matter.

Pure; imports no Airflow and no SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from airavata_provider.models.identity import element_name
from airavata_provider.models.job import Job, JobState, SubmissionState
from airavata_provider.models.outcome import STANDSTILLS, Outcome

INTENDED = "INTENDED"
REFUSED = "REFUSED"
GIVEN_UP = "GIVEN_UP"
"""UNKNOWN, and nobody looks for it any more."""

_PLAIN = frozenset({None, Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELED})
_ENDS = frozenset({JobState.COMPLETE.value, JobState.FAILED.value, JobState.CANCELED.value, REFUSED, GIVEN_UP})
# Of the states of those elements that have not ended, the first one that there is tells the array's.
_LIVELY = (
    JobState.ACTIVE,
    JobState.NON_CRITICAL_FAIL,
    JobState.QUEUED,
    JobState.SUBMITTED,
    JobState.SUSPENDED,
    JobState.UNKNOWN,
)


@dataclass(frozen=True)
class Derived:
    """What an array is doing.

    :param state: None: its scheduler does not have it, yet or at all
    :param over: nothing more is awaited of any element
    :param outcome: what kind of end; that of its unsuccessful elements when they agree
    """

    state: JobState | None
    over: bool
    outcome: Outcome | None = None


def standing(job: Job) -> str:
    """The word under which a tally counts that element: its state, and after a stroke its outcome where that says
    more (``FAILED/WALLTIME``, ``QUEUED/HELD``).
    """
    if job.state is None:
        return REFUSED if job.submission is SubmissionState.REFUSED else INTENDED
    if job.state.terminal:
        return job.state.value if job.outcome in _PLAIN else f"{job.state}/{job.outcome}"
    if job.state is JobState.UNKNOWN and job.ended_at is not None:
        return GIVEN_UP
    suspended = job.state is JobState.SUSPENDED and job.outcome is Outcome.SUSPENDED
    return f"{job.state}/{job.outcome}" if job.outcome in STANDSTILLS and not suspended else job.state.value


def derived(tally: Mapping[str, int]) -> Derived:
    """What an array of which so many elements stand there is doing.

    While an element is awaited, the liveliest state of those that are; then FAILED when one failed, UNKNOWN when
    one was given up, CANCELED when one was cancelled, COMPLETE when all completed.
    """
    words = {word for word, count in tally.items() if count > 0}
    states = {word.partition("/")[0] for word in words}
    awaited = states - _ENDS
    if awaited or not states:
        return Derived(next((state for state in _LIVELY if state in awaited), None), over=False)
    if JobState.FAILED in states:
        return Derived(JobState.FAILED, over=True, outcome=_common(words, JobState.FAILED))
    if GIVEN_UP in states:
        return Derived(JobState.UNKNOWN, over=True, outcome=Outcome.UNKNOWN)
    if JobState.CANCELED in states:
        return Derived(JobState.CANCELED, over=True, outcome=_common(words, JobState.CANCELED))
    if JobState.COMPLETE in states:
        # Beside completed elements there can be refused ones only by a mistake of somebody's: not all completed.
        done = states == {JobState.COMPLETE}
        state = JobState.COMPLETE if done else JobState.FAILED
        return Derived(state, over=True, outcome=Outcome.COMPLETED if done else Outcome.REFUSED)
    return Derived(None, over=True, outcome=Outcome.REFUSED)


def _common(words: Iterable[str], state: JobState) -> Outcome:
    outcomes = {word.partition("/")[2] or word for word in words if word.partition("/")[0] == state}
    return Outcome(outcomes.pop()) if len(outcomes) == 1 else Outcome(state.value)


def follow(array: Job, tally: Mapping[str, int], now: datetime) -> Job:
    """The array's row, with that tally and what follows from it."""
    found = derived(tally)
    tally = {word: count for word, count in sorted(tally.items()) if count}
    over_before = array.ended_at is not None
    started = array.started_at or (now if found.state is JobState.ACTIVE else None)
    moved = found.state is not array.state
    array = replace(
        array,
        tally=tally,
        state=found.state,
        outcome=found.outcome,
        state_at=now if moved else array.state_at,
        state_source="elements" if moved else array.state_source,
        started_at=started,
        ended_at=(array.ended_at or now) if found.over else None,
    )
    if found.over and found.state is not None:
        array = replace(array, reason="" if found.state is JobState.COMPLETE else summary(tally))
        if array.cancel_requested_at is not None and array.canceled_at is None:
            array = replace(array, canceled_at=now)
    elif over_before and not found.over:
        array = replace(array, reason="")
    return array


def summary(tally: Mapping[str, int]) -> str:
    """A tally for people: ``of 1000: 997 COMPLETE, 3 FAILED/WALLTIME``."""
    most_first = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    total = sum(tally.values())
    return f"of {total}: " + ", ".join(f"{count} {word}" for word, count in most_first if count)


def elements_of(array: Job, indices: Iterable[int]) -> list[Job]:
    """The rows of a new array's elements: what the array is, each under its own key.

    What was asked of the scheduler stands in the array's row alone: it would be the same thousands of times.
    """
    one = replace(array, array=array.name, size=None, tally=None, request=None)
    return [replace(one, name=element_name(array.name, index), element=index) for index in indices]


def to_retry(elements: Iterable[Job]) -> tuple[int, ...]:
    """Places of those elements that are over and did not complete: what another attempt has to do."""
    return tuple(
        sorted(
            job.place
            for job in elements
            if job.place is not None and job.ended_at is not None and job.state is not JobState.COMPLETE
        )
    )


def split(places: Iterable[int], most: int) -> list[tuple[int, list[int]]]:
    """Places of elements as arrays: each array's offset, and its elements' indices from there, all below ``most``.

    An array's offset is the same in every attempt, and an index is the place itself where one array is enough: what
    people see in the scheduler's own tools.
    """
    arrays: dict[int, list[int]] = {}
    for place in sorted(set(places)):
        arrays.setdefault(place - place % most, []).append(place % most)
    return list(arrays.items())


def runs(places: Iterable[int]) -> list[tuple[int, list[int]]]:
    """Places of elements as arrays without gaps: each array's offset is its first element's place."""
    arrays: list[tuple[int, list[int]]] = []
    for place in sorted(set(places)):
        if arrays and place == arrays[-1][0] + len(arrays[-1][1]):
            arrays[-1][1].append(place - arrays[-1][0])
        else:
            arrays.append((place, [0]))
    return arrays
