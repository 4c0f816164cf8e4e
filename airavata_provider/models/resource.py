"""Where things run and where files are: compute resources with their queues, storage resources.

Read from catalog files; the fields of a queue are those of Apache Airavata's ``BatchQueueResourcePolicy`` and
``BatchQueue``. Credentials are never here: ``connection`` names an Airflow Connection.

Pure; no Airflow.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from airavata_provider.models.options import JobOptions, Variable
from airavata_provider.models.program import Parallelism, Template
from airavata_provider.models.values import (
    Count,
    CountOrNone,
    Duration,
    Model,
    Moment,
    Name,
    Text,
    Walltime,
    lower,
    shown,
    suggestion,
    upper,
)


class Queue(JobOptions):
    """A queue or partition and its limits; a limit that is None does not exist.

    :param name: as the scheduler knows it; None for a resource without queues (its key in ``queues``
        otherwise)
    :param max_walltime: seconds (written as minutes or ``HH:MM:SS``)
    :param max_nodes: nodes per job
    :param max_cpus: processors per job, in all
    :param max_memory_mb: MiB per node
    :param max_gpus: GPUs per node
    :param max_jobs: jobs of ours there at a time, waiting in the scheduler's queue and running; more wait with us
    :param arrays_count_as: whether an array counts as its ``elements`` or as ``one`` job
    :param cpus_per_node: processors of one node
    :param default_walltime: seconds, for requests that name none; written like ``max_walltime``
    :param export: names of variables of the login shell that reach the job, ``ALL``, or none; None: the scheduler's
        own habit
    :param directives: raw options for every script that goes here, without the scheduler's prefix
    :param site_words: the site's names for what its scheduler leaves to it, by the adaptor's names for them

    What the fields of :class:`~airavata_provider.models.options.JobOptions` say here, requests have that say nothing.
    """

    name: Text | None = None
    description: str = ""
    max_walltime: Walltime | None = None
    max_nodes: Count | None = None
    max_cpus: Count | None = None
    max_memory_mb: Count | None = None
    max_gpus: CountOrNone | None = None
    max_jobs: Count | None = None
    arrays_count_as: Literal["elements", "one"] = "elements"
    cpus_per_node: Count | None = None
    default_nodes: Count = 1
    default_cpus: Count = 1
    default_walltime: Walltime | None = None
    default_memory_mb: Count | None = None
    account: Text | None = None
    export: tuple[Variable, ...] | None = None
    directives: tuple[Text, ...] = ()
    site_words: Mapping[Text, Text] = Field(default_factory=dict)


class ModuleSystemType(StrEnum):
    """Which program ``module load`` is."""

    NONE = "none"
    LMOD = "lmod"
    TCL = "tcl"


class ModuleSystem(Model):
    """How modules are loaded. The word alone (``module_system: lmod``) means one with nothing special about
    it.

    :param init: shell lines that make ``module`` known (trusted text)
    :param login_shell: only a login shell knows ``module``, so the job script runs in one
    """

    type: ModuleSystemType = ModuleSystemType.NONE
    init: tuple[Text, ...] = ()
    login_shell: bool = False

    def commands(self, needed: bool = True) -> tuple[str, ...]:
        """Lines to run before ``module`` is used; none where there are no modules to load."""
        return self.init if needed and self.type is not ModuleSystemType.NONE else ()


class Callbacks(Model):
    """Whether and how a job's script can call us.

    :param webhook: compute nodes have a way out to our API server
    :param url: base address to call instead of the deployment's own (a proxy, another network)
    :param relay: they have none: scripts leave their news below ``scratch``, and the poll collects it
    """

    webhook: bool = True
    url: Text | None = None
    relay: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> Callbacks:
        if self.relay and (self.webhook or self.url):
            raise ValueError("relay: is for scripts that cannot call; write webhook: false with it, and no url")
        return self


class Reachable(Model):
    """What there is to know about a host that is reached over SSH.

    :param connection: id of an Airflow Connection
    :param user: log in as this one instead of the Connection's
    :param max_connections: connections to it from the whole deployment at a time
    :param sessions_per_connection: sessions on each (``MaxSessions`` of its sshd, with room for others)
    :param connects_per_minute: new connections a minute at most, from the whole deployment (``MaxStartups``, sites'
        own bans)
    """

    connection: Text | None = None
    user: Text | None = None
    max_connections: Count = 4
    sessions_per_connection: Count = 4
    connects_per_minute: Count = 30
    connect_timeout: Duration = 20.0


def _rooted(path: str, info: ValidationInfo) -> str:
    """An absolute path; ``./x`` and ``../x`` start at the catalog file's folder (``context["folder"]``)."""
    folder = (info.context or {}).get("folder")
    if path.split("/", 1)[0] in {".", ".."} and folder is not None:
        path = posixpath.join(folder, path)
    if not path.startswith("/"):
        raise ValueError(f"should be an absolute path, or one from this file's folder (./ or ../), not {shown(path)}")
    return posixpath.normpath(path)


class Reservation(Model):
    """Nodes that are kept for some jobs, for a time.

    :param start: from when on; jobs that ask for it wait until then
    :param end: until when; a request that cannot be done by then is refused
    :param queues: the queues that its nodes belong to; none: any
    """

    description: str = ""
    start: Moment | None = None
    end: Moment | None = None
    queues: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _in_order(self) -> Reservation:
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError("end: should be after start")
        return self


class Unsupported(StrEnum):
    """What becomes of an option that the resource's scheduler has no words for."""

    ERROR = "error"
    WARN = "warn"


class ComputeResource(Reachable):
    """A cluster, or a host, that runs jobs.

    :param scheduler: word of a scheduler adaptor (entry points ``airavata.schedulers``)
    :param scratch: directory below which experiments get theirs, absolute on the resource; ``./`` and ``../``
        start at the catalog file, for hosts that share this one's file system
    :param queues: by name; none: the resource has no queues
    :param default_queue: for requests that name none; the only queue is its own default
    :param max_jobs: jobs of ours in all its queues at a time
    :param account: allocation to charge when neither request nor queue names one
    :param shell: interpreter of the job scripts
    :param reservations: by the scheduler's name for them; where some are here, no other can be asked for
    :param launchers: words before the executable of deployments that name none, by their parallelism; templates
    :param classes: words for what it is (``sensitive``, ``gpu``); requests, applications and gateways can name
        them in their ``only_on``
    :param max_array_size: indices of an array's elements are below it (SLURM's ``MaxArraySize``); what has more
        elements becomes several arrays
    :param unsupported_options: refuse a request that asks for what the scheduler cannot express, or warn
    """

    name: Name
    description: str = ""
    connection: Text
    scheduler: Name
    scratch: Text
    queues: Mapping[str, Queue] = Field(default_factory=dict)
    default_queue: Text | None = None
    max_jobs: Count | None = None
    account: Text | None = None
    module_system: Annotated[ModuleSystem, BeforeValidator(lambda v: {"type": v} if isinstance(v, str) else v)] = (
        ModuleSystem()
    )
    callbacks: Callbacks = Callbacks()
    shell: Text = "/bin/bash"
    reservations: Mapping[Text, Reservation] = Field(default_factory=dict)
    launchers: Mapping[Annotated[Parallelism, BeforeValidator(upper)], tuple[Template, ...]] = Field(
        default_factory=dict
    )
    classes: tuple[Name, ...] = ()
    max_array_size: Count = 1000
    unsupported_options: Annotated[Unsupported, BeforeValidator(lower)] = Unsupported.ERROR

    _scratch = field_validator("scratch")(_rooted)

    @field_validator("queues", mode="before")
    @classmethod
    def _name_queues(cls, queues: Any) -> Any:
        if not isinstance(queues, Mapping):
            return queues
        return {
            key: {"name": key, **(entry or {})} if isinstance(entry, Mapping | None) else entry
            for key, entry in queues.items()
        }

    @model_validator(mode="after")
    def _default_exists(self) -> ComputeResource:
        if self.default_queue is not None and self.default_queue not in self.queues:
            raise ValueError(
                f"default_queue: no queue {self.default_queue!r}{suggestion(self.default_queue, self.queues)}"
            )
        if self.default_queue is None and len(self.queues) > 1:
            raise ValueError(f"default_queue: missing, and there are several queues: {', '.join(self.queues)}")
        for name, reservation in self.reservations.items():
            for queue in reservation.queues:
                if queue not in self.queues:
                    near = suggestion(queue, self.queues)
                    raise ValueError(f"reservations.{name}.queues: no queue {queue!r}{near}")
        return self

    def queue(self, name: str | None = None) -> Queue:
        """The queue of that name, or the default one; a resource without queues has one without a name or
        limits.

        :raises KeyError: there is no such queue
        """
        if not self.queues and name is None:
            return Queue()
        return self.queues[name or self.default_queue or next(iter(self.queues))]


class StorageResource(Reachable):
    """Where inputs come from and outputs go.

    :param type: ``local``, ``sftp``, or a plug-in's word (entry points ``airavata.storages``)
    :param root: directory that its addresses start at, absolute; ``./`` and ``../`` start at the catalog file
    :param default: outputs of experiments that name no place go here
    :param options: a plug-in's own settings
    """

    name: Name
    description: str = ""
    type: Name
    root: Text = "/"
    default: bool = False
    options: Mapping[str, Any] = Field(default_factory=dict)

    _root = field_validator("root")(_rooted)

    @model_validator(mode="after")
    def _connection_fits(self) -> StorageResource:
        if self.type == "local" and self.connection is not None:
            raise ValueError("connection: a local storage resource has none")
        if self.type == "sftp" and self.connection is None:
            raise ValueError("connection: missing; a storage resource of type sftp needs one")
        if self.type == "local" and "root" not in self.model_fields_set:
            raise ValueError("root: missing; a local storage resource needs one")
        return self
