"""An experiment's array as its tasks handle it: which elements a submission is for, and how they ended.

A task's elements are known by their places, from 0 up. Where the scheduler's arrays are shorter than that they are
several, and what the scheduler calls an element is its place less its array's offset.

Imports no Airflow, and no SQLAlchemy at its top.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airavata_provider.errors import AiravataError, JobCanceled, JobFailed
from airavata_provider.models.advice import advice_on, outcome_told, words_on
from airavata_provider.models.identity import TaskIdentity, job_name
from airavata_provider.models.job import Job, JobState, SubmissionState
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.rules import made_by
from airavata_provider.schedulers.request import Array, Element, JobRequest, ranges

if TYPE_CHECKING:
    from airavata_provider.jobs.store import JobStore

SHARED = "shared"
"""Directory, beside the elements' own, of the files that all of them see; an element's is called after its place."""

NAMED = 20
"""Elements that a message names one by one, or as a range."""

SAID = 200
"""Characters of a scheduler's words about elements that a message has."""


def element_directory(directory: str, place: int) -> str:
    """Where one element works."""
    return f"{directory}/{place}"


def unsettled(arrays: Sequence[Job]) -> list[Job]:
    """Those of a task's arrays that are still to be submitted, or to be found.

    One that was refused is submitted again unless a later attempt has its elements.
    """
    last = max((array.attempt for array in arrays), default=0)
    return [
        array
        for array in arrays
        if array.native_id is None
        and not called_off(array)
        and (array.submission is not SubmissionState.REFUSED or array.attempt == last)
    ]


def called_off(job: Job) -> bool:
    """Whether a job's, or an array's, end was asked for before it was submitted, and so it never was."""
    over = job.ended_at is not None or job.canceled_at is not None
    return job.native_id is None and job.cancel_requested_at is not None and over


def unsubmitted(arrays: Iterable[Job], elements: Iterable[Job]) -> list[Job]:
    """Those of a task's arrays that a rule made and that are still to be submitted, or to be found.

    :param elements: every element as its last attempt left it; one that was refused is left to a later attempt
    """
    latest = {element.array for element in elements}
    return [
        array
        for array in arrays
        if made_by(array) is not None and array.native_id is None and not called_off(array) and array.name in latest
    ]


def wanted_again(elements: Sequence[Job], again: Collection[int]) -> list[int]:
    """Places that a submission which a person cleared is for: what failed; everything, if nothing did and all ended.

    :param elements: every element as its last attempt left it
    :param again: the places of those that have to be done again (``jobs.arrays.to_retry``)
    """
    if again or any(element.ended_at is None for element in elements):
        return sorted(again)
    return [element.place for element in elements if element.place is not None]


def intents(
    job: Job,
    identity: TaskIdentity,
    places: Iterable[int],
    most: int,
    sayable: Callable[[int, Sequence[int]], bool] = lambda offset, indices: True,
) -> list[tuple[Job, list[int]]]:
    """The arrays of one attempt, with their elements' indices.

    :param job: what they have in common
    :param most: the indices of each are below it
    :param sayable: whether the scheduler can be asked for an array of that offset with those indices; what it cannot
        be asked for (gaps) becomes one array for each run of neighbours
    """
    from airavata_provider.jobs.arrays import runs, split

    parts: list[tuple[int, list[int]]] = []
    for offset, indices in split(places, most):
        parts += [(offset, indices)] if sayable(offset, indices) else runs(offset + index for index in indices)
    return [
        (replace(job, name=job_name(identity, job.attempt, offset), offset=offset), indices)
        for offset, indices in parts
    ]


def part(request: JobRequest, name: str, offset: int, indices: Iterable[int], *, beside: int) -> JobRequest:
    """What the scheduler is asked for with one of a task's arrays.

    :param request: with all elements, each under its place
    :param name: the array's, as are the offset and the indices
    :param beside: how many arrays there are, which share the throttle
    """
    if request.array is None:
        raise ValueError(f"{request.name} is no array")
    by_place = {element.index: element for element in request.array.elements}
    elements = []
    for index in indices:
        element = by_place.get(offset + index)
        if element is None:
            raise JobFailed(
                f"there is no element {offset + index} any more",
                where=name,
                advice="the inputs of a run are not to be changed; start another",
            )
        elements.append(replace(element, index=index, place=element.index))
    throttle = request.array.throttle
    return replace(
        request,
        name=name,
        array=Array(tuple(elements), throttle=None if throttle is None else max(1, throttle // beside)),
    )


def as_array(elements: Sequence[Any], directory: str, throttle: int | None) -> Array | None:
    """The array of a ``submit`` task's elements, each under its place; None when it has none."""
    if not elements:
        return None
    return Array(
        tuple(
            Element(place, element_directory(directory, place), element.arguments, element.environment, element.stdin)
            for place, element in enumerate(elements)
        ),
        throttle,
    )


async def elements_of(store: JobStore, jobs: Iterable[Job]) -> dict[tuple[str, int], list[Job]]:
    """The elements of those arrays' tasks, by task id and map index, each as its last attempt left it."""
    arrays = {(job.task_id, job.map_index): job for job in jobs if job.size is not None}
    return {key: await store.latest_elements(job.task) for key, job in arrays.items()}


def named(places: Iterable[int]) -> str:
    """Places for people: ``0, 3-5, 17``."""
    found = ranges(list(places))
    words = [str(first) if first == last else f"{first}-{last}" for first, last in found[:NAMED]]
    return ", ".join(words) + (", …" if len(found) > NAMED else "")


def how_they_failed(elements: Iterable[Job]) -> str:
    """Those that did not complete, by how they ended: ``2, 7 with exit code 3; 4 (WALLTIME): TIMEOUT``."""
    groups: defaultdict[str, list[Job]] = defaultdict(list)
    for element in elements:
        if element.place is not None and element.state is not JobState.COMPLETE:
            groups[_how(element)].append(element)
    told = []
    for how, alike in groups.items():
        places, words = [each.place for each in alike if each.place is not None], said_of(alike)
        told.append((min(places), f"{named(places)} {how}{f': {words}' if words else ''}"))
    return "; ".join(text for _, text in sorted(told))


def said_of(elements: Iterable[Job]) -> str:
    """The scheduler's words about the first of these elements, with a mark where others have other words."""
    words = [each for each in dict.fromkeys(map(words_on, elements)) if each]
    return "" if not words else words[0][:SAID] + (" …" if len(words) > 1 or len(words[0]) > SAID else "")


def _how(element: Job) -> str:
    if element.outcome not in {None, Outcome.FAILED, Outcome.COMPLETED, Outcome.SIGNALED}:
        return f"({element.outcome})"
    if element.signal:
        return f"by signal {element.signal}"
    if element.exit_code is not None:
        return f"with exit code {element.exit_code}"
    return f"({element.state or element.submission})"


def advice_on_all(elements: Iterable[Job]) -> str:
    """What to do about each outcome of these elements: ``WALLTIME: ask for …; OUT_OF_MEMORY: ask for …``."""
    found = {outcome_told(each): advice for each in elements if (advice := advice_on(each))}
    return "; ".join(f"{outcome}: {found[outcome]}" for outcome in Outcome if outcome in found)


def failure(
    elements: Sequence[Job], where: str, left: Mapping[str, Sequence[int]] | None = None
) -> AiravataError | None:
    """The error that tells of the elements that did not complete; None when all did.

    :param left: why no rule made another attempt at some, and the places of those
    """
    bad = [element for element in elements if element.state is not JobState.COMPLETE]
    if not bad:
        return None
    message = f"{len(bad)} of {len(elements)} elements did not complete: {how_they_failed(bad)}"
    message += "".join(f"; {named(places)}: {why}" for why, places in (left or {}).items())
    again = "clear the submission and what follows it: only those elements are done again"
    advice = advice_on_all(bad)
    canceled = [each for each in bad if each.state is JobState.CANCELED or each.cancel_requested_at is not None]
    if len(canceled) == len(bad):
        by = sorted({each.cancel_requested_by for each in bad} - {""})
        who = ", ".join(by) or "somebody on the cluster"
        return JobCanceled(f"cancelled by {who}: {message}", where=where, advice=advice)
    if any(each.state is JobState.FAILED or each.submission is SubmissionState.REFUSED for each in bad):
        fetched = "the next task fetches their standard output and error"
        return JobFailed(message, where=where, advice="; ".join(filter(None, [advice, fetched, again])))
    return AiravataError(
        f"nobody can tell what became of some. {message}",
        where=where,
        advice="; ".join(filter(None, [advice, f"or {again}"])),
    )
