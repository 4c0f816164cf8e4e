"""When to leave a failing host alone, and when to try it again. Pure: time and chance are given.

::

    closed ──failures reach the threshold──▶ open ──the pause is over──▶ half-open (one probe)
      ▲                                        ▲                               │
      └────────────── a connection stands ─────┼───────────────────────────────┤
                                               └──── it failed: a longer pause ┘
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class BreakerPolicy:
    """
    :param threshold: failures in a row that open the breaker
    :param backoff_s: pause after the first failure below the threshold, doubled with each
    :param pause_s: first pause of the open breaker, doubled with each failed probe
    :param longest_pause_s: what the pauses do not grow beyond
    :param jitter: part of a pause by which it varies either way, so that hosts' clients do not march in step
    """

    threshold: int = 5
    backoff_s: float = 0.2
    pause_s: float = 5.0
    longest_pause_s: float = 300.0
    jitter: float = 0.25


@dataclass(frozen=True)
class Breaker:
    """How a host has behaved of late. Every method returns a new one.

    :param failures: attempts that failed since the last that did not
    :param retry_at: when the next attempt may start, on the caller's clock
    :param probing: the one probe of a half-open breaker is under way
    """

    policy: BreakerPolicy = field(default_factory=BreakerPolicy)
    failures: int = 0
    retry_at: float = 0.0
    probing: bool = False

    @property
    def open(self) -> bool:
        """Whether only a probe may go through."""
        return self.failures >= self.policy.threshold

    def wait(self, now: float) -> float:
        """Seconds until an attempt may start, 0 for at once; infinite while a probe is under way."""
        if self.probing:
            return float("inf")
        return max(0.0, self.retry_at - now)

    def attempt(self) -> Breaker:
        """An attempt starts (:meth:`wait` said 0)."""
        return replace(self, probing=self.open)

    def succeeded(self) -> Breaker:
        """The attempt made a connection."""
        return Breaker(self.policy)

    def abandoned(self) -> Breaker:
        """The attempt ended without telling anything about the host (it was cancelled)."""
        return replace(self, probing=False)

    def failed(self, now: float, chance: float, *, for_good: bool = False) -> Breaker:
        """The attempt failed.

        :param chance: from [0, 1), for the jitter
        :param for_good: trying again soon cannot help (wrong key): the breaker opens at once
        """
        policy = self.policy
        failures = max(self.failures + 1, policy.threshold if for_good else 0)
        if failures < policy.threshold:
            pause = policy.backoff_s * 2 ** (failures - 1)
        else:
            # The exponent is bounded because a float's is.
            pause = policy.pause_s * 2 ** min(failures - policy.threshold, 32)
        pause = min(pause, policy.longest_pause_s)
        pause *= 1 + policy.jitter * (2 * chance - 1)
        return replace(self, failures=failures, retry_at=now + pause, probing=False)
