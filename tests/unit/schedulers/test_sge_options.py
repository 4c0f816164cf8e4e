"""What is asked of Grid Engine: directives from a request's fields, and what it cannot say."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from airavata_provider.errors import ConfigurationError
from airavata_provider.schedulers.request import (
    Array,
    Dependency,
    DependencyKind,
    Element,
    JobRequest,
    MailEvent,
)
from airavata_provider.schedulers.script import write_script
from airavata_provider.schedulers.sge import Sge

sge = Sge()
FULL = JobRequest(
    name="ajob", directory="/d", executable="x", queue="all.q", tasks=4, cpus_per_task=2, memory_mb=1000, gpus=1,
    gpu_type="a100", walltime_s=90, account="science", reservation="7", exclusive=True, constraint="fast",
    licenses=("abaqus:2", "one"), after=(Dependency("12", DependencyKind.ENDED),), mail_to="a@b.c",
    mail_events=frozenset({MailEvent.BEGIN, MailEvent.FAIL}), export=("LANG",),
    site_words={"parallel_environment": "mpi", "gpus": "gpu", "gpu_type": "card", "exclusive": "excl"},
)  # fmt: skip


def array(*indices: int, throttle: int | None = None) -> Array:
    return Array(tuple(Element(index, f"/d/{index}") for index in indices), throttle)


def test_directives() -> None:
    assert [line.removeprefix("#$ ") for line in sge.directives(FULL)] == [
        "-wd /d", "-j y", "-o /dev/null", "-S /bin/bash",
        "-q all.q", "-pe mpi 8", "-l h_vmem=125M", "-l gpu=1", "-l card=a100", "-l h_rt=90", "-P science", "-ar 7",
        "-l excl=true", "-l fast", "-l abaqus=2", "-l one=1", "-hold_jid 12", "-m abe", "-M a@b.c", "-v LANG",
    ]  # fmt: skip
    assert sge.unsupported(FULL) == {}


def test_what_the_site_names_is_told_when_it_has_no_name() -> None:
    told = sge.unsupported(replace(FULL, site_words={}))
    assert set(told) == {"tasks", "cpus_per_task", "gpus", "gpu_type", "exclusive"}
    assert all("site_words" in why for why in told.values())
    assert set(sge.unsupported(replace(FULL, nodes=2, tasks_per_node=2, qos="high"))) == {
        "nodes",
        "tasks_per_node",
        "qos",
    }


@pytest.mark.parametrize(
    ("indices", "throttle", "lines"),
    [
        ((0,), None, ["-t 1-1"]),
        ((0, 1, 2), 2, ["-t 1-3", "-tc 2"]),
        ((3, 5, 7), None, ["-t 4-8:2"]),
        ((7,), None, ["-t 8-8"]),
    ],
)
def test_arrays(indices: tuple[int, ...], throttle: int | None, lines: list[str]) -> None:
    request = JobRequest("ajob", "/d", "x", array=array(*indices, throttle=throttle))
    said = [line.removeprefix("#$ ") for line in sge.directives(request)]
    assert [line for line in said if line.startswith("-t")] == lines
    assert sge.unsupported(request) == {}
    assert sge.element_id("51", 0) == "51.1"


@pytest.mark.parametrize(
    "fields",
    [
        {"array": array(0, 1, 5)},
        {"after": (Dependency("12", DependencyKind.OK),)},
        {"after": (Dependency("12.3", DependencyKind.ENDED),)},
        {"reservation": "workshop"},
        {"licenses": ("a b",)},
        {"queue": "two words"},
        {"account": "-x"},
        {"export": ("a-b",)},
    ],
)
def test_what_grid_engine_cannot_say_is_told(fields: dict[str, object]) -> None:
    request = JobRequest("ajob", "/d", "x", **fields)  # type: ignore[arg-type]
    assert set(sge.unsupported(request)) == set(fields)


@pytest.mark.parametrize("line", ["-t 1-5", "-N other", "-sync y", "-now y", "-@ file", "#$ -terse", "-l 'a"])
def test_directives_that_would_hide_the_job_are_refused(line: str) -> None:
    with pytest.raises(ConfigurationError):
        sge.directives(replace(FULL, directives=(line,)))


def test_raw_directives_take_places() -> None:
    said = sge.directives(replace(FULL, directives=("#$ -pe smp 4", "!-P", "-l h_rt=10", "-p -5")))
    assert {"#$ -pe smp 4", "#$ -l h_rt=10", "#$ -p -5"} <= set(said)
    assert not [line for line in said if line.startswith(("#$ -pe mpi", "#$ -P", "#$ -l h_rt=90"))]
    # Another resource is another option.
    assert "#$ -l h_vmem=125M" in said


def test_a_path_that_grid_engine_would_change_is_left_to_the_script() -> None:
    request = JobRequest("ajob", "/d/$HOME it's", "x")
    assert "#$ -wd /" in sge.directives(request)
    script = write_script(sge, request, None, "/d/$HOME it's/.airavata/ajob")
    assert f"cd {shlex.quote(request.directory)} || exit 1" in script
    with pytest.raises(ConfigurationError):
        sge.directives(replace(request, shell="bash"))


def test_the_notice_before_the_walltime_is_the_scripts_own() -> None:
    script = write_script(sge, JobRequest("ajob", "/d", "x", walltime_s=300, signal_before_end_s=60), None, "/c")
    assert "sleep 240 & wait $!" in script
    assert "s_rt" not in script
    assert "-notify" not in script


def test_statuses_that_mean_something_else_are_not_ended_with() -> None:
    script = write_script(sge, JobRequest("ajob", "/d", "x"), None, "/c")
    assert "airavata_reserved=' 99 100 '" in script
