"""Few connections per host, shared by everybody in an event loop; limits, back-off and the breaker in one
place.

What always holds, per target: at most ``max_connections`` connections, opened one after the other; at most
``connects_per_minute`` attempts in any 60 s; at most ``sessions_per_connection`` sessions on a connection,
the shared SFTP session counted; whoever asks first is served first; a host that does not answer is left
alone for growing pauses, with one probe after each. A host that can be reached but refuses us (credentials,
host key) is not asked again before the pause is over either: everybody gets that same answer meanwhile.

Pools belong to an event loop: :func:`get_pool` gives the running loop's, :func:`close_pool` must be awaited
before the loop ends. Must not import Airflow."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airavata_provider.ssh.breaker import BreakerPolicy
from airavata_provider.ssh.lane import Lane, TargetStats
from airavata_provider.ssh.target import Target

if TYPE_CHECKING:
    from airavata_provider.ssh.host import Host


class SSHPool:
    """All connections of one event loop.

    :param policy: when a failing host is left alone
    """

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self._policy = policy or BreakerPolicy()
        self._lanes: dict[Target, Lane] = {}
        self._hosts: dict[Target, Host] = {}

    def host(self, target: Target) -> Host:
        """The way to a target's host. Connects to nothing yet; keep the target, not the host."""
        from airavata_provider.ssh.host import Host

        if target not in self._hosts:
            self._hosts[target] = Host(self.lane(target))
        return self._hosts[target]

    def lane(self, target: Target) -> Lane:
        """The connections to a target. The limits are those of whoever asked first."""
        if target not in self._lanes:
            self._lanes[target] = Lane(self, target, self._policy)
        return self._lanes[target]

    @property
    def stats(self) -> Mapping[Target, TargetStats]:
        """What was used, by target."""
        return {target: lane.stats for target, lane in self._lanes.items()}

    async def close(self) -> None:
        """End every connection."""
        lanes = list(self._lanes.values())
        self._lanes.clear()
        self._hosts.clear()
        await asyncio.gather(*(lane.close() for lane in lanes))


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, SSHPool] = WeakKeyDictionary()


def get_pool() -> SSHPool:
    """The running event loop's pool, made when it is first asked for."""
    loop = asyncio.get_running_loop()
    if loop not in _pools:
        _pools[loop] = SSHPool()
    return _pools[loop]


async def close_pool() -> None:
    """End the running loop's connections; to be awaited before the loop ends."""
    pool = _pools.pop(asyncio.get_running_loop(), None)
    if pool is not None:
        await pool.close()
