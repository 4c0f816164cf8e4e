"""HTCondor's answers and the submit description as text; which answers are captures,
``tests/fixtures/schedulers/README.md`` tells.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.errors import (
    AnswerUnreadable,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import CommandResult, JobRef
from airavata_provider.schedulers.htcondor import HTCondor
from airavata_provider.schedulers.htcondor_states import ads, from_ad, from_log
from airavata_provider.schedulers.record import control_directory
from tests.unit.schedulers.captures import answer, capture, framed

V = "htcondor"
condor = HTCondor()
NAMES = {
    "4101.0": "a1", "4102.0": "a2", "4103.0": "a3", "4104.0": "a4", "4105.0": "a5", "4106.0": "a6", "4107.0": "a7",
    "4108.0": "a8", "4109.0": "a9", "4110.0": "b1", "4111.0": "b2", "4113.0": "b3", "4114.0": "b4",
}  # fmt: skip
REFS = [
    *(JobRef(native_id, name, f"/scratch/{name}") for native_id, name in NAMES.items()),
    *(JobRef(f"4112[{index}]", "arr", "/scratch/arr", index) for index in (1, 3, 7, 8)),
]
BY_ID = {ref.native_id: ref for ref in REFS}


def record(native_id: str, code: int, reason: str = "") -> str:
    number = code - 128 if code > 128 else "null"
    return (
        f'{native_id}|{{"exit_code": {code}, "signal": {number}, "reason": "{reason}",'
        f' "time": "2026-01-01T00:00:00Z", "native_id": "{native_id}", "restart": 0}}\n'
    )


def run_shell(text: str, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=False, env={"PATH": path})


# --- states


def test_states_of_a_queue() -> None:
    queue = framed("queue", capture(f"{V}-condor_q.json"))
    states = condor.parse_status(answer(queue, framed("records"), noise="Welcome!\n[]\n"), REFS)
    assert {i: (s.state, s.outcome, s.exit_code, s.signal) for i, s in states.items()} == {
        "4101.0": (JobState.QUEUED, None, None, None),
        "4102.0": (JobState.ACTIVE, None, None, None),
        "4103.0": (JobState.QUEUED, Outcome.HELD, None, None),
        "4104.0": (JobState.QUEUED, Outcome.HELD, None, None),
        "4105.0": (JobState.COMPLETE, Outcome.COMPLETED, 0, None),
        "4106.0": (JobState.FAILED, Outcome.FAILED, 3, None),
        "4107.0": (JobState.FAILED, Outcome.SIGNALED, None, 9),
        "4108.0": (JobState.CANCELED, Outcome.CANCELED, None, None),
        "4109.0": (JobState.QUEUED, None, None, None),
        "4110.0": (JobState.SUSPENDED, Outcome.SUSPENDED, None, None),
        "4111.0": (JobState.ACTIVE, None, None, None),
        "4112[1]": (JobState.ACTIVE, None, None, None),
        "4112[3]": (JobState.FAILED, Outcome.FAILED, 1, None),
    }
    assert states["4104.0"].reason == "via condor_hold (by user sci)"
    assert states["4109.0"].reason.startswith("evicted; was started 2 times")
    assert states["4101.0"].reason == ""


def test_elements_that_are_not_in_the_queue_yet_wait_and_those_that_left_it_are_absent() -> None:
    factory = framed("factory", capture(f"{V}-condor_q-factory.json"))
    states = condor.parse_status(answer(framed("queue", "[\n]\n"), factory, framed("records")), REFS)
    assert {i: s.state for i, s in states.items()} == {"4112[7]": JobState.QUEUED, "4112[8]": JobState.QUEUED}
    asked = condor.status_command(REFS)
    assert "condor_q -factory" in asked
    assert "-factory" not in condor.status_command(REFS[:3])


def test_a_job_that_ended_at_its_walltime_says_so_by_its_record() -> None:
    queue = framed("queue", capture(f"{V}-condor_q.json").replace('"ExitCode": 3', '"ExitCode": 143'))
    states = condor.parse_status(answer(queue, framed("records", record("4106.0", 143, "WALLTIME"))), REFS)
    assert (states["4106.0"].outcome, states["4106.0"].reason) == (Outcome.WALLTIME, "WALLTIME")


def test_a_record_of_a_run_before_the_eviction_ends_nothing() -> None:
    queue = framed("queue", capture(f"{V}-condor_q.json"))
    states = condor.parse_status(answer(queue, framed("records", record("4109.0", 143, "SIGNAL TERM"))), REFS)
    assert states["4109.0"].state is JobState.QUEUED


def test_nothing_at_all_is_how_condor_q_says_none() -> None:
    assert condor.parse_status(answer(framed("queue"), framed("records")), REFS) == {}


def test_another_job_that_got_the_id_is_not_ours() -> None:
    other = capture(f"{V}-condor_q.json").replace('"a2"', '"somebody"')
    assert "4102.0" not in condor.parse_status(answer(framed("queue", other), framed("records")), REFS)


@pytest.mark.parametrize(
    ("status", "stdout", "words"),
    [
        (1, "", f"{V}-condor_q-down.err"),
        (0, "", f"{V}-condor_q-down.err"),
        (1, "", ""),
        (124, "", ""),
        (127, "", "sh: 1: condor_q: not found"),
        (0, "[\n{\n", ""),
        (0, '{"a": 1}', ""),
        (0, "All queues are empty", ""),
    ],
)
def test_an_answer_with_trouble_is_unreadable(status: int, stdout: str, words: str) -> None:
    words = capture(words) if words.endswith(".err") else words
    with pytest.raises(AnswerUnreadable):
        condor.parse_status(answer(framed("queue", stdout, status=status, errors=words), framed("records")), REFS)


@pytest.mark.parametrize("number", [0, 8, 99, None, "2"])
def test_a_new_status_is_unknown(number: object) -> None:
    assert from_ad(REFS[0], {"JobStatus": number}).state is JobState.UNKNOWN


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=2), max_leaves=4
)


READ = (
    "JobStatus", "ExitCode", "ExitBySignal", "HoldReason", "RemoveReason", "LastHoldReasonCode", "NumJobStarts",
    "ExitSignal",
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(READ), json_values))
def test_no_ad_breaks_the_parser(ad: dict[str, object]) -> None:
    from_ad(REFS[0], ad)


@given(st.text())
def test_what_is_no_list_of_ads_is_unreadable(text: str) -> None:
    try:
        assert isinstance(ads(text), list)
    except AnswerUnreadable:
        return


# --- ends


def test_a_captured_event_log_and_a_captured_hold() -> None:
    job = JobRef("5739.0", "ajob", "/d")
    lines = capture("htcondor-24.7-events.log").splitlines()
    end = from_log(job, lines)
    assert end is not None
    assert (end.state, end.outcome, end.exit_code) == (JobState.COMPLETE, Outcome.COMPLETED, 0)
    before = lines.index(next(line for line in lines if line.startswith("005")))
    assert from_log(job, lines[:before]) is None
    words = capture("htcondor-24.6-hold-memory.txt").strip()
    ad = {"JobStatus": 3, "LastHoldReason": words, "RemoveReason": "The PeriodicRemove expression evaluated to TRUE"}
    gone = from_ad(job, ad)
    assert (gone.state, gone.outcome) == (JobState.FAILED, Outcome.OUT_OF_MEMORY)
    assert "10624 megabytes" in gone.reason


def test_ends_of_a_history() -> None:
    history = framed("history", capture(f"{V}-condor_history.json"))
    ends = condor.parse_history(answer(framed("records"), framed("events"), history), REFS)
    assert {i: (s.state, s.outcome) for i, s in ends.items()} == {
        "4106.0": (JobState.FAILED, Outcome.FAILED),
        "4103.0": (JobState.FAILED, Outcome.OUT_OF_MEMORY),
        "4113.0": (JobState.FAILED, Outcome.WALLTIME),
        "4114.0": (JobState.FAILED, Outcome.FAILED),
        "4108.0": (JobState.CANCELED, Outcome.CANCELED),
    }
    assert ends["4103.0"].reason.startswith("Error from slot1_1@node7: Job has gone over cgroup memory limit")


@pytest.mark.parametrize(
    ("name", "native_id", "state", "outcome", "code", "signal"),
    [
        (f"{V}-events-exit.log", "4106.0", JobState.FAILED, Outcome.FAILED, 3, None),
        (f"{V}-events-signal.log", "4107.0", JobState.FAILED, Outcome.SIGNALED, None, 9),
        (f"{V}-events-held.log", "4103.0", JobState.FAILED, Outcome.OUT_OF_MEMORY, None, None),
        ("htcondor-events-removed.log", "4108.0", JobState.CANCELED, Outcome.CANCELED, None, None),
    ],
)
def test_the_event_log_tells_what_the_history_forgot(
    name: str, native_id: str, state: JobState, outcome: Outcome, code: int | None, signal: int | None
) -> None:
    end = from_log(BY_ID[native_id], capture(name).splitlines())
    assert end is not None
    assert (end.state, end.outcome, end.exit_code, end.signal) == (state, outcome, code, signal)
    assert from_log(BY_ID["4101.0"], capture(name).splitlines()) is None, "another cluster's log"


def test_a_log_that_goes_on_after_an_end_tells_of_none() -> None:
    lines = capture(f"{V}-events-exit.log").splitlines()
    again = "001 (4106.000.000) 2026-05-28 09:06:00 Job executing on host: <10.1.2.8:9618>"
    assert from_log(BY_ID["4106.0"], [*lines, again]) is None
    assert from_log(BY_ID["4106.0"], lines[:-20]) is None


@given(st.lists(st.one_of(st.text(), st.sampled_from(capture(f"{V}-events-held.log").splitlines()))))
def test_no_log_breaks_the_parser(lines: list[str]) -> None:
    from_log(BY_ID["4103.0"], lines)


def test_logs_and_records_are_read_by_a_real_shell(tmp_path: Path) -> None:
    ref = JobRef("4106.0", "a6", f"{tmp_path}/it's $x")
    control = Path(control_directory(ref.directory, ref.name))
    control.mkdir(parents=True)
    (control / "events").write_text(capture(f"{V}-events-exit.log"))
    (control / "exit").write_text(record("4106.0", 3).partition("|")[2])
    element = JobRef("4112[3]", "arr", ref.directory, 3)
    inner = Path(control_directory(ref.directory, "arr", 3))
    inner.mkdir(parents=True)
    (inner.parent / "events.3").write_text(capture(f"{V}-events-signal.log").replace("4107", "4112"))
    # condor_history is not there: every log has its end, so it is not asked.
    ran = run_shell(condor.history_command([ref, element]))
    ends = condor.parse_history(CommandResult(ran.returncode, ran.stdout, ran.stderr), [ref, element])
    assert {i: (s.exit_code, s.signal) for i, s in ends.items()} == {"4106.0": (3, None), "4112[3]": (None, 9)}
    assert "AIRAVATA-BEGIN history" not in ran.stdout
    (control / "events").unlink()
    ran = run_shell(condor.history_command([ref]))
    assert "AIRAVATA-BEGIN history" in ran.stdout
    with pytest.raises(AnswerUnreadable):
        condor.parse_history(CommandResult(ran.returncode, ran.stdout, ran.stderr), [ref])
    # An empty queue that answers: what left it and has a record has ended.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "condor_q").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "condor_q").chmod(0o700)
    ran = run_shell(condor.history_command([ref]), path=f"{tmp_path}/bin:/usr/bin:/bin")
    ends = condor.parse_history(CommandResult(ran.returncode, ran.stdout, ran.stderr), [ref])
    assert ends["4106.0"].native_state == "EXIT RECORD"
    (control / "exit").unlink()
    ran = run_shell(condor.history_command([ref]))
    with pytest.raises(AnswerUnreadable):
        condor.parse_history(CommandResult(ran.returncode, ran.stdout, ran.stderr), [ref])


def test_a_record_is_no_end_of_a_job_that_is_still_in_the_queue_or_may_be() -> None:
    own = framed("records", record("4102.0", 143, "SIGNAL TERM"))
    queue = capture(f"{V}-condor_q.json")
    assert "4102.0" not in condor.parse_history(answer(own, framed("events"), framed("queue", queue)), REFS)
    removed = framed("queue", queue.replace('"JobStatus": 2', '"JobStatus": 3'))
    end = condor.parse_history(answer(own, framed("events"), removed), REFS)["4102.0"]
    assert (end.state, end.outcome) == (JobState.CANCELED, Outcome.CANCELED)
    down = framed("queue", status=1, errors=capture(f"{V}-condor_q-down.err"))
    with pytest.raises(AnswerUnreadable):
        condor.parse_history(answer(own, framed("events"), down, framed("history")), REFS)


def test_an_absent_job_without_a_record_has_no_end() -> None:
    parts = (framed("records"), framed("events"), framed("queue"), framed("history"))
    assert condor.parse_history(answer(*parts), REFS) == {}


def test_a_record_of_another_job_is_nobodys() -> None:
    other = record("4199.0", 0).replace("4199.0|", "4102.0|")
    parts = (framed("records", other), framed("events"), framed("queue"), framed("history"))
    assert condor.parse_history(answer(*parts), REFS) == {}


def test_one_condor_q_for_all_jobs() -> None:
    assert condor.status_command(REFS[:12]).count("condor_q") == 1


def test_an_access_point_without_a_history_is_no_fault() -> None:
    words = "condor_history: Error: No history file is defined"
    none = framed("history", status=1, errors=words)
    assert condor.parse_history(answer(framed("records"), framed("events"), none), REFS) == {}


# --- submitting


@pytest.mark.parametrize(
    ("name", "native_id"),
    [(f"{V}-submit-terse.out", "4101.0"), (f"{V}-submit-array.out", "4112"), ("htcondor-submit-plain.out", "4101.0")],
)
def test_an_accepted_job(name: str, native_id: str) -> None:
    warning = "WARNING: the line 'allowed_execute_duration = 420' was unused by condor_submit. Is it a typo?"
    assert condor.parse_submit(CommandResult(0, f"Welcome\n{capture(name)}", warning)) == native_id


def test_the_elements_of_any_array_have_ids() -> None:
    assert condor.element_id("4112", 3) == "4112[3]"
    assert condor.element_id("4112.0", 0) == "4112[0]"


def test_refused_later_and_uncertain_are_three_things() -> None:
    with pytest.raises(SubmissionRefused) as refused:
        condor.parse_submit(CommandResult(1, "", capture(f"{V}-submit-executable.err")))
    assert not refused.value.transient
    with pytest.raises(SubmissionRefused) as later:
        condor.parse_submit(CommandResult(1, "", capture(f"{V}-submit-limit.err")))
    assert later.value.transient
    for status, words in ((1, capture(f"{V}-submit-connect.err")), (1, "what?"), (0, ""), (124, "4101.0 - 4101.0")):
        with pytest.raises(SubmissionUncertain):
            condor.parse_submit(CommandResult(status, "", words))
    with pytest.raises(SubmissionRefused, match="PATH"):
        condor.parse_submit(CommandResult(127, "", "sh: condor_submit: not found"))


# --- looking up


def test_a_job_is_found_in_the_queue_the_log_and_the_history() -> None:
    queue = framed("queue", capture(f"{V}-condor_q.json"))
    log = framed("events", capture(f"{V}-events-exit.log").splitlines()[0])
    history = framed("history", capture(f"{V}-condor_history.json"))
    none = (framed("queue"), framed("events"), framed("history"))
    assert condor.parse_find(answer(queue, *none[1:]), "a2") == "4102.0"
    assert condor.parse_find(answer(queue, *none[1:]), "arr") == "4112"
    assert condor.parse_find(answer(none[0], log, none[2]), "a6") == "4106.0"
    assert condor.parse_find(answer(*none[:2], history), "b3") == "4113.0"
    assert condor.parse_find(answer(*none), "a2") is None
    with pytest.raises(AnswerUnreadable, match="history"):
        condor.parse_find(answer(*none[:2], framed("history", status=124)), "a2")


# --- cancel


def test_only_the_job_with_the_id_and_the_name_is_removed() -> None:
    command = condor.cancel_command([REFS[0], REFS[-1], REFS[-2]])
    assert '(ClusterId == 4101 && AiravataJob == "a1")' in command
    assert '(ClusterId == 4112 && AiravataJob == "arr" && member(AiravataIndex, {8, 7}))' in command


@settings(max_examples=25)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_a_name_stays_one_string_in_a_constraint(name: str) -> None:
    command = condor.cancel_command([JobRef("1.0", name, "/d")]).replace("airavata_limit 60 condor_rm", "printf %s")
    shown = run_shell(f'{command}\nprintf %s "$airavata_words"')
    assert shown.stdout.startswith("-constraintJobStatus")
