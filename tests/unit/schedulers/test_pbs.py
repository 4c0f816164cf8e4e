"""PBS Pro, OpenPBS and Torque: what they say, captured where a file's name has a version, and what is asked of them.

Captures are real ``qstat -f``; people's and hosts' names in them are changed, and long environments shortened.
"""

from __future__ import annotations

import json

import pytest

from airavata_provider.errors import (
    AnswerUnreadable,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus
from airavata_provider.schedulers.pbs import PBS, PBSFamily
from airavata_provider.schedulers.pbs_answers import parse_jobs, parse_text, status
from airavata_provider.schedulers.torque import Torque
from tests.unit.schedulers.captures import answer, capture, framed

pbs, torque = PBS(), Torque()
both = pytest.mark.parametrize("adaptor", [pbs, torque], ids=["pbs", "torque"])
REF = JobRef("12.pbs", "ajob", "/scratch/d")
RUNNING = JobRef("12860476.meta-pbs.example.org", "swrap_01", "/d")
HELD = JobRef("157.pbs", "pbs_hold_job", "/d")
DONE = JobRef("9.torque01.example.org", "subtest.sh", "/d")
ELEMENT = JobRef("48[1].torque01.example.org", "MA_mock-A47933_batch-JT3CUggKXNStHcoFXYaGR3", "/d", 1)


def job(**attributes: object) -> str:
    given = {"Job_Name": "ajob", "job_state": "F", **attributes}
    return f"Job Id: {REF.native_id}\n" + "".join(f"    {name} = {value}\n" for name, value in given.items())


def ended(words: str = "", **attributes: object) -> JobStatus:
    return status(parse_text(job(**attributes).splitlines())[0], REF, words=words)


def history(queue: str, record: dict[str, object] | None = None, words: str = "") -> CommandResult:
    line = f"{REF.native_id}|{json.dumps(record)}" if record else ""
    said = f"{REF.native_id}|{words}" if words else ""
    errors = "" if queue else f"qstat: Unknown Job Id {REF.native_id}"
    return answer(
        framed("queue", queue, status=0 if queue else 153, errors=errors),
        framed("records", line),
        framed("words", said),
        noise="Welcome!\n",
    )


RECORD: dict[str, object] = {"exit_code": 3, "signal": None, "reason": "", "native_id": REF.native_id}


# --- captures


@pytest.mark.parametrize(
    ("file", "ref", "state", "outcome"),
    [
        ("pbspro-19.0.0-qstat-running.json", RUNNING, JobState.ACTIVE, None),
        ("pbspro-19.0.0-qstat-held.json", HELD, JobState.QUEUED, Outcome.HELD),
        ("torque-6-qstat-complete.out", DONE, JobState.COMPLETE, Outcome.COMPLETED),
        ("torque-6-qstat-element.out", ELEMENT, JobState.CANCELED, Outcome.CANCELED),
    ],
)
def test_captured_answers(file: str, ref: JobRef, state: JobState, outcome: Outcome | None) -> None:
    adaptor = torque if file.startswith("torque") else pbs
    found = adaptor.parse_status(answer(framed("queue", capture(file)), noise="motd\n"), [ref])
    assert {i: (each.state, each.outcome) for i, each in found.items()} == {ref.native_id: (state, outcome)}


def test_a_captured_dependency_that_can_never_be_met_is_told_in_full() -> None:
    found = torque.parse_status(answer(framed("queue", capture("torque-6-qstat-element.out"))), [ELEMENT])
    assert found[ELEMENT.native_id].reason.endswith(
        "dependency of array 43[].torque01.example.org can never be satisfied"
    )


def test_a_captured_shell_function_in_the_environment_ends_no_job() -> None:
    (one,) = parse_jobs(capture("torque-6-qstat-element.out").splitlines())
    assert (one["euser"], one["exit_status"]) == ("user1", "271")


def test_json_that_an_old_qstat_left_unescaped_is_read_line_by_line() -> None:
    text = capture("pbspro-19.0.0-qstat-running.json").replace("Linux", 'Li"nux')
    (one,) = parse_jobs(text.splitlines())
    assert (one["id"], one["job_state"], one["resource_list.walltime"]) == (RUNNING.native_id, "R", "00:01:00")


# --- traps of status queries


@pytest.mark.parametrize("errors", ["openpbs-22.05.11-qstat-refused.err", "pbspro-2025.2.0-qstat-noroute.err"])
def test_a_server_that_cannot_be_reached_is_no_empty_queue(errors: str) -> None:
    refused = framed("queue", capture("openpbs-22.05.11-qstat-refused.json"), status=255, errors=capture(errors))
    with pytest.raises(AnswerUnreadable, match="cannot connect to server"):
        pbs.parse_status(answer(refused), [REF])
    with pytest.raises(AnswerUnreadable):
        pbs.parse_history(answer(refused, framed("records"), framed("words")), [REF])
    with pytest.raises(AnswerUnreadable):
        pbs.parse_find(answer(framed("queue", status=255, errors=capture(errors))), "ajob")


@both
def test_an_empty_answer_without_a_word_is_not_finished(adaptor: PBSFamily) -> None:
    with pytest.raises(AnswerUnreadable, match="no word of"):
        adaptor.parse_status(answer(framed("queue")), [REF])


@both
def test_one_expired_id_spoils_nothing(adaptor: PBSFamily) -> None:
    gone = JobRef("11.pbs", "gone", "/d")
    result = framed("queue", job(job_state="R"), status=153, errors="qstat: Unknown Job Id 11.pbs")
    assert set(adaptor.parse_status(answer(result), [gone, REF])) == {REF.native_id}


@both
def test_an_absent_job_without_a_record_has_no_end(adaptor: PBSFamily) -> None:
    assert adaptor.parse_history(history(""), [REF]) == {}


@both
def test_an_id_that_is_another_job_s_by_now_is_left_out(adaptor: PBSFamily) -> None:
    result = framed("queue", job(Job_Name="another", job_state="R"))
    assert adaptor.parse_status(answer(result), [REF]) == {}


@both
def test_a_record_of_another_job_under_the_name_proves_nothing(adaptor: PBSFamily) -> None:
    assert adaptor.parse_history(history("", {**RECORD, "native_id": "7.pbs"}), [REF]) == {}


@both
def test_a_job_that_was_queued_again_has_no_end_although_its_record_is_there(adaptor: PBSFamily) -> None:
    assert adaptor.parse_history(history(job(job_state="Q"), RECORD), [REF]) == {}


@both
def test_a_forgotten_job_s_record_tells(adaptor: PBSFamily) -> None:
    end = adaptor.parse_history(history("", RECORD), [REF])[REF.native_id]
    assert (end.state, end.exit_code, end.outcome) == (JobState.FAILED, 3, Outcome.FAILED)


@both
def test_one_qstat_for_all_jobs(adaptor: PBSFamily) -> None:
    refs = [JobRef(f"{number}.pbs", f"a{number}", "/d") for number in range(50)]
    asks = [line for line in adaptor.status_command(refs).splitlines() if "49.pbs" in line]
    assert len(asks) == 1
    assert "0.pbs" in asks[0]


@both
def test_a_state_that_nobody_knows_is_unknown_with_a_warning(
    adaptor: PBSFamily, caplog: pytest.LogCaptureFixture
) -> None:
    letter = "Y" if adaptor is pbs else "Z"
    found = adaptor.parse_status(answer(framed("queue", job(job_state=letter))), [REF])
    assert found[REF.native_id].state is JobState.UNKNOWN
    assert letter in caplog.text


@pytest.mark.parametrize(
    ("attributes", "state", "outcome"),
    [
        ({"job_state": "Q", "comment": "Not Running: Insufficient amount of resource: ncpus"}, JobState.QUEUED, None),
        ({"job_state": "Q", "comment": "Can Never Run: Insufficient amount of resource: ncpus (R: 999 A: 4)"},
         JobState.QUEUED, Outcome.NEVER_STARTS),
        ({"job_state": "H", "Hold_Types": "u"}, JobState.QUEUED, Outcome.HELD),
        ({"job_state": "H", "Hold_Types": "s", "depend": "afterok:11.pbs"}, JobState.QUEUED, None),
        ({"job_state": "S"}, JobState.SUSPENDED, Outcome.SUSPENDED),
        ({"job_state": "U"}, JobState.SUSPENDED, Outcome.SUSPENDED),
        ({"job_state": "E"}, JobState.ACTIVE, None),
        ({"job_state": "B"}, JobState.ACTIVE, None),
    ],
)  # fmt: skip
def test_what_a_waiting_job_waits_for(attributes: dict[str, str], state: JobState, outcome: Outcome | None) -> None:
    found = ended(**attributes)
    assert (found.state, found.outcome) == (state, outcome)


# --- outcomes


@pytest.mark.parametrize(
    ("attributes", "words", "state", "outcome"),
    [
        ({"Exit_status": 0, "substate": 92}, "", JobState.COMPLETE, Outcome.COMPLETED),
        ({"Exit_status": 3, "substate": 93}, "", JobState.FAILED, Outcome.FAILED),
        ({"Exit_status": 139}, "", JobState.FAILED, Outcome.SIGNALED),
        ({"Exit_status": 267}, "", JobState.FAILED, Outcome.SIGNALED),
        ({"Exit_status": -29}, "", JobState.FAILED, Outcome.WALLTIME),
        ({"Exit_status": 271}, "PBS: job killed: walltime 3611 exceeded limit 3600",
         JobState.FAILED, Outcome.WALLTIME),
        ({"job_state": "C", "exit_status": 271, "resources_used.walltime": "01:00:05",
          "Resource_List.walltime": "01:00:00"}, "", JobState.FAILED, Outcome.WALLTIME),
        ({"Exit_status": 271}, "PBS: job killed: mem 2097152kb exceeded limit 1048576kb",
         JobState.FAILED, Outcome.OUT_OF_MEMORY),
        ({"Exit_status": 137}, "Cgroup memory limit exceeded: Killed process 4711",
         JobState.FAILED, Outcome.OUT_OF_MEMORY),
        ({"Exit_status": -27}, "", JobState.FAILED, Outcome.OUT_OF_MEMORY),
        ({"Exit_status": 271, "substate": 91}, "", JobState.CANCELED, Outcome.CANCELED),
        ({"substate": 91}, "", JobState.CANCELED, Outcome.CANCELED),
        ({"job_state": "C", "exit_status": 271}, "", JobState.CANCELED, Outcome.CANCELED),
        ({"Exit_status": -4}, "", JobState.FAILED, Outcome.NODE_FAILURE),
        ({"Exit_status": -28}, "", JobState.FAILED, Outcome.WALLTIME),
        ({"Exit_status": -11}, "", JobState.FAILED, Outcome.FAILED),
        ({"job_state": "C", "exit_status": -11}, "", JobState.FAILED, Outcome.WALLTIME),
        ({"job_state": "C", "exit_status": -10}, "", JobState.FAILED, Outcome.OUT_OF_MEMORY),
        ({"job_state": "C", "exit_status": -5}, "", JobState.FAILED, Outcome.NODE_FAILURE),
        ({"Exit_status": 271, "comment": "Job preempted by 44.pbs"}, "", JobState.FAILED, Outcome.PREEMPTED),
        ({"Exit_status": -1}, "", JobState.FAILED, Outcome.FAILED),
        ({}, "", JobState.FAILED, Outcome.UNKNOWN),
    ],
)  # fmt: skip
def test_each_end_has_its_outcome(
    attributes: dict[str, object], words: str, state: JobState, outcome: Outcome
) -> None:
    end = ended(words, **attributes)
    assert (end.state, end.outcome) == (state, outcome)


def test_the_killer_s_words_from_the_job_s_log_reach_the_history() -> None:
    killed = capture("torque-pbs_mom-killed.log").strip()
    end = pbs.parse_history(history(job(Exit_status=271, substate=93), words=killed), [REF])[REF.native_id]
    assert (end.outcome, end.reason) == (Outcome.WALLTIME, killed)


def test_a_job_that_printed_the_killer_s_words_and_went_well_is_complete() -> None:
    assert ended("someone wrote: out of memory", Exit_status=0).outcome is Outcome.COMPLETED


# --- submitting


@both
@pytest.mark.parametrize(
    ("stdout", "native_id"),
    [
        ("12.pbs\n", "12.pbs"),
        ("12[].pbs\r\n", "12[].pbs"),
        ("note: your project ends soon\n77 credits left\n12.pbs-01.example.org\n", "12.pbs-01.example.org"),
    ],
)
def test_the_id_is_found_among_a_site_s_words(adaptor: PBSFamily, stdout: str, native_id: str) -> None:
    assert adaptor.parse_submit(CommandResult(0, stdout, "")) == native_id


@both
@pytest.mark.parametrize(
    ("words", "transient"),
    [
        ("qsub: Unknown queue", False),
        ("qsub: submit error (Unknown queue MSG=cannot locate queue)", False),
        ("qsub: Unauthorized Request", False),
        ("qsub: would exceed complex's per-user limit of jobs in 'Q' state", True),
        ("qsub: submit error (Maximum number of jobs already in queue for user)", True),
        ("qsub: Server shutting down", True),
    ],
)
def test_a_refusal_keeps_the_scheduler_s_words_and_says_if_time_cures_it(
    adaptor: PBSFamily, words: str, transient: bool
) -> None:
    with pytest.raises(SubmissionRefused) as refused:
        adaptor.parse_submit(CommandResult(1, "", words))
    assert words in str(refused.value)
    assert refused.value.transient is transient


@both
@pytest.mark.parametrize(
    "words",
    ["qsub: End of File", "qsub: cannot connect to server pbs (errno=15010)", "Connection refused\nqsub: timed out",
     "qsub: Protocol (ASN.1) error", "", "some wrapper failed"],
)  # fmt: skip
def test_a_lost_answer_is_uncertain(adaptor: PBSFamily, words: str) -> None:
    with pytest.raises(SubmissionUncertain):
        adaptor.parse_submit(CommandResult(1, "", words))


@both
def test_a_missing_qsub_is_refused(adaptor: PBSFamily) -> None:
    with pytest.raises(SubmissionRefused, match="cannot be run"):
        adaptor.parse_submit(CommandResult(127, "", "sh: qsub: not found"))


# --- looking up


def test_the_oldest_of_a_name_is_found_and_none_is_certain() -> None:
    assert pbs.parse_find(answer(framed("queue", "14.pbs\n12.pbs")), "ajob") == "12.pbs"
    assert pbs.parse_find(answer(framed("queue")), "ajob") is None


def test_torque_finds_an_array_by_one_of_its_elements() -> None:
    listed = capture("torque-6-qstat-complete.out") + capture("torque-6-qstat-element.out")
    found = torque.parse_find(answer(framed("queue", listed)), ELEMENT.name)
    assert found == "48[].torque01.example.org"
    assert torque.parse_find(answer(framed("queue", listed)), "ajob") is None


@pytest.mark.parametrize(("adaptor", "words"), [(pbs, "qselect: End of File"), (torque, "qstat: End of File")])
def test_a_look_up_that_failed_is_not_absent(adaptor: PBSFamily, words: str) -> None:
    with pytest.raises(AnswerUnreadable):
        adaptor.parse_find(answer(framed("queue", status=1, errors=words)), "ajob")


# --- arrays


def test_an_element_s_id_and_its_folders() -> None:
    assert pbs.element_id("12[].pbs", 3) == torque.element_id("12[].pbs", 3) == "12[3].pbs"
    ref = JobRef("12[3].pbs", "ajob", "/d", 3)
    assert "/d/.airavata/ajob/3/scheduler.log" in pbs.history_command([ref])
    assert "/d/.airavata/ajob/scheduler.log-3" in torque.history_command([ref])


def test_an_element_whose_exit_status_an_old_pbs_does_not_tell_is_left_to_its_record() -> None:
    ref = JobRef("12[3].pbs", "ajob", "/d", 3)
    shown = job(job_state="X").replace(REF.native_id, ref.native_id)
    assert pbs.parse_status(answer(framed("queue", shown)), [ref]) == {}
    record = json.dumps({**RECORD, "native_id": ref.native_id})
    result = answer(framed("queue", shown), framed("records", f"{ref.native_id}|{record}"), framed("words"))
    end = pbs.parse_history(result, [ref])[ref.native_id]
    assert (end.state, end.exit_code) == (JobState.FAILED, 3)
