"""What a task is: one coroutine that knows nothing of Airflow, and what it is given.

A task's class names its parameters as a pydantic model, says how they follow from an experiment when a pattern
leaves them out, and does its work in :meth:`Task.run`. It can be killed at any line and run again: what it finds
done, it leaves; what it finds half done, it finishes.

Imports no Airflow. Hosts (the triggerer, a worker) live in ``triggers``.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from airavata_provider.models.identity import TaskIdentity
from airavata_provider.monitors.relay import directory_url

if TYPE_CHECKING:
    from airavata_provider.jobs.admitter import Admitter
    from airavata_provider.jobs.store import JobStore
    from airavata_provider.models.experiment import Experiment, ResolvedExperiment
    from airavata_provider.models.job import Job
    from airavata_provider.models.placement import Placement
    from airavata_provider.models.resource import ComputeResource
    from airavata_provider.models.rules import Rule, Sizes
    from airavata_provider.ssh.host import Host
    from airavata_provider.storage.base import Storage


class Parameters(BaseModel):
    """Base of every task type's parameters: no unknown fields, no coercion by accident."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Parameters)


def webhook_url(base: str, resource: ComputeResource, job: str) -> str | None:
    """Where a job's script sends its news, or leaves it; None when the resource's jobs cannot call us.

    :param base: the deployment's own address, "" for none
    """
    if resource.callbacks.relay:
        return directory_url(resource.scratch, job)
    base = resource.callbacks.url or base
    if not base or not resource.callbacks.webhook:
        return None
    return f"{base.rstrip('/')}/airavata/jobs/{job}/events"


class Services(ABC):
    """The outside world, as a host hands it to tasks."""

    store: JobStore

    @abstractmethod
    def compute_resource(self, name: str) -> ComputeResource:
        """The compute resource of that name.

        :raises CatalogError: there is none
        """

    @abstractmethod
    async def host(self, resource: ComputeResource) -> Host:
        """The pooled way to that resource's login node."""

    @abstractmethod
    async def storage(self, name: str) -> Storage:
        """The storage resource of that name.

        :raises CatalogError: there is none
        """

    @abstractmethod
    def webhook_url(self, resource: ComputeResource, job: str) -> str | None:
        """Where that job's script sends its news; None when the resource's jobs cannot call us."""

    @abstractmethod
    def webhook_token(self, job: str) -> str:
        """The secret that lets a caller speak for that job alone."""

    @abstractmethod
    def admitter(self) -> Admitter:
        """Where jobs wait until they may be submitted."""

    @abstractmethod
    async def watch(self) -> None:
        """See to it that somebody polls the clusters and repeats cancellations while this process waits."""


class Deadline:
    """A task's deadline, which does not run while others are waited for.

    :param scope: the time-out that keeps it; None: there is none
    """

    def __init__(self, scope: asyncio.Timeout | None = None) -> None:
        self._scope = scope

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time within does not count."""
        end = self._scope.when() if self._scope is not None else None
        if self._scope is None or end is None:
            yield
            return
        clock = asyncio.get_running_loop().time
        left = end - clock()
        self._scope.reschedule(None)
        try:
            yield
        finally:
            self._scope.reschedule(clock() + left)


class Elsewhere(ABC):
    """How a task that submits a job once more moves its experiment to another place; a host hands it in."""

    @abstractmethod
    async def choose(self, rule: Rule, number: int, attempts: Sequence[Job]) -> tuple[Placement, Sizes]:
        """The place that placement takes of those where the request fits and no such failure was, and what the next
        attempt asks for there. Nothing is put on record.

        :param number: the rule's
        :param attempts: of the submission, the last one last
        :raises NotAgain: there is none; why
        """

    @abstractmethod
    async def at(self, placement: Placement | None) -> TaskContext[Any]:
        """What the task is given there.

        :param placement: None: the one on record
        """

    @abstractmethod
    async def prepare(self) -> TaskContext[Any]:
        """Do what comes before the submission where the experiment is now, by the record.

        Killed and done again, it finds what it left.

        :return: what the task is given then
        """


async def _nothing() -> None:
    pass


@dataclass(frozen=True)
class TaskContext(Generic[P]):
    """What one run of one task is given.

    :param identity: which task of which experiment
    :param try_number: Airflow's, from 1; for records and messages only, never for names
    :param fresh: a person cleared this task after it had ended: start anew instead of finding the old result. It
        stays so, whoever is killed or fails, until the task has completed or says that it has :attr:`begun` anew
    :param parameters: validated, templates rendered
    :param experiment: the request, None in a hand-written DAG
    :param resource: where it runs
    :param directory: the experiment's directory there, absolute
    :param services: the outside world
    :param log: this task's log
    :param deadline: how long it may take
    :param past: with ``fresh``: the last attempt at a job of this task that was there when it was cleared, 0 for none
    :param begun: puts on record that a fresh task has begun anew: started again, it goes on
    :param submission: of a task that answers a job's end by submitting it once more: what its submission is given
    :param elsewhere: of one that may do that at another place: the way there
    """

    identity: TaskIdentity
    try_number: int
    fresh: bool
    parameters: P
    experiment: Experiment | None
    resource: ComputeResource
    directory: str
    services: Services
    log: logging.Logger
    deadline: Deadline = field(default_factory=Deadline)
    past: int = 0
    begun: Callable[[], Awaitable[None]] = _nothing
    submission: TaskContext[Any] | None = None
    elsewhere: Elsewhere | None = None


@dataclass(frozen=True)
class TaskResult:
    """How a task that did not raise ended.

    :param values: small JSON values: kept on the task's record, pushed as XComs, seen by later tasks' templates
    :param skipped: the task had nothing to do and those after it need not run
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    skipped: bool = False


class Task(ABC, Generic[P]):
    """A task type; one subclass in one file and one entry point in the group ``airavata.tasks``."""

    name: ClassVar[str]
    """The word in a pattern's ``type:``."""

    Parameters: ClassVar[type[Parameters]]
    """The model of a pattern's ``parameters:``."""

    run_on: ClassVar[str] = "triggerer"
    """Where it runs when the pattern does not say: ``triggerer`` or ``worker``."""

    judges: ClassVar[str | None] = None
    """The parameter that names the submission whose job's bad end is this task's (a monitor's). Who clears a segment
    of both then gets another job, not the same end again."""

    def defaults(self, experiment: ResolvedExperiment) -> Mapping[str, Any]:
        """Parameters that follow from the experiment where the pattern leaves them out. Pure."""
        return {}

    @abstractmethod
    async def run(self, context: TaskContext[P]) -> TaskResult:
        """Do the work; idempotent.

        :raises AiravataError: it could not be done; a transient one is worth a retry
        """

    async def cancel(self, context: TaskContext[P]) -> None:
        """Stop what a killed run left behind on the other side; bounded, idempotent. Default: nothing."""
