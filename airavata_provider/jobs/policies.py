"""The placement policies that are installed, by name: entry points in the group ``airavata.placement_policies``.

Imports no Airflow.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from airavata_provider.errors import ConfigurationError
from airavata_provider.jobs.placing import Policy

GROUP = "airavata.placement_policies"


@cache
def placement_policy(name: str) -> Policy:
    """The policy of that name.

    :raises ConfigurationError: none has that name, or its module does not load
    """
    entries = entry_points(group=GROUP)
    for entry in entries:
        if entry.name != name:
            continue
        try:
            loaded = entry.load()
        except Exception as error:
            raise ConfigurationError(f"placement policy {name!r} ({entry.value}) does not load: {error}") from error
        if not callable(loaded):
            raise ConfigurationError(f"placement policy {name!r} ({entry.value}) is no function")
        policy: Policy = loaded
        return policy
    known = ", ".join(sorted({entry.name for entry in entries})) or "none"
    raise ConfigurationError(
        f"unknown placement policy {name!r}", advice=f"set [airavata] placement_policy to one of: {known}"
    )
