"""A job's own exit record beside its scheduler's word, and the same end from the same evidence on every scheduler."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers import ends
from airavata_provider.schedulers.base import JobRef, JobStatus
from airavata_provider.schedulers.record import ExitRecord, parse_exit_record
from airavata_provider.schedulers.registry import scheduler
from tests.unit.schedulers.captures import answer, framed

REF = JobRef("7", "ajob", "/d")
GONE: Mapping[str, Callable[[str], tuple[str, ...]]] = {
    # What each prints when neither its queue nor its history knows the job any more.
    "slurm": lambda own: (framed("records", own), framed("accounting")),
    "pbs": lambda own: (
        framed("queue", status=153, errors="qstat: Unknown Job Id 7"), framed("records", own), framed("words"),
    ),
    "torque": lambda own: (
        framed("queue", status=153, errors="qstat: Unknown Job Id Error 7"), framed("records", own), framed("words"),
    ),
    "sge": lambda own: (
        framed("told", own), framed("accounting", status=1, errors="error: job id 7 not found"),
    ),
    "lsf": lambda own: (framed("records", own), framed("history", status=255, errors="No matching job found")),
    "htcondor": lambda own: (framed("records", own), framed("events"), framed("queue"), framed("history")),
}  # fmt: skip


def record(code: int, reason: str = "") -> ExitRecord:
    """As the script writes it: a status above 128 tells of a signal."""
    return ExitRecord(code, code - 128 if code > 128 else None, reason, None, REF.native_id)


def line(own: ExitRecord) -> str:
    fields = ("exit_code", "signal", "reason", "native_id", "restart")
    return f"{own.native_id}|{json.dumps({name: getattr(own, name) for name in fields})}"


ALONE = [
    (record(0), JobState.COMPLETE, Outcome.COMPLETED),
    (record(3), JobState.FAILED, Outcome.FAILED),
    (record(139), JobState.FAILED, Outcome.SIGNALED),
    (record(143, "SIGNAL TERM"), JobState.FAILED, Outcome.SIGNALED),
    (record(0, "SIGNAL TERM"), JobState.FAILED, Outcome.SIGNALED),
    (record(143, "WALLTIME"), JobState.FAILED, Outcome.WALLTIME),
    (record(0, "WALLTIME"), JobState.FAILED, Outcome.WALLTIME),
]


@pytest.mark.parametrize("name", GONE)
@pytest.mark.parametrize(("own", "state", "outcome"), ALONE)
def test_a_record_alone_tells_the_same_end_on_every_scheduler(
    name: str, own: ExitRecord, state: JobState, outcome: Outcome
) -> None:
    end = scheduler(name).parse_history(answer(*GONE[name](line(own))), [REF])[REF.native_id]
    assert (end.state, end.outcome, end.native_state) == (state, outcome, "EXIT RECORD")
    assert (end.exit_code, end.signal, end.reason) == (own.exit_code, own.signal, own.reason)


@pytest.mark.parametrize(("own", "state", "outcome"), ALONE)
def test_a_process_that_ended_by_itself_is_told_alike(own: ExitRecord, state: JobState, outcome: Outcome) -> None:
    text = line(own).replace("|", "|ENDED|", 1)
    end = scheduler("fork").parse_history(answer(framed("processes", text)), [REF])[REF.native_id]
    assert (end.state, end.outcome, end.native_state) == (state, outcome, "ENDED")


@pytest.mark.parametrize(
    ("own", "state", "outcome"),
    [
        (record(143, "SIGNAL TERM"), JobState.CANCELED, Outcome.CANCELED),
        # Told to stop in its last minute: the script takes that for the walltime, and we know better.
        (record(143, "WALLTIME"), JobState.CANCELED, Outcome.CANCELED),
        # It ended by itself before it noticed.
        (record(0), JobState.COMPLETE, Outcome.COMPLETED),
        (record(3), JobState.FAILED, Outcome.FAILED),
        (record(139), JobState.FAILED, Outcome.SIGNALED),
    ],
)
@pytest.mark.parametrize("name", ["fork", "sge"])
def test_a_job_whose_end_was_asked_for_here(name: str, own: ExitRecord, state: JobState, outcome: Outcome) -> None:
    if name == "fork":
        result = answer(framed("processes", line(own).replace("|", "|CANCELED|", 1)))
    else:
        result = answer(*GONE[name](f"{line(own)}\n{REF.native_id}|CANCEL"))
    end = scheduler(name).parse_history(result, [REF])[REF.native_id]
    assert (end.state, end.outcome) == (state, outcome)


FAILED = JobStatus("7", JobState.FAILED, "FAILED", "ajob", 1, None, "", Outcome.FAILED)


@pytest.mark.parametrize(
    ("told", "own", "outcome"),
    [
        # The scheduler sees a status or a signal, the script why.
        (Outcome.FAILED, record(139), Outcome.SIGNALED),
        (Outcome.FAILED, record(143, "WALLTIME"), Outcome.WALLTIME),
        (Outcome.SIGNALED, record(143, "WALLTIME"), Outcome.WALLTIME),
        (Outcome.SIGNALED, record(3), Outcome.FAILED),
        # The scheduler knows why it ended the job, whatever the script made of it.
        (Outcome.WALLTIME, record(143, "SIGNAL TERM"), Outcome.WALLTIME),
        (Outcome.OUT_OF_MEMORY, record(137), Outcome.OUT_OF_MEMORY),
        (Outcome.NODE_FAILURE, record(143, "SIGNAL TERM"), Outcome.NODE_FAILURE),
        (Outcome.PREEMPTED, record(143, "SIGNAL TERM"), Outcome.PREEMPTED),
        # A program that ended well makes no failed job complete.
        (Outcome.FAILED, record(0), Outcome.FAILED),
        (Outcome.SIGNALED, record(0), Outcome.SIGNALED),
        (Outcome.WALLTIME, record(0), Outcome.WALLTIME),
    ],
)
def test_both_together(told: Outcome, own: ExitRecord, outcome: Outcome) -> None:
    end = ends.joined(replace(FAILED, outcome=told), own, REF)
    assert end is not None
    assert (end.state, end.outcome, end.exit_code, end.signal) == (
        JobState.FAILED, outcome, own.exit_code, own.signal,
    )  # fmt: skip
    assert end.reason or own.exit_code != 0


def test_of_a_job_that_failed_although_its_program_ended_well_something_is_said() -> None:
    end = ends.joined(FAILED, record(0), REF)
    assert end is not None
    assert end.reason == "what came after its program failed"
    told = ends.joined(replace(FAILED, reason="NonZeroExitCode"), record(0), REF)
    assert told is not None
    assert told.reason == "NonZeroExitCode"


@pytest.mark.parametrize(("own", "state", "outcome"), ALONE)
def test_where_the_scheduler_tells_no_status_the_record_is_all_there_is(
    own: ExitRecord, state: JobState, outcome: Outcome
) -> None:
    end = ends.joined(replace(FAILED, outcome=Outcome.UNKNOWN, exit_code=None), own, REF)
    assert end is not None
    assert (end.state, end.outcome, end.exit_code) == (state, outcome, own.exit_code)


def test_a_completed_job_and_one_that_goes_on_are_the_scheduler_s_to_tell() -> None:
    complete = replace(FAILED, state=JobState.COMPLETE, exit_code=0, outcome=Outcome.COMPLETED)
    assert ends.joined(complete, record(143, "SIGNAL TERM"), REF) == complete
    queued = JobStatus("7", JobState.QUEUED, "PENDING", "ajob", outcome=Outcome.UNKNOWN)
    assert ends.joined(queued, record(143, "SIGNAL TERM"), REF) == queued
    assert ends.joined(None, None, REF) is None
    assert ends.joined(FAILED, None, REF) == FAILED


@pytest.mark.parametrize(
    ("native", "code", "own", "outcome"),
    [
        # slurmd's own epilogue failed after a script that ended with 0.
        ("FAILED", "1:0", record(0), Outcome.FAILED),
        ("FAILED", "0:9", record(0), Outcome.SIGNALED),
        ("FAILED", "143:0", record(143, "WALLTIME"), Outcome.WALLTIME),
        ("TIMEOUT", "0:0", record(143, "SIGNAL TERM"), Outcome.WALLTIME),
    ],
)
def test_no_job_that_slurm_calls_failed_is_completed(
    native: str, code: str, own: ExitRecord, outcome: Outcome
) -> None:
    result = answer(framed("records", line(own)), framed("accounting", f"7|{native}|{code}|ajob"))
    end = scheduler("slurm").parse_history(result, [REF])[REF.native_id]
    assert (end.state, end.outcome) == (JobState.FAILED, outcome)


@pytest.mark.parametrize("name", ["pbs", "torque"])
@pytest.mark.parametrize(("own", "state", "outcome"), ALONE)
def test_an_end_without_a_status_on_pbs(name: str, own: ExitRecord, state: JobState, outcome: Outcome) -> None:
    shown = "Job Id: 7.pbs\n    Job_Name = ajob\n    job_state = F\n"
    queue = framed("queue", shown)
    adaptor = scheduler(name)
    assert adaptor.parse_status(answer(queue), [REF]) == {}, "the history has to tell"
    end = adaptor.parse_history(answer(queue, framed("records", line(own)), framed("words")), [REF])[REF.native_id]
    assert (end.state, end.outcome) == (state, outcome)


def test_servers_write_an_id_in_several_ways() -> None:
    own = replace(record(3), native_id="7.pbs-01")
    lines = [f"7|{line(own).partition('|')[2]}"]
    assert ends.records(lines, [REF]) == {}
    assert ends.records(lines, [REF], lambda native_id: native_id.partition(".")[0]) == {"7": own}


def test_lines_that_are_no_records_are_none() -> None:
    lines = ["", "7", "7|", "7|STARTED", "7|CANCEL", "8|{}", line(replace(record(3), native_id="8")), "7|" + "["]
    assert ends.records(lines, [REF]) == {}
    assert parse_exit_record(line(record(3)).partition("|")[2]) == record(3)
