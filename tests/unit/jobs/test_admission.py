from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.jobs.admission import (
    AGING_S,
    Grants,
    Line,
    Load,
    Waiting,
    decide,
    promising,
    too_big,
    unlimited,
)
from airavata_provider.jobs.limits import LEARNED_STEPS, GatewayLimits, Limits, Most, closed, full, learned, limits_of
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.gateway import Gateway, GatewayOnResource
from airavata_provider.models.resource import ComputeResource, Queue
from tests.unit.jobs.factory import NOON, at

PLACE = ("cluster", "debug")


def job(name: str = "a1", **values: Any) -> Waiting:
    defaults: dict[str, Any] = {
        "resource": "cluster",
        "queue": "debug",
        "gateway": "g",
        "user": "u",
        "level": 1,
        "since": at(-60),
    }
    return Waiting(name, **{**defaults, **values})


def jobs(count: int, prefix: str = "j", **values: Any) -> list[Waiting]:
    return [job(f"{prefix}{n:04}", since=at(-1000 + n), **values) for n in range(count)]


def load(count: int, gateway: str = "g", user: str = "u", place: tuple[str, str] = PLACE) -> Load:
    return Load(*place, gateway, user, count)


# --- strategies: few names, so that they meet

names = st.sampled_from(["a", "b", "c"])
queues = st.sampled_from(["q", "r"])
resources = st.sampled_from(["x", "y"])
ceilings = st.none() | st.integers(1, 6)
most = st.builds(Most, ceilings, ceilings)
gateway_limits = st.builds(
    GatewayLimits, most, st.sampled_from([0.5, 1.0, 3.0]), st.dictionaries(resources, most, max_size=2)
)
statements = st.builds(
    Availability,
    resource=resources,
    queue=st.sampled_from(["", "q", "r"]),
    state=st.sampled_from([AvailabilityState.DRAINING, AvailabilityState.DOWN]),
    starts_at=st.integers(-100, 100).map(at),
    ends_at=st.none() | st.integers(-100, 200).map(at),
)
refusals = st.builds(
    lambda resource, queue, there, ago: full((resource, queue), there, "full", at(-ago), step_s=30),
    resources,
    queues,
    st.integers(0, 5),
    st.integers(0, 300),
)
all_limits = st.builds(
    Limits,
    queues=st.dictionaries(st.tuples(resources, queues), st.integers(1, 6)),
    resources=st.dictionaries(resources, st.integers(1, 8)),
    gateways=st.dictionaries(names, gateway_limits),
    said=st.lists(statements | refusals, max_size=3),
)
loads = st.lists(st.builds(Load, resources, queues, names, names, st.integers(0, 3)), max_size=6)


def waiting(costs: st.SearchStrategy[int]) -> st.SearchStrategy[list[Waiting]]:
    return st.lists(
        st.builds(
            Waiting,
            name=st.integers(0, 10_000).map(lambda n: f"n{n:05}"),
            resource=resources,
            queue=queues,
            gateway=names,
            user=names,
            level=st.integers(0, 3),
            since=st.integers(-90_000, 0).map(at),
            cost=costs,
        ),
        max_size=25,
        unique_by=lambda each: each.name,
    )


def keys_of(resource: str, queue: str, gateway: str, user: str) -> list[tuple[str, ...]]:
    return [
        ("queue", resource, queue),
        ("resource", resource),
        ("gateway", gateway),
        ("user", gateway, user),
        ("gateway on", gateway, resource),
        ("user on", gateway, user, resource),
    ]


def ceilings_by_hand(limits: Limits, now: datetime) -> dict[tuple[str, ...], int]:
    """All ceilings there are, worked out apart from the code under test."""
    found: dict[tuple[str, ...], int] = {}

    def put(key: tuple[str, ...], number: int | None) -> None:
        if number is not None:
            found[key] = min(found.get(key, number), number)

    for place, number in limits.queues.items():
        put(("queue", *place), number)
    for resource, number in limits.resources.items():
        put(("resource", resource), number)
    for gateway, each in limits.gateways.items():
        put(("gateway", gateway), each.most.jobs)
        for user in "abc":
            put(("user", gateway, user), each.most.jobs_per_user)
        for resource, on in each.on.items():
            put(("gateway on", gateway, resource), on.jobs)
            for user in "abc":
                put(("user on", gateway, user, resource), on.jobs_per_user)
    last = {(said.resource, said.queue): said for said in limits.said if said.state is AvailabilityState.FULL}
    for place, said in last.items():
        put(("queue", *place), learned(said, now))
    return found


def used_by_hand(running: Sequence[Load], granted: Sequence[Waiting]) -> Counter[tuple[str, ...]]:
    used: Counter[tuple[str, ...]] = Counter()
    for each in running:
        for key in keys_of(each.resource, each.queue, each.gateway, each.user):
            used[key] += each.jobs
    for one in granted:
        for key in keys_of(one.resource, one.queue, one.gateway, one.user):
            used[key] += one.cost
    return used


@given(waiting(st.integers(1, 4)), loads, all_limits)
def test_no_ceiling_is_ever_passed_and_nothing_goes_where_it_is_closed(
    those: list[Waiting], running: list[Load], limits: Limits
) -> None:
    grants = decide(those, running, limits, NOON)
    by_name = {each.name: each for each in those}
    granted = [by_name[name] for name in grants.names]
    assert len(set(grants.names)) == len(grants.names)
    before, after = used_by_hand(running, []), used_by_hand(running, granted)
    for key, number in ceilings_by_hand(limits, NOON).items():
        assert after[key] <= max(number, before[key])
    for each in granted:
        assert closed(limits, (each.resource, each.queue), NOON) is None


@given(waiting(st.just(1)), loads, all_limits)
def test_nobody_waits_while_there_is_room(those: list[Waiting], running: list[Load], limits: Limits) -> None:
    grants = decide(those, running, limits, NOON)
    granted = [each for each in those if each.name in grants.names]
    used = used_by_hand(running, granted)
    numbers = ceilings_by_hand(limits, NOON)
    for each in those:
        if each in granted:
            continue
        full_ones = [
            key
            for key in keys_of(each.resource, each.queue, each.gateway, each.user)
            if used[key] >= numbers.get(key, used[key] + 1)
        ]
        assert full_ones or closed(limits, (each.resource, each.queue), NOON) is not None
        assert grants.held[each.line].reason


@given(waiting(st.integers(1, 4)), loads, all_limits, st.randoms())
def test_the_same_input_in_any_order_gives_the_same_answer(
    those: list[Waiting], running: list[Load], limits: Limits, chance: Any
) -> None:
    first = decide(those, running, limits, NOON)
    chance.shuffle(those)
    chance.shuffle(running)
    assert decide(those, running, limits, NOON) == first


@given(waiting(st.just(1)), loads, all_limits)
def test_a_line_that_promises_nothing_gets_nothing(those: list[Waiting], running: list[Load], limits: Limits) -> None:
    lines: dict[tuple[Any, ...], Line] = {}
    for each in sorted(those, key=lambda one: one.since):
        line = lines.get(each.line)
        lines[each.line] = replace(line, jobs=line.jobs + 1) if line else Line(*each.line, since=each.since)
    found, held = promising(lines.values(), running, limits, NOON)
    granted = Counter(each.line for each in those if each.name in decide(those, running, limits, NOON).names)
    assert {line.key for line, _ in found} | held.keys() == lines.keys()
    for line, room in found:
        assert granted[line.key] <= room
    assert not held.keys() & granted.keys()


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=12),
    st.integers(0, 3),
    st.integers(1, 3),
)
def test_nobody_waits_for_ever(arrivals: list[int], level: int, room: int) -> None:
    """A stream of urgent jobs of a gateway with a hundred times the share, for ever: still the one other goes."""
    limits = Limits({PLACE: room}, gateways={"rich": GatewayLimits(share=100.0)})
    patient = job("patient", gateway="poor", level=level, since=NOON)
    running: list[Load] = []
    now, queue, served = NOON, [patient], 0
    for round_ in range(200):
        now += timedelta(hours=1)
        count = arrivals[round_ % len(arrivals)]
        queue += [job(f"r{round_:03}.{n}", gateway="rich", user=f"u{n}", level=3, since=now) for n in range(count)]
        grants = decide(queue, running, limits, now)
        if "patient" in grants.names:
            served = round_ + 1
            break
        queue = [each for each in queue if each.name not in grants.names]
    # Those that came before it had aged enough are finitely many; none that comes later goes before it.
    assert served


def names_of(grants: Grants) -> list[str]:
    return list(grants.names)


def test_priority_then_age() -> None:
    those = [
        job("old", since=at(-50)),
        job("older", since=at(-100)),
        job("urgent", level=3, since=at(-1)),
        job("low", level=0, since=at(-1000)),
    ]
    assert names_of(decide(those, [], Limits(), NOON)) == ["urgent", "older", "old", "low"]


def test_who_waits_long_rises() -> None:
    those = [job("low", level=0, since=at(-4 * AGING_S)), job("urgent", level=3, since=at(-1))]
    assert names_of(decide(those, [], Limits({PLACE: 1}), NOON)) == ["low"]


def test_a_burst_of_one_gateway_does_not_starve_another() -> None:
    burst = jobs(1000, "burst", gateway="big")
    one = job("one", gateway="small", since=at(-1))
    grants = decide([*burst, one], [load(49, "big")], Limits({PLACE: 50}), NOON)
    assert names_of(grants) == ["one"]


def test_gateways_get_their_shares_in_turn() -> None:
    limits = Limits({PLACE: 12}, gateways={"two": GatewayLimits(share=2.0)})
    those = [*jobs(50, "a", gateway="two"), *jobs(50, "b", gateway="one")]
    granted = Counter(name[0] for name in decide(those, [], limits, NOON).names)
    assert granted == {"a": 8, "b": 4}


def test_what_runs_already_counts_for_the_turn() -> None:
    those = [*jobs(50, "a", gateway="a"), *jobs(50, "b", gateway="b")]
    granted = Counter(name[0] for name in decide(those, [load(6, "a")], Limits({PLACE: 16}), NOON).names)
    assert granted == {"a": 2, "b": 8}


def test_users_of_a_gateway_take_turns() -> None:
    those = [*jobs(50, "a", user="a"), *jobs(50, "b", user="b")]
    granted = Counter(name[0] for name in decide(those, [], Limits({PLACE: 10}), NOON).names)
    assert granted == {"a": 5, "b": 5}


def test_each_ceiling_says_what_it_is() -> None:
    on = {"cluster": Most(3, 2)}
    cases: Mapping[str, Limits] = {
        "2 of at most 2 jobs are there: cluster's queue debug": Limits({PLACE: 2}),
        "2 of at most 2 jobs are there: all of cluster": Limits(resources={"cluster": 2}),
        "2 of at most 2 jobs are there: gateway g": Limits(gateways={"g": GatewayLimits(Most(2))}),
        "2 of at most 1 jobs are there: user u of gateway g": Limits(gateways={"g": GatewayLimits(Most(9, 1))}),
        "2 of at most 2 jobs are there: user u of gateway g on cluster": Limits(gateways={"g": GatewayLimits(on=on)}),
    }
    for words, limits in cases.items():
        grants = decide([job()], [load(2)], limits, NOON)
        assert grants.names == ()
        assert [str(hold) for hold in grants.held.values()] == [words]


def test_a_resource_that_is_drained_or_down_holds_back_and_says_until_when() -> None:
    drained = Availability("cluster", AvailabilityState.DRAINING, at(-5), ends_at=at(3600), reason="new disks")
    down = Availability("cluster", AvailabilityState.DOWN, at(-5), queue="debug")
    later = replace(drained, starts_at=at(5))
    other = replace(drained, queue="long")
    grants = decide([job()], [], Limits(said=[drained]), NOON)
    assert [str(hold) for hold in grants.held.values()] == [
        "cluster is draining (new disks), until 2031-05-06T13:00+00:00"
    ]
    assert str(closed(Limits(said=[drained, down]), PLACE, NOON)) == "cluster's queue debug is down"
    assert names_of(decide([job()], [], Limits(said=[later, other]), NOON)) == ["a1"]


def test_an_array_that_does_not_fit_is_not_overtaken() -> None:
    array = job("array", cost=5, since=at(-100))
    small = [job(f"s{n}", since=at(-n)) for n in range(1, 4)]
    grants = decide([array, *small], [load(4)], Limits({PLACE: 8}), NOON)
    assert grants.names == ()
    other_user = job("other", user="v", since=at(-1))
    grants = decide([array, other_user], [load(4)], Limits({PLACE: 8}), NOON)
    # The other user's turn comes first; after it, the room that is left is kept.
    assert names_of(grants) in (["other"], [])
    assert names_of(decide([array, *small], [load(3)], Limits({PLACE: 8}), NOON)) == ["array"]


def test_an_array_larger_than_the_limit_can_never_go() -> None:
    limits = Limits({PLACE: 4})
    assert too_big(limits, job(cost=5)) == "an array of 5 is more than 4, the most for cluster's queue debug"
    assert too_big(limits, job(cost=4)) is None


def test_an_array_that_never_fits_is_overtaken() -> None:
    those = [job("array", cost=9, since=at(-100)), job("small", since=at(-1))]
    assert names_of(decide(those, [], Limits({PLACE: 8}), NOON)) == ["small"]


def test_what_a_refusal_taught_keeps_no_room_for_an_array_until_it_has_waited_long() -> None:
    limits = Limits(said=[full(PLACE, 10, "too many", NOON, step_s=30)])
    small = [job(f"s{n}", since=at(-n)) for n in range(1, 9)]
    array = job("array", cost=9, since=at(-100))
    assert names_of(decide([array, *small], [load(4)], limits, NOON)) == ["s8", "s7", "s6", "s5", "s4", "s3"]
    assert names_of(decide([array, *small], [load(1)], limits, NOON))[0] == "array"
    aged = replace(array, since=at(-AGING_S))
    assert names_of(decide([aged, *small], [load(4)], limits, NOON)) == []
    # What is written down is kept from the first moment.
    assert names_of(decide([array, *small], [load(4)], Limits({PLACE: 10}), NOON)) == []


def test_places_take_turns() -> None:
    busy = [Line("cluster", "debug", "g", f"u{n}", 3, at(-100 + n)) for n in range(5)]
    other = Line("cluster", "long", "g", "u", 0, at(-1))
    found, held = promising([*busy, other], [], Limits({PLACE: 2}), NOON)
    assert [line.queue for line, _ in found] == ["debug", "long", "debug", "debug", "debug", "debug"]
    assert not held


def test_what_a_refusal_taught_is_believed_less_and_less() -> None:
    said = full(PLACE, 7, "QOSMaxSubmitJobPerUserLimit", NOON, step_s=30)
    known = [learned(said, at(30 * step + 1)) for step in range(LEARNED_STEPS + 1)]
    assert known == [7, 8, 9, 11, 15, 23, 39, 71, None]
    limits = Limits(said=[said])
    assert len(decide(jobs(100), [load(7)], limits, at(1)).names) == 0
    assert len(decide(jobs(100), [load(6)], limits, at(1)).names) == 1
    assert len(decide(jobs(100), [load(7)], limits, at(70)).names) == 2
    assert "takes no more (QOSMaxSubmit" in str(next(iter(decide(jobs(1), [load(7)], limits, at(1)).held.values())))


@pytest.mark.parametrize(
    ("limits", "free"),
    [
        (Limits(), True),
        (Limits({("cluster", "long"): 1}, {"other": 1}, {"h": GatewayLimits(Most(1))}), True),
        (Limits({PLACE: 50}), False),
        (Limits(resources={"cluster": 50}), False),
        (Limits(gateways={"g": GatewayLimits(Most(None, 5))}), False),
        (Limits(gateways={"g": GatewayLimits(share=2.0)}), True),
        (Limits(said=[Availability("cluster", AvailabilityState.DOWN, at(-1))]), False),
        (Limits(said=[full(PLACE, 0, "", NOON, step_s=30)]), False),
    ],
)
def test_a_job_that_nothing_keeps_back_is_known(limits: Limits, free: bool) -> None:
    assert unlimited(limits, job(), NOON) is free


def test_the_catalogs_limits() -> None:
    catalog = Catalog(
        compute_resources={
            "cluster": ComputeResource(
                name="cluster",
                connection="c",
                scheduler="slurm",
                scratch="/s",
                max_jobs=60,
                default_queue="debug",
                queues={"debug": Queue(max_jobs=50), "long": Queue(arrays_count_as="one")},
            )
        },
        gateways={
            "g": Gateway(
                name="g",
                max_jobs=9,
                max_jobs_per_user=3,
                share=2,
                resources={"cluster": GatewayOnResource(max_jobs=1)},
            )
        },
    )
    assert limits_of(catalog) == Limits(
        {PLACE: 50},
        {"cluster": 60},
        {"g": GatewayLimits(Most(9, 3), 2.0, {"cluster": Most(1)})},
        frozenset({("cluster", "long")}),
    )
