"""Limits, fairness, reconnecting and the breaker, over connections that are not there, and over the server's."""

from __future__ import annotations

import asyncio
import os

import pytest

from airavata_provider.errors import AuthenticationFailed, CircuitOpen, ConnectFailed
from airavata_provider.ssh import lane as lane_module
from airavata_provider.ssh.breaker import BreakerPolicy
from airavata_provider.ssh.pool import SSHPool, close_pool, get_pool
from airavata_provider.ssh.target import Limits, Target
from airavata_provider.testing import EmbeddedSSH
from tests.unit.ssh.network import FakeConnection, FakeNetwork, enter, settle, target

pytestmark = pytest.mark.slow


async def test_limits_hold_and_nobody_is_left_out(network: FakeNetwork, pool: SSHPool) -> None:
    lane = pool.lane(target(max_connections=2, sessions_per_connection=4))
    now = peak = 0
    order: list[int] = []

    async def use(number: int) -> None:
        nonlocal now, peak
        async with lane.session() as link:
            order.append(number)
            now, peak = now + 1, max(peak, now + 1)
            assert link.used <= 4
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*(use(number) for number in range(300)))
    assert (peak, network.attempts, lane.stats.peak, lane.stats.sessions) == (8, 2, 2, 300)
    assert order == sorted(order)


async def test_limits_that_a_catalog_changes_hold_at_once(network: FakeNetwork, pool: SSHPool) -> None:
    before = target(max_connections=1, sessions_per_connection=1)
    lane = pool.lane(before)
    async with lane.session():
        second = asyncio.create_task(enter(lane))
        for _ in range(20):
            await asyncio.sleep(0)
        assert (network.attempts, second.done()) == (1, False)
        assert pool.host(target(max_connections=2, sessions_per_connection=1)) is pool.host(before)
        second.cancel()
        assert pool.lane(target(max_connections=2, sessions_per_connection=1)) is lane
        await enter(lane)
        assert network.attempts == 2


async def test_one_user_needs_one_connection(network: FakeNetwork, pool: SSHPool) -> None:
    lane = pool.lane(target())
    for _ in range(50):
        async with lane.session():
            await asyncio.sleep(0)
    assert network.attempts == 1


async def test_attempts_a_minute_are_limited(network: FakeNetwork, pool: SSHPool) -> None:
    lane = pool.lane(target(connects_per_minute=3, max_connections=1))
    for _ in range(3):
        async with lane.session() as link:
            lane.retire(link)
        await settle(lambda: network.standing == 0 and lane.stats.open == 0)
    fourth = asyncio.create_task(enter(lane))
    for _ in range(50):
        await asyncio.sleep(0)
    assert (network.attempts, fourth.done()) == (3, False)
    fourth.cancel()


async def test_failures_below_the_threshold_are_not_seen(network: FakeNetwork, pool: SSHPool) -> None:
    network.errors = [ConnectFailed("refused"), ConnectFailed("refused")]
    async with pool.lane(target()).session():
        assert network.attempts == 3


async def test_a_dead_host_is_left_alone(network: FakeNetwork) -> None:
    pool = SSHPool(BreakerPolicy(threshold=3, backoff_s=0.001, pause_s=1000, longest_pause_s=1000))
    lane = pool.lane(target())
    network.errors = [ConnectFailed(f"refused {number}") for number in range(100)]
    users = [asyncio.create_task(enter(lane)) for _ in range(40)]
    results = await asyncio.gather(*users, return_exceptions=True)
    assert [str(result) for result in results] == ["refused 2"] * 40
    assert len({id(result) for result in results}) == 40
    for _ in range(20):
        with pytest.raises(CircuitOpen, match="3 times in a row"):
            await enter(lane)
    assert network.attempts == 3
    await pool.close()


async def test_who_is_patient_waits_for_the_probe(network: FakeNetwork) -> None:
    pool = SSHPool(BreakerPolicy(threshold=2, backoff_s=0.001, pause_s=0.02, longest_pause_s=0.02))
    lane = pool.lane(target())
    network.errors = [ConnectFailed("refused")] * 5

    async def use() -> None:
        async with lane.session():
            await asyncio.sleep(0)

    await asyncio.gather(*(use() for _ in range(4)))
    assert network.attempts == 5 + 1
    await pool.close()


async def test_who_refuses_us_is_asked_once(network: FakeNetwork) -> None:
    pool = SSHPool(BreakerPolicy(pause_s=1000, longest_pause_s=1000))
    lane = pool.lane(target())
    network.errors = [AuthenticationFailed("no")]
    for _ in range(10):
        with pytest.raises(AuthenticationFailed):
            await enter(lane)
    assert network.attempts == 1
    await pool.close()


async def test_failing_to_open_one_more_disturbs_nobody(network: FakeNetwork, pool: SSHPool) -> None:
    lane = pool.lane(target(max_connections=2, sessions_per_connection=1))
    async with lane.session():
        network.errors = [ConnectFailed("refused")]
        second = asyncio.create_task(enter(lane))
        await settle(lambda: network.attempts == 2)
    await second


async def test_an_idle_connection_is_closed_and_made_again(network: FakeNetwork, pool: SSHPool) -> None:
    lane = pool.lane(target(idle_s=0.001))
    async with lane.session():
        pass
    await settle(lambda: lane.stats.open == 0)
    async with lane.session():
        assert (network.standing, network.attempts) == (1, 2)


async def test_a_fault_in_connecting_is_told_and_not_waited_for(
    network: FakeNetwork, pool: SSHPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(target: Target, tunnel: object) -> FakeConnection:
        raise RuntimeError("a bug")

    monkeypatch.setattr(lane_module, "connect", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        await enter(pool.lane(target()))


async def test_a_jump_hosts_connection_stays_while_it_carries_another(network: FakeNetwork, pool: SSHPool) -> None:
    gate = Target("gate", user="ada", limits=Limits(idle_s=0.001))
    lane = pool.lane(Target("inner", user="ada", jump=gate))
    async with lane.session() as link:
        assert network.tunnels == [None, network.connections[0]]
        await asyncio.sleep(0.005)
        assert network.standing == 2
        lane.retire(link)
    await settle(lambda: network.standing == 0)


async def test_what_runs_through_what_was_let_go_ends_too(network: FakeNetwork, pool: SSHPool) -> None:
    gate = Target("gate", user="ada")
    middle = Target("middle", user="ada", jump=gate)
    async with pool.lane(Target("inner", user="ada", jump=middle)).session() as link:
        pool.lane(gate).let_go(1)
        assert link.retired
        assert network.standing == 3
    await settle(lambda: network.standing == 0)


async def test_what_runs_through_a_faulty_one_ends_too(network: FakeNetwork, pool: SSHPool) -> None:
    gate = Target("gate", user="ada")
    middle = Target("middle", user="ada", jump=gate)
    async with pool.lane(Target("inner", user="ada", jump=middle)).session() as link:
        async with pool.lane(gate).session() as outer:
            for _ in range(2):
                pool.lane(gate).retire(outer)
        assert link.retired
        assert network.standing == 3
    await settle(lambda: network.standing == 0)


async def test_what_was_made_through_what_was_let_go_is_not_used(network: FakeNetwork, pool: SSHPool) -> None:
    gate = Target("gate", user="ada")
    lane = pool.lane(Target("inner", user="ada", jump=gate))
    network.held_up["inner"] = asyncio.Event()

    async def through_one_that_stays() -> bool:
        async with lane.session() as link:
            return link.through is not None and not link.through.retired

    using = asyncio.create_task(through_one_that_stays())
    await settle(lambda: network.attempts == 2)
    pool.lane(gate).let_go(1)
    network.held_up["inner"].set()
    assert await using
    await settle(lambda: network.standing == 2)
    assert network.attempts == 4


async def test_another_connection_is_made_once_the_rate_allows_it(
    network: FakeNetwork, pool: SSHPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though one stands, and nobody lets go of it."""
    monkeypatch.setattr(lane_module, "RATE_WINDOW_S", 0.01)
    lane = pool.lane(target(max_connections=2, sessions_per_connection=1, connects_per_minute=1))
    async with lane.session():
        async with asyncio.timeout(60):
            await enter(lane)
    assert network.attempts == 2


async def test_one_reminder_for_all_who_wait(network: FakeNetwork, pool: SSHPool) -> None:
    lane = pool.lane(target(max_connections=2, sessions_per_connection=1, connects_per_minute=1))
    async with lane.session():
        waiting = [asyncio.create_task(enter(lane)) for _ in range(3)]
        await settle(lambda: lane._later is not None)
        reminder = lane._later
        waiting += [asyncio.create_task(enter(lane)) for _ in range(3)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert reminder is not None
        assert lane._later is reminder
        await pool.close()
        assert reminder.cancelled()
    assert all(isinstance(each, ConnectFailed) for each in await asyncio.gather(*waiting, return_exceptions=True))


async def test_closing_the_pool_tells_who_waits(network: FakeNetwork) -> None:
    pool = SSHPool()
    lane = pool.lane(target(max_connections=1, sessions_per_connection=1))
    async with lane.session():
        waiting = asyncio.create_task(enter(lane))
        await asyncio.sleep(0)
        await pool.close()
        with pytest.raises(ConnectFailed, match="closed"):
            await waiting
    with pytest.raises(ConnectFailed, match="closed"):
        await enter(lane)
    assert network.standing == 0


def test_each_event_loop_has_its_own_pool(network: FakeNetwork) -> None:
    async def use() -> int:
        pool = get_pool()
        assert get_pool() is pool
        async with pool.lane(target()).session():
            pass
        await close_pool()
        assert get_pool() is not pool
        return id(pool)

    asyncio.run(use())
    asyncio.run(use())
    assert (network.attempts, network.standing) == (2, 0)


async def test_a_forked_process_has_a_pool_of_its_own(network: FakeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, here = get_pool(), os.getpid()
    await enter(pool.lane(target()))
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: here + 1)
        await close_pool()
        assert get_pool() is not pool
        assert network.standing == 1
        await close_pool()
    await pool.close()


async def test_equal_targets_share_connections(server: EmbeddedSSH, pool: SSHPool) -> None:
    hosts = [pool.host(server.target(max_connections=limit)) for limit in (3, 2, 1)]
    await asyncio.gather(*(host.run("true") for host in hosts * 20))
    assert server.counts.peak == 1
    (stats,) = pool.stats.values()
    assert (stats.opened, stats.sessions) == (1, 60)
