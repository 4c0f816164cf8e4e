"""A request in the words of PBS and of Torque."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.errors import (
    ConfigurationError,
)
from airavata_provider.schedulers.pbs import PBS, PBSFamily
from airavata_provider.schedulers.request import (
    Dependency,
    DependencyKind,
    MailEvent,
)
from airavata_provider.schedulers.torque import Torque
from tests.unit.schedulers.requests import array, request

pbs, torque = PBS(), Torque()
both = pytest.mark.parametrize("adaptor", [pbs, torque], ids=["pbs", "torque"])

EVERYTHING = request(
    queue="q1", nodes=2, tasks=6, tasks_per_node=3, cpus_per_task=2, memory_mb=4000, gpus=1, walltime_s=3700,
    account="acc", exclusive=True, constraint="ib", licenses=("abaqus:2", "matlab"),
    array=array(0, 1, 2, 3, throttle=2),
    after=(Dependency("12.pbs"), Dependency("13[].pbs", DependencyKind.ENDED),
           Dependency("14.pbs", DependencyKind.STARTED)),
    mail_to="a@b.org", mail_events=frozenset({MailEvent.BEGIN, MailEvent.END, MailEvent.FAIL}),
    export=("HOME", "LANG"),
)  # fmt: skip


def test_everything_that_pbs_can_say() -> None:
    assert pbs.directives(EVERYTHING) == [
        "#PBS -N ajob",
        "#PBS -j oe",
        "#PBS -o /s/d/.airavata/ajob/^array_index^/scheduler.log",
        "#PBS -S /bin/bash",
        "#PBS -q q1",
        "#PBS -l select=2:ncpus=6:mpiprocs=3:ompthreads=2:mem=4000mb:ngpus=1:ib",
        "#PBS -l place=scatter:excl",
        "#PBS -l abaqus=2",
        "#PBS -l matlab=1",
        "#PBS -J 0-3%2",
        "#PBS -W depend=afterok:12.pbs,afterany:13[].pbs,after:14.pbs",
        "#PBS -l walltime=01:01:40",
        "#PBS -A acc",
        "#PBS -m bea",
        "#PBS -M a@b.org",
        "#PBS -v HOME,LANG",
    ]


def test_everything_that_torque_can_say() -> None:
    assert torque.directives(replace(EVERYTHING, qos="high", reservation="res.1")) == [
        "#PBS -N ajob",
        "#PBS -j oe",
        "#PBS -o /s/d/.airavata/ajob/scheduler.log",
        "#PBS -S /bin/bash",
        "#PBS -q q1",
        "#PBS -l nodes=2:ppn=6:gpus=1:ib",
        "#PBS -l mem=8000mb",
        "#PBS -n",
        "#PBS -t 0-3%2",
        "#PBS -W depend=afterok:12.pbs,afteranyarray:13[].pbs,after:14.pbs",
        "#PBS -l qos=high",
        "#PBS -l advres=res.1",
        "#PBS -l gres=abaqus:2+matlab:1",
        "#PBS -l walltime=01:01:40",
        "#PBS -A acc",
        "#PBS -m bea",
        "#PBS -M a@b.org",
        "#PBS -v HOME,LANG",
    ]


@pytest.mark.parametrize(
    ("indices", "word"),
    [((4,), "-J 4-5:2"), ((0, 1, 2), "-J 0-2"), ((1, 4, 7), "-J 1-7:3")],
)
def test_an_array_s_numbers_are_one_range(indices: Sequence[int], word: str) -> None:
    assert f"#PBS {word}" in pbs.directives(request(array=array(*indices)))


@given(st.sets(st.integers(0, 30), min_size=1, max_size=5), st.none() | st.integers(1, 4))
@settings(max_examples=100)
def test_an_array_is_said_as_it_is_meant_or_told(indices: set[int], throttle: int | None) -> None:
    asked = request(array=array(*sorted(indices), throttle=throttle))
    lines = [line for line in pbs.directives(asked) if line.startswith("#PBS -J ")]
    assert ("array" in pbs.unsupported(asked)) is (not lines)
    for line in lines:
        words, _, limit = line.removeprefix("#PBS -J ").partition("%")
        span, _, step = words.partition(":")
        first, last = (int(each) for each in span.split("-"))
        assert set(range(first, last + 1, int(step or 1))) == indices
        assert first < last
        assert limit == (str(throttle) if throttle else "")


def test_what_pbs_cannot_say_is_told() -> None:
    asked = request(qos="high", gpu_type="a100", mail_events=frozenset({MailEvent.REQUEUE}), array=array(0, 1, 5))
    assert set(pbs.unsupported(asked)) >= {"qos", "gpu_type", "mail_events", "array"}
    assert not {"qos", "array"} & set(torque.unsupported(asked))


@both
@pytest.mark.parametrize("line", ["-N other", "-I", "-W block=true", "-Wblock=true", "-z", "-q 'x", "-l a=b -N x"])
def test_a_raw_directive_with_which_the_job_could_not_be_followed(adaptor: PBSFamily, line: str) -> None:
    with pytest.raises(ConfigurationError):
        adaptor.directives(request(directives=(line,)))


@both
def test_a_raw_directive_takes_the_place_of_the_table_s(adaptor: PBSFamily) -> None:
    lines = adaptor.directives(request(queue="q1", walltime_s=60, directives=("-qother", "!-l walltime")))
    assert [line for line in lines if " -q" in line or "walltime" in line] == ["#PBS -qother"]


def test_a_path_that_pbs_would_take_for_something_else_is_not_given_to_it() -> None:
    assert "#PBS -o /dev/null" in pbs.directives(request(directory="/s/a b"))
    assert "#PBS -o /dev/null" in pbs.directives(request(directory="/s/host:x"))
