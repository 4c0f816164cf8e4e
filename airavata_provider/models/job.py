"""A job and what happens to it: names, states, events. Data only, no Airflow, no I/O.

The names are Apache Airavata's data model's (``JobState``, ``TaskState``), so that people and tools who know
that system read this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from airavata_provider.models.identity import TaskIdentity, array_name
from airavata_provider.models.outcome import Outcome

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class JobState(StrEnum):
    """What the scheduler is doing with a job."""

    SUBMITTED = "SUBMITTED"
    QUEUED = "QUEUED"
    ACTIVE = "ACTIVE"
    COMPLETE = "COMPLETE"
    CANCELED = "CANCELED"
    FAILED = "FAILED"
    SUSPENDED = "SUSPENDED"
    UNKNOWN = "UNKNOWN"
    NON_CRITICAL_FAIL = "NON_CRITICAL_FAIL"

    @property
    def terminal(self) -> bool:
        """True when the job will never run again under this id."""
        return self in TERMINAL


TERMINAL = frozenset({JobState.COMPLETE, JobState.CANCELED, JobState.FAILED})


class EventSource(StrEnum):
    """Who brought the news. A plug-in's monitor may use another word: sources are stored as text."""

    SUBMISSION = "submission"
    WEBHOOK = "webhook"
    RELAY = "relay"
    MAIL = "mail"
    POLL = "poll"
    CANCEL = "cancel"


@dataclass(frozen=True)
class JobEvent:
    """One piece of news about one job, from whoever brought it. Monitors make these and nothing else.

    :param job: the job's name, which is its key in the store
    :param source: an :class:`EventSource` or a plug-in's own word
    :param event_id: unique per job and source; the same id again is the same event again
    :param state: the state this source saw
    :param at: when it happened, by the source's clock; timezone-aware
    :param exit_code: the payload's exit status where the source knows it
    :param signal: the signal that ended the payload, where the source knows it
    :param reason: the source's own words (``OUT_OF_MEMORY``, ``PartitionTimeLimit``, a mail's subject)
    :param native_id: the scheduler's id, where the source names it
    :param outcome: what kind of end, or of waiting, that is, where the source knows it
    :param given_up: with UNKNOWN: nobody will look for this job any more, so whoever waits is woken
    """

    job: str
    source: str
    event_id: str
    state: JobState
    at: datetime
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    native_id: str | None = None
    given_up: bool = False
    outcome: Outcome | None = None


class Effect(StrEnum):
    """What an event did to its job."""

    APPLIED = "applied"
    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    LATE = "late"
    IMPOSSIBLE = "impossible"
    DUPLICATE = "duplicate"


class SubmissionState(StrEnum):
    """How far a submission is; see ``jobs.submission``."""

    INTENDED = "INTENDED"
    SUBMITTED = "SUBMITTED"
    REFUSED = "REFUSED"
    UNCERTAIN = "UNCERTAIN"


@dataclass(frozen=True)
class Job:
    """A job as the store knows it: a plain one, an array, or one element of an array.

    An array's own row has a :attr:`size`; its state follows from its elements'. Each element is a job of its own,
    named ``<array's name>.<index>``.

    :param name: our key for it, and its name in the scheduler (``models.identity.job_name``)
    :param dag_id: the DAG that asked for it
    :param experiment_id: the experiment it serves, which is the DAG run's id
    :param task_id: the submission task it belongs to
    :param map_index: that task's map index, -1 when it is not mapped
    :param attempt: 1 for the first job of that task, one more for each new one after it; 0 and below for a job that
        somebody else submitted and that the task only waits for
    :param gateway: the science gateway that asked
    :param user: the person there
    :param resource: the compute resource's name in the catalog
    :param queue: the queue asked for, None for the resource's default
    :param directory: the job's working directory on the resource, absolute; an element has its array's, in which its
        control directory is
    :param state: what the job is doing
    :param state_at: when news last told that state, by the teller's clock
    :param state_source: who told it first
    :param submission: how far its submission is
    :param native_id: the scheduler's id, once it is known
    :param try_number: the try that made the intent
    :param walltime_s: the time asked for, in seconds
    :param exit_code: the payload's exit status, once a source told
    :param signal: the signal that ended it
    :param reason: the scheduler's own words about its state, or about the end
    :param created_at: when the intent was saved
    :param submitted_at: when the scheduler accepted
    :param started_at: first ACTIVE seen
    :param ended_at: when it became terminal, was refused, or was given up as UNKNOWN; None while news is awaited
    :param changed_at: last change of this record
    :param version: one more with each change of this record
    :param cancel_requested_at: when someone asked for its end
    :param cancel_requested_by: who
    :param canceled_at: when the scheduler agreed
    :param outcome: what kind of end, or of waiting, it is, where a source told; ``models.advice`` says what to do
    :param priority: its experiment's priority as a number, 0 (LOW) to 3 (URGENT)
    :param admitted_at: when admission let it go to its resource; None while it waits for that
    :param submitting_at: when its submission last began or went on: the scheduler may have it since; None: certainly
        nobody has sent it
    :param array: the name of the array whose element it is
    :param element: its index there
    :param offset: of an array and its elements: what to add to an element's index for its place among all elements of
        its task, which may need several arrays
    :param size: of an array: how many elements it has
    :param tally: of an array: how many of its elements are where (``jobs.arrays``)
    :param request: what the scheduler was asked for, as JSON, without secrets; None for an element: its array's. Of
        a job that somebody else submitted: its ``name`` there, where that is known. Of an attempt that a pattern's
        rule made: under ``made_by``, which one and why (``models.rules``)
    :param born: when its DAG run was made (:class:`~airavata_provider.models.identity.TaskIdentity`)
    :param waiter: the admitter (``jobs.admitter``) in whose process a task waits for its admission; "" for none
    """

    name: str
    dag_id: str
    experiment_id: str
    task_id: str
    map_index: int
    attempt: int
    resource: str
    directory: str
    gateway: str = ""
    user: str = ""
    queue: str | None = None
    state: JobState | None = None
    state_at: datetime | None = None
    state_source: str = ""
    submission: SubmissionState = SubmissionState.INTENDED
    native_id: str | None = None
    try_number: int = 1
    walltime_s: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    created_at: datetime | None = None
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    changed_at: datetime | None = None
    version: int = 0
    cancel_requested_at: datetime | None = None
    cancel_requested_by: str = ""
    canceled_at: datetime | None = None
    outcome: Outcome | None = None
    priority: int = 0
    admitted_at: datetime | None = None
    submitting_at: datetime | None = None
    array: str | None = None
    element: int | None = None
    size: int | None = None
    tally: Mapping[str, int] | None = None
    request: Mapping[str, Any] | None = None
    born: str = ""
    waiter: str = ""
    offset: int = 0

    @property
    def task(self) -> TaskIdentity:
        """The submission task that it belongs to."""
        return TaskIdentity(self.dag_id, self.experiment_id, self.task_id, self.map_index, self.born)

    @property
    def place(self) -> int | None:
        """Of an array's element: its index among all elements of its task, the one that people know."""
        return None if self.element is None else self.offset + self.element

    @property
    def ours(self) -> bool:
        """Whether it was submitted here. Another's job is watched, and ended by nobody but its owner."""
        return self.attempt > 0

    @property
    def scheduler_name(self) -> str:
        """Its name in the scheduler: an element has its array's; "" where it is not known."""
        return array_name(self.name) if self.ours else str((self.request or {}).get("name", ""))


class TaskState(StrEnum):
    """How one step ended, or that it runs."""

    CREATED = "CREATED"
    EXECUTING = "EXECUTING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


SKIPPED = "skipped"
"""In the result of a task that ended without having had anything to do."""


@dataclass(frozen=True)
class TaskRecord:
    """What the store keeps of one task of one experiment: the checkpoint that a retry starts from.

    :param try_number: the Airflow try that wrote it
    :param born: when the DAG run was made; tells it from another run of the same id
    :param started_at: begin of that try's work on it
    :param ended_at: its end
    :param result: small JSON values for later tasks and for people
    :param error: the message of a failure
    :param run_started: when Airflow started the run, as text: another moment once a person has cleared a run that was
        over; empty where the host is not told
    :param stands_through: the last of Airflow's tries by itself through which this end stands: that try, or the next
        one where Airflow was told to try again for another reason. None: it stands for nothing, each try begins again
    """

    dag_id: str
    experiment_id: str
    task_id: str
    map_index: int
    try_number: int
    state: TaskState
    started_at: datetime
    ended_at: datetime | None = None
    result: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    error: str = ""
    born: str = ""
    run_started: str = ""
    stands_through: int | None = None
