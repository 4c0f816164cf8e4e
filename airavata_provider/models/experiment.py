"""An experiment: what a person asks for, as it comes from REST, the trigger form or a YAML file.

The model checks what can be checked without the catalog; :func:`resolve` does the rest. Both refuse with
every fault at once. Only :func:`read_experiment` does I/O: it reads the file it is given.

Imports no Airflow.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from airavata_provider.errors import ExperimentRefused, Fault, FaultyInput
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.options import JobOptions
from airavata_provider.models.resolution import Fitting, resolve, resolve_all
from airavata_provider.models.resolved import FileInput, ResolvedExperiment, command_arguments
from airavata_provider.models.source import faults_of, read_yaml
from airavata_provider.models.uri import file_uri
from airavata_provider.models.values import (
    Count,
    CountOrNone,
    Moment,
    Name,
    Text,
    clock,
    shown,
    upper,
    walltime_seconds,
)

__all__ = [
    "Experiment",
    "FileInput",
    "Fitting",
    "Priority",
    "ResolvedExperiment",
    "command_arguments",
    "read_experiment",
    "resolve",
    "resolve_all",
]

# Airflow's default `[scheduler] allowed_run_id_pattern`; "." and ".." cannot stand in an address.
_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.~:+-]{1,200}")
# Airflow refuses these for runs that people start (`DagRunType.from_run_id`).
_RESERVED = (
    "scheduled__",
    "backfill__",
    "asset_triggered__",
    "asset_materialization__",
    "operator_triggered__",
)


class Priority(StrEnum):
    """How urgent an experiment is."""

    LOW = "LOW"
    NORMAL = "NORMAL"
    HIGH = "HIGH"
    URGENT = "URGENT"

    @property
    def level(self) -> int:
        """0 for LOW to 3 for URGENT."""
        return list(Priority).index(self)


def _clock_text(value: object) -> str:
    return clock(walltime_seconds(value))


def _without_blanks(values: Any) -> Any:
    """Forms send a list's empty lines, too."""
    return [each for each in values if each != ""] if isinstance(values, list) else values


class Experiment(JobOptions):
    """A request.

    :param id: also the DAG run's id: letters, digits and ``_.~:+-``, at most 200; None: the run makes one
    :param gateway: the science gateway that asks
    :param user: the person there
    :param application: name in the catalog
    :param pattern: execution pattern; None: the application's
    :param compute_resource: name in the catalog; None: chosen among the application's deployments that fit
    :param only_on: resources and classes of resources, the only ones to choose from; none: all
    :param queue: None: the deployment's or the resource's default; so are the sizes
    :param cpus: processors in all
    :param memory_mb: MiB per node
    :param gpus: GPUs per node
    :param walltime: given as minutes, ``HH:MM:SS`` or ``D-HH:MM:SS``; kept as ``HH:MM:SS``
    :param account: allocation to charge
    :param inputs: values by the application's names; files by address, ``storage://…`` or ``file:///…``
    :param max_running: elements of an array that run at a time, at most
    :param outputs: names of the outputs wanted; none: all
    :param outputs_to: directory for the outputs, ``storage://…`` or ``file:///…``; None: one of its own
    :param not_before: start no earlier; in UTC

    The fields of :class:`~airavata_provider.models.options.JobOptions` belong here, too.
    """

    id: str | None = None
    gateway: Text = ""
    user: Text = ""
    application: Name
    pattern: Name | None = None
    compute_resource: Name | None = None
    only_on: Annotated[tuple[Name, ...], BeforeValidator(_without_blanks)] = ()
    queue: Text | None = None
    nodes: Count | None = None
    cpus: Count | None = None
    memory_mb: Count | None = None
    gpus: CountOrNone | None = None
    walltime: Annotated[str, BeforeValidator(_clock_text)] | None = None
    account: Text | None = None
    inputs: Mapping[str, Any] = Field(default_factory=dict)
    max_running: Count | None = None
    outputs: tuple[str, ...] = ()
    outputs_to: Text | None = None
    priority: Annotated[Priority, BeforeValidator(upper)] = Priority.NORMAL
    not_before: Moment | None = None

    @property
    def walltime_s(self) -> int | None:
        """The walltime in seconds."""
        return None if self.walltime is None else walltime_seconds(self.walltime)

    @field_validator("id")
    @classmethod
    def _run_id(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not _ID.fullmatch(value):
            raise ValueError(f"should be 1 to 200 letters, digits and _.~:+-, not {shown(value)}")
        if value.startswith(_RESERVED):
            raise ValueError(f"{value.split('__', 1)[0]}__ is kept for Airflow's own runs")
        return value

    @field_validator("inputs")
    @classmethod
    def _plain(cls, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        for name, value in inputs.items():
            for each in value if isinstance(value, list | tuple) else (value,):
                if not isinstance(each, str | int | float | bool | None):
                    raise ValueError(f"{name} should be plain data or a list of it, not {shown(value)}")  # noqa: TRY004
        return {name: value for name, value in inputs.items() if value is not None}

    @classmethod
    def from_conf(cls, conf: Mapping[str, Any], *, experiment_id: str | None) -> Experiment:
        """The experiment in a DAG run's ``conf``.

        :param experiment_id: the run's id; one in the conf has to be the same
        :raises ExperimentRefused: with every fault that shows without the catalog
        """
        faults: list[Fault] = []
        given = conf.get("id")
        if given not in (None, "") and experiment_id is not None and given != experiment_id:
            message = f"{shown(given)} is not the run's id {experiment_id!r}; send it as the run's id (dag_run_id)"
            faults.append(Fault("id", message))
        try:
            experiment = cls.model_validate({**conf, "id": experiment_id or given})
        except ValidationError as error:
            faults += faults_of(error, cls)
        if faults:
            raise ExperimentRefused(f"experiment {experiment_id or 'without an id'} cannot run", faults)
        return experiment

    def to_conf(self) -> dict[str, Any]:
        """JSON for a DAG run's ``conf``, without what is default; :meth:`from_conf` reads it back."""
        return self.model_dump(mode="json", exclude_defaults=True)


def read_experiment(path: Path, catalog: Catalog | None = None) -> Experiment:
    """The experiment in a YAML file: the fields of :class:`Experiment`.

    A file of an input, and ``outputs_to``, may be written relative to the experiment file's folder: ``./x``,
    ``../x`` or ``file:x``, percent signs and all as the file is called. They become ``file:///…`` addresses.

    :param catalog: says which inputs are files; without it, whatever looks like a relative path is one
    :raises ExperimentRefused: with every fault and its line
    """
    title = f"experiment {path} cannot run"
    try:
        document = read_yaml(path)
    except FaultyInput as error:
        raise ExperimentRefused(title, error.faults) from error
    data = document.data
    if not isinstance(data, dict):
        raise ExperimentRefused(title, [document.fault((), "should be a mapping of an experiment's fields")])
    folder = path.absolute().parent
    data = dict(data)
    application = catalog.applications.get(str(data.get("application"))) if catalog else None
    if isinstance(data.get("inputs"), dict):
        texts = {name for name, field in application.inputs.items() if not field.type.is_file} if application else ()
        data["inputs"] = {
            name: value if name in texts else _from_folder(value, folder) for name, value in data["inputs"].items()
        }
    if "outputs_to" in data:
        data["outputs_to"] = _from_folder(data["outputs_to"], folder)
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise ExperimentRefused(title, faults_of(error, Experiment, document=document)) from error


def _from_folder(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_from_folder(each, folder) for each in value]
    if not isinstance(value, str):
        return value
    relative = value.removeprefix("file:")
    if value.startswith("file:/") or not (value.startswith(("./", "../")) or relative != value):
        return value
    return file_uri(os.path.normpath(folder / relative)) + ("/" if relative.endswith("/") else "")
