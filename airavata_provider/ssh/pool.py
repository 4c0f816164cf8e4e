"""Few connections per host, shared by everybody in an event loop; limits, back-off and the breaker in one
place.

What always holds, per target: at most ``max_connections`` connections, opened one after the other; at most
``connects_per_minute`` attempts in any 60 s; both of these over all pools that share a ledger (``sharing``); at most
``sessions_per_connection`` sessions on a connection, the shared SFTP session counted; whoever asks first is
served first; a host that does not answer is left alone for growing pauses, with one probe after each. A host
that can be reached but refuses us (credentials, host key) is not asked again before the pause is over either:
everybody gets that same answer meanwhile.

Pools belong to an event loop: :func:`get_pool` gives the running loop's, :func:`close_pool` must be awaited
before the loop ends. Must not import Airflow."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airavata_provider.ssh.breaker import BreakerPolicy
from airavata_provider.ssh.lane import Lane
from airavata_provider.ssh.link import Link, TargetStats
from airavata_provider.ssh.places import Places
from airavata_provider.ssh.target import Target

if TYPE_CHECKING:
    from airavata_provider.ssh.host import Host
    from airavata_provider.ssh.sharing import Ledger


class SSHPool:
    """All connections of one event loop.

    :param policy: when a failing host is left alone
    :param ledger: where all processes say what connections they have; None: the limits are for this pool alone
    :param modest: it serves one task, and leaves others a connection (``ssh.sharing``)
    """

    def __init__(
        self, policy: BreakerPolicy | None = None, ledger: Ledger | None = None, *, modest: bool = False
    ) -> None:
        self._policy = policy or BreakerPolicy()
        self.places = None if ledger is None else Places(ledger, modest=modest)
        self._lanes: dict[Target, Lane] = {}
        self._hosts: dict[Target, Host] = {}

    def host(self, target: Target) -> Host:
        """The way to a target's host. Connects to nothing yet; keep the target, not the host."""
        from airavata_provider.ssh.host import Host

        lane = self.lane(target)
        if target not in self._hosts:
            self._hosts[target] = Host(lane)
        return self._hosts[target]

    def lane(self, target: Target) -> Lane:
        """The connections to a target. The limits are those of whoever asked last: the catalog may have changed."""
        lane = self._lanes.get(target)
        if lane is None:
            lane = self._lanes[target] = Lane(self, target, self._policy)
        elif lane.target.limits != target.limits:
            lane.target = target
        return lane

    @property
    def stats(self) -> Mapping[Target, TargetStats]:
        """What was used, by target."""
        return {target: lane.stats for target, lane in self._lanes.items()}

    def retire_through(self, outer: Link) -> None:
        """No new sessions on connections that run through that one, however many others lie between."""
        for lane in self._lanes.values():
            lane.retire_through(outer)

    async def close(self) -> None:
        """End every connection."""
        lanes = list(self._lanes.values())
        self._lanes.clear()
        self._hosts.clear()
        await asyncio.gather(*(lane.close() for lane in lanes))
        if self.places is not None:
            await self.places.close()


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, SSHPool]] = WeakKeyDictionary()


def get_pool(ledger: Ledger | None = None, *, modest: bool = False) -> SSHPool:
    """The running event loop's pool, made when it is first asked for, and with that.

    Another process's, inherited by a fork, is not used: what it has is on record as that one's.
    """
    loop = asyncio.get_running_loop()
    found = _pools.get(loop)
    if found is None or found[0] != os.getpid():
        found = _pools[loop] = (os.getpid(), SSHPool(ledger=ledger, modest=modest))
    return found[1]


async def close_pool() -> None:
    """End the running loop's connections; to be awaited before the loop ends."""
    found = _pools.pop(asyncio.get_running_loop(), None)
    if found is not None and found[0] == os.getpid():
        await found[1].close()
