"""An application: what goes in and comes out, and how it is started on each resource.

Read from catalog files. The command line follows from the inputs (``models.resolved.command_arguments``)
unless a deployment writes its own.

Pure; no Airflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from airavata_provider.models.identity import CONTROL_DIRECTORY
from airavata_provider.models.options import JobOptions, Variable
from airavata_provider.models.program import VARIABLES, Parallelism, Template
from airavata_provider.models.values import (
    Count,
    CountOrNone,
    FileName,
    Model,
    Name,
    RelativePath,
    Text,
    Walltime,
    argument_text,
    real_number,
    shown,
    whole_number,
)

__all__ = [
    "VARIABLES",
    "Application",
    "Container",
    "DataType",
    "Deployment",
    "InputField",
    "OutputField",
    "Parallelism",
    "typed",
]


class DataType(StrEnum):
    """What an input or output is: Apache Airavata's words, and BOOLEAN and FILE_LIST (its URI_COLLECTION)."""

    STRING = "STRING"
    INTEGER = "INTEGER"
    FLOAT = "FLOAT"
    BOOLEAN = "BOOLEAN"
    FILE = "FILE"
    FILE_LIST = "FILE_LIST"

    @property
    def is_file(self) -> bool:
        """FILE or FILE_LIST."""
        return self in {DataType.FILE, DataType.FILE_LIST}


def typed(value: object, kind: DataType) -> str | int | float | bool:
    """A value of one of the types that are no files.

    :raises ValueError: it is of another type; digits in a string are a number, nothing else is converted
    """
    if kind is DataType.INTEGER:
        return whole_number(value)
    if kind is DataType.FLOAT:
        return real_number(value)
    if kind is DataType.BOOLEAN:
        if not isinstance(value, bool):
            raise ValueError(f"should be true or false, not {shown(value)}")
        return value
    if not isinstance(value, str):
        quotes = "; put it in quotes" if isinstance(value, bool | int | float) else ""
        raise ValueError(f"should be text, not {shown(value)}{quotes}")  # noqa: TRY004
    return argument_text(value)


class InputField(Model):
    """One input.

    :param required: a request without it is refused, unless it has a default
    :param argument: flag before the value (``-i``; ``--input=`` glues the value to it); a BOOLEAN's flag is
        there or not
    :param position: place among the positional arguments; with neither flag nor position the input is not on
        the command line
    :param name: FILE only: the file's name on the resource, instead of the address's last component
    :param stdin: FILE only: the program reads it from its standard input
    :param choices: the only values allowed
    :param each: a request gives a list of them, and the job is an array with an element for each; several such inputs
        are as long as each other, and belong together item by item
    """

    type: DataType = DataType.STRING
    description: str = ""
    required: bool = True
    default: Any = None
    argument: Text | None = None
    position: CountOrNone | None = None
    name: FileName | None = None
    stdin: bool = False
    choices: tuple[Any, ...] = ()
    each: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> InputField:
        if self.each and self.type is DataType.FILE_LIST:
            raise ValueError("each: an element has files of type FILE, not FILE_LIST")
        if self.each and self.default is not None:
            raise ValueError("default: an input that is given for each element has none")
        if self.type is not DataType.FILE:
            for what in ("name", "stdin"):
                if getattr(self, what):
                    raise ValueError(f"{what}: only an input of type FILE has one")
        if self.type.is_file:
            if self.default is not None:
                raise ValueError("default: an input of type FILE has none")
            if self.choices:
                raise ValueError("choices: an input of type FILE has none")
            return self
        for what, values in (
            ("choices", self.choices),
            ("default", () if self.default is None else (self.default,)),
        ):
            for value in values:
                try:
                    typed(value, self.type)
                except ValueError as error:
                    raise ValueError(f"{what}: {error}") from None
        if self.choices and self.default is not None and self.default not in self.choices:
            raise ValueError(f"default: {shown(self.default)} is not one of the choices")
        return self


class OutputField(Model):
    """One output: a file, or several, that the application leaves in its working directory.

    :param file: path below the working directory, or a shell pattern (``*.dat``)
    :param required: an experiment that ends without it has failed
    """

    type: Literal[DataType.FILE, DataType.FILE_LIST] = DataType.FILE
    description: str = ""
    file: RelativePath
    required: bool = True


Texts = Annotated[
    tuple[Text, ...], BeforeValidator(lambda value: value.splitlines() if isinstance(value, str) else value)
]
"""Lines: a list of strings, or one string of several lines."""


class Container(Model):
    """The image that an executable runs in.

    :param image: path of an image file on the resource, or an address that the runtime understands
    :param runtime: the program that runs it there
    :param binds: ``source[:target[:options]]``; the working directory is always there
    :param options: more words for the runtime, before the image
    :param gpus: make the host's GPUs visible; None: when the request has some
    """

    image: Text
    runtime: Literal["apptainer", "singularity"] = "apptainer"
    binds: tuple[Annotated[Text, Field(pattern=r"^/[^:,]*(:/[^:,]*(:[a-z,]+)?)?$")], ...] = ()
    options: tuple[Text, ...] = ()
    gpus: bool | None = None


def _image(value: object) -> object:
    return {"image": value} if isinstance(value, str) else value


class Deployment(JobOptions):
    """How an application is started on one resource.

    :param executable: path or command, one word
    :param arguments: templates of the arguments, one entry each (one that is a list is several, one that is
        None is left out), instead of those that follow from the inputs
    :param end_of_options: word put before the first positional argument (``--``), for programs that know it
    :param modules: names for ``module load``
    :param environment: exported before the modules are loaded
    :param pre_commands: shell lines before the executable (trusted text)
    :param post_commands: the same after it
    :param parallelism: what decides how the processors are shared out to processes
    :param launcher: words before the executable (``[srun]``), templates; None: the resource's for its parallelism
    :param container: the image that the executable runs in; a path alone is enough
    :param export: see ``models.resource.Queue``
    :param queue: default queue for this application here; so are nodes, cpus, memory_mb (per node), gpus (per
        node), walltime (seconds; minutes or ``HH:MM:SS`` in the file)
    :param directives: raw options for the script, without the scheduler's prefix; one takes the place of the queue's
        for the same option, ``!OPTION`` leaves it out

    What the fields of :class:`~airavata_provider.models.options.JobOptions` say here comes before the queue's.
    """

    executable: Text
    arguments: tuple[Template, ...] | None = None
    end_of_options: Text | None = None
    modules: tuple[Text, ...] = ()
    environment: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Text] = Field(
        default_factory=dict
    )
    pre_commands: Texts = ()
    post_commands: Texts = ()
    parallelism: Parallelism = Parallelism.SERIAL
    launcher: tuple[Template, ...] | None = None
    container: Annotated[Container, BeforeValidator(_image)] | None = None
    queue: Text | None = None
    nodes: Count | None = None
    cpus: Count | None = None
    memory_mb: Count | None = None
    gpus: CountOrNone | None = None
    walltime: Walltime | None = None
    account: Text | None = None
    export: tuple[Variable, ...] | None = None
    directives: tuple[Text, ...] = ()


class Application(Model):
    """An application's interface and its deployments.

    :param pattern: execution pattern for requests that name none
    :param inputs: by name, in the order of the command line's options
    :param outputs: by name
    :param deployments: by compute resource, the preferred one first
    :param only_on: resources and classes of resources, the only ones where it runs; none: all
    :param stdout: file of the program's standard output in the working directory; an output may name it
    :param stderr: the same for standard error
    """

    name: Name
    description: str = ""
    pattern: Name = "hpc_batch"
    inputs: Mapping[Name, InputField] = Field(default_factory=dict)
    outputs: Mapping[Name, OutputField] = Field(default_factory=dict)
    deployments: Mapping[Name, Deployment] = Field(min_length=1)
    only_on: tuple[Name, ...] = ()
    stdout: FileName = "stdout.txt"
    stderr: FileName = "stderr.txt"

    @model_validator(mode="after")
    def _consistent(self) -> Application:
        taken: dict[int, str] = {}
        for name, field in self.inputs.items():
            if field.position is None:
                continue
            other = taken.setdefault(field.position, name)
            if other != name:
                raise ValueError(f"inputs: {other} and {name} have the same position {field.position}")
        for stream in ("stdout", "stderr"):
            if getattr(self, stream) == CONTROL_DIRECTORY:
                raise ValueError(f"{stream}: {CONTROL_DIRECTORY} is our own directory in every working directory")
        readers = [name for name, field in self.inputs.items() if field.stdin]
        if len(readers) > 1:
            raise ValueError(f"inputs: {' and '.join(readers)} both want to be the standard input")
        return self
