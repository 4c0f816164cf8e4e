"""SLURM's answers, captured from 22.05.8, and commands as text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.errors import (
    AnswerUnreadable,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus
from airavata_provider.schedulers.slurm import Slurm
from airavata_provider.schedulers.slurm_states import HISTORY_STATES, QUEUE_STATES
from tests.unit.schedulers.captures import SLURM, answer, capture, framed

slurm = Slurm()
NAMES = {
    "1": "bcomplete", "2": "bfailed", "3": "bsignal", "4": "btimeout", "5": "bcancelr", "6": "bcancelp",
    "7": "bhold", "8": "bimposs", "9": "btoolong", "10": "bdep", "11": "bbegin", "12": "brequeue",
    "13": "bsuspend", "14": "brun", "16": "bexit139", "24": "wrap",
}  # fmt: skip
REFS = [JobRef(native_id, name, f"/scratch/{name}") for native_id, name in NAMES.items()]


# --- states


def test_states_of_a_captured_queue() -> None:
    result = answer(framed("queue", capture(f"{SLURM}-squeue.out")), noise="Welcome!\n12|COMPLETED|None|brequeue\n")
    states = slurm.parse_status(result, REFS)
    assert {i: (s.state, s.reason) for i, s in states.items()} == {
        "1": (JobState.COMPLETE, ""),
        "2": (JobState.FAILED, "NonZeroExitCode"),
        "3": (JobState.FAILED, "JobLaunchFailure"),
        "4": (JobState.FAILED, "TIMEOUT"),
        "5": (JobState.CANCELED, "CANCELLED"),
        "6": (JobState.CANCELED, "CANCELLED"),
        "7": (JobState.QUEUED, "JobHeldUser"),
        "8": (JobState.QUEUED, "PartitionConfig"),
        "9": (JobState.QUEUED, "PartitionTimeLimit"),
        "10": (JobState.QUEUED, "DependencyNeverSatisfied"),
        "11": (JobState.QUEUED, "BeginTime"),
        "12": (JobState.COMPLETE, ""),
        "13": (JobState.SUSPENDED, "SUSPENDED"),
        "14": (JobState.COMPLETE, ""),
        "16": (JobState.FAILED, "NonZeroExitCode"),
        "24": (JobState.FAILED, "BadConstraints"),
    }
    assert states["1"].exit_code == 0
    assert states["2"].exit_code is None, "squeue does not tell"


def test_a_requeued_job_is_queued_again_under_its_id() -> None:
    states = slurm.parse_status(answer(framed("queue", capture(f"{SLURM}-squeue-requeued.out"))), REFS)
    assert {i: s.state for i, s in states.items()} == {"12": JobState.QUEUED, "4": JobState.ACTIVE}


def test_another_job_that_got_the_id_is_not_ours() -> None:
    result = answer(framed("queue", "1|RUNNING|None|somebody\n"))
    assert slurm.parse_status(result, REFS) == {}


def test_of_anothers_job_without_a_name_the_id_alone_counts() -> None:
    theirs = [JobRef("1", "", "/scratch")]
    assert " -n " not in slurm.status_command(theirs)
    result = answer(framed("queue", "1|RUNNING|None|somebody\n2|RUNNING|None|else\n"))
    assert {i: s.state for i, s in slurm.parse_status(result, theirs).items()} == {"1": JobState.ACTIVE}
    ended = answer(framed("records"), framed("accounting", "1|COMPLETED|0:0|somebody"))
    assert slurm.parse_history(ended, theirs)["1"].state is JobState.COMPLETE


def test_absent_is_not_unreadable() -> None:
    assert slurm.parse_status(answer(framed("queue")), REFS) == {}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (1, f"{SLURM}-squeue-down.err"),
        (1, f"{SLURM}-squeue-expired.err"),
        (0, "slurm_load_jobs error: Socket timed out on send/recv operation"),
        (124, ""),
        (127, "sh: 1: squeue: not found"),
    ],
)
def test_an_answer_with_trouble_is_unreadable(status: int, words: str) -> None:
    words = capture(words) if words.endswith(".err") else words
    with pytest.raises(AnswerUnreadable):
        slurm.parse_status(answer(framed("queue", status=status, errors=words)), REFS)


@pytest.mark.parametrize("stdout", ["", "banner only", "AIRAVATA-BEGIN queue\n1|RUNNING|None|bcomplete\n"])
def test_a_missing_or_cut_answer_is_unreadable(stdout: str) -> None:
    with pytest.raises(AnswerUnreadable):
        slurm.parse_status(CommandResult(0, stdout, ""), REFS)


def test_what_may_run_again_in_the_queue_is_an_end_in_the_history() -> None:
    for word, state in QUEUE_STATES.items():
        if state is JobState.NON_CRITICAL_FAIL:
            assert HISTORY_STATES[word] is JobState.FAILED


@given(st.text())
def test_no_queue_is_a_crash(text: str) -> None:
    try:
        slurm.parse_status(CommandResult(0, text, text), REFS)
        slurm.parse_status(answer(framed("queue", text)), REFS)
    except AnswerUnreadable:
        pass


# --- history


def history(accounting: str, *records: str, controller: str | None = None) -> CommandResult:
    parts = [framed("records", "".join(records)), accounting]
    if controller is not None:
        parts.append(framed("controller", controller))
    return answer(*parts)


def test_a_cancel_at_the_moment_of_the_launch_is_a_cancel() -> None:
    accounting = framed("accounting", "7|FAILED|15:0|a7\n8|FAILED|15:0|a8\n9|FAILED|15:0|a9\n")
    jobs = [JobRef(str(number), f"a{number}", "/d") for number in (7, 8, 9)]
    own = json.dumps({"exit_code": 15, "signal": None, "reason": "", "native_id": "9", "restart": 0})
    ends = slurm.parse_history(history(accounting, "8|STARTED\n", f"9|{own}\n"), jobs)
    assert {name: (end.state, end.exit_code) for name, end in ends.items()} == {
        "7": (JobState.CANCELED, None),
        "8": (JobState.FAILED, 15),
        "9": (JobState.FAILED, 15),
    }


@pytest.mark.parametrize("accounting", ["", "7|RUNNING|0:0|a7\n"])
def test_who_ended_a_job_from_outside_is_for_accounting_to_tell_for_a_while(accounting: str) -> None:
    jobs = [JobRef("7", "a7", "/d")]
    own = json.dumps({"exit_code": 143, "signal": 15, "reason": "SIGNAL TERM", "native_id": "7", "restart": 0})
    assert slurm.parse_history(history(framed("accounting", accounting), f"7|{own}\n7|FRESH\n"), jobs) == {}
    late = slurm.parse_history(history(framed("accounting", accounting), f"7|{own}\n"), jobs)["7"]
    assert (late.outcome, late.exit_code) == (Outcome.SIGNALED, 143)
    told = framed("accounting", "7|CANCELLED by 1002|0:0|a7\n")
    end = slurm.parse_history(history(told, f"7|{own}\n7|FRESH\n"), jobs)["7"]
    assert (end.outcome, end.exit_code) == (Outcome.CANCELED, 143)


def test_ends_of_a_captured_history() -> None:
    ends = slurm.parse_history(history(framed("accounting", capture(f"{SLURM}-sacct.out"))), REFS)
    assert ends == {
        "1": JobStatus("1", JobState.COMPLETE, "COMPLETED", "bcomplete", 0, outcome=Outcome.COMPLETED),
        "2": JobStatus("2", JobState.FAILED, "FAILED", "bfailed", 3, outcome=Outcome.FAILED),
        "3": JobStatus("3", JobState.FAILED, "FAILED", "bsignal", None, 11, outcome=Outcome.SIGNALED),
        "4": JobStatus("4", JobState.FAILED, "TIMEOUT", "btimeout", None, None, "TIMEOUT", Outcome.WALLTIME),
        "5": JobStatus(
            "5", JobState.CANCELED, "CANCELLED", "bcancelr", None, None, "CANCELLED by 1001", Outcome.CANCELED
        ),
        "12": JobStatus("12", JobState.COMPLETE, "COMPLETED", "brequeue", 0, outcome=Outcome.COMPLETED),
        "14": JobStatus("14", JobState.COMPLETE, "COMPLETED", "brun", 0, outcome=Outcome.COMPLETED),
        "16": JobStatus("16", JobState.FAILED, "FAILED", "bexit139", 11, outcome=Outcome.FAILED),
        "24": JobStatus("24", JobState.FAILED, "FAILED", "wrap", 1, outcome=Outcome.FAILED),
    }, "jobs that accounting shows as pending or suspended have no end"


def record(native_id: str, code: int, signal: str = "null", reason: str = "") -> str:
    return (
        f'{native_id}|{{"exit_code": {code}, "signal": {signal}, "reason": "{reason}", "time":'
        f' "2026-11-21T00:51:22Z", "native_id": "{native_id}", "restart": 0}}\n'
    )


def test_the_jobs_own_record_has_the_true_exit_code() -> None:
    result = history(
        framed("accounting", capture(f"{SLURM}-sacct.out")),
        record("16", 139, "11"),
        record("4", 143, "15", "WALLTIME"),
    )
    ends = slurm.parse_history(result, REFS)
    assert (ends["16"].exit_code, ends["16"].signal, ends["16"].outcome) == (139, 11, Outcome.SIGNALED)
    assert (ends["4"].native_state, ends["4"].exit_code, ends["4"].reason) == ("TIMEOUT", 143, "TIMEOUT")
    assert ends["4"].outcome is Outcome.WALLTIME


@pytest.mark.parametrize(
    ("status", "words"),
    [(127, "sacct: not found"), (1, "Slurm accounting storage is disabled")],
)
def test_without_accounting_records_and_the_controller_tell(status: int, words: str) -> None:
    result = history(
        framed("accounting", status=status, errors=words),
        record("1", 0),
        record("2", 3),
        controller=capture(f"{SLURM}-scontrol-failed.out"),
    )
    ends = slurm.parse_history(result, REFS)
    assert {i: (s.state, s.exit_code, s.signal) for i, s in ends.items()} == {
        "1": (JobState.COMPLETE, 0, None),
        "2": (JobState.FAILED, 3, None),
        "3": (JobState.FAILED, None, 11),
    }


def test_a_record_of_another_job_in_the_same_directory_is_nobodys() -> None:
    other = record("77", 0).replace("77|", "1|")
    assert slurm.parse_history(history(framed("accounting"), other), REFS) == {}


def test_no_record_at_all_is_no_end() -> None:
    gone = framed("accounting", status=127, errors="sacct: not found")
    assert slurm.parse_history(history(gone, controller=""), REFS) == {}


def test_accounting_in_trouble_is_unreadable() -> None:
    down = framed("accounting", status=1, errors="sacct: error: Sending PersistInit msg: Connection refused")
    with pytest.raises(AnswerUnreadable, match="Connection refused"):
        slurm.parse_history(history(down, controller=""), REFS)


# --- submitting and finding


@pytest.mark.parametrize(
    ("stdout", "native_id"),
    [
        (capture(f"{SLURM}-sbatch-ok.out"), "29"),
        (capture(f"{SLURM}-sbatch-plain.out"), "30"),
        ("31;cluster\n", "31"),
        ("-----\nWelcome, you have 12 jobs\n-----\nSubmitted batch job 32\n", "32"),
        ("2026\nsite wrapper\n33\n", "33"),
    ],
)
def test_ids(stdout: str, native_id: str) -> None:
    assert slurm.parse_submit(CommandResult(0, stdout, "sbatch: note\n")) == native_id


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("partition", 1, "Invalid partition name specified"),
        ("memory", 1, "Memory specification can not be satisfied"),
        ("gres", 1, "Invalid generic resource"),
        ("reservation", 1, "Requested reservation is invalid"),
        ("option", 255, "unrecognized option '--bad'"),
        ("script", 1, "Unable to open file"),
    ],
)
def test_captured_refusals_come_in_slurms_words(name: str, status: int, words: str) -> None:
    error = capture(f"{SLURM}-sbatch-{name}.err")
    with pytest.raises(SubmissionRefused, match=words) as refused:
        slurm.parse_submit(CommandResult(status, "", error))
    assert not refused.value.transient


@pytest.mark.parametrize(
    "words",
    [
        "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates"
        " accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates",
        "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.",
    ],
)
def test_a_full_queue_is_a_refusal_that_time_cures(words: str) -> None:
    with pytest.raises(SubmissionRefused) as refused:
        slurm.parse_submit(CommandResult(1, "", words))
    assert refused.value.transient


@pytest.mark.parametrize(
    ("status", "stdout", "words"),
    [
        (1, "", capture(f"{SLURM}-sbatch-down.err")),
        (1, "", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"),
        (124, "", ""),
        (137, "", "Killed"),
        (-15, "", ""),
        (0, "", ""),
        (0, "no number here", ""),
        (1, "", ""),
        (1, "34\n", ""),
    ],
)
def test_what_may_have_been_accepted_is_uncertain(status: int, stdout: str, words: str) -> None:
    with pytest.raises(SubmissionUncertain):
        slurm.parse_submit(CommandResult(status, stdout, words))


def test_find_has_three_answers() -> None:
    empty, hit = framed("queue"), framed("queue", "41|ajob|1\n40|ajob|N/A\n7|other|1\n")
    accounting = framed("accounting", "39|ajob|1\n")
    no_accounting = framed("accounting", status=127, errors="sacct: not found")
    down = framed("accounting", status=1, errors="sacct: error: Connection refused")
    assert slurm.parse_find(answer(hit, no_accounting), "ajob") == "40"
    assert slurm.parse_find(answer(empty, accounting), "ajob") == "39"
    assert slurm.parse_find(answer(hit, down), "ajob") == "40"
    assert slurm.parse_find(answer(empty, no_accounting), "ajob") is None
    assert slurm.parse_find(answer(empty, framed("accounting")), "ajob") is None
    queue_down = framed("queue", errors="slurm_load_jobs error: Socket timed out on send/recv operation")
    for unreadable in (
        answer(empty, down),
        answer(queue_down, no_accounting),
        answer(empty),
        CommandResult(0, "", ""),
    ):
        with pytest.raises(AnswerUnreadable):
            slurm.parse_find(unreadable, "ajob")


def test_a_job_older_than_the_wish_for_it_is_not_ours() -> None:
    clock = framed("clock", "2000\n")
    queue = framed("queue", "40|ajob|1000\n41|ajob|1950\n")
    late = answer(clock, queue, framed("accounting", "39|ajob|900\n"))
    assert slurm.parse_find_within(late, "ajob", 100) == "41"
    assert slurm.parse_find_within(late, "ajob", 1000) == "40"
    assert slurm.parse_find_within(late, "ajob", 20) is None
    assert slurm.parse_find(late, "ajob") == "39"
    no_clock = answer(framed("clock", status=127), queue, framed("accounting"))
    assert slurm.parse_find_within(no_clock, "ajob", 100) == "40", "what cannot be told hides no job"


def test_an_array_is_found_by_its_own_id() -> None:
    queue = framed("queue", "3948|optarr|1795241723\n3948|optarr|1795241723\n")
    accounting = framed("accounting", "3948_0|optarr|1795241723\n3948_[2-3%2]|optarr|1795241723\n")
    assert slurm.parse_find(answer(queue, framed("accounting")), "optarr") == "3948"
    assert slurm.parse_find(answer(framed("queue"), accounting), "optarr") == "3948"


# --- arrays

ELEMENTS = [JobRef(f"3948_{index}", "optarr", "/s", index) for index in (0, 1, 2, 3, 7)]


@pytest.mark.parametrize("name", ["squeue-array", "squeue-array-ranges"])
def test_states_of_elements(name: str) -> None:
    states = slurm.parse_status(answer(framed("queue", capture(f"{SLURM}-{name}.out"))), ELEMENTS)
    assert {i: s.state for i, s in states.items()} == {
        "3948_0": JobState.ACTIVE,
        "3948_1": JobState.ACTIVE,
        "3948_2": JobState.QUEUED,
        "3948_3": JobState.QUEUED,
        "3948_7": JobState.QUEUED,
    }


def test_ends_of_elements_and_one_that_was_forgotten_while_it_waited() -> None:
    accounting = framed("accounting", capture(f"{SLURM}-sacct-array.out"))
    elements = framed("elements", capture(f"{SLURM}-squeue-array-canceled.out"))
    one = record("3948_1", 3)
    ends = slurm.parse_history(answer(elements, framed("records", one), accounting), ELEMENTS)
    assert {i: (s.state, s.reason) for i, s in ends.items()} == {
        "3948_0": (JobState.CANCELED, "CANCELLED by 1002"),
        "3948_1": (JobState.CANCELED, "CANCELLED by 1002"),
        "3948_2": (JobState.CANCELED, "CANCELLED by 1002"),
        "3948_3": (JobState.CANCELED, "CANCELLED by 1002"),
        "3948_7": (JobState.CANCELED, "cancelled while it waited"),
    }
    assert ends["3948_1"].exit_code == 3


@pytest.mark.parametrize(
    ("elements", "records", "accounting"),
    [
        ("", "", framed("accounting")),  # nobody knows the array
        ("3948_7|3948|optarr\n", "", framed("accounting")),  # the queue has it
        ("3948_1|3948|optarr\n", "3948_7|STARTED\n", framed("accounting")),  # it has begun
        ("3948_1|3948|other\n", "", framed("accounting")),  # another array has the id
        ("3948_1|3948|optarr\n", "", framed("accounting", "3948_[5-9]|PENDING|0:0|optarr\n")),
        ("3948_1|3948|optarr\n", "", framed("accounting", status=1, errors="sacct: error: refused")),
    ],
)
def test_an_element_is_not_cancelled_for_want_of_news(elements: str, records: str, accounting: str) -> None:
    result = answer(framed("elements", elements), framed("records", records), accounting, framed("controller"))
    try:
        assert slurm.parse_history(result, ELEMENTS[-1:]) == {}
    except AnswerUnreadable:
        assert "refused" in accounting


def test_an_element_by_the_controller() -> None:
    gone = framed("accounting", status=127, errors="sacct: not found")
    controller = framed("controller", capture(f"{SLURM}-scontrol-array.out"))
    ends = slurm.parse_history(answer(framed("records"), gone, controller), ELEMENTS)
    assert {i: s.state for i, s in ends.items()} == {"3948_3": JobState.CANCELED}


def test_thousands_of_jobs_fit_on_command_lines() -> None:
    refs = [JobRef(str(i), f"a{i:014}", "/s") for i in range(6000)]
    for command in (slurm.status_command(refs), slurm.status_command(refs[:4000]), slurm.history_command(refs)):
        assert max(len(line) for line in command.split("\n")) < 128 * 1024
