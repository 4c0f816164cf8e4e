"""A request in LSF's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.errors import (
    ConfigurationError,
)
from airavata_provider.schedulers.lsf import Lsf
from airavata_provider.schedulers.request import (
    Dependency,
    DependencyKind,
    MailEvent,
)
from tests.unit.schedulers.requests import array, request

lsf = Lsf()


def test_the_table() -> None:
    asked = request(
        queue="normal", nodes=2, tasks=8, cpus_per_task=2, memory_mb=4096, gpus=2, gpu_type="A100", walltime_s=3601,
        account="chem07", qos="gold", reservation="user1#0", exclusive=True, constraint="type == X86_64 && avx2",
        licenses=("ansys:2", "matlab"), after=(Dependency("12"), Dependency("13[4]", DependencyKind.ENDED)),
        mail_to="a@b.org", mail_events=frozenset({MailEvent.BEGIN, MailEvent.END}), export=("ALL",),
        directives=("-app docker", "#BSUB -sp 20"),
    )  # fmt: skip
    assert list(lsf.directives(asked)) == [
        "#BSUB -J ajob",
        "#BSUB -o .airavata/ajob/log",
        "#BSUB -q normal",
        "#BSUB -n 16",
        '#BSUB -R "span[ptile=8]"',
        '#BSUB -R "rusage[mem=4096MB]"',
        '#BSUB -gpu "num=2:gmodel=A100"',
        "#BSUB -W 61",
        "#BSUB -P chem07",
        "#BSUB -sla gold",
        "#BSUB -U user1#0",
        "#BSUB -x",
        '#BSUB -R "select[type == X86_64 && avx2]"',
        '#BSUB -R "rusage[ansys=2]"',
        '#BSUB -R "rusage[matlab=1]"',
        '#BSUB -w "done(12) && ended(13[4])"',
        "#BSUB -u a@b.org",
        "#BSUB -B",
        "#BSUB -N",
        '#BSUB -env "all"',
        "#BSUB -app docker",
        "#BSUB -sp 20",
    ]
    assert lsf.unsupported(asked) == {}


def test_defaults_ask_for_one_slot_on_one_host() -> None:
    assert list(lsf.directives(request())) == [
        "#BSUB -J ajob", "#BSUB -o .airavata/ajob/log", "#BSUB -n 1", '#BSUB -R "span[hosts=1]"',
    ]  # fmt: skip


def test_an_array_counts_from_one_in_lsf_and_from_zero_here() -> None:
    asked = request(array=array(0, 1, 2, 6, throttle=2))
    assert '#BSUB -J "ajob[1-3,7]%2"' in lsf.directives(asked)
    assert "bsub -J 'ajob[1-3,7]%2' <" in lsf.submit_command("/s/d/script", asked)
    assert lsf.element_id("12", 6) == "12[7]"
    assert lsf.index_expression == "$((LSB_JOBINDEX - 1))"


def test_an_array_with_more_gaps_than_lsf_can_say() -> None:
    asked = request(array=array(*range(0, 4000, 2)))
    assert "longer than LSF takes" in lsf.unsupported(asked)["array"]
    with pytest.raises(ConfigurationError, match="longer than LSF takes"):
        lsf.submit_command("/s", asked)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"mail_events": frozenset({MailEvent.REQUEUE}), "mail_to": "a@b"}, "mail_events"),
        ({"nodes": 4, "tasks": 2}, "nodes"),
        ({"nodes": 3, "tasks": 8, "tasks_per_node": 4}, "tasks_per_node"),
        ({"gpu_type": "A100"}, "gpu_type"),
    ],
)
def test_what_lsf_has_no_words_for_is_told(fields: dict[str, object], name: str) -> None:
    assert name in lsf.unsupported(request(**fields))


def test_tasks_per_node_memory_limits_and_mail_of_failures() -> None:
    lines = lsf.directives(request(tasks=8, tasks_per_node=4, memory_mb=100))
    assert '#BSUB -R "span[ptile=4]"' in lines
    assert not any(line.startswith("#BSUB -M") for line in lines), "several hosts: the limit counts the whole job"
    assert "#BSUB -M 100MB" in lsf.directives(request(memory_mb=100))
    assert "#BSUB -Ne" in lsf.directives(request(mail_events=frozenset({MailEvent.FAIL})))
    assert '#BSUB -env "none"' in lsf.directives(request(export=()))


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "a b"},
        {"name": 'a"[1]'},
        {"queue": "a b"},
        {"queue": "a\n#BSUB -x"},
        {"account": "$(x)"},
        {"constraint": 'a] "'},
        {"constraint": "a] rusage[mem=1"},
        {"licenses": ("a=1]",)},
        {"after": (Dependency("12) || done(1"),)},
        {"export": ("A=1",)},
        {"mail_events": frozenset({MailEvent.END}), "mail_to": "a b"},
        {"directives": ("-J other",)},
        {"directives": ("-q x -K",)},
        {"directives": ("-cwd /x",)},
        {"directives": ("-q x\n-J y",)},
    ],
)
def test_values_that_no_directive_may_carry(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        lsf.directives(request(**fields))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_value_breaks_out_of_its_directive(text: str) -> None:
    for field in ("queue", "account", "qos", "reservation", "constraint", "gpu_type"):
        try:
            lines = list(lsf.directives(request(gpus=1, **{field: text})))
        except ConfigurationError:
            continue
        for line in lines:
            assert line.startswith("#BSUB -")
            assert len(line.splitlines()) == 1
            assert line.count('"') in (0, 2)
