"""How all processes of a deployment share the connections that a host allows. Pure: the time is given.

Each lane (``ssh.lane``) says how many connections it has and whether it needs one more; the answers come one after
the other, each from what all lanes said (:class:`Ledger`). What always holds:

* A connection is granted only while all lanes together have fewer than ``limit``, and begin fewer than
  ``per_minute`` in any 60 s.
* Who has none to use comes before who wants one more, and who has waited longest comes first; in both.
* While somebody has none to use and there is none left, who has more than an equal share lets go of what is over.
  Where there are more lanes than connections, they take turns: who has let go of none for longest does, after
  :data:`TURN_S`.
* Modest lanes, which serve one task each and may be busy for long, leave one connection to the others, where there is
  more than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

TRUE_S = 30.0
"""How long what a lane said counts without another word from it, in seconds; so long do connections of a process that
was killed."""

RATE_WINDOW_S = 60.0
TURN_S = 30.0

AGAIN_S = 2.0
"""Seconds until a lane that has no connection to use asks again."""

ONE_MORE_S = 5.0
"""The same for a lane that has some."""

FAR_BACK_S = 10.0
"""The same, at most, for a lane that others come before."""


@dataclass(frozen=True)
class Ask:
    """What a lane says.

    :param host: the account on a host whose connections are shared
    :param lane: the lane's own name
    :param limit: connections that all lanes together may have
    :param per_minute: attempts to connect that all may begin in any 60 s
    :param held: connections that it has or is making
    :param leaving: those of them that it has let go, and that end with what still runs on them
    :param wants: it needs one more
    :param now: it would begin to make it at once
    :param modest: see the module
    """

    host: str
    lane: str
    limit: int
    per_minute: int
    held: int
    leaving: int = 0
    wants: bool = False
    now: bool = False
    modest: bool = False


@dataclass(frozen=True)
class Answer:
    """
    :param granted: it may begin one more
    :param again_s: seconds until another word about that is worth its while
    :param surplus: how many more of its connections it is to let go
    """

    granted: bool = False
    again_s: float = 0.0
    surplus: int = 0


@dataclass(frozen=True)
class Claim:
    """What a lane has on record: as in :class:`Ask`, and

    :param waits: it has none to use and needs one
    :param since: since when it waits, or has had some without letting go of any; seconds of the clock
    """

    held: int
    leaving: int
    waits: bool
    modest: bool
    since: float

    @property
    def kept(self) -> int:
        """Connections that new sessions may use."""
        return self.held - self.leaving


@dataclass(frozen=True)
class HostUse:
    """What all lanes said of a host, as far as it counts.

    :param claims: by lane
    :param starts: when attempts to connect began, in the last 60 s
    """

    claims: Mapping[str, Claim] = field(default_factory=dict)
    starts: Sequence[float] = ()


class Ledger(Protocol):
    """Where the lanes of all processes say what they have."""

    async def settle(self, asks: Sequence[Ask]) -> list[Answer]:
        """An answer to each, one after the other; nobody else is answered in between.

        :raises AiravataError: nobody can tell; what was said may be on record or not
        """
        ...


def settle(ask: Ask, use: HostUse, now: float) -> tuple[Answer, HostUse]:
    """The answer, and what is on record then."""
    before = use.claims.get(ask.lane)
    waits = ask.wants and ask.held == ask.leaving
    since = now
    if before is not None and before.waits == waits and (waits or ask.leaving <= before.leaving):
        since = before.since
    claims = {**use.claims, ask.lane: Claim(ask.held, ask.leaving, waits, ask.modest, since)}
    starts = tuple(use.starts)
    granted = ask.now and _has_turn(ask, claims, len(starts))
    again = 0.0
    if granted:
        starts = (*starts, now)
        claims[ask.lane] = Claim(ask.held + 1, ask.leaving, False, ask.modest, now if waits else since)
    elif ask.now:
        again = min(FAR_BACK_S, AGAIN_S * (1 + _place(ask.lane, claims))) if waits else ONE_MORE_S
        if len(starts) >= ask.per_minute:
            again = max(again, min(starts) + RATE_WINDOW_S - now)
    elif not (ask.held or ask.wants):
        del claims[ask.lane]
    return Answer(granted, again, _surplus(ask, claims, now)), HostUse(claims, starts)


def _place(lane: str, claims: Mapping[str, Claim]) -> int:
    """How many have waited longer."""
    mine = (claims[lane].since, lane)
    return sum(claim.waits and (claim.since, name) < mine for name, claim in claims.items())


def _has_turn(ask: Ask, claims: Mapping[str, Claim], begun: int) -> bool:
    """Whether there is a connection left for it, and an attempt, beyond those for who comes before it."""
    line = _line(claims, ask.limit)
    mine = claims[ask.lane]
    if mine.waits and ask.lane not in line:
        return False
    before = line[: line.index(ask.lane)] if mine.waits else line
    if ask.modest and _modest_room(claims, ask.limit) <= sum(claims[lane].modest for lane in before):
        return False
    held = sum(claim.held for claim in claims.values())
    return held + len(before) < ask.limit and begun + len(before) < ask.per_minute


def _line(claims: Mapping[str, Claim], limit: int) -> list[str]:
    """The lanes that wait, first come first; without those that have to leave what there is to others."""
    room = _modest_room(claims, limit)
    line = []
    for lane in sorted(claims, key=lambda lane: (claims[lane].since, lane)):
        if claims[lane].waits and (room > 0 or not claims[lane].modest):
            line.append(lane)
            room -= claims[lane].modest
    return line


def _modest_room(claims: Mapping[str, Claim], limit: int) -> int:
    """How many connections more modest lanes may have."""
    return max(1, limit - 1) - sum(claim.held for claim in claims.values() if claim.modest)


def _surplus(ask: Ask, claims: Mapping[str, Claim], now: float) -> int:
    """How many connections the lane is to let go for those who have none."""
    line = _line(claims, ask.limit)
    kept = {lane: claim.kept for lane, claim in claims.items() if claim.kept > 0}
    held = sum(claim.held for claim in claims.values())
    # A lane may serve resources with different limits: while it has all there are, it goes by the larger ones.
    limit = ask.limit if line or len(kept) > 1 else max(ask.limit, held)
    fair = max(1, limit // max(1, len(claims)))
    # What is on its way out is for somebody already.
    missing = len(line) + sum(kept.values()) - limit
    gone: list[str] = []
    while len(gone) < missing:
        most = max(kept, key=lambda lane: (kept[lane], lane), default=None)
        if most is None or kept[most] <= fair:
            break
        kept[most] -= 1
        gone.append(most)
    # Who was not heard of for long, and came back, may have what others were given meanwhile.
    late = sorted(kept, key=lambda lane: (claims[lane].since, lane), reverse=True)
    for lane in late[: max(0, sum(kept.values()) - limit)]:
        kept[lane] -= 1
        gone.append(lane)
    # It may take long to end: then the next one's turn is over.
    missing = len(line) + held - limit - len(gone)
    over = sorted((claims[lane].since, lane) for lane in kept if kept[lane] and now - claims[lane].since >= TURN_S)
    gone += [lane for _, lane in over[: max(0, missing)]]
    kept_out = sum(claim.waits and claim.modest for lane, claim in claims.items() if lane not in line)
    gone += [lane for _, lane in over if claims[lane].modest and lane not in gone][:kept_out]
    return gone.count(ask.lane)
