"""Where an experiment runs that left the choice to us, and why there. Data only, no Airflow, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airavata_provider.models.experiment import Experiment

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Placement:
    """One decision; the store keeps an experiment's last one.

    :param dag_id: the DAG
    :param experiment_id: the DAG run's id
    :param born: when that run was made (:class:`~airavata_provider.models.identity.TaskIdentity`)
    :param resource: the compute resource's name in the catalog
    :param queue: its queue there, as the catalog calls it; None for a resource without queues
    :param sizes: what it asks for there instead of what the experiment says, by the experiment's field
    :param reasons: why there, and why not elsewhere; a sentence each
    :param decided_at: when
    :param revision: 0 for the first decision; a higher one replaces a lower one
    """

    dag_id: str
    experiment_id: str
    born: str
    resource: str
    queue: str | None
    decided_at: datetime
    sizes: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    reasons: tuple[str, ...] = ()
    revision: int = 0

    def settled(self, experiment: Experiment) -> Experiment:
        """The experiment, asking for just that."""
        queue = {"queue": self.queue} if self.queue is not None else {}
        return experiment.model_copy(update={"compute_resource": self.resource, **queue, **self.sizes})
