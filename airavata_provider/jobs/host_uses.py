"""What all processes' lanes say of the connections to hosts that they have: ``ssh.sharing``'s ledger in the database.

Kept among the leases, as what each lane says counts for a while and is said again. The leases of a host are named
``ssh:``, the host, and

* ``:lane:`` with the lane's name, whose holder is the text of its claim;
* ``:start:`` with a drawn name, of an attempt to connect; it ends when the attempt counts no more.

Words of all processes come one after the other: PostgreSQL's advisory lock, SQLite's write lock. What counts how long
is told by one clock: PostgreSQL's, or that of SQLite's machine. Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from airavata_provider.jobs.engine import WRITES, take_turn, translated
from airavata_provider.jobs.statements import PUT_LEASE
from airavata_provider.jobs.tables import lease
from airavata_provider.jobs.unbroken import Unbroken
from airavata_provider.ssh.sharing import RATE_WINDOW_S, TRUE_S, Answer, Ask, Claim, HostUse, settle

SILENCE_MS = 5_000
"""After how long without a word from a process in the middle of its turn PostgreSQL ends that turn: long before what
others said counts no more."""

_LOG = logging.getLogger(__name__)
_PREFIX = "ssh:"
_LOCK = 0x61697273  # "airs": ours among the database's advisory locks


class HostUses:
    """See the module.

    :param engine: the store's
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._writes = engine.execution_options(**{WRITES: True})
        self._unbroken = Unbroken()
        self._turn = asyncio.Lock()

    async def settle(self, asks: Sequence[Ask]) -> list[Answer]:
        """As :class:`~airavata_provider.ssh.sharing.Ledger` says.

        What was said by one who was cancelled meanwhile is on record before anything else is said.

        :raises StoreError: the database failed
        """

        async def do() -> list[Answer]:
            try:
                with translated("sharing a host's connections"):
                    async with self._writes.begin() as connection:
                        return await _settle(connection, asks)
            finally:
                self._turn.release()

        # Who is cancelled while he waits says nothing; who has begun is heard.
        await self._turn.acquire()
        return await self._unbroken.run(do())

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._unbroken.close()


async def _settle(connection: AsyncConnection, asks: Sequence[Ask]) -> list[Answer]:
    await take_turn(connection, _LOCK, SILENCE_MS)
    now = await _now(connection)
    column = lease.c
    # Nothing counts for longer than that: the clock was set back since.
    future = now + timedelta(seconds=max(RATE_WINDOW_S, TRUE_S) + 1)
    untrue = or_(column.expires_at <= now, column.expires_at > future)
    await connection.execute(delete(lease).where(column.name.startswith(_PREFIX), untrue))
    hosts = {ask.host: _host(ask.host) for ask in asks}
    of_these = or_(*(column.name.startswith(host) for host in hosts.values()))
    rows = (await connection.execute(select(lease).where(of_these))).mappings().all()
    uses = {host: _use(name, rows) for host, name in hosts.items()}
    answers: list[Answer] = []
    for ask in asks:
        answer, uses[ask.host] = settle(ask, uses[ask.host], now.timestamp())
        answers.append(answer)
    said = {ask.lane: _said(ask, uses[ask.host], now) for ask in asks if ask.lane in uses[ask.host].claims}
    begun = [_begun(ask, now) for ask, answer in zip(asks, answers, strict=True) if answer.granted]
    if said or begun:
        await connection.execute(PUT_LEASE[connection.dialect.name], [*said.values(), *begun])
    silent = [_lane(ask) for ask in asks if ask.lane not in uses[ask.host].claims]
    if silent:
        await connection.execute(delete(lease).where(column.name.in_(silent)))
    return answers


async def _now(connection: AsyncConnection) -> datetime:
    """Once it is our turn: on PostgreSQL the same clock for all, whatever machines they run on."""
    if connection.dialect.name != "postgresql":
        return datetime.now(UTC)
    now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return now.astimezone(UTC)


def _host(host: str) -> str:
    """How the names of a host's leases begin."""
    return f"{_PREFIX}{hashlib.sha256(host.encode()).hexdigest()[:16]}:"


def _lane(ask: Ask) -> str:
    return f"{_host(ask.host)}lane:{ask.lane}"


def _said(ask: Ask, use: HostUse, now: datetime) -> Mapping[str, Any]:
    claim = use.claims[ask.lane]
    text = f"{claim.held} {claim.leaving} {claim.waits:d} {claim.modest:d} {claim.since!r}"
    return {"name": _lane(ask), "holder": text, "expires_at": now + timedelta(seconds=TRUE_S)}


def _begun(ask: Ask, now: datetime) -> Mapping[str, Any]:
    name = f"{_host(ask.host)}start:{uuid.uuid4().hex}"
    return {"name": name, "holder": ask.lane, "expires_at": now + timedelta(seconds=RATE_WINDOW_S)}


def _use(name: str, rows: Iterable[RowMapping]) -> HostUse:
    claims: dict[str, Claim] = {}
    starts: list[float] = []
    for row in rows:
        kind, _, lane = row["name"].removeprefix(name).partition(":")
        if kind == "lane":
            try:
                claims[lane] = _claim(row["holder"])
            except ValueError:
                _LOG.warning("What is on record as %s makes no sense: %.100r", row["name"], row["holder"])
        elif kind == "start":
            starts.append(row["expires_at"].timestamp() - RATE_WINDOW_S)
    return HostUse(claims, starts)


def _claim(text: str) -> Claim:
    """:raises ValueError: no text of :func:`_said`"""
    held, leaving, waits, modest, since = text.split()
    return Claim(int(held), int(leaving), waits == "1", modest == "1", float(since))
