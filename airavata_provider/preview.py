"""The job scripts of an experiment as they would be submitted, for people to read; nothing is submitted.

Reads the deployment's catalog, patterns and settings. Blocking; loads neither asyncssh nor the job store. No secret
is in a script, so none is made here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from airavata_provider.deployment import named_pattern
from airavata_provider.errors import AiravataError, ExperimentRefused, Fault
from airavata_provider.jobs.arrays import split
from airavata_provider.models.experiment import ResolvedExperiment
from airavata_provider.models.identity import TaskIdentity, experiment_directory, job_name
from airavata_provider.models.resource import ComputeResource
from airavata_provider.models.template import TemplateError, render
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.registry import scheduler
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.schedulers.script import Webhook, write_script
from airavata_provider.settings import get_settings
from airavata_provider.tasks.arrays import part
from airavata_provider.tasks.base import webhook_url
from airavata_provider.tasks.job_request import unsupported
from airavata_provider.tasks.submission import Submit
from airavata_provider.tasks.submit_parameters import SubmitParameters, request_of


@dataclass(frozen=True)
class Preview:
    """One job's script.

    :param task: id of the pattern's task that submits it
    :param script: its text
    :param left_out: what is asked for and the scheduler has no words for
    :param files: what the scheduler reads beside the script, by name
    """

    task: str
    script: str
    left_out: tuple[Fault, ...]
    files: Mapping[str, str]


def previews(resolved: ResolvedExperiment) -> Iterator[Preview]:
    """The scripts of the pattern's ``submit`` tasks, in its order.

    Names of jobs and directories depend on when the run was made, so the real ones differ.

    :raises ExperimentRefused: parameters that make no sense
    :raises AiravataError: the pattern submits nothing, or says so with what only an earlier task's result tells
    """
    pattern = named_pattern(resolved.pattern, get_settings().patterns_folders)
    if pattern is None:
        raise AiravataError(f"no pattern {resolved.pattern!r}")
    tasks = [task for task in pattern.tasks if task.type == Submit.name]
    if not tasks:
        raise AiravataError(f"the pattern {pattern.name} submits no job")
    experiment_id = resolved.experiment.id or "preview"
    directory_name = experiment_directory(pattern.name, experiment_id, "")
    for task in tasks:
        resource = resolved.resource
        if task.resource not in (None, resource.name):
            raise AiravataError(f"task {task.id} submits to {task.resource}, whatever the experiment says")
        directory = f"{resource.scratch}/{directory_name}"
        variables = {
            **resolved.variables(directory),
            "tasks": {},
            "run": {"dag_id": pattern.name, "id": experiment_id, "try_number": 1},
        }
        try:
            given = {**Submit().defaults(resolved), **render(task.parameters, variables)}
            parameters = SubmitParameters.model_validate(given)
        except TemplateError as error:
            raise AiravataError(f"task {task.id}: only a run can tell: {error}") from error
        except ValidationError as error:
            faults = [Fault(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors()]
            raise ExperimentRefused(f"task {task.id}: its parameters make no sense", faults) from None
        identity = TaskIdentity(pattern.name, experiment_id, task.id)
        comment = f"{pattern.name}/{experiment_id}"
        request = request_of(parameters, resource, name=job_name(identity), directory=directory, comment=comment)
        for each in _parts(request, identity, resource.max_array_size):
            control = control_directory(each.directory, each.name)
            files = scheduler(resource.scheduler).side_files(each, control)
            yield Preview(task.id, _script(each, parameters, resource), tuple(unsupported(resource, each)), files)


def _parts(request: JobRequest, identity: TaskIdentity, most: int) -> list[JobRequest]:
    """The request, or those for each of the arrays that its elements need."""
    if request.array is None:
        return [request]
    arrays = split(request.array.indices, most)
    return [
        part(request, job_name(identity, offset=offset), offset, indices, beside=len(arrays))
        for offset, indices in arrays
    ]


def _script(request: JobRequest, parameters: SubmitParameters, resource: ComputeResource) -> str:
    url = webhook_url(get_settings().webhook_base_url, resource, request.name) if parameters.webhook else None
    webhook = Webhook(url, "") if url else None
    control = control_directory(request.directory, request.name)
    return write_script(scheduler(resource.scheduler), request, webhook, control)
