"""LSF's answers and commands as text; which answers are captures, ``tests/fixtures/schedulers/README.md`` tells."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airavata_provider.errors import (
    AnswerUnreadable,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import CommandResult, JobRef
from airavata_provider.schedulers.lsf import Lsf
from airavata_provider.schedulers.lsf_states import STATES, TERMS, status
from tests.unit.schedulers.captures import answer, capture, framed

LSF = "lsf"
lsf = Lsf()
NAMES = {
    "81204417": "a3f1", "81204420": "a3f2", "81204421": "a3f3", "81204422": "a3f4", "81204423": "a3f5",
    "81204424": "a3f6", "81204425": "a3f7", "81204426": "a3f8", "81204427": "a3f9", "81204428": "a3g0",
    "81204429": "a3g1", "81204430": "a3g2", "81204431": "a3g3", "81204432": "a3g4",
}  # fmt: skip
REFS = [
    *(JobRef(native_id, name, f"/scratch/{name}") for native_id, name in NAMES.items()),
    *(JobRef(f"81204440[{index + 1}]", "arr", "/scratch/arr", index) for index in range(3)),
]


# --- states


def test_states_of_a_queue() -> None:
    result = answer(framed("queue", capture(f"{LSF}-bjobs.out")), noise="Welcome!\n81204422^RUN^-^a3f4^-^-\n")
    states = lsf.parse_status(result, REFS)
    assert {i: (s.state, s.outcome, s.exit_code) for i, s in states.items()} == {
        "81204417": (JobState.FAILED, Outcome.WALLTIME, 140),
        "81204420": (JobState.QUEUED, None, None),
        "81204421": (JobState.ACTIVE, None, None),
        "81204422": (JobState.COMPLETE, Outcome.COMPLETED, 0),
        "81204423": (JobState.FAILED, Outcome.FAILED, 3),
        "81204424": (JobState.CANCELED, Outcome.CANCELED, 130),
        "81204425": (JobState.FAILED, Outcome.OUT_OF_MEMORY, 137),
        "81204426": (JobState.QUEUED, Outcome.HELD, None),
        "81204427": (JobState.SUSPENDED, Outcome.SUSPENDED, None),
        "81204428": (JobState.UNKNOWN, None, None),
        "81204429": (JobState.QUEUED, Outcome.NEVER_STARTS, None),
        "81204430": (JobState.QUEUED, None, None),
        "81204431": (JobState.FAILED, Outcome.SIGNALED, 139),
        "81204440[1]": (JobState.ACTIVE, None, None),
        "81204440[2]": (JobState.FAILED, Outcome.FAILED, 1),
        "81204440[3]": (JobState.QUEUED, None, None),
    }
    assert states["81204431"].signal == 11
    assert states["81204417"].reason == "TERM_RUNLIMIT: job killed after reaching LSF run time limit"
    assert states["81204420"].reason == "New job is waiting for scheduling;"
    assert states["81204440[1]"].name == "arr"


def test_another_job_that_got_the_id_is_not_ours() -> None:
    assert lsf.parse_status(answer(framed("queue", "81204421^RUN^-^somebody^-^-\n")), REFS) == {}


def test_absent_is_not_unreadable() -> None:
    missing = capture(f"{LSF}-bjobs-missing.err")
    assert lsf.parse_status(answer(framed("queue", status=255, errors=missing * 2)), REFS) == {}
    both = answer(framed("queue", capture(f"{LSF}-bjobs.out"), status=255, errors=missing))
    assert len(lsf.parse_status(both, REFS)) == 16


def test_lsf_that_was_busy_and_then_answered_has_answered() -> None:
    words = capture(f"{LSF}-bjobs-retry.err")
    assert len(lsf.parse_status(answer(framed("queue", capture(f"{LSF}-bjobs.out"), errors=words)), REFS)) == 16


@pytest.mark.parametrize(
    ("status_", "words"),
    [
        (255, "LSF is down. Please wait ..."),
        (0, "LSF is down. Please wait ..."),
        (255, "ls_getclustername(): Cannot connect to LSF"),
        (255, "Job <1> is not found\nFailed in receiving a message: Connection timed out"),
        (255, ""),
        (124, ""),
        (127, "sh: 1: bjobs: not found"),
        (255, 'Error near "pend_reason": unknown field name'),
    ],
)
def test_an_answer_with_trouble_is_unreadable(status_: int, words: str) -> None:
    with pytest.raises(AnswerUnreadable):
        lsf.parse_status(answer(framed("queue", status=status_, errors=words)), REFS)


@pytest.mark.parametrize("word", sorted(STATES))
def test_every_state_is_known(word: str) -> None:
    assert status(REFS[0], word).state is STATES[word] or word == "EXIT"


@pytest.mark.parametrize("word", ["", "NEWSTATE", "run away"])
def test_a_new_state_is_unknown(word: str) -> None:
    assert status(REFS[0], word).state is JobState.UNKNOWN


@pytest.mark.parametrize("term", sorted(TERMS))
def test_every_reason_of_an_end_has_its_outcome(term: str) -> None:
    end = status(REFS[0], "EXIT", code=137, ended=f"{term}: job killed")
    assert end.outcome is TERMS[term]
    assert end.state is (JobState.CANCELED if TERMS[term] is Outcome.CANCELED else JobState.FAILED)


@pytest.mark.parametrize(
    ("code", "term", "outcome"),
    [
        (1, "TERM_UNKNOWN: unknown reason", Outcome.FAILED),
        (137, "TERM_UNKNOWN: unknown reason", Outcome.SIGNALED),
        (None, "", Outcome.FAILED),
        (200, "", Outcome.FAILED),
    ],
)
def test_an_end_without_a_reason_is_told_by_its_status(code: int | None, term: str, outcome: Outcome) -> None:
    assert status(REFS[0], "EXIT", code=code, ended=term).outcome is outcome


# --- history


def record(native_id: str, code: int, reason: str = "") -> str:
    number = code - 128 if code > 128 else "null"
    return (
        f'{native_id}|{{"exit_code": {code}, "signal": {number}, "reason": "{reason}",'
        f' "time": "2026-01-01T00:00:00Z", "native_id": "{native_id}", "restart": 0}}\n'
    )


def test_captured_ends() -> None:
    # Job names are not shown of jobs without one: ours always have one.
    text = capture("lsf-2021-bhist.out").replace("Project <default>", "Job Name <ajob>, Project <default>")
    text = re.sub(r"^(Job <\d+>), User <somby>, (.*)", r"\1, \2", text, flags=re.MULTILINE)
    refs = [JobRef("872795", "ajob", "/d"), JobRef("873209", "ajob", "/d"), JobRef("41", "b", "/d")]
    memory = f"\nJob <41>, Job Name <b>, User <somby>\n{capture('lsf-10.1-bhist-memory.out')}"
    ends = lsf.parse_history(answer(framed("records"), framed("history", text + memory)), refs)
    assert {i: (s.state, s.outcome, s.exit_code) for i, s in ends.items()} == {
        "872795": (JobState.COMPLETE, Outcome.COMPLETED, 0),
        "873209": (JobState.FAILED, Outcome.FAILED, 127),
        "41": (JobState.FAILED, Outcome.OUT_OF_MEMORY, 1),
    }
    assert ends["41"].reason == "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit"


@pytest.mark.parametrize(
    "words",
    [
        "Exited by signal 12",
        "Exited by LSF signal 12",
        "Exited with signal termination: 12",
        "Exited with exit code 140",
    ],
)
def test_each_way_to_tell_of_a_signal(words: str) -> None:
    text = (
        f"Job <873209>, Job Name <ajob>, User <x>\nSun Jan 10 17:50:12: {words}. The CPU time used is 0.0 seconds;\n"
    )
    end = lsf.parse_history(answer(framed("records"), framed("history", text)), [JobRef("873209", "ajob", "/d")])[
        "873209"
    ]
    assert (end.exit_code, end.signal, end.outcome) == (140, 12, Outcome.SIGNALED)


def test_ends_of_a_history() -> None:
    result = answer(framed("records"), framed("history", capture(f"{LSF}-bhist.out")))
    ends = lsf.parse_history(result, REFS)
    assert {i: (s.state, s.outcome, s.exit_code, s.signal) for i, s in ends.items()} == {
        "81204417": (JobState.FAILED, Outcome.WALLTIME, 140, 12),
        "81204422": (JobState.COMPLETE, Outcome.COMPLETED, 0, None),
        "81204424": (JobState.CANCELED, Outcome.CANCELED, 137, 9),
        "81204440[2]": (JobState.FAILED, Outcome.FAILED, 1, None),
    }, "81204432 was requeued and did not end"
    assert ends["81204417"].reason == "TERM_RUNLIMIT: job killed after reaching LSF run time limit"


def test_the_jobs_own_record_tells_where_lsf_forgot_and_adds_the_status_where_not() -> None:
    own = record("81204417", 143, "WALLTIME") + record("81204431", 139) + record("81204421", 0)
    ends = lsf.parse_history(answer(framed("records", own), framed("history", capture(f"{LSF}-bhist.out"))), REFS)
    assert (ends["81204417"].outcome, ends["81204417"].exit_code) == (Outcome.WALLTIME, 143)
    assert (ends["81204431"].outcome, ends["81204431"].signal) == (Outcome.SIGNALED, 11)
    assert ends["81204421"].state is JobState.COMPLETE


def test_a_record_of_another_job_is_nobodys() -> None:
    other = record("81204499", 0).replace("81204499|", "81204421|")
    assert lsf.parse_history(answer(framed("records", other), framed("history")), REFS) == {}


def test_a_history_that_does_not_answer_hides_no_record() -> None:
    down = framed("history", status=255, errors="LSF is down. Please wait ...")
    assert set(lsf.parse_history(answer(framed("records", record("81204421", 0)), down), REFS)) == {"81204421"}
    with pytest.raises(AnswerUnreadable):
        lsf.parse_history(answer(framed("records"), down), REFS)


def test_an_absent_job_without_a_record_has_no_end() -> None:
    assert lsf.parse_history(answer(framed("records"), framed("history")), REFS) == {}


def test_one_bjobs_for_all_jobs() -> None:
    assert lsf.status_command(REFS).count("bjobs") == 1


def test_no_history_is_an_answer() -> None:
    none = framed("history", capture(f"{LSF}-bhist-none.out"), status=255)
    assert lsf.parse_history(answer(framed("records"), none), REFS) == {}


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"])))
def test_no_history_text_breaks_the_parser(text: str) -> None:
    try:
        lsf.parse_history(answer(framed("records"), framed("history", f"Job <81204417>, {text}")), REFS)
    except AnswerUnreadable:
        return


@example(cells=["", "\N{SUPERSCRIPT ONE}", "", "", "", ""])
@given(
    st.lists(st.text(st.characters(exclude_characters="^\r\n", exclude_categories=["Cs"])), min_size=6, max_size=8)
)
def test_no_row_breaks_the_parser(cells: list[str]) -> None:
    try:
        found = lsf.parse_status(answer(framed("queue", "^".join(["81204421", *cells]))), REFS)
    except AnswerUnreadable:
        return
    assert set(found) <= {"81204421"}


# --- submitting


@pytest.mark.parametrize(
    ("name", "native_id"), [("bsub-ok", "81204417"), ("bsub-default", "81204418"), ("bsub-wait", "81204419")]
)
def test_an_accepted_job(name: str, native_id: str) -> None:
    assert lsf.parse_submit(CommandResult(0, capture(f"{LSF}-{name}.out"), "")) == native_id


@pytest.mark.parametrize("name", ["bsub-queue", "bsub-select", "bsub-slots", "bsub-esub"])
def test_a_refused_job_is_refused_for_good(name: str) -> None:
    words = capture(f"{LSF}-{name}.err")
    with pytest.raises(SubmissionRefused) as refused:
        lsf.parse_submit(CommandResult(255, "", words))
    assert not refused.value.transient
    assert refused.value.message.split()[:3] == words.split()[:3]


@pytest.mark.parametrize(
    "words",
    [
        "User <sci>: Pending job threshold reached. Job not submitted.",
        "normal: Queue has been closed. Job not submitted.",
        "User's job limit is reached. Job not submitted.",
    ],
)
def test_a_limit_that_time_cures_is_later(words: str) -> None:
    with pytest.raises(SubmissionRefused) as refused:
        lsf.parse_submit(CommandResult(255, "", words))
    assert refused.value.transient


@pytest.mark.parametrize(
    ("status_", "words"),
    [
        (255, "LSF is down. Please wait ..."),
        (255, "Failed in an LSF library call: Communication time out. Job not submitted."),
        (255, "Failed in receiving a message: Connection reset by peer. Job not submitted."),
        (124, "User <sci>: Pending job threshold reached. Retrying in 60 seconds..."),
        (255, "something else"),
        (0, ""),
    ],
)
def test_what_lsf_cannot_know_is_uncertain(status_: int, words: str) -> None:
    with pytest.raises(SubmissionUncertain):
        lsf.parse_submit(CommandResult(status_, "", words))


def test_a_command_that_is_not_there_is_refused() -> None:
    with pytest.raises(SubmissionRefused, match="PATH"):
        lsf.parse_submit(CommandResult(127, "", "sh: bsub: not found"))


# --- looking up


def found(queue: str = "", history: str = "", **kw: object) -> CommandResult:
    none = "Job <ajob> is not found"
    return answer(
        framed("queue", queue, status=0 if queue else 255, errors="" if queue else none),
        framed("history", history or "No matching job found", status=0 if history else 255),
    )


def test_a_job_and_an_array_are_found_by_their_names() -> None:
    queue = capture(f"{LSF}-bjobs.out")
    assert lsf.parse_find(found(queue), "a3f3") == "81204421"
    assert lsf.parse_find(found(queue), "arr") == "81204440"
    assert lsf.parse_find(found("", capture(f"{LSF}-bhist.out")), "a3f4") == "81204422"
    assert lsf.parse_find(found("", capture(f"{LSF}-bhist.out")), "arr") == "81204440"
    assert lsf.parse_find(found(queue), "ajob") is None
    assert lsf.parse_find(found(), "ajob") is None


def test_a_look_up_that_half_failed_could_not_tell() -> None:
    result = answer(framed("queue", status=255, errors="Job <ajob> is not found"), framed("history", status=124))
    with pytest.raises(AnswerUnreadable, match="history"):
        lsf.parse_find(result, "ajob")


# --- commands


def test_elements_of_one_array_are_one_word() -> None:
    refs = [JobRef("7", "b", "/d"), *(JobRef(f"12[{i + 1}]", "arr", "/d", i) for i in (0, 1, 2, 6))]
    command = lsf.status_command(refs)
    assert re.search(r"-o 'jobid .*' 7 '12\[1-3,7\]'\n|-o .* 7 '12\[1-3,7\]'$", command, re.MULTILINE)


def test_without_jobs_nothing_is_asked() -> None:
    assert "bjobs" not in lsf.status_command([])
    assert lsf.cancel_command([]) == ":"
