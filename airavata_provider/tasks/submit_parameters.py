"""What a ``submit`` task is told, and what its scheduler is asked for by that.

Pure; imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pydantic import Field, model_validator

from airavata_provider.models.job import Job
from airavata_provider.models.resource import ComputeResource
from airavata_provider.models.rules import MADE_BY, sizes_of
from airavata_provider.schedulers.request import Container, Dependency, JobRequest, MailEvent, Signal
from airavata_provider.tasks.arrays import as_array, part
from airavata_provider.tasks.base import Parameters


class SubmitElement(Parameters):
    """What differs between the elements of an array; each works in a directory of its own.

    :param arguments: of the executable
    :param environment: on top of what all have
    :param stdin: file in its directory
    """

    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    stdin: str | None = None


class SubmitParameters(Parameters):
    """What the job script is written from; see :class:`~airavata_provider.schedulers.base.JobRequest`."""

    executable: str = Field(min_length=1)
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    module_init: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    pre_commands: tuple[str, ...] = ()
    post_commands: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    stdin: str | None = None
    stdout: str = "stdout.txt"
    stderr: str = "stderr.txt"
    queue: str | None = None
    nodes: int = Field(default=1, ge=1)
    tasks: int = Field(default=1, ge=1)
    cpus_per_task: int = Field(default=1, ge=1)
    memory_mb: int | None = Field(default=None, ge=1)
    gpus: int = Field(default=0, ge=0)
    walltime_s: int | None = Field(default=None, ge=1)
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    tasks_per_node: int | None = Field(default=None, ge=1)
    gpu_type: str | None = None
    exclusive: bool = False
    constraint: str | None = None
    licenses: tuple[str, ...] = ()
    after: tuple[Dependency, ...] = Field(default=(), description="Jobs that it waits for: native_id and kind")
    mail_to: str | None = None
    mail_events: frozenset[MailEvent] = frozenset()
    export: tuple[str, ...] | None = None
    container: Container | None = None
    site_words: dict[str, str] = Field(default_factory=dict)
    signal_before_end_s: int | None = Field(default=None, ge=0)
    signal: Signal | None = None
    directives: tuple[str, ...] = ()
    webhook: bool = Field(default=True, description="Let the job script tell us of its start and end")
    elements: tuple[SubmitElement, ...] = Field(default=(), description="The job is an array of these")
    max_running: int | None = Field(default=None, ge=1, description="Elements that run at a time, at most")

    @model_validator(mode="after")
    def _of_elements(self) -> SubmitParameters:
        for name in ("arguments", "stdin"):
            if self.elements and getattr(self, name):
                raise ValueError(f"{name}: the elements of an array have their own")
        return self


def request_of(
    parameters: SubmitParameters, resource: ComputeResource, *, name: str, directory: str, comment: str
) -> JobRequest:
    """What a scheduler is asked for."""
    own = {"webhook", "elements", "max_running"}
    values = {field: getattr(parameters, field) for field in SubmitParameters.model_fields if field not in own}
    return JobRequest(
        name=name,
        directory=directory,
        comment=comment,
        shell=f"{resource.shell} -l" if resource.module_system.login_shell else resource.shell,
        array=as_array(parameters.elements, directory, parameters.max_running),
        **values,
    )


def as_intended(request: JobRequest, job: Job) -> JobRequest:
    """The request under a job's name, with the sizes that its intent says: a rule's attempt has its own. Pure."""
    if job.request is None or MADE_BY not in job.request:
        return replace(request, name=job.name)
    sizes = sizes_of(job)
    return replace(request, name=job.name, memory_mb=sizes.memory_mb, walltime_s=sizes.walltime_s)


def part_as_intended(request: JobRequest, array: Job, indices: Iterable[int]) -> JobRequest:
    """The request of one of a task's arrays, with the sizes and the throttle that its intent says. Pure.

    :param request: with all elements, each under its place
    :param indices: of the array's elements
    """
    asked = part(as_intended(request, array), array.name, array.offset, indices, beside=1)
    told = (array.request or {}).get("array")
    if told is None or asked.array is None:
        return asked
    return replace(asked, array=replace(asked.array, throttle=told["throttle"]))
