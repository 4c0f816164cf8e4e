"""Finds task types: the entry points of the group ``airavata.tasks``, ours and plug-ins' alike.

Loaded while DAG files are parsed, so task modules import neither asyncssh nor SQLAlchemy at their top.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from airavata_provider.errors import ConfigurationError
from airavata_provider.tasks.base import Parameters, Task

GROUP = "airavata.tasks"


@cache
def task_types() -> Mapping[str, type[Task[Any]]]:
    """Task classes by the word in a pattern's ``type:``.

    :raises ConfigurationError: two packages claim the same word, or an entry point cannot be loaded
    """
    found: dict[str, type[Task[Any]]] = {}
    for entry in entry_points(group=GROUP):
        try:
            loaded = entry.load()
        except Exception as error:
            raise ConfigurationError(
                f"task type {entry.name!r} cannot be loaded from {entry.value!r}: {error}",
                advice="repair or uninstall the package that brings it",
            ) from error
        if entry.name in found and found[entry.name] is not loaded:
            raise ConfigurationError(
                f"task type {entry.name!r} is claimed by both {found[entry.name].__module__} and {entry.value}",
                advice="uninstall one of the two packages",
            )
        found[entry.name] = loaded
    return MappingProxyType(found)


def task_type(name: str) -> Task[Any]:
    """An instance of the task type of that name.

    :raises ConfigurationError: there is none
    """
    types = task_types()
    if name not in types:
        raise ConfigurationError(f"unknown task type {name!r}; known: {', '.join(sorted(types))}")
    return types[name]()


def parameter_models() -> Mapping[str, type[Parameters]]:
    """The model of each task type's parameters, for a pattern's validation."""
    return {name: kind.Parameters for name, kind in task_types().items()}
