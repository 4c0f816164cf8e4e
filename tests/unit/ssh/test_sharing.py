"""Who may have a connection when: whatever lanes do, in whatever order."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airavata_provider.jobs import host_uses
from airavata_provider.ssh import places, sharing
from airavata_provider.ssh.sharing import RATE_WINDOW_S, TRUE_S, TURN_S, Answer, Ask, Claim, HostUse, settle


@dataclass
class Lane:
    """A lane that keeps to its answers."""

    name: str
    limit: int
    per_minute: int = 1000
    modest: bool = False
    kept: int = 0
    leaving: int = 0
    wants: bool = False
    turns: int = 0

    @property
    def held(self) -> int:
        return self.kept + self.leaving

    def word(self, *, now: bool) -> Ask:
        return Ask(
            "host",
            self.name,
            self.limit,
            self.per_minute,
            self.held,
            self.leaving,
            self.wants or now,
            now,
            self.modest,
        )


@dataclass
class World:
    """Lanes, what is on record of them, and a clock."""

    lanes: list[Lane]
    use: HostUse = field(default_factory=HostUse)
    now: float = 0.0

    def _settle(self, ask: Ask) -> Answer:
        starts = [start for start in self.use.starts if start > self.now - RATE_WINDOW_S]
        answer, self.use = settle(ask, HostUse(self.use.claims, starts), self.now)
        return answer

    def ask(self, lane: Lane) -> bool:
        granted = self._settle(lane.word(now=True)).granted
        lane.kept += granted
        lane.turns += granted
        lane.wants = not granted
        return granted

    def say(self, lane: Lane) -> None:
        surplus = self._settle(lane.word(now=False)).surplus
        assert surplus <= lane.kept
        lane.kept -= surplus
        lane.leaving += surplus

    def check(self) -> None:
        limit = self.lanes[0].limit
        assert sum(lane.held for lane in self.lanes) <= limit
        assert sum(lane.held for lane in self.lanes if lane.modest) <= max(1, limit - 1)
        assert len([start for start in self.use.starts if start > self.now - RATE_WINDOW_S]) <= (
            self.lanes[0].per_minute
        )


MOVES = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["ask", "say", "end", "close"]), st.floats(0, 20)), max_size=120
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.lists(st.booleans(), min_size=6, max_size=6), MOVES)
def test_never_more_than_allowed(
    limit: int, per_minute: int, modest: list[bool], moves: list[tuple[int, str, float]]
) -> None:
    world = World([Lane(f"lane {n}", limit, per_minute, each) for n, each in enumerate(modest)])
    for number, move, pause in moves:
        lane = world.lanes[number]
        world.now += pause
        if move == "ask":
            world.ask(lane)
        elif move == "say":
            world.say(lane)
        elif move == "end":
            lane.leaving = max(0, lane.leaving - 1)
        else:
            lane.kept = max(0, lane.kept - 1)
        world.check()


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.lists(st.booleans(), min_size=1, max_size=6))
@example(4, [True, True, True, True])
def test_everybody_gets_on_while_all_want_for_ever(limit: int, modest: list[bool]) -> None:
    """What runs on a connection that was let go ends by the next word."""
    world = World([Lane(f"lane {n}", limit, modest=each) for n, each in enumerate(modest)])
    half: list[int] = []
    for tick in range(700):
        world.now += 2.0
        for lane in world.lanes:
            if tick % 5 == 0:
                lane.leaving = 0
                world.say(lane)
            if lane.kept < limit:
                world.ask(lane)
            world.check()
        if tick == 350:
            half = [lane.turns for lane in world.lanes]
            assert min(half) > 0
    for lane, turns in zip(world.lanes, half, strict=True):
        assert lane.kept > 0 or lane.turns > turns


def test_who_is_alone_has_all_there_are_at_once() -> None:
    world = World([Lane("one", 2)])
    (lane,) = world.lanes
    assert [world.ask(lane), world.ask(lane), world.ask(lane)] == [True, True, False]
    world.now += 10 * TURN_S
    world.say(lane)
    assert lane.kept == 2


def test_who_has_more_than_its_share_lets_go_for_who_has_none() -> None:
    one, two = Lane("one", 2), Lane("two", 2)
    world = World([one, two])
    assert world.ask(one)
    assert world.ask(one)
    assert not world.ask(two)
    world.say(one)
    assert (one.kept, one.leaving) == (1, 1)
    # It ends with what runs on it; until then nobody has it, and no other is let go for it.
    assert not world.ask(two)
    world.say(one)
    assert one.kept == 1
    one.leaving = 0
    world.say(one)
    assert not world.ask(one)
    assert world.ask(two)
    world.now += 10 * TURN_S
    world.say(one)
    assert (one.kept, two.kept) == (1, 1)


def test_where_there_are_too_few_they_take_turns_in_order() -> None:
    one, two, three = lanes = [Lane(name, 1) for name in ("one", "two", "three")]
    world = World(lanes)
    assert world.ask(one)
    for lane in (three, two):
        world.now += 1
        assert not world.ask(lane)
    world.say(one)
    assert one.kept == 1
    world.now += TURN_S
    world.say(one)
    assert (one.kept, one.leaving) == (0, 1)
    one.leaving = 0
    assert [world.ask(lane) for lane in (one, two, three)] == [False, False, True]


def test_a_connection_that_takes_long_to_end_does_not_hold_up_those_who_wait() -> None:
    one, two, three = lanes = [Lane(name, 2) for name in ("one", "two", "three")]
    world = World(lanes)
    assert world.ask(one)
    assert world.ask(two)
    assert not world.ask(three)
    world.now += TURN_S
    world.say(one)
    assert (one.kept, one.leaving) == (0, 1)
    world.say(two)
    assert two.kept == 1
    world.say(one)
    world.say(two)
    assert (two.kept, two.leaving) == (0, 1)
    two.leaving = 0
    world.say(two)
    assert world.ask(three)


def test_modest_lanes_leave_one_and_take_turns_among_themselves() -> None:
    task, other, triggerer = Lane("task", 2, modest=True), Lane("other", 2, modest=True), Lane("triggerer", 2)
    world = World([task, other, triggerer])
    assert world.ask(task)
    assert not world.ask(task)
    assert not world.ask(other)
    assert world.ask(triggerer)
    world.now += TURN_S
    world.say(triggerer)
    assert triggerer.kept == 1
    world.say(task)
    assert (task.kept, task.leaving) == (0, 1)
    assert not world.ask(other)
    task.leaving = 0
    world.say(task)
    assert world.ask(other)


def test_attempts_of_all_are_counted_for_a_minute() -> None:
    one, two = Lane("one", 5, 2), Lane("two", 5, 2)
    world = World([one, two])
    assert world.ask(one)
    world.now += 10
    assert world.ask(two)
    answer = world._settle(two.word(now=True))
    assert (answer.granted, answer.again_s) == (False, 50.0)
    world.now += 50
    assert world.ask(two)


def test_nothing_is_left_of_a_lane_without_connections() -> None:
    world = World([Lane("one", 1)])
    (lane,) = world.lanes
    world.ask(lane)
    assert world.use.claims == {"one": Claim(1, 0, False, False, 0.0)}
    lane.kept = 0
    world.say(lane)
    assert world.use.claims == {}


def test_a_word_that_is_held_up_comes_in_time() -> None:
    """By one process that is stopped in the middle of its turn; or so long that its own process takes notice."""
    longest = 1.2 * max(places.RENEW_S, sharing.FAR_BACK_S)
    assert longest + max(host_uses.SILENCE_MS / 1000, places.SILENCE_S) < TRUE_S
    assert places.CLOSE_S < TRUE_S


def test_a_lane_with_all_there_are_lets_go_of_none_when_its_limits_change() -> None:
    """Two resources on one account may differ in their limits: each word is about those of the one used last."""
    world = World([Lane("one", 4)])
    (lane,) = world.lanes
    assert [world.ask(lane) for _ in range(5)] == [True] * 4 + [False]
    lane.limit = 2
    world.now += 10 * TURN_S
    world.say(lane)
    assert (lane.kept, lane.leaving) == (4, 0)
    other = Lane("other", 2)
    assert not world.ask(other)
    world.say(lane)
    assert (lane.kept, lane.leaving) == (1, 3)


def test_those_far_back_ask_less_often() -> None:
    world = World([Lane("first", 1)])
    assert world.ask(world.lanes[0])
    pauses = []
    for number in range(6):
        world.now += 1
        pauses.append(world._settle(Lane(f"lane {9 - number}", 1).word(now=True)).again_s)
    assert pauses == [2, 4, 6, 8, 10, 10]


def test_attempts_go_to_who_came_first() -> None:
    one, two, three = (Lane(name, 5, 1) for name in ("one", "two", "three"))
    world = World([one, two, three])
    assert world.ask(one)
    for lane in (three, two):
        world.now += 1
        assert not world.ask(lane)
    world.now += RATE_WINDOW_S
    assert [world.ask(lane) for lane in (one, two, three)] == [False, False, True]
