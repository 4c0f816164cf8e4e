"""A request as a submit description."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.errors import (
    ConfigurationError,
)
from airavata_provider.schedulers.htcondor import HTCondor
from airavata_provider.schedulers.htcondor_options import HOPELESS, value
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.request import MailEvent
from tests.unit.schedulers.requests import array, request

condor = HTCondor()


def description(**fields: object) -> list[str]:
    asked = request(**fields)
    return condor.side_files(asked, control_directory(asked.directory, asked.name))["submit"].splitlines()


def test_a_description() -> None:
    assert description(
        tasks=4, cpus_per_task=2, memory_mb=4096, gpus=2, gpu_type="A100", walltime_s=300, account="group_chem.sci",
        constraint='OpSysMajorVer == 9 && HasX =?= "y"', licenses=("ansys:2", "matlab"), mail_to="a@b.org",
        mail_events=frozenset({MailEvent.END}), export=("HOME", "LANG"),
        directives=('+ProjectName = "x"', "request_disk = 1GB"),
    ) == [
        "universe = vanilla",
        "executable = /s/d/.airavata/ajob/script",
        "transfer_executable = False",
        "should_transfer_files = NO",
        "initialdir = /s/d",
        "log = /s/d/.airavata/ajob/events",
        "output = /s/d/.airavata/ajob/log",
        "error = /s/d/.airavata/ajob/log.err",
        'environment = "AIRAVATA_NATIVE=$(Cluster).$(Process)"',
        "batch_name = ajob",
        '+AiravataJob = "ajob"',
        f"periodic_remove = JobStatus == 5 && member(HoldReasonCode, {{{', '.join(map(str, HOPELESS))}}})",
        "leave_in_queue = (JobStatus == 3 || JobStatus == 4) && time() - EnteredCurrentStatus < 600",
        "request_cpus = 8",
        "request_memory = 4096",
        "request_gpus = 2",
        'require_gpus = regexp("A100", DeviceName)',
        "allowed_execute_duration = 420",
        "accounting_group = group_chem.sci",
        'requirements = OpSysMajorVer == 9 && HasX =?= "y"',
        "concurrency_limits = ansys:2, matlab",
        "notification = Complete",
        "notify_user = a@b.org",
        "getenv = HOME, LANG",
        '+ProjectName = "x"',
        "request_disk = 1GB",
        "queue",
    ]  # fmt: skip
    assert list(condor.directives(request(memory_mb=1))) == [], "the script has none"


def test_a_description_of_an_array() -> None:
    lines = description(array=array(7, 1, 3, throttle=2))
    assert lines[-1] == "queue airavata_item in (1, 3, 7)"
    assert "max_materialize = 2" in lines
    assert "log = /s/d/.airavata/ajob/events.$(airavata_item)" in lines
    assert 'environment = "AIRAVATA_NATIVE=$(Cluster)[$(airavata_item)] AIRAVATA_ITEM=$(airavata_item)"' in lines
    assert "+AiravataIndex = $(airavata_item)" in lines
    assert '+AiravataIndices = "1,3,7"' in lines
    assert not any(line.startswith("leave_in_queue") for line in lines), "it would keep the others out"
    assert any(line.startswith("leave_in_queue") for line in description(array=array(0)))


def test_a_sites_own_line_takes_the_tables_place() -> None:
    lines = description(memory_mb=100, directives=("Request_Memory = 1 GB",))
    assert [line for line in lines if line.lower().startswith("request_memory")] == ["Request_Memory = 1 GB"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"nodes": 2}, "nodes"),
        ({"tasks": 8, "tasks_per_node": 4}, "tasks"),
        ({"mail_events": frozenset({MailEvent.BEGIN})}, "mail_events"),
        ({"gpu_type": "A100"}, "gpu_type"),
        ({"queue": "long"}, "queue"),
        ({"qos": "gold"}, "qos"),
        ({"reservation": "r"}, "reservation"),
        ({"exclusive": True}, "exclusive"),
    ],
)
def test_what_htcondor_has_no_words_for_is_told(fields: dict[str, object], name: str) -> None:
    assert name in condor.unsupported(request(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"name": 'a" b'},
        {"directory": "/a\nqueue 5"},
        {"directory": "/a\\"},
        {"directory": "/a/$$(x)"},
        {"directory": "/a "},
        {"account": "a b"},
        {"constraint": "x\nqueue"},
        {"gpus": 1, "gpu_type": '", y'},
        {"licenses": ("a b",)},
        {"export": ("A=1",)},
        {"mail_events": frozenset({MailEvent.END}), "mail_to": "a b"},
        {"directives": ("queue 5",)},
        {"directives": ("Queue",)},
        {"directives": ("executable = /bin/true",)},
        {"directives": ("LOG=/dev/null",)},
        {"directives": ("environment = A=1",)},
        {"directives": ("+AiravataJob = 1",)},
        {"directives": ("a = 1\nqueue",)},
    ],
)
def test_values_that_no_description_may_carry(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        description(**fields)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_value_breaks_out_of_its_line(text: str) -> None:
    try:
        carried = value(text)
    except ConfigurationError:
        return
    assert len(carried.splitlines()) == 1
    assert carried.replace("$(DOLLAR)", "$") == text
    assert "$(" not in carried.replace("$(DOLLAR)", "")
