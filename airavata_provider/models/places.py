"""Where an experiment may run: of its application's deployments those that its pins allow and its sizes fit.

A **pin** is a list of compute resources and of classes of them; nothing runs on what is in none of its words. The
request may have one, its application, and its gateway: all of them hold. Pure; no Airflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airavata_provider.errors import Fault
from airavata_provider.models.application import Application, Deployment, Parallelism
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.options import JobOptions, merged
from airavata_provider.models.resource import ComputeResource, Queue
from airavata_provider.models.values import clock, suggestion

if TYPE_CHECKING:
    from airavata_provider.models.experiment import Experiment


@dataclass(frozen=True)
class Place:
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


@dataclass(frozen=True)
class Places:
    """Where an experiment may run.

    :param fit: the preferred one first
    :param unfit: why not on the other deployments, by resource
    """

    fit: tuple[Place, ...]
    unfit: Mapping[str, tuple[Fault, ...]]


def find_places(
    experiment: Experiment,
    application: Application | None,
    catalog: Catalog,
    faults: list[Fault],
    now: datetime | None,
) -> Places:
    """The places, and faults where there is none."""
    before = len(faults)
    pins = _pins(experiment, application, catalog)
    faults.extend(_unknown_words(experiment, catalog))
    name = experiment.compute_resource
    if name is not None:
        return _named_place(experiment, name, application, catalog, faults, pins=pins, now=now)
    if application is None or len(faults) > before:
        return Places((), {})
    fit: list[Place] = []
    unfit: dict[str, tuple[Fault, ...]] = {}
    for name, deployment in application.deployments.items():
        against: list[Fault] = []
        resource = catalog.compute_resources.get(name)
        if resource is None:
            against.append(Fault("compute_resource", f"{name}, where it is deployed, is not in the catalog"))
        elif outside := list(_outside(resource, pins)):
            against.extend(outside)
        else:
            place = _sized(experiment, resource, deployment, against, now)
            if place is not None:
                fit.append(place)
                continue
        unfit[name] = tuple(against)
    if not fit:
        faults.extend(told_together(unfit))
    return Places(tuple(fit), unfit)


def told_together(unfit: Mapping[str, Sequence[Fault]]) -> list[Fault]:
    """Why an experiment runs nowhere: what speaks against each resource, with its name where there are several."""
    return [
        Fault(fault.where, f"on {name}: {fault.message}" if len(unfit) > 1 else fault.message)
        for name, faults in unfit.items()
        for fault in faults
    ]


def _named_place(
    experiment: Experiment,
    name: str,
    application: Application | None,
    catalog: Catalog,
    faults: list[Fault],
    *,
    pins: Mapping[str, Sequence[str]],
    now: datetime | None,
) -> Places:
    resource = catalog.compute_resources.get(name)
    if resource is None:
        near = suggestion(name, catalog.compute_resources)
        faults.append(Fault("compute_resource", f"no compute resource {name!r}{near}"))
        return Places((), {})
    before = len(faults)
    deployment = application.deployments.get(name) if application else None
    if application is not None and deployment is None:
        on = ", ".join(application.deployments)
        faults.append(Fault("compute_resource", f"{application.name} is not deployed on {name} (it is on: {on})"))
    faults.extend(_outside(resource, pins))
    # Whatever is missing, the sizes can still be wrong: a deployment that says nothing stands in.
    place = _sized(experiment, resource, deployment or Deployment(executable="none"), faults, now)
    return Places((place,) if place is not None and len(faults) == before else (), {})


def _pins(experiment: Experiment, application: Application | None, catalog: Catalog) -> dict[str, Sequence[str]]:
    """The lists that hold for a request, by who has them."""
    gateway = catalog.gateways.get(experiment.gateway)
    found = {
        "the request": experiment.only_on,
        f"application {experiment.application}": application.only_on if application else (),
        f"gateway {experiment.gateway}": gateway.only_on if gateway else (),
    }
    return {who: words for who, words in found.items() if words}


def _outside(resource: ComputeResource, pins: Mapping[str, Sequence[str]]) -> Iterator[Fault]:
    words = {resource.name, *resource.classes}
    for who, allowed in pins.items():
        if words.isdisjoint(allowed):
            yield Fault("compute_resource", f"{who} runs only on {', '.join(allowed)}; {resource.name} is not that")


def _unknown_words(experiment: Experiment, catalog: Catalog) -> Iterator[Fault]:
    known = catalog.words
    for index, word in enumerate(experiment.only_on):
        if word not in known:
            yield Fault(f"only_on[{index}]", f"no compute resource or class {word!r}{suggestion(word, known)}")


def _sized(
    experiment: Experiment,
    resource: ComputeResource,
    deployment: Deployment,
    faults: list[Fault],
    now: datetime | None,
) -> Place | None:
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
    return Place(resource, deployment, queue, nodes, cpus, memory_mb, gpus, walltime_s, options)


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
