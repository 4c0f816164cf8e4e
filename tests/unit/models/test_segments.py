"""Segments: whatever the graph, nothing is lost, order is kept, and chains are as long as can be."""

from __future__ import annotations

import graphlib
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.models.pattern import Pattern, TaskSpec
from airavata_provider.models.segments import segments

BOUNDARY = ("monitor",)
RUN_ON = {"docker_parser": "worker"}


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    tasks: list[TaskSpec] = []
    for number in range(draw(st.integers(1, 9))):
        earlier = [task.id for task in tasks]
        # Mostly the one before, so that chains are common.
        after = draw(
            st.just(earlier[-1:])
            | (st.lists(st.sampled_from(earlier), unique=True, max_size=3) if earlier else st.just(list[str]()))
        )
        tasks.append(
            TaskSpec(
                id=f"t{number}",
                type=draw(st.sampled_from(["stage_in", "stage_in", "submit", "monitor", "docker_parser"])),
                after=tuple(after),
                parameters={},
                resource=draw(st.sampled_from([None, None, None, "other"])),
                queue=draw(st.sampled_from([None, None, None, "heavy"])),
                retries=draw(st.integers(0, 3)),
                deadline_s=draw(st.sampled_from([None, 1.0, 2.5])),
                run_on=draw(st.sampled_from([None, None, None, "worker", "triggerer"])),
                trigger_rule=draw(st.sampled_from(["all_success", "all_success", "all_success", "all_done"])),
            )
        )
    granularity: Literal["task", "segment"] = draw(st.sampled_from(["task", "segment", "segment"]))
    return Pattern("p", "", granularity, tuple(tasks), "p.yaml", "0" * 64)


@given(patterns())
def test_nothing_is_lost_and_order_is_kept(pattern: Pattern) -> None:
    found = segments(pattern, BOUNDARY, RUN_ON)
    home = {task.id: segment for segment in found for task in segment.tasks}
    assert (
        sorted(task.id for segment in found for task in segment.tasks)
        == sorted(home)
        == sorted(task.id for task in pattern.tasks)
    )
    assert len({segment.id for segment in found}) == len(found)
    position = {segment.id: number for number, segment in enumerate(found)}
    for segment in found:
        assert all(position[upstream] < position[segment.id] for upstream in segment.after)
    list(graphlib.TopologicalSorter({segment.id: segment.after for segment in found}).static_order())
    for task in pattern.tasks:
        segment = home[task.id]
        inside = [each.id for each in segment.tasks]
        for upstream in task.after:
            if home[upstream] is segment:
                assert inside.index(upstream) + 1 == inside.index(task.id)
            else:
                assert home[upstream].id in segment.after
                assert inside[0] == task.id
    # No dependency that the pattern does not have.
    for segment in found:
        assert set(segment.after) == {home[each].id for each in segment.tasks[0].after}


@given(patterns())
def test_what_is_joined_may_be_and_what_may_be_is(pattern: Pattern) -> None:
    found = segments(pattern, BOUNDARY, RUN_ON)
    home = {task.id: segment.id for segment in found for task in segment.tasks}
    tasks = {task.id: task for task in pattern.tasks}

    def place(task: TaskSpec) -> str:
        return task.run_on or RUN_ON.get(task.type, "triggerer")

    for task in pattern.tasks:
        for upstream in task.after:
            before = tasks[upstream]
            followers = [each for each in pattern.tasks if upstream in each.after]
            allowed = (
                pattern.granularity == "segment"
                and len(task.after) == 1
                and len(followers) == 1
                and place(task) == place(before) == "triggerer"
                and task.resource == before.resource
                and task.queue == before.queue
                and "monitor" not in {task.type, before.type}
                and task.trigger_rule == "all_success"
            )
            assert (home[task.id] == home[upstream]) == allowed


@given(patterns())
def test_handling_of_a_segment(pattern: Pattern) -> None:
    for segment in segments(pattern, BOUNDARY, RUN_ON):
        first = segment.tasks[0]
        assert segment.retries == max(task.retries for task in segment.tasks)
        assert segment.trigger_rule == first.trigger_rule
        deadlines = [task.deadline_s for task in segment.tasks]
        assert segment.deadline_s == (None if None in deadlines else sum(each or 0 for each in deadlines))
        assert len(segment.id) <= 250
        if pattern.granularity == "task":
            assert segment.id == first.id
            assert segment.after == first.after
            assert len(segment.tasks) == 1


def chain(ids: list[str], **fields: Any) -> Pattern:
    tasks = [
        TaskSpec(id=name, type="stage_in", after=(ids[number - 1],) if number else (), parameters={}, **fields)
        for number, name in enumerate(ids)
    ]
    return Pattern("p", "", "segment", tuple(tasks), "p.yaml", "0" * 64)


def test_long_ids_stay_distinct() -> None:
    one = segments(chain(["a" * 100, "b" * 100, "c" * 100]), (), {})
    two = segments(chain(["a" * 100, "b" * 100, "d" * 100]), (), {})
    assert len(one) == len(two) == 1
    assert len(one[0].id) == 250
    assert one[0].id != two[0].id


def test_worker_tasks_stay_alone() -> None:
    assert len(segments(chain(["a", "b"], run_on="worker"), (), {})) == 2
