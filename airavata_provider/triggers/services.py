"""The outside world, as tasks see it: Airflow's connections, the catalog, the SSH pool, the job store.

One object per event loop, made inside it: the triggerer's loop is shared by all triggers, and a worker's task
makes and closes its own. Nothing here blocks the loop for longer than reading a few small files takes.
"""

from __future__ import annotations

import asyncio
import os
import time
from abc import abstractmethod
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airavata_provider.errors import ConfigurationError
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.catalog_folders import CatalogFolders
from airavata_provider.tasks.base import Services, webhook_url
from airavata_provider.triggers.connections import Connections

if TYPE_CHECKING:
    from airavata_provider.jobs.admitter import Admitter
    from airavata_provider.jobs.loads import Loads
    from airavata_provider.jobs.placer import Placer
    from airavata_provider.jobs.placing import Policy
    from airavata_provider.jobs.poller import Way
    from airavata_provider.models.resource import ComputeResource, Reachable
    from airavata_provider.ssh.host import Host
    from airavata_provider.ssh.target import Limits, Target
    from airavata_provider.storage.base import Storage

CONNECTION_TTL_S = 60.0
"""How long a Connection read from Airflow is used before it is read again: each read is a call to the
supervisor, one at a time."""

STORE_PATIENCE_S = 300.0
"""How long a task waits for a database that does not answer, before it fails: a server is restarted, or another one
takes its place."""


class HostServices(Services):
    """What the host itself needs beyond what tasks are given."""

    @abstractmethod
    def catalog(self) -> Catalog:
        """The catalog, as its files were when they last had no faults.

        :raises CatalogError: they have faults, and had some whenever this process looked
        """

    def compute_resource(self, name: str) -> ComputeResource:
        return self.catalog().compute_resource(name)

    def admitter(self) -> Admitter:
        from airavata_provider.jobs.admitter import get_admitter
        from airavata_provider.jobs.limits import limits_of

        return get_admitter(self.store, lambda: limits_of(self.catalog()))

    def placer(self) -> Placer:
        """Decides where experiments run that leave the choice to us."""
        from airavata_provider.jobs.limits import limits_of
        from airavata_provider.jobs.placer import get_placer

        return get_placer(self.store, lambda: limits_of(self.catalog()), self.loads)

    def loads(self) -> Loads | None:
        """Asks clusters how full their queues are; None: they are not asked."""
        from airavata_provider.jobs.loads import Loads

        return Loads(self.way)

    async def way(self, resource: str) -> Way:
        """The way to a resource and its scheduler, by its name.

        :raises CatalogError: there is none of that name
        """
        from airavata_provider.jobs.poller import Way
        from airavata_provider.schedulers.registry import scheduler

        found = self.catalog().compute_resource(resource)
        relay = found.scratch if found.callbacks.relay else None
        return Way(await self.host(found), scheduler(found.scheduler), relay)

    def placement_policy(self) -> Policy:
        """What it decides by.

        :raises ConfigurationError: the deployment names one that is not there
        """
        from airavata_provider.jobs.policies import placement_policy

        return placement_policy("soonest")


class AirflowServices(HostServices):
    """Services of an Airflow process, for one event loop.

    :param of_task: the process runs one task, and leaves others a connection to each host (``ssh.sharing``)
    """

    def __init__(self, *, of_task: bool = False) -> None:
        from airavata_provider.jobs.store import get_store
        from airavata_provider.settings import get_settings

        self.settings = get_settings()
        self.store = get_store(patience_s=STORE_PATIENCE_S)
        self._of_task = of_task
        self._catalog = CatalogFolders(self.settings.catalog_folders)
        self._connections = Connections()
        self._targets: dict[tuple[str, str | None, Limits], tuple[float, Target]] = {}
        self._reading: dict[tuple[str, str | None, Limits], asyncio.Lock] = {}

    def catalog(self) -> Catalog:
        return self._catalog.last_good()

    async def host(self, resource: Reachable) -> Host:
        from airavata_provider.ssh.pool import get_pool

        pool = get_pool(self.store.host_uses, modest=self._of_task)
        return pool.host(await self._target(resource))

    async def _target(self, resource: Reachable) -> Target:
        """The resource's address and credentials, read once for all who ask within :data:`CONNECTION_TTL_S`."""
        from airavata_provider.ssh.target import Limits, fetch_target

        if resource.connection is None:
            raise ConfigurationError("a resource without a connection cannot be reached")
        key = (resource.connection, resource.user, Limits.of(resource))
        async with self._reading.setdefault(key, asyncio.Lock()):
            found = self._targets.get(key)
            if found is None or time.monotonic() - found[0] > CONNECTION_TTL_S:
                target = await fetch_target(key[0], self._connections.get, limits=key[2], user=key[1])
                found = self._targets[key] = (time.monotonic(), target)
            return found[1]

    async def storage(self, name: str) -> Storage:
        from airavata_provider.storage.base import open_storage, storage_type

        resource = self.catalog().storage_resource(name)
        host = await self.host(resource) if storage_type(resource.type).needs_host else None
        return open_storage(resource, host)

    def loads(self) -> Loads | None:
        from airavata_provider.jobs.loads import Loads

        # There may be hundreds of tasks' processes: each would ask every cluster itself.
        fresh_s = 0.0 if self._of_task else self.settings.queue_load_interval
        return Loads(self.way, fresh_s=fresh_s) if fresh_s else None

    def placement_policy(self) -> Policy:
        from airavata_provider.jobs.policies import placement_policy

        return placement_policy(self.settings.placement_policy)

    def webhook_url(self, resource: ComputeResource, job: str) -> str | None:
        return webhook_url(self.settings.webhook_base_url, resource, job)

    def webhook_token(self, job: str) -> str:
        from airavata_provider.jobs.tokens import token

        return token(job)

    async def watch(self) -> None:
        from airavata_provider.jobs.reconcile import Pace, ensure_reconciler
        from airavata_provider.monitors.poll import Patience
        from airavata_provider.monitors.rhythm import Rhythm

        set_ = self.settings
        rhythm = Rhythm(set_.poll_interval, set_.poll_interval_min, set_.poll_interval_max)
        ensure_reconciler(
            self.store,
            self.way,
            pace=Pace(rhythm=rhythm, show=set_.live_log_interval),
            patience=Patience(over_s=set_.unknown_grace, unreachable_s=set_.unreachable_grace),
        )

    def keep_monitors(self) -> None:
        """See to it that the monitors that run as services do, here or in another triggerer."""
        from airavata_provider.monitors.base import MonitorContext
        from airavata_provider.monitors.keeper import ensure_keeper

        ensure_keeper(MonitorContext(self.store, self.catalog, self._connections.get))

    async def close(self) -> None:
        """Let go of connections and the database; for hosts whose loop ends with the task."""
        from airavata_provider.jobs.reconcile import stop_reconciler
        from airavata_provider.jobs.store import close_store
        from airavata_provider.monitors.keeper import stop_keeper
        from airavata_provider.ssh.pool import close_pool

        await stop_keeper()
        await stop_reconciler()
        await close_pool()
        await self._connections.close()
        await close_store()


_services: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, AirflowServices]] = WeakKeyDictionary()


def get_services(*, of_task: bool = False) -> AirflowServices:
    """The running loop's services; another process's, inherited by a fork, are not used.

    :param of_task: what they are made with
    """
    loop = asyncio.get_running_loop()
    found = _services.get(loop)
    if found is None or found[0] != os.getpid():
        found = (os.getpid(), AirflowServices(of_task=of_task))
        _services[loop] = found
    return found[1]


async def close_services() -> None:
    """Close the running loop's services, if there are any."""
    found = _services.pop(asyncio.get_running_loop(), None)
    if found is not None and found[0] == os.getpid():
        await found[1].close()
