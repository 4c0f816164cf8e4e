"""One connection, who waits for one, and what is counted of them; for ``ssh.lane``. No I/O."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import asyncssh


@dataclass
class TargetStats:
    """Counts since the pool was made.

    :param attempts: attempts to connect
    :param opened: connections made
    :param open: connections that stand now
    :param peak: most connections at a time
    :param sessions: sessions granted
    :param sessions_peak: most sessions at a time, over all connections
    :param refused_sessions: sessions that the host refused and that were asked for again
    """

    attempts: int = 0
    opened: int = 0
    open: int = 0
    peak: int = 0
    sessions: int = 0
    sessions_peak: int = 0
    refused_sessions: int = 0


@dataclass(eq=False)
class Link:
    """One connection and who uses it.

    :param used: sessions in flight, an open SFTP session included
    :param tunnels: connections that run through this one
    :param stuck: sessions given up while their command ran on; sshd counts them until it ends
    :param sftp: the shared SFTP client, if it is open here
    :param retired: gets no new sessions and is closed when the last one ends
    :param through: the connection to the jump host that it runs through
    """

    connection: asyncssh.SSHClientConnection
    through: Link | None = None
    used: int = 0
    tunnels: int = 0
    stuck: int = 0
    sftp: asyncssh.SFTPClient | None = None
    sftp_users: int = 0
    retired: bool = False
    idle: asyncio.TimerHandle | None = field(default=None, repr=False)


@dataclass(eq=False)
class Waiter:
    """Somebody who waits for a session's place.

    :param since: when it began, by ``time.monotonic``
    """

    future: asyncio.Future[Link]
    since: float
