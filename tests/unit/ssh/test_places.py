"""Pools that share a host's limits, as those of several processes do, over connections that are not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from airavata_provider.errors import ConnectFailed, StoreError
from airavata_provider.ssh import places, sharing
from airavata_provider.ssh.breaker import BreakerPolicy
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.sharing import TURN_S
from airavata_provider.ssh.target import Limits, Target
from tests.unit.ssh.conftest import HASTY
from tests.unit.ssh.ledger import Book, hasten
from tests.unit.ssh.network import FakeNetwork, enter, settle, target

pytestmark = pytest.mark.slow

ONE_SESSION = target(max_connections=2, sessions_per_connection=1, connects_per_minute=10_000)
GATE = Target("gate", user="ada", limits=Limits(max_connections=1, connects_per_minute=10_000))


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest_asyncio.fixture
async def make(book: Book, network: FakeNetwork) -> AsyncIterator[Callable[..., SSHPool]]:
    made: list[SSHPool] = []

    def make(*, modest: bool = False) -> SSHPool:
        made.append(SSHPool(HASTY, book, modest=modest))
        return made[-1]

    yield make
    await asyncio.gather(*(pool.close() for pool in made))


Make = Callable[..., SSHPool]


async def rounds(book: Book, count: int = 5) -> None:
    """Wait for so many words."""
    many = len(book.words) + count
    async with asyncio.timeout(60):
        while len(book.words) < many:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_pools_together_keep_to_the_limit_and_all_get_on(book: Book, network: FakeNetwork, make: Make) -> None:
    book.step = TURN_S / 3
    pools = [make() for _ in range(5)]

    async def use(pool: SSHPool) -> None:
        for _ in range(10):
            async with pool.lane(ONE_SESSION).session():
                await asyncio.sleep(0.001)

    async with asyncio.timeout(60):
        await asyncio.gather(*(use(pool) for pool in pools * 4))
    assert network.peak == 2


async def test_a_share_shrinks_and_grows(book: Book, network: FakeNetwork, make: Make) -> None:
    one, two = make().lane(ONE_SESSION), make().lane(ONE_SESSION)
    async with one.session() as first, one.session() as second:
        newcomer = asyncio.create_task(enter(two))
        await settle(lambda: first.retired or second.retired)
        await rounds(book)
        # Neither is cut off, and one of them is enough.
        assert (network.standing, newcomer.done()) == (2, False)
        assert first.retired != second.retired
    await newcomer
    assert (one.held, two.held, network.standing) == (1, 1, 2)
    async with two.session() as link:
        two.retire(link)
    await settle(lambda: two.held == 0)
    async with one.session(), one.session():
        assert (one.held, network.peak) == (2, 2)


async def test_one_alone_says_a_word_for_each_connection_and_none_for_its_tasks(
    book: Book, network: FakeNetwork, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "RENEW_S", 3600)
    pool = make()
    lane = pool.lane(target())
    for _ in range(50):
        await asyncio.gather(*(enter(lane) for _ in range(3)))
    assert len(book.words) == network.attempts == 1
    await pool.close()
    assert book.held == 0
    assert len(book.words) == 2


async def test_all_lanes_of_a_pool_share_a_word(book: Book, network: FakeNetwork, make: Make) -> None:
    pool = make()
    for name in ("a", "b", "c"):
        await enter(pool.lane(Target(name, user="ada")))
    await rounds(book)
    assert {ask.host for ask in book.words[-1]} == {"ada@a:22", "ada@b:22", "ada@c:22"}


async def test_nothing_is_said_when_nothing_stands(book: Book, network: FakeNetwork, make: Make) -> None:
    pool = make()
    lane = pool.lane(target(idle_s=0.001))
    await enter(lane)
    await settle(lambda: lane.held == 0)
    assert pool.places is not None
    async with asyncio.timeout(60):
        while pool.places._renewer is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert book.uses["ada@example.org:22"].claims == {}


async def test_without_the_ledger_it_goes_on_with_what_it_has(book: Book, network: FakeNetwork, make: Make) -> None:
    lane = make().lane(ONE_SESSION)
    async with lane.session():
        book.down = True
        another = asyncio.create_task(enter(lane))
        await rounds(book)
        assert (network.attempts, another.done()) == (1, False)
    await another
    assert network.attempts == 1
    waiting = asyncio.create_task(enter(make().lane(ONE_SESSION)))
    await rounds(book)
    assert not waiting.done()
    book.down = False
    await waiting


async def test_who_has_none_is_told_in_the_end_that_the_ledger_is_away(
    book: Book, network: FakeNetwork, make: Make
) -> None:
    pool = make()
    lane = pool.lane(target(max_connections=2, sessions_per_connection=1, patience_s=0.01))
    async with lane.session():
        book.down = True
        patient = asyncio.create_task(enter(lane))
        impatient = asyncio.create_task(enter(pool.lane(Target("other", user="ada", limits=Limits(patience_s=0.01)))))
        with pytest.raises(ConnectFailed, match=r"nobody can tell for 0.01 s what .*: no database") as caught:
            async with asyncio.timeout(60):
                await impatient
        assert (caught.value.transient, caught.value.where) == (True, "ada@other:22")
        assert isinstance(caught.value.__cause__, StoreError)
        await rounds(book, 20)
        # One stands: it is waited for.
        assert not patient.done()
    await patient
    assert network.attempts == 1


async def test_a_ledger_that_is_silent_is_one_that_is_away(
    book: Book, network: FakeNetwork, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "ANSWER_S", 0.01)
    lane = make().lane(target(patience_s=0.02))
    book.held_up = asyncio.Event()
    with pytest.raises(ConnectFailed, match=r"no answer in 0\.01 s"):
        async with asyncio.timeout(60):
            await enter(lane)
    assert network.attempts == 0
    book.held_up.set()
    async with asyncio.timeout(60):
        await enter(lane)


async def test_nobody_asks_before_it_is_worth_while(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that the rate forbids for long, least of all: all the others would come first."""
    monkeypatch.setattr(places, "RENEW_S", 10.0)
    for seconds in (0.001, 2.0, 10.0, 60.0):
        pauses = [places._after(seconds) for _ in range(1000)]
        assert seconds <= min(pauses) < max(pauses) <= seconds + min(0.2 * seconds, 2.0)


async def test_a_failed_attempt_is_taken_back_at_once(
    book: Book, network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "RENEW_S", 3600)
    pool = SSHPool(BreakerPolicy(threshold=1, pause_s=1000, longest_pause_s=1000), book)
    network.errors = [ConnectFailed("refused")]
    with pytest.raises(ConnectFailed):
        await enter(pool.lane(target(patience_s=0)))
    await settle(lambda: book.held == 0)
    await pool.close()


async def test_a_failed_attempt_is_taken_back(book: Book, network: FakeNetwork, make: Make) -> None:
    network.errors = [ConnectFailed("refused") for _ in range(100)]
    with pytest.raises(ConnectFailed):
        await enter(make().lane(target(patience_s=0)))
    await settle(lambda: book.held == 0)


async def test_lanes_of_one_account_share_whatever_their_keys(book: Book, network: FakeNetwork, make: Make) -> None:
    pool = make()
    limits = Limits(max_connections=1)
    one = pool.lane(Target("example.org", user="ada", password="a", limits=limits))
    two = pool.lane(Target("example.org", user="ada", password="b", limits=limits))
    async with one.session():
        second = asyncio.create_task(enter(two))
        await rounds(book)
        assert (network.standing, second.done()) == (1, False)
        book.now += TURN_S
    async with asyncio.timeout(60):
        await second
    assert network.peak == 1


async def test_a_turn_at_a_jump_host_ends_with_what_runs_through_it(
    book: Book, network: FakeNetwork, make: Make
) -> None:
    one, two = make(), make()
    inner = Target("inner", user="ada", jump=GATE)
    async with one.lane(inner).session():
        waiting = asyncio.create_task(enter(two.lane(GATE)))
        await rounds(book)
        book.now += TURN_S
        await settle(lambda: one.lane(inner).leaving == 1)
        assert not waiting.done()
    await waiting


async def test_a_pool_of_one_task_leaves_one(book: Book, network: FakeNetwork, make: Make) -> None:
    task, triggerer = make(modest=True).lane(ONE_SESSION), make().lane(ONE_SESSION)
    async with task.session():
        second = asyncio.create_task(enter(task))
        await rounds(book)
        assert not second.done()
        await enter(triggerer)
    await second


async def test_a_refused_ask_is_repeated_while_a_connection_stands(
    book: Book, network: FakeNetwork, make: Make
) -> None:
    one, two = make().lane(ONE_SESSION), make().lane(ONE_SESSION)
    async with one.session():
        async with two.session() as link:
            second = asyncio.create_task(enter(one))
            await rounds(book)
            assert not second.done()
            two.retire(link)
        async with asyncio.timeout(60):
            await second


async def test_who_let_go_of_the_last_one_asks_at_once(
    book: Book, network: FakeNetwork, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "ONE_MORE_S", 3600)
    one, two = make().lane(ONE_SESSION), make().lane(ONE_SESSION)
    async with one.session():
        async with two.session() as link:
            second = asyncio.create_task(enter(one))
            await rounds(book)
            one.let_go(1)
            two.retire(link)
        async with asyncio.timeout(60):
            await second
        assert one.leaving == 1


async def test_who_let_go_of_a_busy_one_stands_in_line_like_others(
    book: Book, network: FakeNetwork, make: Make
) -> None:
    one, two = make().lane(GATE), make().lane(GATE)
    async with one.session(), one.session(), one.session(), one.session() as link:
        waiting = [asyncio.create_task(enter(lane)) for lane in (one, two)]
        await rounds(book)
        book.now += TURN_S
        await settle(lambda: link.retired)
        await rounds(book)
        claims = book.uses[GATE.account].claims
        assert (claims[one.key].waits, claims[two.key].waits) == (True, True)
    async with asyncio.timeout(60):
        await waiting[1]
        book.step = TURN_S
        await waiting[0]
    assert network.peak == 1


async def test_who_went_away_holds_nobody_up(
    book: Book, network: FakeNetwork, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "AGAIN_S", 3600)
    one, two, three = (make().lane(GATE) for _ in range(3))
    async with one.session() as link:
        impatient = asyncio.create_task(enter(two))
        await settle(lambda: two.key in book.uses[GATE.account].claims)
        impatient.cancel()
        await settle(lambda: two.key not in book.uses[GATE.account].claims)
        one.retire(link)
    await settle(lambda: book.held == 0)
    async with asyncio.timeout(60):
        await enter(three)


async def test_nothing_is_made_for_who_went_away_while_it_was_asked_for(
    book: Book, network: FakeNetwork, make: Make
) -> None:
    lane = make().lane(GATE)
    book.held_up = asyncio.Event()
    impatient = asyncio.create_task(enter(lane))
    await settle(lambda: len(book.words) == 1)
    impatient.cancel()
    await settle(impatient.done)
    book.held_up.set()
    await settle(lambda: book.held == 1)
    async with asyncio.timeout(60):
        while book.held:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert network.attempts == 0


async def test_who_cannot_reach_the_host_is_not_in_line(book: Book, network: FakeNetwork) -> None:
    pool = SSHPool(BreakerPolicy(threshold=1, pause_s=1000, longest_pause_s=1000), book)
    network.errors = [ConnectFailed("refused")]
    waiting = asyncio.create_task(enter(pool.lane(target(patience_s=10_000))))
    await settle(lambda: book.held == 1)
    async with asyncio.timeout(60):
        while book.uses["ada@example.org:22"].claims:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert (network.attempts, waiting.done()) == (1, False)
    await pool.close()
    with pytest.raises(ConnectFailed, match="closed"):
        await waiting


async def test_a_fault_in_the_ledger_ends_no_words(
    book: Book, network: FakeNetwork, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    lane = make().lane(ONE_SESSION)
    async with lane.session():
        book.fault = RuntimeError("a bug")
        await rounds(book)
        book.fault = None
        book.uses.clear()
        await rounds(book)
        assert book.held == 1
    assert "a bug" in caplog.text


async def test_after_a_silence_others_speak_first(
    book: Book, network: FakeNetwork, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they have may have gone from the record meanwhile."""
    lane = make().lane(ONE_SESSION)
    book.down = True
    waiting = asyncio.create_task(enter(lane))
    await rounds(book)
    monkeypatch.setattr(places, "SILENCE_S", 0.0)
    book.down = False
    await rounds(book, 20)
    assert (network.attempts, waiting.done()) == (0, False)
    monkeypatch.setattr(places, "SILENCE_S", 10.0)
    async with asyncio.timeout(60):
        await waiting
    assert network.peak == 1


async def test_what_ended_by_itself_is_not_let_go_twice(
    book: Book, network: FakeNetwork, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "RENEW_S", 3600)
    pool = make()
    one, two = pool.lane(ONE_SESSION), make().lane(ONE_SESSION)
    async with one.session():
        async with one.session() as second:
            waiting = asyncio.create_task(enter(two))
            await settle(lambda: two.key in book.uses["ada@example.org:22"].claims)
            book.held_up = asyncio.Event()
            assert pool.places is not None
            pool.places.ended()
            await settle(lambda: book.words[-1][0].lane == one.key)
            second.connection.close()
            await settle(lambda: one.held == 1)
            book.held_up.set()
        async with asyncio.timeout(60):
            await waiting
        assert (one.held, one.leaving) == (1, 0)
