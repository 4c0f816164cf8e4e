"""What an experiment's job asks of its scheduler: a job script's fields from deployment, queue and request.

Imports no Airflow; does no I/O but finding the scheduler's adaptor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any

from airavata_provider.errors import ConfigurationError, Fault
from airavata_provider.models.application import Container, Parallelism
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.experiment import Experiment, Fitting, resolve_all
from airavata_provider.models.options import JobOptions
from airavata_provider.models.places import told_together
from airavata_provider.models.resolution import refused_for
from airavata_provider.models.resolved import ResolvedExperiment, command_arguments, element_arguments, launcher_words
from airavata_provider.models.resource import ComputeResource, Unsupported
from airavata_provider.schedulers.notice import SIGNAL_FIELDS
from airavata_provider.schedulers.registry import scheduler
from airavata_provider.schedulers.request import JobRequest

FIELDS: Mapping[str, str] = {"tasks": "cpus", "cpus_per_task": "cpus", "walltime_s": "walltime", "array": "inputs"}
"""An experiment's field, for those of a job request that are called otherwise."""

_PROCESSES = (Parallelism.MPI, Parallelism.OPENMP_MPI)


def job_fields(experiment: ResolvedExperiment) -> dict[str, Any]:
    """The parameters of a ``submit`` task that follow from an experiment."""
    deployment, queue, options = experiment.deployment, experiment.queue, experiment.options
    # One process alone is not spread over nodes.
    each = options.tasks_per_node if deployment.parallelism in _PROCESSES else None
    tasks, cpus_per_task = layout(deployment.parallelism, experiment.nodes, experiment.cpus, each)
    environment = dict(deployment.environment)
    if deployment.parallelism in (Parallelism.OPENMP, Parallelism.OPENMP_MPI):
        environment.setdefault("OMP_NUM_THREADS", str(cpus_per_task))
    resource = experiment.resource
    return {
        "executable": deployment.executable,
        **_words(experiment),
        "environment": environment,
        "modules": tuple(deployment.modules),
        "module_init": resource.module_system.commands(bool(deployment.modules)),
        "pre_commands": tuple(deployment.pre_commands),
        "post_commands": tuple(deployment.post_commands),
        "launcher": launcher_words(experiment),
        "container": _container(deployment.container, experiment),
        "stdout": experiment.application.stdout,
        "stderr": experiment.application.stderr,
        "queue": queue.name,
        "nodes": experiment.nodes,
        "tasks": tasks,
        "tasks_per_node": each,
        "cpus_per_task": cpus_per_task,
        "memory_mb": experiment.memory_mb,
        "gpus": experiment.gpus,
        "gpu_type": options.gpu_type if experiment.gpus else None,
        "walltime_s": experiment.walltime_s,
        "account": experiment.account,
        "qos": options.qos,
        "reservation": options.reservation,
        "exclusive": bool(options.exclusive),
        "constraint": options.constraint,
        "licenses": options.licenses or (),
        "mail_to": options.mail_to,
        "mail_events": options.mail_events or (),
        "signal_before_end_s": options.signal_before_end_s,
        "signal": options.signal,
        "site_words": dict(queue.site_words),
        "export": deployment.export if deployment.export is not None else queue.export,
        "directives": scheduler(resource.scheduler).merge_directives(queue.directives, deployment.directives),
    }


def _words(experiment: ResolvedExperiment) -> dict[str, Any]:
    """What the program is given: once, or for each element of an array."""
    if not experiment.elements:
        return {"arguments": command_arguments(experiment), "stdin": experiment.stdin}
    return {
        "elements": [
            {"arguments": arguments, "stdin": experiment.of_element(index).stdin}
            for index, arguments in enumerate(element_arguments(experiment))
        ],
        "max_running": experiment.experiment.max_running,
    }


def _container(container: Container | None, experiment: ResolvedExperiment) -> dict[str, Any] | None:
    if container is None:
        return None
    gpus = container.gpus if container.gpus is not None else bool(experiment.gpus)
    return container.model_dump() | {"gpus": gpus}


def layout(parallelism: Parallelism, nodes: int, cpus: int, tasks_per_node: int | None = None) -> tuple[int, int]:
    """Processes in all, and cores for each, from the cores asked for in all.

    :param cpus: cores in all, over all nodes
    :param tasks_per_node: processes on each node; of a program of threads and processes, None is one
    """
    if parallelism is Parallelism.MPI:
        return cpus, 1
    if parallelism is Parallelism.OPENMP_MPI:
        tasks = nodes * (tasks_per_node or 1)
        return tasks, max(1, cpus // tasks)
    return 1, cpus


def unsupported(resource: ComputeResource, request: JobRequest) -> Iterator[Fault]:
    """What is asked for and the resource's scheduler has no words for, in the experiment's words."""
    told = scheduler(resource.scheduler).unsupported(request)
    for name, why in {FIELDS.get(name, name): why for name, why in told.items()}.items():
        yield Fault(name, f"{resource.name} cannot be asked for it: {why}")


def option_faults(experiment: Experiment, catalog: Catalog) -> list[Fault]:
    """What a request asks for by itself and its resource cannot be asked for, whatever else is wrong with it."""
    resource = catalog.compute_resources.get(experiment.compute_resource or "")
    if resource is None or resource.unsupported_options is not Unsupported.ERROR:
        return []
    given = {
        name: value
        for name in (*JobOptions.model_fields, "nodes", "memory_mb", "gpus", "walltime_s", "account")
        if (value := getattr(experiment, name)) is not None
    }
    if not {"walltime_s", "signal_before_end_s"} <= given.keys():
        # How long before which walltime may be another's word.
        given = {name: value for name, value in given.items() if name not in SIGNAL_FIELDS}
    try:
        words = resource.queue(experiment.queue).site_words
    except KeyError:  # which is told elsewhere
        words = {}
    request = JobRequest("job", "/directory", "true", site_words=words, **given)
    try:
        return list(unsupported(resource, request))
    except ConfigurationError:
        return []


def fit(
    experiment: Experiment,
    catalog: Catalog,
    *,
    patterns: Collection[str] | None = None,
    now: datetime | None = None,
) -> Fitting:
    """Where an experiment can run: what ``resolve_all`` finds, without what its scheduler cannot be asked for.

    :param patterns: see ``resolve_all``; so is ``now``
    :raises ExperimentRefused: with every fault
    """
    found = resolve_all(experiment, catalog, patterns=patterns, now=now)
    against = {each.resource.name: tuple(door_faults(each)) for each in found.places}
    places = tuple(each for each in found.places if not against[each.resource.name])
    unfit = {**found.unfit, **{name: faults for name, faults in against.items() if faults}}
    if not places:
        raise refused_for(experiment, told_together(unfit))
    return Fitting(places, unfit)


def door_faults(experiment: ResolvedExperiment) -> list[Fault]:
    """Why an experiment's job could not be asked for; of options, where the resource would rather warn, none.

    Looks at what follows from the experiment, not at what a pattern's own parameters change.
    """
    from airavata_provider.tasks.submit_parameters import SubmitParameters, request_of

    resource = experiment.resource
    try:
        parameters = SubmitParameters.model_validate(job_fields(experiment))
        request = request_of(parameters, resource, name="job", directory="/directory", comment="")
        scheduler(resource.scheduler).directives(request)
        found = list(unsupported(resource, request))
    except ConfigurationError as error:
        return [Fault(f"the catalog's compute_resources.{resource.name}", error.message)]
    return found if resource.unsupported_options is Unsupported.ERROR else []
