"""Whether an experiment can run, and with what: the catalog's answer to a request.

Every fault is found before the first is told. Pure; no Airflow.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from airavata_provider.errors import ExperimentRefused, Fault
from airavata_provider.models.application import (
    Application,
    DataType,
    InputField,
    OutputField,
    typed,
)
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.identity import CONTROL_DIRECTORY, experiment_directory
from airavata_provider.models.places import find_places, told_together
from airavata_provider.models.resolved import (
    FileInput,
    InputValue,
    ResolvedExperiment,
    command_arguments,
    element_arguments,
    launcher_words,
)
from airavata_provider.models.template import TemplateError
from airavata_provider.models.uri import StorageURI, parse_file_uri, parse_storage_uri
from airavata_provider.models.values import file_name, shown, suggestion

if TYPE_CHECKING:
    from airavata_provider.models.experiment import Experiment


@dataclass(frozen=True)
class Fitting:
    """Where an experiment can run.

    :param places: what it is there, the application's preferred place first; at least one
    :param unfit: why not on the application's other deployments, by resource
    """

    places: tuple[ResolvedExperiment, ...]
    unfit: Mapping[str, tuple[Fault, ...]]


def resolve(
    experiment: Experiment,
    catalog: Catalog,
    *,
    patterns: Collection[str] | None = None,
    now: datetime | None = None,
) -> ResolvedExperiment:
    """:func:`resolve_all`, and of its places the preferred one."""
    return resolve_all(experiment, catalog, patterns=patterns, now=now).places[0]


def resolve_all(
    experiment: Experiment,
    catalog: Catalog,
    *,
    patterns: Collection[str] | None = None,
    now: datetime | None = None,
) -> Fitting:
    """Find everything that an experiment names, check it against every limit, fill in the defaults.

    Without a compute resource, every one of the application's deployments that the request fits is a place for it.
    Defaults come from the deployment, then the queue. Outputs that are sent nowhere go to the catalog's
    default storage resource, into a directory of the experiment's own.

    :param patterns: names of the patterns that exist; None: do not look
    :param now: the time, for what is possible for a while only; None: do not look, as for an experiment under way
    :raises ExperimentRefused: with every fault
    """
    faults: list[Fault] = []
    application = catalog.applications.get(experiment.application)
    if application is None:
        near = suggestion(experiment.application, catalog.applications)
        message = f"no application {experiment.application!r}{near}"
        faults.append(Fault("application", message))
    found = find_places(experiment, application, catalog, faults, now)
    inputs: Mapping[str, InputValue] = {}
    elements: tuple[Mapping[str, InputValue], ...] = ()
    outputs: Mapping[str, OutputField] = {}
    pattern = experiment.pattern
    if application is not None:
        inputs, elements = _inputs(experiment, application, catalog, faults)
        outputs = _outputs(experiment, application, faults)
        pattern = pattern or application.pattern
    if pattern is not None and patterns is not None and pattern not in patterns:
        faults.append(Fault("pattern", f"no pattern {pattern!r}{suggestion(pattern, patterns)}"))
    outputs_to = _outputs_to(experiment, pattern, catalog, faults)
    if faults or application is None or outputs_to is None or pattern is None:
        raise refused_for(experiment, faults)
    fit: list[ResolvedExperiment] = []
    unfit = dict(found.unfit)
    for place in found.fit:
        resolved = ResolvedExperiment(
            experiment=experiment,
            pattern=pattern,
            application=application,
            deployment=place.deployment,
            resource=place.resource,
            queue=place.queue,
            nodes=place.nodes,
            cpus=place.cpus,
            memory_mb=place.memory_mb,
            gpus=place.gpus,
            walltime_s=place.walltime_s,
            options=place.options,
            account=experiment.account or place.deployment.account or place.queue.account or place.resource.account,
            inputs=inputs,
            outputs=outputs,
            outputs_to=outputs_to,
            elements=elements,
        )
        if (fault := _unrenderable(resolved)) is None:
            fit.append(resolved)
        else:
            unfit[place.resource.name] = (fault,)
    if not fit:
        raise refused_for(experiment, told_together(unfit))
    return Fitting(tuple(fit), unfit)


def _unrenderable(resolved: ResolvedExperiment) -> Fault | None:
    """What is wrong with the command line that the catalog's templates make."""
    application, resource = resolved.application, resolved.resource
    try:
        if resolved.elements:
            element_arguments(resolved)
        else:
            command_arguments(resolved)
    except (TemplateError, ValueError) as error:
        where = f"the catalog's applications.{application.name}.deployments.{resource.name}.arguments"
        return Fault(where, str(error))
    try:
        launcher_words(resolved)
    except (TemplateError, ValueError) as error:
        return Fault(f"the catalog's launcher of {application.name} on {resource.name}", str(error))
    return None


def refused_for(experiment: Experiment, faults: list[Fault]) -> ExperimentRefused:
    """The refusal of an experiment for those faults."""
    return ExperimentRefused(f"experiment {experiment.id or 'without an id'} cannot run", list(dict.fromkeys(faults)))


def _inputs(
    experiment: Experiment, application: Application, catalog: Catalog, faults: list[Fault]
) -> tuple[dict[str, InputValue], tuple[dict[str, InputValue], ...]]:
    """The inputs' values, and those of each element of an array where some are given for each."""
    for name in experiment.inputs:
        if name not in application.inputs:
            message = f"{application.name} has no such input{suggestion(name, application.inputs)}"
            faults.append(Fault(f"inputs.{name}", message))
    values: dict[str, InputValue] = {}
    spread: dict[str, list[InputValue]] = {}
    for name, field in application.inputs.items():
        given = experiment.inputs.get(name)
        if given == "" and (field.each or field.type is not DataType.STRING):
            given = None
        if given is None:
            given = field.default
        if given is None:
            if field.required:
                faults.append(Fault(f"inputs.{name}", f"missing; {application.name} needs it ({field.type})"))
            continue
        try:
            if field.each:
                if items := _each(given, field, catalog, name, faults):
                    spread[name] = items
            else:
                values[name] = _input(given, field, catalog)
        except ValueError as error:
            faults.append(Fault(f"inputs.{name}", str(error)))
    elements = _elements(application, values, spread, faults)
    for inputs in elements or (values,):
        _distinct_names(application, inputs, faults)
    return values, elements


def _elements(
    application: Application,
    values: Mapping[str, InputValue],
    spread: Mapping[str, list[InputValue]],
    faults: list[Fault],
) -> tuple[dict[str, InputValue], ...]:
    """All inputs of each element of an array, in the application's order; none when nothing is given for each."""
    lengths = {len(items) for items in spread.values()}
    if len(lengths) > 1:
        told = ", ".join(f"{name} has {len(items)}" for name, items in spread.items())
        faults.append(Fault("inputs", f"those that are given for each element should be equally many: {told}"))
    return tuple(
        {
            name: values[name] if name in values else spread[name][index]
            for name in application.inputs
            if name in values or name in spread
        }
        for index in range(min(lengths, default=0))
    )


def _each(given: object, field: InputField, catalog: Catalog, name: str, faults: list[Fault]) -> list[InputValue]:
    """One value for each element of an array; none where an item has a fault, which is told.

    :raises ValueError: no list, or an empty one
    """
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f"should be a list with an item for each element, not {shown(given)}")
    found: list[InputValue] = []
    for index, item in enumerate(given):
        try:
            found.append(_input(item, field, catalog))
        except ValueError as error:
            faults.append(Fault(f"inputs.{name}[{index}]", str(error)))
    return found if len(found) == len(given) else []


def _input(given: object, field: InputField, catalog: Catalog) -> InputValue:
    if field.type is DataType.FILE:
        return _file(given, field.name, catalog)
    if field.type is DataType.FILE_LIST:
        if not isinstance(given, list | tuple):
            raise ValueError(f"should be a list of files, not {shown(given)}")
        if not given and field.required:
            raise ValueError("should name at least one file")
        return tuple(_file(each, None, catalog) for each in given)
    value = typed(given, field.type)
    choices = [typed(each, field.type) for each in field.choices]
    if choices and value not in choices:
        raise ValueError(f"should be one of {', '.join(map(repr, choices))}, not {shown(value)}")
    return value


def _file(given: object, name: str | None, catalog: Catalog) -> FileInput:
    if not isinstance(given, str):
        raise ValueError(f"should be a file's address, not {shown(given)}")  # noqa: TRY004
    source = storage_address(given, catalog)
    return FileInput(source, name or source.name)


def storage_address(text: str, catalog: Catalog, *, directory: bool = False) -> StorageURI:
    """The address of a file or directory on a storage resource of the catalog.

    ``file:///…`` becomes the address on the ``local`` storage resource below whose root it is, the deepest
    one.

    :raises ValueError: no address, an unknown storage resource, a path that leaves its root
    """
    if text.startswith("storage:"):
        address = parse_storage_uri(text, directory=directory)
        if address.storage not in catalog.storage_resources:
            near = suggestion(address.storage, catalog.storage_resources)
            raise ValueError(f"no storage resource {address.storage!r}{near}")
        return address
    if not text.startswith("file:"):
        raise ValueError(f"should be storage://<storage resource>/<path> or file:///<path>, not {shown(text)}")
    path = parse_file_uri(text, directory=directory)
    best: tuple[int, StorageURI] | None = None
    for storage in catalog.storage_resources.values():
        root = storage.root.rstrip("/")
        below = path == root or path.startswith(root + "/")
        if storage.type == "local" and below and (best is None or len(root) > best[0]):
            best = (len(root), StorageURI(storage.name, path[len(root) :].lstrip("/")))
    if best is None or not (best[1].path or directory):
        roots = [each.root for each in catalog.storage_resources.values() if each.type == "local"]
        below_what = f" (those begin at: {', '.join(roots)})" if roots else ""
        raise ValueError(f"{shown(path)} is not below a local storage resource of the catalog{below_what}")
    return best[1]


def _distinct_names(application: Application, values: Mapping[str, InputValue], faults: list[Fault]) -> None:
    taken = {
        CONTROL_DIRECTORY: "our own directory",
        application.stdout: "the standard output",
        application.stderr: "the standard error",
    }
    for name, value in values.items():
        files = value if isinstance(value, tuple) else (value,)
        for file in files:
            if not isinstance(file, FileInput):
                continue
            file_name(file.name)
            if file.name in taken:
                message = f"{shown(file.name)} in the working directory is {taken[file.name]} already"
                faults.append(Fault(f"inputs.{name}", message))
            taken.setdefault(file.name, f"a file of input {name}")


def _outputs(experiment: Experiment, application: Application, faults: list[Fault]) -> dict[str, OutputField]:
    for index, name in enumerate(experiment.outputs):
        if name not in application.outputs:
            message = f"{application.name} has no output {name!r}{suggestion(name, application.outputs)}"
            faults.append(Fault(f"outputs[{index}]", message))
    wanted = experiment.outputs or application.outputs
    return {name: field for name, field in application.outputs.items() if name in wanted}


def _outputs_to(
    experiment: Experiment, pattern: str | None, catalog: Catalog, faults: list[Fault]
) -> StorageURI | None:
    if experiment.outputs_to is not None:
        try:
            return storage_address(experiment.outputs_to, catalog, directory=True)
        except ValueError as error:
            faults.append(Fault("outputs_to", str(error)))
            return None
    storage = catalog.default_storage()
    if storage is None:
        what = (
            "has several storage resources and none is the default" if catalog.storage_resources else "has no storage"
        )
        faults.append(Fault("outputs_to", f"missing, and the catalog {what}"))
        return None
    own = experiment_directory(pattern or "", experiment.id or "", "")
    return StorageURI(storage.name, posixpath.join("experiments", own))
