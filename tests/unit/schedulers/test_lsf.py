"""LSF's answers and commands as text; which answers are captures, ``tests/fixtures/schedulers/README.md`` tells."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.errors import (
    AnswerUnreadable,
    ConfigurationError,
    SubmissionRefused,
    SubmissionUncertain,
)
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import CommandResult, JobRef
from airavata_provider.schedulers.lsf import Lsf
from airavata_provider.schedulers.lsf_states import STATES, TERMS, status
from airavata_provider.schedulers.request import (
    Array,
    Dependency,
    DependencyKind,
    Element,
    JobRequest,
    MailEvent,
)
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


def request(**fields: object) -> JobRequest:
    return JobRequest(**{"name": "ajob", "directory": "/s/d", "executable": "x", **fields})  # type: ignore[arg-type]


def array(*indices: int, throttle: int | None = None) -> Array:
    return Array(tuple(Element(index, f"/s/d/{index}") for index in indices), throttle)


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


# --- directives


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


# --- commands


def test_elements_of_one_array_are_one_word() -> None:
    refs = [JobRef("7", "b", "/d"), *(JobRef(f"12[{i + 1}]", "arr", "/d", i) for i in (0, 1, 2, 6))]
    command = lsf.status_command(refs)
    assert re.search(r"-o 'jobid .*' 7 '12\[1-3,7\]'\n|-o .* 7 '12\[1-3,7\]'$", command, re.MULTILINE)


def test_without_jobs_nothing_is_asked() -> None:
    assert "bjobs" not in lsf.status_command([])
    assert lsf.cancel_command([]) == ":"
