"""Segments: whatever the graph, nothing is lost, order is kept, and chains are as long as can be."""

from __future__ import annotations

import dataclasses
import graphlib
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.models.pattern import Pattern, TaskSpec, TriggerRule, load_pattern
from airavata_provider.models.segments import Segment, linked, segments
from airavata_provider.models.trigger_rules import BAD, End, verdict
from airavata_provider.tasks.registry import parameter_models
from airavata_provider.triggers.hosted import HostedTask
from airavata_provider.triggers.progress import before, outcome

PATTERNS = Path(__file__).parents[3] / "patterns"
RULES = get_args(TriggerRule)
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
                trigger_rule=draw(st.sampled_from(["all_success", "all_success", "all_success", *RULES])),
            )
        )
    granularity: Literal["task", "segment"] = draw(st.sampled_from(["task", "segment", "segment"]))
    return Pattern("p", "", granularity, tuple(tasks), "p.yaml", "0" * 64)


@given(patterns())
def test_nothing_is_lost_and_order_is_kept(pattern: Pattern) -> None:
    found = segments(pattern, RUN_ON)
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
        inside = [each.id for each in segment.tasks]
        for number, task in enumerate(segment.tasks):
            if number == 0:
                assert {home[each].id for each in task.after} == set(segment.after)
            else:
                assert task.after
                assert set(task.after) <= set(inside[:number])
    list(graphlib.TopologicalSorter({segment.id: segment.after for segment in found}).static_order())


def place(task: TaskSpec) -> str:
    return task.run_on or RUN_ON.get(task.type, "triggerer")


@given(patterns())
def test_what_is_joined_is_hosted_in_one_place(pattern: Pattern) -> None:
    for segment in segments(pattern, RUN_ON):
        if len(segment.tasks) > 1:
            assert pattern.granularity == "segment"
            assert {(place(task), task.resource, task.queue) for task in segment.tasks} == {
                ("triggerer", segment.tasks[0].resource, segment.tasks[0].queue)
            }


@given(patterns(), st.data())
def test_every_task_ends_as_it_would_alone(pattern: Pattern, data: st.DataObject) -> None:
    """Whichever tasks fail or are skipped by themselves: cut or not, each runs or not, and the run ends the same."""
    own: dict[str, End] = {
        task.id: data.draw(st.sampled_from(["success", "success", "failed", "skipped"])) for task in pattern.tasks
    }
    alone: dict[str, End] = {}
    for task in pattern.tasks:
        told = verdict(task.trigger_rule, [alone[each] for each in task.after])
        alone[task.id] = own[task.id] if told == "run" else told
    found = segments(pattern, RUN_ON)
    ends: dict[str, End] = {}
    of_segments: dict[str, End] = {}
    for segment in found:
        told = verdict(segment.trigger_rule, [of_segments[each] for each in segment.after])
        hosted = [HostedTask.model_validate(each) for each in hosted_of(segment)]
        upstreams = before(hosted)
        for task in segment.tasks:
            if told != "run":
                ends[task.id] = told
                continue
            inside = verdict(task.trigger_rule, [ends[each] for each in upstreams[task.id]])
            ends[task.id] = own[task.id] if inside == "run" else inside
        of_segments[segment.id] = outcome(hosted, ends) if told == "run" else told
    ran = {name for name in alone if alone[name] in ("success", "failed")}
    assert {name for name in ends if ends[name] in ("success", "failed")} == ran
    followed = {each for task in pattern.tasks for each in task.after}
    assert any(alone[task.id] in BAD for task in pattern.tasks if task.id not in followed) == any(
        of_segments[segment.id] in BAD for segment in found if not any(segment.id in other.after for other in found)
    )


def test_who_waits_for_one_done_learns_that_none_was() -> None:
    def task(number: int, queue: str | None, rule: TriggerRule) -> TaskSpec:
        after = (f"t{number - 1}",) if number else ()
        return TaskSpec(f"t{number}", "stage_in", after, {}, queue=queue, trigger_rule=rule)

    tasks = (task(0, "heavy", "all_success"), task(1, "heavy", "all_success"), task(2, None, "one_done"))
    found = segments(Pattern("p", "", "segment", tasks, "p.yaml", "0" * 64), {})
    # After t0 failed, t1 has not run, and t2 must not either.
    assert [[each.id for each in segment.tasks] for segment in found] == [["t0"], ["t1"], ["t2"]]


def hosted_of(segment: Segment) -> list[dict[str, Any]]:
    return [
        {"id": task.id, "type": task.type, **linked(task, earlier, segment)}
        for earlier, task in zip((None, *segment.tasks), segment.tasks, strict=False)
    ]


@pytest.mark.parametrize("name", ["hpc_batch", "hpc_array"])
def test_a_whole_pattern_is_one_segment(name: str) -> None:
    pattern = dataclasses.replace(load_pattern(PATTERNS / f"{name}.yaml", parameter_models()), granularity="segment")
    (only,) = segments(pattern, {})
    assert [task.id for task in only.tasks] == [task.id for task in pattern.tasks]
    assert only.waited_for == ()


def test_a_task_on_a_worker_parts_those_before_it_from_those_after_it() -> None:
    pattern = load_pattern(PATTERNS / "hpc_parsed.yaml", parameter_models())
    found = segments(dataclasses.replace(pattern, granularity="segment"), RUN_ON)
    assert [[task.id for task in segment.tasks] for segment in found] == [
        ["environment_setup", "stage_in", "submit", "monitor", "stage_out"],
        ["parse"],
        ["clean_up"],
    ]
    assert found[0].waited_for == ("monitor", "stage_out")


def test_what_others_wait_for_in_the_middle_ends_a_segment() -> None:
    tasks = (
        TaskSpec("a", "stage_in", (), {}),
        TaskSpec("b", "stage_in", ("a",), {}),
        TaskSpec("c", "stage_in", ("b",), {}),
        TaskSpec("logs", "docker_parser", ("b",), {}, trigger_rule="one_failed"),
    )
    found = segments(Pattern("p", "", "segment", tasks, "p.yaml", "0" * 64), RUN_ON)
    assert [segment.id for segment in found] == ["a-b", "c", "logs"]


@given(patterns())
def test_handling_of_a_segment(pattern: Pattern) -> None:
    for segment in segments(pattern, RUN_ON):
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
    one = segments(chain(["a" * 100, "b" * 100, "c" * 100]), {})
    two = segments(chain(["a" * 100, "b" * 100, "d" * 100]), {})
    assert len(one) == len(two) == 1
    assert len(one[0].id) == 250
    assert one[0].id != two[0].id


def test_worker_tasks_stay_alone() -> None:
    assert len(segments(chain(["a", "b"], run_on="worker"), {})) == 2
