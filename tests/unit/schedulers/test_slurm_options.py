"""A request in SLURM's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.errors import (
    ConfigurationError,
)
from airavata_provider.schedulers.request import (
    BY_SCHEDULER,
    Array,
    Dependency,
    DependencyKind,
    Element,
    MailEvent,
    Signal,
)
from airavata_provider.schedulers.slurm import Slurm
from tests.unit.schedulers.requests import request

slurm = Slurm()


def test_directives() -> None:
    lines = slurm.directives(
        request(
            queue="debug", nodes=2, tasks=8, cpus_per_task=4, memory_mb=2000, gpus=1, walltime_s=90061, account="a b",
            qos="high", reservation="r", comment='say "hi"\n#\\', directives=("--nice=5", "#SBATCH -x n1"),
            tasks_per_node=4, gpu_type="a100", exclusive=True, constraint="fast&ib", licenses=("abaqus:2", "matlab"),
            array=Array(tuple(Element(index, "/s/d") for index in (0, 1, 2, 3, 7)), throttle=2),
            after=(
                Dependency("12"), Dependency("13_4", DependencyKind.ENDED),
                Dependency("14", DependencyKind.FAILED), Dependency("15", DependencyKind.STARTED),
            ),
            mail_to="a@b.org", mail_events=frozenset(MailEvent), export=("HOME", "LANG"), signal_before_end_s=90,
            signal=Signal.TERM,
        )
    )  # fmt: skip
    assert lines == [
        "#SBATCH --job-name=ajob",
        "#SBATCH --chdir=/s/d",
        "#SBATCH --output=/s/d/.airavata/ajob/%a/log",
        "#SBATCH --open-mode=append",
        '#SBATCH --comment="say \\"hi\\" #\\\\"',
        "#SBATCH --partition=debug",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks=8",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=2000M",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --time=1-01:01:01",
        '#SBATCH --account="a b"',
        "#SBATCH --qos=high",
        "#SBATCH --reservation=r",
        "#SBATCH --exclusive",
        '#SBATCH --constraint="fast&ib"',
        "#SBATCH --licenses=abaqus:2,matlab",
        "#SBATCH --array=0-3,7%2",
        "#SBATCH --dependency=afterok:12,afterany:13_4,afternotok:14,after:15",
        "#SBATCH --mail-type=BEGIN,END,FAIL,REQUEUE",
        "#SBATCH --mail-user=a@b.org",
        "#SBATCH --export=HOME,LANG",
        "#SBATCH --signal=B:USR1@90",
        "#SBATCH --nice=5",
        "#SBATCH -x n1",
    ]


def test_a_percent_sign_is_none_of_slurms() -> None:
    lines = slurm.directives(request(directory="/s/50%"))
    assert "#SBATCH --output=/s/50%%/.airavata/ajob/log" in lines


def test_a_raw_signal_takes_the_place_of_ours() -> None:
    asked = request(walltime_s=3600, signal_before_end_s=90, directives=("--signal=B:USR1@300",))
    assert [line for line in slurm.directives(asked) if "--signal" in line] == ["#SBATCH --signal=B:USR1@300"]


@pytest.mark.parametrize(
    "line", ["-M other", "--clusters=other", "-a 1-3", "--array=1", "--wait", "-W", "--arr=1", "-W --x", '"', "x\ny"]
)
def test_directives_that_would_hide_the_job_are_refused(line: str) -> None:
    with pytest.raises(ConfigurationError):
        slurm.directives(request(directives=(line,)))


@given(st.text())
def test_free_text_never_starts_a_second_line(text: str) -> None:
    for line in slurm.directives(request(comment=text)):
        assert len(line.splitlines()) == 1
        assert line.startswith("#SBATCH --")


def test_every_field_has_words() -> None:
    assert {name for option in slurm.options for name in option.fields} == BY_SCHEDULER
    assert slurm.unsupported(request()) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"gpus": 1, "gpu_type": "a100:4,license"},
        {"licenses": ("a,b",)},
        {"after": (Dependency("12,after:13"),)},
        {"export": ("A=b",)},
    ],
)
def test_what_a_list_cannot_hold_is_told(fields: dict[str, object]) -> None:
    told = slurm.unsupported(request(**fields))
    assert set(told) == set(fields)
    assert not [line for line in slurm.directives(request(**fields)) if "," in line]


def test_raw_directives_take_places() -> None:
    queue, deployment = ("-C slow", "--nice=5", "--mem=1G"), ("--constraint=fast", "!--mem", "!--ntasks")
    merged = slurm.merge_directives(queue, deployment)
    assert merged == ("--nice=5", "--constraint=fast", "!--mem", "!--ntasks")
    lines = slurm.directives(request(memory_mb=100, constraint="ours", nodes=2, directives=merged))
    assert [line for line in lines if "--mem" in line or "--ntasks" in line or "ours" in line] == []
    assert lines[-2:] == ["#SBATCH --nice=5", "#SBATCH --constraint=fast"]
    assert "#SBATCH --nodes=2" in lines


def test_a_value_that_no_directive_carries_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--account"):
        slurm.directives(request(account="a\nb"))
