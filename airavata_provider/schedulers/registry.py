"""The schedulers that are installed, by name: entry points in the group ``airavata.schedulers``.

Imports no Airflow.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from airavata_provider.errors import ConfigurationError
from airavata_provider.schedulers.base import Scheduler

GROUP = "airavata.schedulers"


def known_schedulers() -> tuple[str, ...]:
    """Names of all installed adaptors, sorted; none is loaded."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


@cache
def scheduler(name: str) -> Scheduler:
    """The adaptor of that name. Adaptors hold no state: one is enough for everybody.

    :raises ConfigurationError: none has that name, or its module does not load
    """
    for entry in entry_points(group=GROUP):
        if entry.name != name:
            continue
        try:
            loaded = entry.load()
        except Exception as error:
            raise ConfigurationError(f"scheduler {name!r} ({entry.value}) does not load: {error}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Scheduler)):
            raise ConfigurationError(f"scheduler {name!r} ({entry.value}) is not a subclass of Scheduler")
        return loaded()
    known = ", ".join(known_schedulers()) or "none"
    raise ConfigurationError(f"unknown scheduler {name!r}", advice=f"known schedulers: {known}")
