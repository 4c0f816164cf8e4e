"""What a pattern answers to a job that did not complete: rules, and what the next attempt asks for.

A rule names outcomes and says what to ask for instead. Whether a rule has been used up is read from the attempts
themselves: each that a rule made says so in its :attr:`~airavata_provider.models.job.Job.request`, under
:data:`MADE_BY`. So whoever is killed, whoever looks next decides the same.

Pure; no Airflow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from airavata_provider.models.job import Job, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.values import Count, Model, clock, shown, suggestion, upper, whole_number

MADE_BY = "made_by"
"""Where an attempt's request tells of the rule that made it: ``rule`` (its number, from 1), ``of`` (the attempt that
it answers), ``outcome``, and :data:`LEFT` where it went elsewhere."""

LEFT = "left"
"""In there: the compute resource that the attempt that it answers was on."""

ANSWERABLE = (
    Outcome.FAILED,
    Outcome.SIGNALED,
    Outcome.OUT_OF_MEMORY,
    Outcome.WALLTIME,
    Outcome.NODE_FAILURE,
    Outcome.PREEMPTED,
)
"""Ends that another attempt may cure. A job that somebody ended stays ended; one of which nobody can tell may run."""

_FACTOR = re.compile(r"\*\s*([0-9]{1,3}(?:\.[0-9]{1,6})?)")
_MOST = 100
# Where a queue has no limit: what every scheduler and database can count.
_MOST_MEMORY_MB = 2**31 - 1
_MOST_WALLTIME_S = 10_000 * 24 * 3600 - 1


def _factor(value: object) -> object:
    found = _FACTOR.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or not 1 < Fraction(found[1]) <= _MOST:
        raise ValueError(f'should be a factor above 1 and at most {_MOST}, like "*2" or "*1.5", not {shown(value)}')
    return f"*{found[1]}"


def _outcomes(value: object) -> object:
    words: list[object] = [*value] if isinstance(value, list | tuple) else [value]
    known = [outcome.value for outcome in ANSWERABLE]
    found = [upper(word) for word in words]
    for word in found:
        if word not in known:
            near = suggestion(word if isinstance(word, str) else "", known)
            raise ValueError(f"{shown(word)} is no outcome that a rule can answer{near}")
    return tuple(found)


Factor = Annotated[str, BeforeValidator(_factor)]
ExitCode = Annotated[int, BeforeValidator(whole_number), Field(ge=1, le=255)]


class Rule(Model):
    """One rule.

    :param outcome: ends of a job that it answers, one or a list
    :param exit_codes: with ``FAILED``: only these; none: any
    :param answer: what to do: ``again``, on the same resource, or ``elsewhere``, on another one that the request
        allows; where there is none, the next rule's turn comes
    :param memory: what to multiply the memory by
    :param walltime: what to multiply the walltime by
    :param at_most: how many attempts it makes
    """

    outcome: Annotated[tuple[Outcome, ...], BeforeValidator(_outcomes), Field(min_length=1)]
    exit_codes: tuple[ExitCode, ...] = ()
    answer: Literal["again", "elsewhere"] = "again"
    memory: Factor | None = None
    walltime: Factor | None = None
    at_most: Annotated[Count, Field(le=100)] = 1

    @model_validator(mode="after")
    def _codes_of_failures(self) -> Rule:
        if self.exit_codes and self.outcome != (Outcome.FAILED,):
            raise ValueError("exit_codes: only with outcome: FAILED")
        return self

    def answers(self, outcome: Outcome, exit_code: int | None) -> bool:
        """Whether it is about such an end."""
        return outcome in self.outcome and (not self.exit_codes or exit_code in self.exit_codes)


@dataclass(frozen=True)
class Sizes:
    """What rules change of a request, or what bounds it there; None: not asked for, or no bound."""

    memory_mb: int | None = None
    walltime_s: int | None = None


@dataclass(frozen=True)
class Next:
    """An attempt that a rule makes.

    :param sizes: what it asks for
    :param made_by: for its record, see :data:`MADE_BY`
    :param words: which rule, and what it changes; for people
    :param elsewhere: it goes to another place, which has to be found yet (:func:`moved`); until then its sizes are
        those of the attempt before
    """

    sizes: Sizes
    made_by: Mapping[str, Any]
    words: str
    elsewhere: bool = False

    @property
    def rule(self) -> int:
        """The number of the rule that makes it, from 1."""
        return int(self.made_by["rule"])


class NotAgain(Exception):
    """No further attempt; says why, or nothing where no rule is about such an end."""


def outcome_of(job: Job) -> Outcome | None:
    """How a job ended, also where nobody said more than a status or a signal."""
    if job.outcome is not None:
        return job.outcome
    if job.signal:
        return Outcome.SIGNALED
    return Outcome.FAILED if job.exit_code else None


def failed(job: Job) -> bool:
    """Whether it ended without success, and nobody asked for that: what a rule may answer."""
    over = job.state is not None and job.state.terminal
    return over and job.state is not JobState.COMPLETE and job.cancel_requested_at is None


def sizes_of(job: Job) -> Sizes:
    """What an attempt asked for."""
    return Sizes((job.request or {}).get("memory_mb"), job.walltime_s)


def made_by(job: Job) -> Mapping[str, Any] | None:
    """The rule that made an attempt; None: a person did, or whoever began."""
    found = (job.request or {}).get(MADE_BY)
    return found if isinstance(found, Mapping) else None


def left_by(job: Job) -> str | None:
    """The compute resource that a rule left for this attempt; None: it is where the one before was."""
    found = (made_by(job) or {}).get(LEFT)
    return found if isinstance(found, str) else None


def next_attempt(
    rules: Sequence[Rule], attempts: Sequence[Job], most: Sizes, nowhere: Mapping[int, str] | None = None
) -> Next:
    """What to do after the last of these attempts, which has ended and did not complete.

    The first rule counts that is about its end and has attempts left. Attempts are counted since the last one that
    no rule made: who clears a submission begins anew.

    :param attempts: of one submission task, the last one last
    :param most: what may be asked for where the last one was
    :param nowhere: rules, by number, that would go elsewhere and cannot: why
    :raises NotAgain: no rule, none left, or more than may be asked for
    """
    last = attempts[-1]
    outcome = outcome_of(last)
    used: dict[int, int] = {}
    for job in reversed(attempts):
        made = made_by(job)
        if made is None:
            break
        used[made["rule"]] = used.get(made["rule"], 0) + 1
    spent = []
    for number, rule in enumerate(rules, 1):
        if outcome is None or not rule.answers(outcome, last.exit_code):
            continue
        before = used.get(number, 0)
        if before >= rule.at_most:
            spent.append(f"rule {number} for {outcome} has made its {rule.at_most} attempt{'s'[: rule.at_most > 1]}")
            continue
        if number in (nowhere or {}):
            spent.append(f"rule {number} for {outcome} finds no other place: {(nowhere or {})[number]}")
            continue
        made = {"rule": number, "of": last.attempt, "outcome": outcome.value}
        words = f"rule {number} for {outcome} (attempt {before + 1} of {rule.at_most} by it): {rule.answer}"
        if rule.answer == "elsewhere":
            return Next(sizes_of(last), made, words, elsewhere=True)
        sizes = grown(sizes_of(last), rule, most, number)
        told = "".join(f"; {each}" for each in spent)
        return Next(sizes, made, f"{words}{_changes(sizes_of(last), sizes)}{told}")
    raise NotAgain("; ".join(spent))


def moved(following: Next, last: Job, resource: str, sizes: Sizes) -> Next:
    """An attempt that goes elsewhere, once it is known where, and what it asks for there."""
    return replace(
        following,
        sizes=sizes,
        made_by={**following.made_by, LEFT: last.resource},
        words=f"{following.words}, on {resource} instead of {last.resource}{_changes(sizes_of(last), sizes)}",
    )


def failed_places(rule: Rule, attempts: Sequence[Job]) -> dict[str, str]:
    """Compute resources on which an attempt since the last one that no rule made ended as the rule is about, and how.

    :param attempts: of one submission task, the last one last
    """
    found: dict[str, str] = {}
    for job in reversed(attempts):
        outcome = outcome_of(job)
        if outcome is not None and rule.answers(outcome, job.exit_code):
            found.setdefault(job.resource, f"attempt {job.attempt} ended there: {outcome}")
        if made_by(job) is None:
            break
    return found


def grown(sizes: Sizes, rule: Rule, most: Sizes, number: int = 1) -> Sizes:
    """What to ask for instead, no more than may be asked for.

    :raises NotAgain: something cannot grow any more, or was never asked for
    """
    told = f"rule {number} cannot ask for more"
    return Sizes(
        _times(sizes.memory_mb, rule.memory, most.memory_mb or _MOST_MEMORY_MB, f"{told} memory", _mib),
        _times(sizes.walltime_s, rule.walltime, most.walltime_s or _MOST_WALLTIME_S, f"{told} walltime", clock),
    )


def _times(value: int | None, factor: str | None, most: int, told: str, show: Callable[[int], str]) -> int | None:
    if factor is None:
        return value
    if value is None:
        raise NotAgain(f"{told}: none was asked for; name some in the request or as the queue's default")
    if value >= most:
        raise NotAgain(f"{told}: the job had {show(value)}, and its queue allows {show(most)}")
    # Exact: with binary fractions "*1.1" of 10 would be 12.
    return min(math.ceil(value * Fraction(factor[1:])), most)


def _mib(value: int) -> str:
    return f"{value} MiB"


def _changes(before: Sizes, after: Sizes) -> str:
    changes = []
    if before.memory_mb is not None and after.memory_mb is not None and before.memory_mb != after.memory_mb:
        changes.append(f"memory {before.memory_mb} → {_mib(after.memory_mb)}")
    if before.walltime_s is not None and after.walltime_s is not None and before.walltime_s != after.walltime_s:
        changes.append(f"walltime {clock(before.walltime_s)} → {clock(after.walltime_s)}")
    return f", with {' and '.join(changes)}" if changes else ""
