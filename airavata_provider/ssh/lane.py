"""The connections to one target: who waits, who is served, when one more is opened and when none is.

Connections are opened by one task, one after the other, while somebody waits. Who asks first is served
first. What is promised about limits stands in ``pool``. Must not import Airflow.
"""

from __future__ import annotations

import asyncio
import copy
import random
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import asyncssh

from airavata_provider.errors import AiravataError, CircuitOpen, ConfigurationError, ConnectFailed, SSHError
from airavata_provider.ssh.breaker import Breaker, BreakerPolicy
from airavata_provider.ssh.connect import connect, translated
from airavata_provider.ssh.link import Link, TargetStats, Waiter
from airavata_provider.ssh.sharing import RATE_WINDOW_S
from airavata_provider.ssh.target import Target

if TYPE_CHECKING:
    from airavata_provider.ssh.places import Places
    from airavata_provider.ssh.pool import SSHPool

#: sshd frees a session a moment after its client saw it closed, and refuses the next one until then.
SESSION_REFUSED_PAUSE_S = 0.05
SESSION_REFUSED_TRIES = 6

#: Who uses the shared SFTP client at a time: each holds a file open in the host's SFTP server.
SFTP_USERS = 32

#: For jitter.
CHANCE = random.SystemRandom()


class Lane:
    """The connections to one target. Made by :class:`SSHPool`.

    For :class:`~airavata_provider.ssh.places.Places` it has ``key``, its name among all processes' lanes;
    ``opening``, whether it was granted a connection that does not stand yet; ``wants``, whether it needs one more.
    """

    def __init__(self, pool: SSHPool, target: Target, policy: BreakerPolicy) -> None:
        self.target = target
        self.stats = TargetStats()
        self.key = uuid.uuid4().hex
        self.opening = False
        self.breaker = Breaker(policy)
        self._pool = pool
        self._links: list[Link] = []
        self._waiters: deque[Waiter] = deque()
        self._starts: deque[float] = deque()
        self._ask_at = 0.0
        self._opener: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._outage_since: float | None = None
        self._refusal: AiravataError | None = None
        self._sftp_lock = asyncio.Lock()
        self._sftp_room = asyncio.Semaphore(SFTP_USERS)
        self._keepers: set[asyncio.Task[None]] = set()
        self._closed = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Link]:
        """Hold one session's place on a connection.

        :raises ConnectFailed: there is none; CircuitOpen, AuthenticationFailed, HostKeyRejected and
            ConfigurationError likewise
        """
        link = await self._acquire()
        try:
            yield link
        finally:
            self._release(link)

    @asynccontextmanager
    async def tunnel(self) -> AsyncIterator[Link]:
        """Hold a connection for another connection to run through; takes no session's place."""
        async with self.session() as link:
            link.tunnels += 1
        try:
            yield link
        finally:
            link.tunnels -= 1
            self._rest(link)

    @asynccontextmanager
    async def sftp(self) -> AsyncIterator[asyncssh.SFTPClient]:
        """Use the shared SFTP client. Run no command and take no second one while you hold it: they
        might wait for each other.

        :raises ConnectFailed: no connection, or the host's SFTP server does not start
        """
        async with self._sftp_room, self._sftp_user() as client:
            yield client

    @asynccontextmanager
    async def _sftp_user(self) -> AsyncIterator[asyncssh.SFTPClient]:
        link, client = await self._sftp_link()
        try:
            yield client
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
            if link.sftp is client:
                self._drop_sftp(link)
            raise
        finally:
            link.sftp_users -= 1
            if link.sftp_users == 0 and (link.retired or self.target.limits.sessions_per_connection == 1):
                self._drop_sftp(link)
            self._rest(link)

    def retire(self, link: Link) -> None:
        """No new sessions on that connection and what runs through it; it is closed when the last one has ended."""
        link.retired = True
        self._pool.retire_through(link)
        if link.sftp is not None and link.sftp_users == 0:
            self._drop_sftp(link)
        self._rest(link)
        self._want_link()

    @property
    def wants(self) -> bool:
        """Whether somebody waits here now for whom a connection could be begun, as far as the host is concerned."""
        waits = any(not waiter.future.done() for waiter in self._waiters)
        return waits and self.breaker.wait(time.monotonic()) <= 0

    @property
    def held(self) -> int:
        """Connections that stand, or are being made."""
        return len(self._links) + self.opening

    @property
    def leaving(self) -> int:
        """Those of them that get no new sessions."""
        return sum(link.retired for link in self._links)

    def let_go(self, count: int) -> None:
        """Retire so many connections, for others' sake; the least busy ones."""
        kept = [link for link in self._links if not link.retired]
        if kept and count > 0:
            # What the last refusal said was about one more than it had.
            self._ask_at = 0.0
        for link in sorted(kept, key=lambda link: link.used + link.sftp_users + link.tunnels)[: max(0, count)]:
            self.retire(link)

    def retire_through(self, outer: Link) -> None:
        """Retire what runs through that connection, and what runs through that in turn."""
        for link in self._links:
            if link.through is outer and not link.retired:
                self.retire(link)

    async def close(self) -> None:
        """End every connection, and fail whoever waits."""
        self._closed = True
        if self._later is not None:
            self._later.cancel()
        if self._opener is not None:
            self._opener.cancel()
            with suppress(asyncio.CancelledError):
                await self._opener
        self._fail(lambda waiter: True, self._is_closed())
        for link in self._links:
            link.connection.close()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    def _is_closed(self) -> ConnectFailed:
        return ConnectFailed("the connection pool was closed", where=self.target.name)

    # --- sessions ---

    async def _acquire(self) -> Link:
        if self._closed:
            raise self._is_closed()
        link = None if self._waiters else self._free_link()
        if link is None:
            now = time.monotonic()
            self._refuse_if_hopeless(now)
            waiter = Waiter(asyncio.get_running_loop().create_future(), now)
            self._waiters.append(waiter)
            self._want_link()
            try:
                link = await waiter.future
            except asyncio.CancelledError:
                if waiter.future.done() and not waiter.future.cancelled() and not waiter.future.exception():
                    self._release(waiter.future.result())
                elif waiter in self._waiters:
                    self._waiters.remove(waiter)
                raise
        else:
            self._grant(link)
        return link

    def _grant(self, link: Link) -> None:
        link.used += 1
        if link.idle is not None:
            link.idle.cancel()
            link.idle = None
        self.stats.sessions += 1
        self.stats.sessions_peak = max(self.stats.sessions_peak, sum(each.used for each in self._links))

    def _release(self, link: Link) -> None:
        link.used -= 1
        self._serve()
        self._rest(link)

    def _serve(self) -> None:
        while self._waiters and (link := self._free_link()):
            waiter = self._waiters.popleft()
            if not waiter.future.done():
                self._grant(link)
                waiter.future.set_result(link)
        if self._waiters:
            self._want_link()

    def _free_link(self) -> Link | None:
        """The least busy connection that has room."""
        room = [
            link
            for link in self._links
            if not link.retired and link.used < self.target.limits.sessions_per_connection
        ]
        return min(room, key=lambda link: link.used + link.sftp_users, default=None)

    def _rest(self, link: Link) -> None:
        """Start the clock of a connection that nobody uses; close it if it was retired."""
        if link not in self._links or link.tunnels or link.sftp_users or link.used > (link.sftp is not None):
            return
        if link.idle is not None:
            link.idle.cancel()
        if link.retired:
            self._end(link)
        else:
            link.idle = asyncio.get_running_loop().call_later(self.target.limits.idle_s, self._end, link)

    def _end(self, link: Link) -> None:
        link.retired = True
        link.connection.close()

    # --- SFTP ---

    async def _sftp_link(self) -> tuple[Link, asyncssh.SFTPClient]:
        async with self._sftp_lock:
            for link in self._links:
                if link.sftp is not None and not link.retired:
                    link.sftp_users += 1
                    return link, link.sftp
            for _ in range(3):
                link = await self._acquire()
                try:
                    link.sftp = client = await self._start_sftp(link)
                except ConnectFailed:
                    self._release(link)
                    self.retire(link)
                except BaseException:
                    self._release(link)
                    raise
                else:
                    link.sftp_users += 1
                    return link, client
            raise ConnectFailed("the host's SFTP server does not start", where=self.target.name)

    async def _start_sftp(self, link: Link) -> asyncssh.SFTPClient:
        for _ in range(SESSION_REFUSED_TRIES):
            with translated(self.target.name):
                async with asyncio.timeout(self.target.limits.connect_timeout_s):
                    try:
                        return await link.connection.start_sftp_client(path_errors="surrogateescape")
                    except asyncssh.ChannelOpenError:
                        self.stats.refused_sessions += 1
            await asyncio.sleep(SESSION_REFUSED_PAUSE_S * CHANCE.uniform(0.7, 1.5))
        raise ConnectFailed("refuses a session for SFTP", where=self.target.name)

    def _drop_sftp(self, link: Link) -> None:
        if link.sftp is not None:
            link.sftp.exit()
            link.sftp = None
            self._release(link)

    # --- connections ---

    def _standing(self) -> bool:
        return any(not link.retired for link in self._links)

    def _want_link(self) -> None:
        if self._opener is not None or self._closed or not self._may_open():
            return
        loop = asyncio.get_running_loop()
        if self._standing() and (pause := self._pause(time.monotonic())) > 0:
            # Those that stand serve on meanwhile, but may be busy for long.
            if self._later is None:
                self._later = loop.call_later(pause, self._want_link_again)
            return
        self._opener = loop.create_task(self._open_links(), name=f"connect {self.target.name}")

    def _want_link_again(self) -> None:
        self._later = None
        self._want_link()

    def _may_open(self) -> bool:
        return bool(self._waiters) and len(self._links) < self.target.limits.max_connections

    async def _open_links(self) -> None:
        """Open connections while somebody waits; the only place that does, and one at a time."""
        try:
            while self._may_open():
                pause = self._pause(time.monotonic())
                if pause <= 0:
                    await self._open_link()
                elif self._standing():
                    break
                else:
                    await asyncio.sleep(pause)
        except Exception as error:
            # A fault in this package: whoever waits must hear of it rather than wait for ever.
            self._fail(lambda waiter: True, error)
            raise
        finally:
            self._opener = None
            self._give_back()
        self._want_link()

    def _pause(self, now: float) -> float:
        """Seconds until the breaker, the rate and the other processes allow the next attempt."""
        limits = self.target.limits
        while self._starts and self._starts[0] <= now - RATE_WINDOW_S:
            self._starts.popleft()
        rate = 0.0
        if len(self._starts) >= limits.connects_per_minute:
            rate = self._starts[0] + RATE_WINDOW_S - now + CHANCE.uniform(0.01, 0.5)
        return max(rate, self.breaker.wait(now), self._ask_at - now)

    async def _open_link(self) -> None:
        if self._pool.places is not None and not await self._granted(self._pool.places):
            return
        begun = time.monotonic()
        self.breaker = self.breaker.attempt()
        self._starts.append(begun)
        self.stats.attempts += 1
        stack = AsyncExitStack()
        try:
            link = await self._connect(stack)
        except (SSHError, ConfigurationError) as error:
            await stack.aclose()
            self._give_back()
            self._attempt_failed(begun, error)
        except BaseException:
            self.breaker = self.breaker.abandoned()
            await stack.aclose()
            raise
        else:
            self.breaker = self.breaker.succeeded()
            self._refusal = self._outage_since = None
            self._links.append(link)
            self.opening = False
            self.stats.opened += 1
            self.stats.open = len(self._links)
            self.stats.peak = max(self.stats.peak, self.stats.open)
            keeper = asyncio.get_running_loop().create_task(self._keep(link, stack))
            self._keepers.add(keeper)
            keeper.add_done_callback(self._keepers.discard)
            if link.through is not None and link.through.retired:
                self.retire(link)
            self._serve()
            self._rest(link)

    async def _granted(self, places: Places) -> bool:
        """Whether the other processes leave us one connection, and somebody still wants it."""
        if (wait := await places.ask(self)) > 0:
            self._ask_at = time.monotonic() + wait
        elif not self.wants:
            self._give_back()
        return self.opening

    def _give_back(self) -> None:
        """The connection that was granted, if it was not made."""
        if self.opening and self._pool.places is not None:
            self._pool.places.ended()
        self.opening = False

    def not_told(self, since: float, error: AiravataError) -> None:
        """Nobody has been able to tell since then what others have: tell who has nothing, and waited for long."""
        if self._standing():
            return
        patience = self.target.limits.patience_s
        words = f"not connected to, as nobody can tell for {patience:g} s what connections others have: {error}"
        failure = ConnectFailed(words, where=self.target.name)
        failure.__cause__ = error
        self._fail(lambda waiter: max(waiter.since, since) + patience <= time.monotonic(), failure)

    async def _connect(self, stack: AsyncExitStack) -> Link:
        """:param stack: is given what must be let go when the connection has ended"""
        if self.target.jump is None:
            return Link(await connect(self.target, None))
        outer = await stack.enter_async_context(self._pool.lane(self.target.jump).tunnel())
        return Link(await connect(self.target, outer.connection), outer)

    def _attempt_failed(self, begun: float, error: AiravataError) -> None:
        now = time.monotonic()
        refused = not error.transient
        self.breaker = self.breaker.failed(now, CHANCE.random(), for_good=refused)
        if self._standing():
            return
        self._refusal = error if refused else None
        self._outage_since = outage = begun if self._outage_since is None else self._outage_since
        patience, next_try = self.target.limits.patience_s, self.breaker.retry_at
        self._fail(lambda waiter: refused or max(waiter.since, outage) + patience < next_try, error)

    def _refuse_if_hopeless(self, now: float) -> None:
        """Tell a newcomer at once what waiting would not change."""
        wait = self.breaker.wait(now)
        if self._standing() or not self.breaker.open or self.breaker.probing or wait <= 0:
            return
        if self._refusal is not None:
            raise copy.copy(self._refusal)
        if wait > self.target.limits.patience_s:
            raise CircuitOpen(
                f"could not be reached {self.breaker.failures} times in a row; tried again in {wait:.0f} s",
                where=self.target.name,
            )

    def _fail(self, hopeless: Callable[[Waiter], bool], error: Exception) -> None:
        for waiter in [each for each in self._waiters if hopeless(each)]:
            self._waiters.remove(waiter)
            if not waiter.future.done():
                # Each gets its own: a traceback grows with everyone who raises it.
                own = copy.copy(error)
                own.__cause__ = error.__cause__
                waiter.future.set_exception(own)

    async def _keep(self, link: Link, stack: AsyncExitStack) -> None:
        """Wait for the connection's end, whoever ends it, and forget it."""
        await link.connection.wait_closed()
        self._links.remove(link)
        link.retired, link.sftp = True, None
        self.stats.open = len(self._links)
        if link.idle is not None:
            link.idle.cancel()
        await stack.aclose()
        if self._pool.places is not None:
            self._pool.places.ended()
        if self._waiters:
            self._want_link()
