"""What is said about compute resources: drained for now, down until then, full. Data only, no Airflow, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class AvailabilityState(StrEnum):
    """What is the matter."""

    DRAINING = "draining"
    """What is there goes on; nothing new goes there."""

    DOWN = "down"
    """Nothing can be asked of it."""

    FULL = "full"
    """Its scheduler refused a job because too many are there: said by admission, and believed less and less
    (``jobs.admission.learned``)."""


@dataclass(frozen=True)
class Availability:
    """One statement; several may hold at a time.

    :param resource: the compute resource's name in the catalog
    :param queue: its queue, "" for the whole resource
    :param state: what is the matter
    :param starts_at: from when on
    :param ends_at: until when; None: until somebody takes it back
    :param by: who said so
    :param reason: for people
    :param id: its key; "" until it is stored
    :param jobs: of a full one: how many jobs of ours were there
    """

    resource: str
    state: AvailabilityState
    starts_at: datetime
    queue: str = ""
    ends_at: datetime | None = None
    by: str = ""
    reason: str = ""
    id: str = ""
    jobs: int | None = None

    def holds(self, at: datetime) -> bool:
        """Whether it is so at that moment."""
        return self.starts_at <= at and (self.ends_at is None or at < self.ends_at)
