"""What a job script is written from: a request in neutral words, and the table entries that translate it.

Pure; no Airflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any


class MailEvent(StrEnum):
    """When the scheduler writes a mail."""

    BEGIN = "begin"
    END = "end"
    FAIL = "fail"
    REQUEUE = "requeue"


class Signal(StrEnum):
    """What a program can be sent before its walltime.

    Not SIGINT: what a shell starts in the background ignores it.
    """

    USR1 = "USR1"
    USR2 = "USR2"
    TERM = "TERM"
    HUP = "HUP"


class DependencyKind(StrEnum):
    """What the other job has to do before this one may start."""

    OK = "ok"
    ENDED = "ended"
    FAILED = "failed"
    STARTED = "started"


@dataclass(frozen=True)
class Dependency:
    """Another job of the same scheduler that this one waits for.

    :param native_id: that job's id
    """

    native_id: str
    kind: DependencyKind = DependencyKind.OK


@dataclass(frozen=True)
class Element:
    """One element of an array: what differs from the request's own.

    :param index: from 0 up, unique in the array
    :param place: its index among all elements of its task, where that is another; its program sees it as
        ``AIRAVATA_INDEX``
    :param directory: its working directory, absolute
    :param arguments: instead of the request's
    :param environment: on top of the request's
    :param stdin: file in its working directory
    """

    index: int
    directory: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: str | None = None
    place: int | None = None


@dataclass(frozen=True)
class Array:
    """One job of many elements.

    :param elements: in the order of their indices, at least one
    :param throttle: elements that run at a time, at most; None: as many as the scheduler lets
    """

    elements: tuple[Element, ...]
    throttle: int | None = None

    @property
    def indices(self) -> tuple[int, ...]:
        """The elements' indices."""
        return tuple(element.index for element in self.elements)


def ranges(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted indices as ranges, both ends in: ``(1, 2, 3, 7)`` is ``[(1, 3), (7, 7)]``."""
    found: list[tuple[int, int]] = []
    for index in sorted(set(indices)):
        if found and found[-1][1] == index - 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


class ContainerRuntime(StrEnum):
    """What runs containers on a cluster."""

    APPTAINER = "apptainer"
    SINGULARITY = "singularity"


@dataclass(frozen=True)
class Container:
    """The image that the executable runs in.

    :param image: path of an image file, or an address that the runtime understands
    :param binds: ``source[:target[:options]]``; the working directory is always there
    :param options: more words for the runtime, before the image
    :param gpus: make the host's GPUs visible (``--nv``)
    """

    image: str
    runtime: ContainerRuntime = ContainerRuntime.APPTAINER
    binds: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    gpus: bool = False


@dataclass(frozen=True)
class JobRequest:
    """Everything a job script is written from. Values are raw text; the script's writer quotes them.

    :param name: the job's name (``models.identity.job_name``)
    :param directory: working directory, absolute, on the resource
    :param executable: path or command, one word
    :param arguments: one entry each, passed as they are
    :param environment: exported before the modules are loaded
    :param module_init: shell lines that make ``module`` known, run before the modules are loaded (trusted
        text)
    :param modules: names for ``module load``
    :param pre_commands: shell lines of the site's administrator, run before the executable (trusted text)
    :param post_commands: the same, after it, whatever its exit status
    :param launcher: words put before the executable (``("srun",)``); () runs it directly
    :param stdin: file in the working directory, or None
    :param stdout: file name in the working directory for the payload's standard output
    :param stderr: the same for standard error
    :param queue: queue or partition
    :param nodes: number of nodes
    :param tasks: processes in all
    :param cpus_per_task: cores for each process
    :param memory_mb: memory per node, MiB
    :param gpus: GPUs per node
    :param walltime_s: seconds
    :param account: allocation to charge
    :param qos: quality of service
    :param reservation: reservation to run in
    :param comment: free text shown by the scheduler's tools
    :param signal_before_end_s: the program gets a signal that many seconds before the walltime, if it has a handler
        for it; 0: never; None: :data:`~airavata_provider.schedulers.notice.HABIT_S`, where that can be
    :param signal: which; None: SIGUSR1
    :param directives: raw scheduler options of the site (trusted text), one line each, without the prefix
    :param shell: interpreter of the script, with its options
    :param tasks_per_node: processes on each node at most
    :param gpu_type: kind of GPU, in the site's words
    :param exclusive: nobody else's jobs on its nodes
    :param constraint: features that its nodes must have, in the scheduler's own syntax
    :param licenses: ``name`` or ``name:count``
    :param array: the elements, when the job is an array
    :param after: jobs that it waits for
    :param mail_to: address for the scheduler's mail
    :param mail_events: when the scheduler writes one; none: never
    :param export: names of variables of the submitting shell that reach the job; ``("ALL",)`` all, ``()`` none but
        what the scheduler itself sets; None: the scheduler's own habit
    :param container: the image that the executable runs in
    :param site_words: the site's own names for what a scheduler leaves to its site (Grid Engine's parallel
        environment or GPU resource), by the names that the scheduler's adaptor gives them
    """

    name: str
    directory: str
    executable: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    module_init: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    pre_commands: tuple[str, ...] = ()
    post_commands: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    stdin: str | None = None
    stdout: str = "stdout.txt"
    stderr: str = "stderr.txt"
    queue: str | None = None
    nodes: int = 1
    tasks: int = 1
    cpus_per_task: int = 1
    memory_mb: int | None = None
    gpus: int = 0
    walltime_s: int | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    comment: str = ""
    signal_before_end_s: int | None = None
    signal: Signal | None = None
    directives: tuple[str, ...] = ()
    shell: str = "/bin/bash"
    tasks_per_node: int | None = None
    gpu_type: str | None = None
    exclusive: bool = False
    constraint: str | None = None
    licenses: tuple[str, ...] = ()
    array: Array | None = None
    after: tuple[Dependency, ...] = ()
    mail_to: str | None = None
    mail_events: frozenset[MailEvent] = frozenset()
    export: tuple[str, ...] | None = None
    container: Container | None = None
    site_words: Mapping[str, str] = field(default_factory=dict)


BY_SCHEDULER = frozenset(
    {
        "queue", "nodes", "tasks", "tasks_per_node", "cpus_per_task", "memory_mb", "gpus", "gpu_type", "walltime_s",
        "account", "qos", "reservation", "exclusive", "constraint", "licenses", "array", "after", "mail_to",
        "mail_events", "export", "signal_before_end_s", "signal",
    }
)  # fmt: skip
"""Fields of a request that the scheduler's table has to express; the others are the script's own."""

_DEFAULTS = {each.name: each.default if each.default is not MISSING else None for each in fields(JobRequest)}


def asked(request: JobRequest) -> frozenset[str]:
    """The fields of :data:`BY_SCHEDULER` that this request does not leave at their defaults."""
    return frozenset(name for name in BY_SCHEDULER if getattr(request, name) != _DEFAULTS[name])


def recorded(request: JobRequest) -> dict[str, Any]:
    """What a request asks of the scheduler, as JSON values for the job's record.

    Nothing of what the script alone sees to: an environment or an argument may be a secret.
    """
    values = {name: getattr(request, name) for name in sorted(asked(request))}
    if request.directives:
        values["directives"] = request.directives
    return {name: _json(value) for name, value in values.items()}


def _json(value: Any) -> Any:
    if isinstance(value, Array):
        return {"indices": [list(each) for each in ranges(value.indices)], "throttle": value.throttle}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _json(each) for name, each in asdict(value).items()}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(_json(each) for each in value)
    if isinstance(value, (tuple, list)):
        return [_json(each) for each in value]
    return value


class Inexpressible(ValueError):
    """What an option's translation raises for a value that the scheduler has no words for; says why."""


@dataclass(frozen=True)
class Option:
    """An entry of a scheduler's table: how some fields of a request are said to it.

    :param fields: names of :class:`JobRequest`'s fields that it expresses, together
    :param lines: directives without their prefix; none when there is nothing to say

    ``lines`` raises :class:`Inexpressible` for a value that cannot be said, and
    :class:`~airavata_provider.errors.ConfigurationError` for one that nobody may ask for.
    """

    fields: tuple[str, ...]
    lines: Callable[[JobRequest], Iterable[str]]
