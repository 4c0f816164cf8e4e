"""What a monitor is that runs as a service: a source of news that somebody has to listen to.

A monitor says what there is to listen to; each of these runs in one place of the whole deployment, in a triggerer,
for as long as it is wanted, and somewhere else when that place dies (:mod:`airavata_provider.monitors.keeper`). It
has no worker slot, and shares an event loop with everything else there: it must never block.

Monitors are found in the entry points ``airavata.monitors``. Imports no Airflow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

from airavata_provider.errors import ConfigurationError
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.catalog import Catalog

GROUP = "airavata.monitors"


@dataclass(frozen=True)
class MonitorContext:
    """What monitors are given.

    :param store: where news goes (``append``)
    :param catalog: the catalog as it is now; raises CatalogError
    :param connection: an Airflow Connection by its id; raises ConfigurationError when there is none
    """

    store: JobStore
    catalog: Callable[[], Catalog]
    connection: Callable[[str], Awaitable[Any]]


class Listener(Protocol):
    """One thing to listen to. Two that are equal listen to the same in the same way: while a monitor goes on naming
    an equal one, the one that runs is left alone."""

    async def run(self) -> None:
        """Listen, append events, until cancelled. Should it return or raise, it is started again after a pause."""


class Monitor(ABC):
    """A source of news that runs as a service."""

    @abstractmethod
    def listeners(self, context: MonitorContext) -> Mapping[str, Listener]:
        """What is to be listened to now, by a name that is unique in this monitor and stays the same. Asked every few
        seconds; must be quick.
        """


def monitors() -> dict[str, Monitor]:
    """Every installed monitor by its entry point's name.

    :raises ConfigurationError: one does not load
    """
    found: dict[str, Monitor] = {}
    for entry in entry_points(group=GROUP):
        try:
            loaded = entry.load()
        except Exception as error:
            raise ConfigurationError(f"monitor {entry.name!r} ({entry.value}) does not load: {error}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Monitor)):
            raise ConfigurationError(f"monitor {entry.name!r} ({entry.value}) is not a subclass of Monitor")
        found[entry.name] = loaded()
    return found
