from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.ssh.breaker import Breaker, BreakerPolicy

POLICY = BreakerPolicy(threshold=3, backoff_s=1, pause_s=10, longest_pause_s=60, jitter=0.0)


def test_a_new_breaker_lets_everybody_through() -> None:
    assert Breaker(POLICY).wait(0.0) == 0
    assert not Breaker(POLICY).open


def test_it_opens_at_the_threshold_and_lets_one_probe_through_after_the_pause() -> None:
    breaker = Breaker(POLICY)
    for failure in range(3):
        assert not breaker.open
        breaker = breaker.attempt()
        assert not breaker.probing
        breaker = breaker.failed(float(failure), 0.5)
    assert breaker.open
    assert breaker.wait(2.0) == 10
    assert breaker.wait(12.0) == 0
    probe = breaker.attempt()
    assert probe.wait(100.0) == math.inf
    assert probe.succeeded() == Breaker(POLICY)
    again = probe.failed(20.0, 0.5)
    assert again.wait(20.0) == 20
    assert again.attempt().abandoned().wait(40.0) == 0


def test_pauses_grow_to_their_limit() -> None:
    breaker = Breaker(POLICY)
    pauses = []
    for _ in range(8):
        breaker = breaker.attempt().failed(0.0, 0.5)
        pauses.append(breaker.wait(0.0))
    assert pauses == [1, 2, 10, 20, 40, 60, 60, 60]


def test_a_refusal_opens_it_at_once() -> None:
    assert Breaker(POLICY).attempt().failed(0.0, 0.5, for_good=True).wait(0.0) == 10


@given(
    failures=st.integers(1, 2000),
    chance=st.floats(0, 1, exclude_max=True),
    now=st.floats(0, 1e9),
)
def test_a_pause_stays_within_its_jitter(failures: int, chance: float, now: float) -> None:
    policy = BreakerPolicy()
    breaker = Breaker(policy, failures=failures - 1).failed(now, chance)
    assert 0 < breaker.wait(now) <= policy.longest_pause_s * (1 + policy.jitter) + 1e-6
    assert breaker.failures == failures
