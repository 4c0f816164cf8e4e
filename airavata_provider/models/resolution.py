"""Whether an experiment can run, and with what: the catalog's answer to a request.

Every fault is found before the first is told. Pure; no Airflow.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airavata_provider.errors import ExperimentRefused, Fault
from airavata_provider.models.application import (
    Application,
    DataType,
    Deployment,
    InputField,
    OutputField,
    Parallelism,
    typed,
)
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.identity import CONTROL_DIRECTORY, experiment_directory
from airavata_provider.models.options import JobOptions, merged
from airavata_provider.models.resolved import (
    FileInput,
    InputValue,
    ResolvedExperiment,
    command_arguments,
    launcher_words,
)
from airavata_provider.models.resource import ComputeResource, Queue
from airavata_provider.models.template import TemplateError
from airavata_provider.models.uri import StorageURI, parse_file_uri, parse_storage_uri
from airavata_provider.models.values import clock, file_name, shown, suggestion

if TYPE_CHECKING:
    from airavata_provider.models.experiment import Experiment


@dataclass(frozen=True)
class _Place:
    """A deployment with the sizes that a request gets there."""

    resource: ComputeResource
    deployment: Deployment
    queue: Queue
    nodes: int
    cpus: int
    memory_mb: int | None
    gpus: int
    walltime_s: int | None
    options: JobOptions


def resolve(
    experiment: Experiment,
    catalog: Catalog,
    *,
    patterns: Collection[str] | None = None,
    now: datetime | None = None,
) -> ResolvedExperiment:
    """Find everything that an experiment names, check it against every limit, fill in the defaults.

    Without a compute resource, the first of the application's deployments that the request fits is taken.
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
    place = _place(experiment, application, catalog, faults, now)
    inputs: Mapping[str, InputValue] = {}
    outputs: Mapping[str, OutputField] = {}
    pattern = experiment.pattern
    if application is not None:
        inputs = _inputs(experiment, application, catalog, faults)
        outputs = _outputs(experiment, application, faults)
        pattern = pattern or application.pattern
    if pattern is not None and patterns is not None and pattern not in patterns:
        faults.append(Fault("pattern", f"no pattern {pattern!r}{suggestion(pattern, patterns)}"))
    outputs_to = _outputs_to(experiment, pattern, catalog, faults)
    if faults or application is None or place is None or outputs_to is None or pattern is None:
        raise _refused(experiment, faults)
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
    )
    try:
        command_arguments(resolved)
    except (TemplateError, ValueError) as error:
        where = f"the catalog's applications.{application.name}.deployments.{place.resource.name}.arguments"
        raise _refused(experiment, [Fault(where, str(error))]) from error
    try:
        launcher_words(resolved)
    except (TemplateError, ValueError) as error:
        where = f"the catalog's launcher of {application.name} on {place.resource.name}"
        raise _refused(experiment, [Fault(where, str(error))]) from error
    return resolved


def _refused(experiment: Experiment, faults: list[Fault]) -> ExperimentRefused:
    return ExperimentRefused(f"experiment {experiment.id or 'without an id'} cannot run", list(dict.fromkeys(faults)))


def _place(
    experiment: Experiment,
    application: Application | None,
    catalog: Catalog,
    faults: list[Fault],
    now: datetime | None,
) -> _Place | None:
    if experiment.compute_resource is not None:
        return _named_place(experiment, experiment.compute_resource, application, catalog, faults, now=now)
    if application is None:
        return None
    refusals: list[tuple[str, list[Fault]]] = []
    for name, deployment in application.deployments.items():
        against: list[Fault] = []
        resource = catalog.compute_resources.get(name)
        if resource is None:
            against.append(Fault("compute_resource", f"{name}, where it is deployed, is not in the catalog"))
        else:
            found = _sized(experiment, resource, deployment, against, now)
            if found is not None:
                return found
        refusals.append((name, against))
    for name, against in refusals:
        on = f"on {name}: " if len(refusals) > 1 else ""
        faults.extend(Fault(fault.where, on + fault.message) for fault in against)
    return None


def _named_place(
    experiment: Experiment,
    name: str,
    application: Application | None,
    catalog: Catalog,
    faults: list[Fault],
    *,
    now: datetime | None,
) -> _Place | None:
    resource = catalog.compute_resources.get(name)
    if resource is None:
        near = suggestion(name, catalog.compute_resources)
        faults.append(Fault("compute_resource", f"no compute resource {name!r}{near}"))
        return None
    deployment = application.deployments.get(name) if application else None
    if application is not None and deployment is None:
        on = ", ".join(application.deployments)
        faults.append(Fault("compute_resource", f"{application.name} is not deployed on {name} (it is on: {on})"))
    # Whatever is missing, the sizes can still be wrong: a deployment that says nothing stands in.
    place = _sized(experiment, resource, deployment or Deployment(executable="none"), faults, now)
    return place if deployment is not None else None


def _sized(
    experiment: Experiment,
    resource: ComputeResource,
    deployment: Deployment,
    faults: list[Fault],
    now: datetime | None,
) -> _Place | None:
    """The request's sizes on that resource; None, and faults, where they break a limit."""
    wanted = experiment.queue or deployment.queue
    try:
        queue = resource.queue(wanted)
    except KeyError:
        near = suggestion(wanted or "", resource.queues)
        faults.append(Fault("queue", f"{resource.name} has no queue {wanted!r}{near}"))
        return None
    nodes = experiment.nodes or deployment.nodes or queue.default_nodes
    cpus = experiment.cpus or deployment.cpus or max(queue.default_cpus, nodes)
    memory_mb = experiment.memory_mb or deployment.memory_mb or queue.default_memory_mb
    gpus = experiment.gpus if experiment.gpus is not None else (deployment.gpus or 0)
    walltime_s = experiment.walltime_s or deployment.walltime or queue.default_walltime
    there = f"{resource.name}'s queue {queue.name}" if queue.name else resource.name
    before = len(faults)
    for field, value, limit in (
        ("nodes", nodes, queue.max_nodes),
        ("cpus", cpus, queue.max_cpus),
        ("memory_mb", memory_mb, queue.max_memory_mb),
        ("gpus", gpus, queue.max_gpus),
    ):
        if value is not None and limit is not None and value > limit:
            faults.append(Fault(field, f"{value} is more than {there} allows ({limit})"))
    if walltime_s is not None and queue.max_walltime is not None and walltime_s > queue.max_walltime:
        message = f"{clock(walltime_s)} is more than {there} allows ({clock(queue.max_walltime)})"
        faults.append(Fault("walltime", message))
    if queue.cpus_per_node is not None and cpus > nodes * queue.cpus_per_node:
        message = f"{cpus} is more than {nodes} node(s) of {there} have ({queue.cpus_per_node} each)"
        faults.append(Fault("cpus", message))
    if cpus < nodes:
        faults.append(Fault("cpus", f"{cpus} is fewer than the {nodes} nodes"))
    options = merged(experiment, deployment, queue)
    each = options.tasks_per_node
    if deployment.parallelism is Parallelism.OPENMP_MPI and cpus % (nodes * (each or 1)):
        many = f"{each} processes" if each else "one process"
        faults.append(Fault("cpus", f"{cpus} cannot be shared evenly by {nodes} nodes, {many} on each"))
    if deployment.parallelism is Parallelism.MPI and each and cpus > nodes * each:
        faults.append(Fault("tasks_per_node", f"{nodes} node(s) with {each} processes each are no {cpus} processes"))
    if experiment.gpu_type is not None and not gpus:
        faults.append(Fault("gpu_type", "no GPU is asked for"))
    if options.reservation is not None and resource.reservations:
        name = options.reservation
        faults.extend(_reservation_faults(name, experiment, resource, queue, walltime_s=walltime_s, now=now))
    if len(faults) > before:
        return None
    return _Place(resource, deployment, queue, nodes, cpus, memory_mb, gpus, walltime_s, options)


def _reservation_faults(
    name: str,
    experiment: Experiment,
    resource: ComputeResource,
    queue: Queue,
    *,
    walltime_s: int | None,
    now: datetime | None,
) -> Iterator[Fault]:
    reservation = resource.reservations.get(name)
    if reservation is None:
        near = suggestion(name, resource.reservations)
        yield Fault("reservation", f"{resource.name} has no reservation {name!r}{near}")
        return
    # A queue's key and its name in the scheduler may differ.
    if reservation.queues and not any(resource.queues[each] is queue for each in reservation.queues):
        yield Fault("reservation", f"{name} is for the queues {', '.join(reservation.queues)}")
    if now is None or reservation.end is None:
        return
    begin = max(at for at in (now, reservation.start, experiment.not_before) if at is not None)
    if begin >= reservation.end:
        yield Fault("reservation", f"{name} is over: it ends at {reservation.end.isoformat()}")
    elif walltime_s is not None and begin + timedelta(seconds=walltime_s) > reservation.end:
        message = f"{clock(walltime_s)} from {begin.isoformat(timespec='seconds')} on do not fit"
        yield Fault("walltime", f"{message} into the reservation {name}, which ends at {reservation.end.isoformat()}")


def _inputs(
    experiment: Experiment, application: Application, catalog: Catalog, faults: list[Fault]
) -> dict[str, InputValue]:
    for name in experiment.inputs:
        if name not in application.inputs:
            message = f"{application.name} has no such input{suggestion(name, application.inputs)}"
            faults.append(Fault(f"inputs.{name}", message))
    values: dict[str, InputValue] = {}
    for name, field in application.inputs.items():
        given = experiment.inputs.get(name)
        if given == "" and field.type is not DataType.STRING:
            given = None
        if given is None:
            given = field.default
        if given is None:
            if field.required:
                faults.append(Fault(f"inputs.{name}", f"missing; {application.name} needs it ({field.type})"))
            continue
        try:
            values[name] = _input(given, field, catalog)
        except ValueError as error:
            faults.append(Fault(f"inputs.{name}", str(error)))
    _distinct_names(application, values, faults)
    return values


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
