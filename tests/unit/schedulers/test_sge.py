"""Grid Engine: what 8.1.9 says (captured), what is asked of it, and what its states and codes mean."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.errors import AnswerUnreadable, SubmissionRefused, SubmissionUncertain
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers import sge_states
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.schedulers.script import write_script
from airavata_provider.schedulers.sge import Sge
from tests.unit.schedulers.captures import answer, capture, framed

SGE = "sge-8.1.9"
sge = Sge()


def ref(native_id: str, name: str, index: int | None = None) -> JobRef:
    return JobRef(native_id, name, "/d", index)


def kept(text: str, numbers: str = "") -> str:
    """What the awk program leaves of an answer of ``qacct``."""
    command = ["awk", "-v", f"W={numbers}", sge_states.KEEP]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def queue(text: str, *more: str) -> CommandResult:
    return answer(framed("queue", "\n".join((text, *more))), noise="Welcome!\n")


def history(accounting: str, *told: str, status: int = 0, errors: str = "") -> CommandResult:
    parts = framed("told", "\n".join(told)), framed("accounting", accounting, status=status, errors=errors)
    return answer(*parts, noise="Welcome!\n")


def found(queue_text: str, accounting: str = "", *, status: int = 0, errors: str = "") -> CommandResult:
    return answer(framed("queue", queue_text), framed("accounting", accounting, status=status, errors=errors))


def record(native_id: str, code: int, *, reason: str = "", signal: int | None = None, time: str | None = None) -> str:
    fields = {
        "exit_code": code,
        "signal": signal,
        "reason": reason,
        "native_id": native_id,
        "restart": 0,
        "time": time,
    }
    return f"{native_id}|{json.dumps(fields)}"


def account(**fields: object) -> str:
    """One line of the filter's, of job 7 called ``ajob``."""
    given = dict.fromkeys(sge_states.ACCOUNTS, "")
    given |= {"jobname": "ajob", "jobnumber": "7", "taskid": "undefined", "failed": "0", "exit_status": "0"}
    given |= {name: str(value) for name, value in fields.items()}
    return "|".join(given[name] for name in (*sge_states.ACCOUNTS[1:], sge_states.ACCOUNTS[0]))


def ended(*lines: str, told: tuple[str, ...] = ()) -> JobStatus | None:
    return sge.parse_history(history("\n".join(lines), *told), [ref("7", "ajob")]).get("7")


QUEUE = capture(f"{SGE}-qstat.xml")
HOLDS = capture(f"{SGE}-qstat-holds.xml")
BY_USER = f"AIRAVATA-HELD\n{capture(f'{SGE}-qstat-holds-user.xml')}"
NOBODY = f"AIRAVATA-HELD\n{capture(f'{SGE}-qstat-empty.xml')}"
ERRORS = f"AIRAVATA-ERRORS\n{capture(f'{SGE}-qstat-error.xml')}"
QACCT = capture(f"{SGE}-qacct.out")
NO_RECORD = "error: job id 7 not found"


# --- the queue


def test_states_of_a_captured_queue() -> None:
    refs = [
        ref("45", "cap_running_with_a_long_name.x-1"),
        ref("54", "cap_pe"),
        ref("49", "cap_error"),
        ref("51.2", "cap_array", 1),
        ref("51.5", "cap_array", 4),
        ref("51.7", "cap_array", 6),
    ]
    states = sge.parse_status(queue(QUEUE, NOBODY, NOBODY, NOBODY, ERRORS), refs)
    assert {i: (each.state, each.outcome) for i, each in states.items()} == {
        "45": (JobState.ACTIVE, None),
        "54": (JobState.QUEUED, None),
        "49": (JobState.QUEUED, Outcome.NEVER_STARTS),
        "51.2": (JobState.ACTIVE, None),
        "51.5": (JobState.QUEUED, None),
    }
    assert states["49"].reason == "error: can't chdir to /nonexistent: No such file or directory"
    assert states["45"].name == "cap_running_with_a_long_name.x-1"


def test_a_job_that_waits_for_another_is_not_held_by_a_person() -> None:
    refs = [ref("75", "h_run"), ref("76", "h_user"), ref("77", "h_after"), ref("78", "h_both")]
    states = sge.parse_status(queue(HOLDS, BY_USER, NOBODY, NOBODY), refs)
    assert [(states[each.native_id].outcome, states[each.native_id].reason) for each in refs] == [
        (None, ""),
        (Outcome.HELD, "held"),
        (None, "waits for another job"),
        (Outcome.HELD, "held"),
    ]
    # Where holds cannot be read, nobody can tell.
    states = sge.parse_status(queue(HOLDS, BY_USER, "AIRAVATA-HELD\nerror"), refs)
    assert states["77"].outcome is Outcome.HELD


def test_who_holds_a_job_is_asked_kind_by_kind() -> None:
    # "-s huhohs" is answered with every held job there is.
    command = sge.status_command([ref("47", "cap_held")])
    assert "for airavata_kind in hu ho hs" in command


def test_a_rescheduled_job_is_followed_under_its_id() -> None:
    states = sge.parse_status(queue(capture(f"{SGE}-qstat-rerun.xml")), [ref("55", "cap_rerun")])
    assert (states["55"].state, states["55"].native_state) == (JobState.ACTIVE, "Rr")


def test_another_job_that_got_the_number_is_not_ours() -> None:
    assert sge.parse_status(queue(QUEUE), [ref("45", "of_last_year")]) == {}
    assert ended(account(jobname="of_last_year")) is None


def test_absent_is_not_unreadable() -> None:
    assert sge.parse_status(queue(capture(f"{SGE}-qstat-empty.xml")), [ref("45", "ajob")]) == {}


@pytest.mark.parametrize(
    ("status", "errors", "text"),
    [
        (1, capture(f"{SGE}-qstat-down.err"), ""),
        (124, "", ""),
        (127, "sh: 1: qstat: not found", ""),
        (0, "", ""),
        (0, "", QUEUE[:2000]),
        (0, "", "<?xml version='1.0'?><html/>"),
        (0, "", "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><job_info/>"),
    ],
)
def test_an_empty_or_failed_query_is_not_finished(status: int, errors: str, text: str) -> None:
    with pytest.raises(AnswerUnreadable):
        sge.parse_status(answer(framed("queue", text, status=status, errors=errors)), [ref("45", "ajob")])


def test_banners_and_bashrc_noise_are_no_answers() -> None:
    with pytest.raises(AnswerUnreadable):
        sge.parse_status(CommandResult(0, QUEUE, ""), [ref("45", "ajob")])


@pytest.mark.parametrize(
    ("letters", "state", "outcome"),
    [
        ("qw", JobState.QUEUED, None),
        ("Rq", JobState.QUEUED, None),
        ("hqw", JobState.QUEUED, Outcome.HELD),
        ("hRwq", JobState.QUEUED, Outcome.HELD),
        ("t", JobState.ACTIVE, None),
        ("r", JobState.ACTIVE, None),
        ("hr", JobState.ACTIVE, None),
        ("dr", JobState.ACTIVE, None),
        ("s", JobState.SUSPENDED, Outcome.SUSPENDED),
        ("S", JobState.SUSPENDED, Outcome.SUSPENDED),
        ("tT", JobState.SUSPENDED, Outcome.SUSPENDED),
        ("Eqw", JobState.QUEUED, Outcome.NEVER_STARTS),
        ("", JobState.UNKNOWN, None),
    ],
)
def test_letters(letters: str, state: JobState, outcome: Outcome | None) -> None:
    assert sge_states.state_of(letters)[:2] == (state, outcome)


def test_a_letter_that_nobody_knows_is_unknown_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert sge_states.state_of("Y")[0] is JobState.UNKNOWN
    assert "'Y'" in caplog.text


@given(st.text())
def test_no_letters_and_no_queue_is_a_crash(text: str) -> None:
    sge_states.state_of(text)
    sge_states.reasons_of(text)
    with pytest.raises(AnswerUnreadable):
        sge_states.queue_of(text)


def test_control_characters_in_a_name_spoil_nothing() -> None:
    states = sge.parse_status(queue(QUEUE.replace("cap_held", "cap\x01held")), [ref("54", "cap_pe")])
    assert set(states) == {"54"}


# --- the history


def test_ends_of_captured_accounting() -> None:
    names = {
        "40": "cap_ok", "41": "cap_fail", "42": "cap_sig", "43": "cap_rt", "44": "cap_del", "46": "cap_mem",
        "49": "cap_error", "55": "cap_rerun", "51.1": "cap_array", "60.2": "cap_words", "51.6": "cap_array",
    }  # fmt: skip
    ends = sge.parse_history(history(kept(QACCT)), [ref(i, name) for i, name in names.items()])
    assert {i: (end.state, end.outcome, end.exit_code, end.signal) for i, end in ends.items()} == {
        "40": (JobState.COMPLETE, Outcome.COMPLETED, 0, None),
        "41": (JobState.FAILED, Outcome.FAILED, 3, None),
        "42": (JobState.FAILED, Outcome.SIGNALED, 139, 11),
        "43": (JobState.FAILED, Outcome.WALLTIME, 137, 9),
        "44": (JobState.CANCELED, Outcome.CANCELED, 137, 9),
        "46": (JobState.FAILED, Outcome.FAILED, 7, None),
        "49": (JobState.FAILED, Outcome.NEVER_STARTS, None, None),
        "55": (JobState.CANCELED, Outcome.CANCELED, 137, 9),
        "51.1": (JobState.CANCELED, Outcome.CANCELED, 137, 9),
        "60.2": (JobState.COMPLETE, Outcome.COMPLETED, 0, None),
    }
    assert ends["43"].reason == "37: qmaster enforced h_rt, h_cpu, or h_vmem limit, SIGKILL"


def test_only_the_records_that_are_asked_for_travel() -> None:
    lines = kept(QACCT, " 41 60 ").splitlines()
    assert [line.split("|")[:2] for line in lines] == [["41", "undefined"], ["60", "1"], ["60", "2"]]


def test_a_run_that_another_one_follows_is_no_end() -> None:
    again = account(failed="25  : rescheduling")
    assert ended(again) is None
    end = ended(again, account(exit_status=3))
    assert end is not None
    assert (end.state, end.exit_code) == (JobState.FAILED, 3)


def test_a_record_of_the_run_before_is_not_the_last_runs() -> None:
    killed = account(
        failed="100 : assumedly after job",
        exit_status="137                  (Killed)",
        start_time="Sat Nov 21 08:02:11 2026",
    )
    for time in (None, "2026-11-21T08:02:10Z"):
        end = ended(account(failed="25  : rescheduling"), killed, told=(record("7", 5, time=time),))
        assert end is not None
        assert (end.outcome, end.exit_code) == (Outcome.CANCELED, 137)


def test_a_job_counts_its_own_restarts(tmp_path: Path) -> None:
    """Grid Engine tells only that it is one."""
    script = write_script(Sge(), JobRequest("ajob", str(tmp_path), "true"), None, str(tmp_path))
    for number, restarted in enumerate("011"):
        environment = {**os.environ, "JOB_ID": "7", "RESTARTED": restarted}
        subprocess.run(["sh"], input=script, text=True, check=True, env=environment)
        assert (tmp_path / "started").read_text() == f"7 {number}\n"
        assert json.loads((tmp_path / "exit").read_text())["restart"] == number


def test_a_job_that_was_put_back_and_went_on_has_its_own_exit_code() -> None:
    """As 8.1.9 does it now and then: the job started once, and accounting has two runs of it."""
    back = account(failed="25  : rescheduling", start_time="-/-")
    run = account(exit_status=1, start_time="Sat Nov 21 08:02:10 2026")
    end = ended(back, run, told=(record("7", 99, time="2026-11-21T08:03:10Z"),))
    assert end is not None
    assert (end.state, end.exit_code) == (JobState.FAILED, 99)


def test_the_jobs_own_record_has_the_true_exit_code() -> None:
    # Grid Engine would start a job that ends with 99 again: the script ends with 1.
    end = ended(account(exit_status=1), told=(record("7", 99),))
    assert end is not None
    assert (end.state, end.outcome, end.exit_code) == (JobState.FAILED, Outcome.FAILED, 99)


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"maxvmem": "310M", "category": "-u sci -l h_rt=300,h_vmem=300M"}, Outcome.OUT_OF_MEMORY),
        ({"maxvmem": "3M", "category": "-u sci -l h_vmem=300M", "ru_wallclock": "5s"}, Outcome.CANCELED),
        ({"ru_wallclock": "61s", "category": "-u sci -l h_rt=60"}, Outcome.WALLTIME),
        ({"ru_wallclock": "3601", "category": "-u sci -l h_rt=1:00:00"}, Outcome.WALLTIME),
        ({"ru_wallclock": "9s", "exit_status": "152"}, Outcome.WALLTIME),
        ({"deleted_by": "operator@host"}, Outcome.CANCELED),
        ({"failed": "21  : in recognizing job"}, Outcome.NODE_FAILURE),
        ({"failed": "26  : opening input/output file"}, Outcome.NEVER_STARTS),
        ({"failed": "15  : in epilog", "exit_status": "4"}, Outcome.FAILED),
        ({"failed": "37  : qmaster enforced h_rt limit"}, Outcome.WALLTIME),
    ],
)
def test_each_end_is_an_outcome_of_its_own(fields: dict[str, str], outcome: Outcome) -> None:
    given = {"failed": "100 : assumedly after job", "exit_status": "137", **fields}
    end = ended(account(**given))
    assert end is not None
    assert end.outcome is outcome
    assert end.reason


def test_who_deleted_it_is_told_where_grid_engine_tells() -> None:
    end = ended(account(failed="100 : assumedly after job", exit_status="137", deleted_by="root@vm"))
    assert end is not None
    assert end.reason == "deleted by root@vm"


def test_without_any_record_nobody_knows() -> None:
    assert sge.parse_history(history("", status=1, errors=NO_RECORD), [ref("7", "ajob")]) == {}


@pytest.mark.parametrize(
    "errors", [NO_RECORD, "qacct: not found", "error: /a/accounting: No such file\nno jobs running since startup"]
)
def test_without_accounting_the_jobs_own_record_tells(errors: str) -> None:
    status = 127 if errors.startswith("qacct") else 1
    result = history("", record("7", 3), status=status, errors=errors)
    end = sge.parse_history(result, [ref("7", "ajob")])["7"]
    assert (end.state, end.outcome, end.exit_code) == (JobState.FAILED, Outcome.FAILED, 3)


def test_a_record_of_another_job_in_the_same_directory_is_nobodys() -> None:
    stray = record("8", 3).replace("8|", "7|", 1)
    assert sge.parse_history(history("", stray), [ref("7", "ajob")]) == {}


def test_a_job_that_we_deleted_while_it_waited_is_cancelled() -> None:
    end = sge.parse_history(history("", "7|CANCEL", status=1, errors=NO_RECORD), [ref("7", "ajob")])["7"]
    assert (end.state, end.outcome) == (JobState.CANCELED, Outcome.CANCELED)


@pytest.mark.parametrize(("status", "errors"), [(1, "/a/accounting: Stale file handle"), (124, ""), (1, "")])
def test_accounting_in_trouble_is_unreadable(status: int, errors: str) -> None:
    result = history("", "7|CANCEL", status=status, errors=errors)
    with pytest.raises(AnswerUnreadable):
        sge.parse_history(result, [ref("7", "ajob")])


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))))
def test_no_accounting_is_a_crash(lines: list[str]) -> None:
    sge_states.accounts_of([*lines, *("|".join(line for _ in sge_states.ACCOUNTS) for line in lines)])


def test_many_jobs_are_one_command() -> None:
    refs = [ref(str(n), f"a{n}") for n in range(2000)]
    assert sge.status_command(refs).count("qstat -u") == 2
    assert sge.history_command(refs).count("qacct -o") == 1


# --- submitting


@pytest.mark.parametrize(
    ("stdout", "native_id"),
    [
        ("41\n", "41"),
        ("41.1-10:1\n", "41"),
        (capture(f"{SGE}-qsub-words.out").splitlines()[0], "59"),
        (capture(f"{SGE}-qsub-words.out").splitlines()[1], "60"),
        ("site wrapper 3.1\n---\n41\n", "41"),
    ],
)
def test_ids(stdout: str, native_id: str) -> None:
    assert sge.parse_submit(CommandResult(0, stdout, "warning: 17")) == native_id


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("queue", 1, 'unknown queue "nope"'),
        ("project", 1, 'project "nope" does not exist'),
        ("resource", 1, 'unknown resource "nope"'),
        ("option", 2, "invalid option argument"),
        ("script", 14, "Unable to read script file"),
    ],
)
def test_captured_refusals_come_in_grid_engines_words(name: str, status: int, words: str) -> None:
    with pytest.raises(SubmissionRefused, match=words) as caught:
        sge.parse_submit(CommandResult(status, "", capture(f"{SGE}-qsub-{name}.err")))
    assert not caught.value.transient


def test_a_full_queue_is_a_refusal_that_time_cures() -> None:
    words = "Unable to run job: job rejected: only 10 jobs are allowed per user (current job count: 10)"
    with pytest.raises(SubmissionRefused) as caught:
        sge.parse_submit(CommandResult(25, "", words))
    assert caught.value.transient


@pytest.mark.parametrize(
    ("status", "stdout", "words"),
    [
        (1, "", capture(f"{SGE}-qsub-down.err")),
        (1, "", "Unable to run job: failed receiving gdi request response for mid=1 (got syncron message timeout)"),
        (124, "", ""),
        (137, "", "denied"),
        (-9, "", "denied"),
        (0, "", ""),
        (1, "", "what nobody knows"),
    ],
)
def test_a_submission_that_may_have_been_accepted_is_uncertain(status: int, stdout: str, words: str) -> None:
    with pytest.raises(SubmissionUncertain):
        sge.parse_submit(CommandResult(status, stdout, words))


def test_find_has_three_answers() -> None:
    assert sge.parse_find(found(QUEUE), "cap_held") == "47"
    assert sge.parse_find(found(capture(f"{SGE}-qstat-empty.xml"), kept(QACCT)), "cap_words") == "59"
    nothing = capture(f"{SGE}-qacct-none.err")
    assert sge.parse_find(found(QUEUE, status=1, errors=nothing), "anever") is None
    for broken in (
        found("", status=1, errors=nothing),
        found(QUEUE, status=1, errors="/a/accounting: Stale file handle"),
        found(QUEUE, status=124),
    ):
        with pytest.raises(AnswerUnreadable):
            sge.parse_find(broken, "anever")


def test_names_are_compared_whole() -> None:
    # Plain qstat would cut them to ten characters, and qacct takes a name as a pattern.
    assert sge.parse_find(found(QUEUE, kept(QACCT)), "cap_runnin") is None
    assert "-xml" in sge.find_command("ajob", None, "/d")


def test_a_cancel_touches_only_jobs_with_the_name() -> None:
    command = sge.cancel_command([ref("9.2", "it's", 1)])
    assert """airavata_end 9.2 '9|it'"'"'s' '/d/.airavata/it'"'"'s/1'""" in command
    assert sge.cancel_command([]) == ":"
