"""SLURM's words for states, reasons and elements, and what they mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import JobRef
from airavata_provider.schedulers.request import (
    Array,
    Element,
)
from airavata_provider.schedulers.slurm import Slurm
from airavata_provider.schedulers.slurm_states import QUEUE_STATES, holds, neutral
from tests.unit.schedulers.captures import answer, framed
from tests.unit.schedulers.requests import request

slurm = Slurm()
REFS = [JobRef("1", "bcomplete", "/scratch/bcomplete")]


@pytest.mark.parametrize(
    ("native", "word", "state"),
    [
        ("OUT_OF_ME+", "OUT_OF_MEMORY", JobState.FAILED),
        ("CANCELLED by 1000", "CANCELLED", JobState.CANCELED),
        ("CANCELLED+", "CANCELLED", JobState.CANCELED),
        ("COMPLETING", "COMPLETING", JobState.ACTIVE),
        ("REQUEUED", "REQUEUED", JobState.QUEUED),
        ("SPECIAL_EXIT", "SPECIAL_EXIT", JobState.QUEUED),
        ("PREEMPTED", "PREEMPTED", JobState.NON_CRITICAL_FAIL),
        ("NODE_FAIL", "NODE_FAIL", JobState.NON_CRITICAL_FAIL),
        ("BOOT_FAIL", "BOOT_FAIL", JobState.NON_CRITICAL_FAIL),
        ("DEADLINE", "DEADLINE", JobState.FAILED),
        ("STOPPED", "STOPPED", JobState.SUSPENDED),
        ("SOMETHING_NEW", "SOMETHING_NEW", JobState.UNKNOWN),
        ("", "", JobState.UNKNOWN),
        ("S+", "S+", JobState.UNKNOWN),
    ],
)
def test_states_as_they_are_printed(native: str, word: str, state: JobState) -> None:
    assert neutral(native, QUEUE_STATES) == (word, state)


@given(st.text())
def test_no_state_is_a_crash(native: str) -> None:
    neutral(native, QUEUE_STATES)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=20, unique=True), st.integers(0, 60))
def test_an_element_is_found_in_a_list_of_elements(indices: list[int], index: int) -> None:
    lines = slurm.directives(request(array=Array(tuple(Element(each, "/s") for each in indices), throttle=3)))
    (written,) = [line.partition("=")[2] for line in lines if "--array" in line]
    state = slurm.parse_status(
        answer(framed("queue", f"5_[{written}]|PENDING|None|ajob\n")), [JobRef(f"5_{index}", "ajob", "/s", index)]
    )
    assert bool(state) == (index in indices)


def test_steps_in_a_list_of_elements() -> None:
    assert [index for index in range(12) if holds("[0-8:4,11%2]", index)] == [0, 4, 8, 11]


@pytest.mark.parametrize(
    ("native", "reason", "outcome"),
    [
        ("OUT_OF_ME+", "OutOfMemory", Outcome.OUT_OF_MEMORY),
        ("TIMEOUT", "TimeLimit", Outcome.WALLTIME),
        ("DEADLINE", "DeadLine", Outcome.WALLTIME),
        ("NODE_FAIL", "NodeDown", Outcome.NODE_FAILURE),
        ("BOOT_FAIL", "None", Outcome.NODE_FAILURE),
        ("PREEMPTED", "None", Outcome.PREEMPTED),
        ("CANCELLED by 1001", "None", Outcome.CANCELED),
        ("COMPLETED", "None", Outcome.COMPLETED),
        ("FAILED", "NonZeroExitCode", Outcome.FAILED),
        ("FAILED", "RaisedSignal:11(Segmentation_fault)", Outcome.SIGNALED),
        ("FAILED", "BadConstraints", Outcome.NEVER_STARTS),
        ("SUSPENDED", "None", Outcome.SUSPENDED),
        ("RUNNING", "None", None),
        ("PENDING", "Priority", None),
        ("PENDING", "Resources", None),
        ("PENDING", "AssocMaxJobsLimit", None),
        ("PENDING", "QOSMaxCpuPerUserLimit", None),
        ("PENDING", "QOSMaxJobsPerUserLimit", None),
        ("PENDING", "AssocGrpCpuLimit", None),
        ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1", None),
        ("PENDING", "PartitionTimeLimit", Outcome.NEVER_STARTS),
        ("PENDING", "QOSMaxCpuPerJobLimit", Outcome.NEVER_STARTS),
        ("PENDING", "QOSMaxNodePerJobLimit", Outcome.NEVER_STARTS),
        ("PENDING", "QOSMaxMemoryPerJob", Outcome.NEVER_STARTS),
        ("PENDING", "QOSMaxWallDurationPerJobLimit", Outcome.NEVER_STARTS),
        ("PENDING", "AssocMaxWallDurationPerJobLimit", Outcome.NEVER_STARTS),
        ("PENDING", "AssocMaxCpuPerJobLimit", Outcome.NEVER_STARTS),
        ("PENDING", "InvalidQOS", Outcome.NEVER_STARTS),
        ("PENDING", "InvalidAccount", Outcome.NEVER_STARTS),
        ("PENDING", "DependencyNeverSatisfied", Outcome.NEVER_STARTS),
        ("PENDING", "JobHeldUser", Outcome.HELD),
        ("PENDING", "JobHeldAdmin", Outcome.HELD),
        ("PENDING", "launch_failed_requeued_held", Outcome.HELD),
    ],
)
def test_outcomes(native: str, reason: str, outcome: Outcome | None) -> None:
    found = slurm.parse_status(answer(framed("queue", f"1|{native}|{reason}|bcomplete|debug|1|1\n")), REFS)
    assert found["1"].outcome is outcome


@pytest.mark.parametrize("reason", ["PartitionConfig", "PartitionNodeLimit"])
@pytest.mark.parametrize(
    ("asked", "sizes", "outcome"),
    [
        ("debug|1|100", "sizes|debug|1|0/0/64/64|1-infinite\n", Outcome.NEVER_STARTS),
        ("debug|2|2", "sizes|debug|1|0/64/0/64|1-infinite\n", Outcome.NEVER_STARTS),
        ("debug|9|9", "sizes|debug|100|0/6400/0/6400|1-8\n", Outcome.NEVER_STARTS),
        ("debug|1|64", "sizes|debug|1|0/0/64/64|1-infinite\n", None),  # its nodes are down
        ("debug,long|2|2", "sizes|debug|1|0/64/0/64|1-infinite\nsizes|long|4|0/64/0/64|1-infinite\n", None),
        ("debug|1|100", "", None),
        ("debug|1|100", "sizes|debug|?|?|?\n", None),
    ],
)
def test_larger_than_the_partition_is_told_from_nodes_that_are_down(
    reason: str, asked: str, sizes: str, outcome: Outcome | None
) -> None:
    lines = f"1|PENDING|{reason}|bcomplete|{asked}\n{sizes}"
    assert slurm.parse_status(answer(framed("queue", lines)), REFS)["1"].outcome is outcome
