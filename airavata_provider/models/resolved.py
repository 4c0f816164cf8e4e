"""An experiment whose every name has become the thing it names, and the command line that follows from it.

Made by ``models.resolution.resolve``; everything here is checked and typed. Pure; no Airflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airavata_provider.models.application import Application, DataType, Deployment, InputField, OutputField
from airavata_provider.models.options import JobOptions
from airavata_provider.models.resource import ComputeResource, Queue
from airavata_provider.models.template import render
from airavata_provider.models.uri import StorageURI
from airavata_provider.models.values import argument_text

if TYPE_CHECKING:
    from airavata_provider.models.experiment import Experiment


@dataclass(frozen=True)
class FileInput:
    """A file to stage in.

    :param source: where it is
    :param name: its name in the working directory: one component, any characters but ``/`` and NUL
    """

    source: StorageURI
    name: str

    @property
    def argument(self) -> str:
        """The name as a program takes it for a file whatever it begins with."""
        return f"./{self.name}" if self.name.startswith("-") else self.name


InputValue = str | int | float | bool | FileInput | tuple[FileInput, ...]


@dataclass(frozen=True)
class ResolvedExperiment:
    """An experiment, ready to run.

    :param experiment: the request
    :param pattern: name of the execution pattern
    :param application: what runs
    :param deployment: how it is started on the resource
    :param resource: where it runs
    :param queue: its queue there; one without a name where the resource has none
    :param nodes: number of nodes
    :param cpus: processors in all
    :param memory_mb: MiB per node, None for the scheduler's default
    :param gpus: GPUs per node
    :param walltime_s: seconds, None for the scheduler's default
    :param account: allocation to charge
    :param options: what else the scheduler is asked for
    :param inputs: given and default values by name, in the application's order; what has no value is not
        there
    :param outputs: what is expected, by name
    :param outputs_to: directory for the outputs
    """

    experiment: Experiment
    pattern: str
    application: Application
    deployment: Deployment
    resource: ComputeResource
    queue: Queue
    nodes: int
    cpus: int
    memory_mb: int | None
    gpus: int
    walltime_s: int | None
    account: str | None
    options: JobOptions
    inputs: Mapping[str, InputValue]
    outputs: Mapping[str, OutputField]
    outputs_to: StorageURI

    @property
    def files(self) -> tuple[FileInput, ...]:
        """Every file to stage in, in the order of the inputs."""
        return tuple(file for value in self.inputs.values() for file in _files(value))

    @property
    def stdin(self) -> str | None:
        """Name of the file that the program reads from its standard input."""
        for name, field in self.application.inputs.items():
            value = self.inputs.get(name)
            if field.stdin and isinstance(value, FileInput):
                return value.name
        return None

    def variables(self, directory: str) -> dict[str, Any]:
        """What templates see (``models.application.VARIABLES``): plain data that JSON can carry.

        ``experiment`` holds the request with its defaults filled in. ``inputs`` has a key for every input of
        the application: None where there is no value, a file's name (``./-x`` for ``-x``), a list of them.
        ``outputs`` has the expected outputs' files.

        :param directory: the experiment's directory on the resource
        """
        experiment = self.experiment.model_dump(mode="json") | {
            "pattern": self.pattern,
            "compute_resource": self.resource.name,
            "queue": self.queue.name,
            "nodes": self.nodes,
            "cpus": self.cpus,
            "memory_mb": self.memory_mb,
            "gpus": self.gpus,
            "walltime_s": self.walltime_s,
            "account": self.account,
            "outputs_to": str(self.outputs_to),
            **self.options.model_dump(mode="json"),
        }
        application = self.application
        return {
            "experiment": experiment,
            "application": {
                "name": application.name,
                "description": application.description,
                "stdout": application.stdout,
                "stderr": application.stderr,
            },
            "deployment": self.deployment.model_dump(mode="json"),
            "resource": self.resource.model_dump(mode="json"),
            "queue": self.queue.model_dump(mode="json"),
            "inputs": {name: _plain(self.inputs.get(name)) for name in application.inputs},
            "outputs": {name: field.file for name, field in self.outputs.items()},
            "directory": directory,
        }


def command_arguments(resolved: ResolvedExperiment, directory: str = ".") -> tuple[str, ...]:
    """Arguments of the executable, one entry each, not quoted.

    Without templates of the deployment's own: inputs with a flag and no position, in the application's order;
    then those with a position, by position. A file is its name in the working directory. A BOOLEAN with a
    flag is that flag or nothing. A list of files repeats its flag. An input without a value is left out.

    :param directory: the experiment's directory, for templates
    :raises TemplateError: a template of the deployment asks for what is not there
    :raises ValueError: a template makes text that a command line cannot carry
    """
    templates = resolved.deployment.arguments
    if templates is not None:
        variables = resolved.variables(directory)
        return tuple(argument_text(word) for template in templates for word in _words(render(template, variables)))
    fields = [
        (name, field)
        for name, field in resolved.application.inputs.items()
        if name in resolved.inputs and not field.stdin
    ]
    options = [(field, resolved.inputs[name]) for name, field in fields if field.position is None and field.argument]
    positional = sorted(
        ((field.position, field, resolved.inputs[name]) for name, field in fields if field.position is not None),
        key=lambda each: each[0],
    )
    words = [word for field, value in options for word in _flagged(field, value)]
    rest = [word for _, field, value in positional for word in _flagged(field, value)]
    if rest and resolved.deployment.end_of_options is not None:
        words.append(resolved.deployment.end_of_options)
    return tuple(words + rest)


def launcher_words(resolved: ResolvedExperiment, directory: str = ".") -> tuple[str, ...]:
    """Words before the executable: the deployment's, else what the resource has for its parallelism.

    :raises TemplateError: a template asks for what is not there
    :raises ValueError: a template makes text that a command line cannot carry
    """
    templates = resolved.deployment.launcher
    if templates is None:
        templates = resolved.resource.launchers.get(resolved.deployment.parallelism, ())
    variables = resolved.variables(directory)
    return tuple(argument_text(word) for template in templates for word in _words(render(template, variables)))


def _flagged(field: InputField, value: InputValue) -> Iterator[str]:
    if field.type is DataType.BOOLEAN and field.argument:
        if value:
            yield field.argument
        return
    for word in _words(_plain(value)):
        if field.argument is None:
            yield word
        elif field.argument.endswith("="):
            yield field.argument + word
        else:
            yield field.argument
            yield word


def _words(value: Any) -> Iterator[str]:
    """A value as words of a command line: none for None, one for each of a list."""
    if value is None:
        return
    if isinstance(value, list | tuple):
        for each in value:
            yield from _words(each)
    elif isinstance(value, bool):
        yield "true" if value else "false"
    else:
        yield str(value)


def _files(value: InputValue) -> tuple[FileInput, ...]:
    if isinstance(value, FileInput):
        return (value,)
    return value if isinstance(value, tuple) else ()


def _plain(value: InputValue | None) -> Any:
    if isinstance(value, FileInput):
        return value.argument
    if isinstance(value, tuple):
        return [each.argument for each in value]
    return value
