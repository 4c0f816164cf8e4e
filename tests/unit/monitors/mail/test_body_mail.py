"""Mail of the schedulers that say it in the body: PBS, Torque, Grid Engine, LSF, HTCondor."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.mail import htcondor, lsf, pbs, sge, slurm
from airavata_provider.monitors.mail.message import Mail, read
from airavata_provider.monitors.mail.news import Decoder, MailNews
from airavata_provider.schedulers import lsf_states, pbs_answers, sge_states
from airavata_provider.schedulers.base import JobRef

CAPTURES = Path(__file__).parents[3] / "fixtures" / "mail"
ARRIVED = datetime(2031, 5, 6, 12, tzinfo=UTC)
S, O = JobState, Outcome  # noqa: E741


def news_of(by: Decoder, subject: str, body: str = "") -> MailNews | None:
    """As it arrives: CRLF, a header, a body."""
    raw = f"From: adm@cluster.test\nSubject: {subject}\n\n{body}".replace("\n", "\r\n").encode()
    mail = read(raw, ARRIVED)
    return by.decode(mail) if by.subject.search(mail.subject) else None


def captured(by: Decoder, name: str) -> MailNews | None:
    mail = read((CAPTURES / f"{name}.eml").read_bytes(), ARRIVED)
    assert by.subject.search(mail.subject)
    return by.decode(mail)


def told(news: MailNews | None) -> tuple[object, ...]:
    assert news is not None
    return news.native_id, news.name, news.index, news.state, news.outcome, news.exit_code, news.signal


# --- PBS and Torque


def pbs_body(event: str, job: str = "33.head.cluster.test", name: str = "A_1.x-y") -> str:
    return f"PBS Job Id: {job}\nJob Name:   {name}\nExec host:  node1/0\n{event}\n"


ABORTED = """Aborted by PBS Server
Job exceeded some resource limit (walltime, mem, etc.). Job was aborted
See Administrator for help
Exit_status={}
"""
END = "Execution terminated\nExit_status={}\nresources_used.cput=00:00:00\nresources_used.walltime=00:00:05"


@pytest.mark.parametrize(
    ("event", "state", "outcome", "exit_code", "signal"),
    [
        ("Begun execution", S.ACTIVE, None, None, None),
        (END.format(0), S.COMPLETE, O.COMPLETED, 0, None),
        (END.format(3), S.FAILED, O.FAILED, 3, None),
        (END.format(271), S.CANCELED, O.CANCELED, None, 15),
        (END.format(265), S.FAILED, O.SIGNALED, None, 9),
        (END.format(137), S.FAILED, O.SIGNALED, 137, 9),
        (END.format(-29), S.FAILED, O.WALLTIME, None, None),
        (END.format(-27), S.FAILED, O.OUT_OF_MEMORY, None, None),
        (END.format(-26), S.FAILED, O.OUT_OF_MEMORY, None, None),
        (END.format(-5), S.FAILED, O.NODE_FAILURE, None, None),
        (END.format(-11), S.FAILED, O.FAILED, None, None),
        (
            "Aborted by PBS Server\nJob cannot be executed\nSee job standard error file",
            S.FAILED,
            O.FAILED,
            None,
            None,
        ),
        ("Aborted by PBS Server\njob killed: walltime 65 exceeded limit 60", S.FAILED, O.WALLTIME, None, None),
        ("Aborted by PBS Server\nmem 200kb exceeded limit 100kb", S.FAILED, O.OUT_OF_MEMORY, None, None),
        ("job deleted\nJob deleted at request of me@head", S.CANCELED, O.CANCELED, None, None),
    ],
)
def test_pbs(event: str, state: JobState, outcome: Outcome | None, exit_code: int | None, signal: int | None) -> None:
    news = news_of(pbs.DECODER, "PBS JOB 33.head.cluster.test", pbs_body(event))
    expected = ("33.head.cluster.test", "A_1.x-y", None, state, outcome, exit_code, signal)
    assert told(news) == expected


@pytest.mark.parametrize(
    ("event", "state", "outcome", "exit_code", "signal"),
    [
        ("Begun execution", S.ACTIVE, None, None, None),
        (END.format(0), S.COMPLETE, O.COMPLETED, 0, None),
        (END.format(3), S.FAILED, O.FAILED, 3, None),
        (END.format(271), S.CANCELED, O.CANCELED, None, 15),
        (END.format(-10), S.FAILED, O.OUT_OF_MEMORY, None, None),
        (END.format(-11), S.FAILED, O.WALLTIME, None, None),
        (END.format(-5), S.FAILED, O.NODE_FAILURE, None, None),
        (END.format(-29), S.FAILED, O.FAILED, None, None),
        (ABORTED.format("-10"), S.FAILED, O.OUT_OF_MEMORY, None, None),
        (ABORTED.format("-11"), S.FAILED, O.WALLTIME, None, None),
        (ABORTED.partition("Exit_status")[0], S.FAILED, O.SIGNALED, None, None),
    ],
)
def test_torque(
    event: str, state: JobState, outcome: Outcome | None, exit_code: int | None, signal: int | None
) -> None:
    news = news_of(pbs.TORQUE, "PBS JOB 33.head.cluster.test", pbs_body(event))
    assert told(news) == ("33.head.cluster.test", "A_1.x-y", None, state, outcome, exit_code, signal)


def test_captured_torque() -> None:
    news = captured(pbs.TORQUE, "torque-2022-aborted")
    assert told(news) == ("1400749.head.cluster.test", "pre20220306", None, S.FAILED, O.WALLTIME, None, None)
    assert news is not None
    assert news.reason == "Job exceeded its walltime limit. Job was aborted"


@pytest.mark.parametrize("letter", ["F", "C"])
@pytest.mark.parametrize("status", [*range(-32, 1), 3, 137, 256 + 9])
def test_pbs_mail_and_qstat_say_the_same_of_an_exit_status(letter: str, status: int) -> None:
    by = pbs.TORQUE if letter == "C" else pbs.DECODER
    news = news_of(by, "PBS JOB 33.head", pbs_body(END.format(status)))
    job = {"id": "33.head", "job_state": letter, "exit_status": str(status)}
    shown = pbs_answers.status(job, JobRef("33.head", "A_1.x-y", "/d"))
    assert news is not None
    assert (news.state, news.outcome, news.signal) == (shown.state, shown.outcome, shown.signal)


def test_pbs_ids_are_known_by_the_names_that_qsub_may_have_shown() -> None:
    news = news_of(pbs.DECODER, "PBS JOB 33.head.cluster.test", pbs_body("Begun execution"))
    assert news is not None
    assert {"33.head.cluster.test", "33.head", "33"} <= set(news.other_ids)


def test_a_pbs_array_and_its_elements() -> None:
    element = news_of(pbs.DECODER, "PBS JOB 33[4].head", pbs_body(END.format(0), job="33[4].head"))
    assert told(element) == ("33[].head", "A_1.x-y", 4, S.COMPLETE, O.COMPLETED, 0, None)
    assert element is not None
    assert {"33[4].head", "33[4]"} <= set(element.other_ids)
    assert news_of(pbs.DECODER, "PBS JOB 33[].head", pbs_body(END.format(0), job="33[].head")) is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "PBS Job Id: 33\nBegun execution\n",
        "Job Name: a\nBegun execution\n",
        pbs_body("Execution terminated"),
        pbs_body("File stage in failed, see below."),
        pbs_body("Begun execution").replace("33.head.cluster.test", "x33"),
    ],
)
def test_pbs_bodies_that_tell_nothing(body: str) -> None:
    assert news_of(pbs.DECODER, "PBS JOB 33.head", body) is None


# --- Grid Engine

SGE_END = """Job 33 (A_1.x-y) Complete
 User             = sci
 Queue            = all.q@node1
 Host             = node1
 Start Time       = 05/06/2031 10:00:00
 End Time         = 05/06/2031 10:00:05
 User Time        = 00:00:00
 System Time      = 00:00:00
 Wallclock Time   = 00:00:05
 CPU              = 00:00:00
 Max vmem         = NA
 Exit Status      = {}
"""


@pytest.mark.parametrize(
    ("subject", "body", "state", "outcome", "exit_code", "signal"),
    [
        ("Started", "", S.ACTIVE, None, None, None),
        ("Complete", SGE_END.format(0), S.COMPLETE, O.COMPLETED, 0, None),
        ("Complete", SGE_END.format(3), S.FAILED, O.FAILED, 3, None),
        ("Complete", SGE_END.format(137), S.FAILED, O.SIGNALED, 137, 9),
        ("Aborted", " Exit Status      = 139\n Signal           = SEGV\n", S.FAILED, O.SIGNALED, None, 11),
        (
            "Aborted",
            " Signal           = KILL\nfailed x enforced h_rt limit because:\n",
            S.FAILED,
            O.WALLTIME,
            None,
            9,
        ),
        (
            "Aborted",
            " Signal           = KILL\nfailed x enforced h_vmem limit because:\n",
            S.FAILED,
            O.OUT_OF_MEMORY,
            None,
            9,
        ),
        ("Aborted", "failed opening input file because:\nerror: no such file\n", S.FAILED, O.FAILED, None, None),
        ("Aborted", "", S.FAILED, O.SIGNALED, None, None),
        ("Killed", "", S.CANCELED, O.CANCELED, None, None),
        ("Failed", "", S.FAILED, O.FAILED, None, None),
        ("Suspended", "", S.SUSPENDED, O.SUSPENDED, None, None),
        ("Continued", "", S.ACTIVE, None, None, None),
        ("Rescheduled", "", S.QUEUED, None, None, None),
        ("Set in error state", "", S.QUEUED, O.NEVER_STARTS, None, None),
    ],
)
def test_sge(
    subject: str, body: str, state: JobState, outcome: Outcome | None, exit_code: int | None, signal: int | None
) -> None:
    news = news_of(sge.DECODER, f"Job 33 (A_1.x-y) {subject}", body)
    assert told(news) == ("33", "A_1.x-y", None, state, outcome, exit_code, signal)


@pytest.mark.parametrize(
    ("name", "expected", "reason"),
    [
        ("plain-started", ("1", "A1_ok.x-y", None, S.ACTIVE, None, None, None), ""),
        ("plain-complete", ("1", "A1_ok.x-y", None, S.COMPLETE, O.COMPLETED, 0, None), ""),
        ("failjob-started", ("2", "failjob", None, S.ACTIVE, None, None, None), ""),
        ("failjob-complete", ("2", "failjob", None, S.FAILED, O.FAILED, 3, None), ""),
        ("sigjob-started", ("3", "sigjob", None, S.ACTIVE, None, None, None), ""),
        (
            "sigjob-aborted",
            ("3", "sigjob", None, S.FAILED, O.SIGNALED, None, 9),
            "job 3.1 died through signal KILL (9)",
        ),
        ("arr-1-started", ("4", "arr", 0, S.ACTIVE, None, None, None), ""),
        ("arr-1-complete", ("4", "arr", 0, S.FAILED, O.FAILED, 1, None), ""),
        ("arr-2-started", ("4", "arr", 1, S.ACTIVE, None, None, None), ""),
        ("arr-2-complete", ("4", "arr", 1, S.FAILED, O.FAILED, 2, None), ""),
        ("canceljob-started", ("5", "canceljob", None, S.ACTIVE, None, None, None), ""),
        (
            "canceljob-killed",
            ("5", "canceljob", None, S.CANCELED, O.CANCELED, None, None),
            "was killed by root@node1",
        ),
        (
            "canceljob-aborted",
            ("5", "canceljob", None, S.FAILED, O.SIGNALED, None, 9),
            "job 5.1 died through signal KILL (9)",
        ),
        ("limitjob-started", ("6", "limitjob", None, S.ACTIVE, None, None, None), ""),
        (
            "limitjob-aborted",
            ("6", "limitjob", None, S.FAILED, O.SIGNALED, None, 9),
            "qmaster enforced h_rt, h_cpu, or h_vmem limit",
        ),
        ("errjob-started", ("7", "errjob", None, S.ACTIVE, None, None, None), ""),
        (
            "errjob-set-in-error-state",
            ("7", "errjob", None, S.QUEUED, O.NEVER_STARTS, None, None),
            "11/21/2026 07:50:58 [1002:15436]: error: can't chdir to /nowhere/at/all: No such file or directory",
        ),
    ],
)
def test_captured_sge(name: str, expected: tuple[object, ...], reason: str) -> None:
    news = captured(sge.DECODER, f"gridengine-8.1.9-{name}")
    assert told(news) == expected
    assert news is not None
    assert news.reason == reason


def test_sge_mail_and_qstat_say_the_same_of_the_error_state() -> None:
    news = captured(sge.DECODER, "gridengine-8.1.9-errjob-set-in-error-state")
    assert news is not None
    assert (news.state, news.outcome, news.reason) == sge_states.state_of("Eqw", reason=news.reason)


def test_an_sge_element_and_names_with_brackets() -> None:
    news = news_of(sge.DECODER, "Job-array task 33.2 (a (b)) Complete", SGE_END.format(0))
    assert told(news) == ("33", "a (b)", 1, S.COMPLETE, O.COMPLETED, 0, None)
    assert news is not None
    assert news.other_ids == ("33.2",)


@pytest.mark.parametrize(
    "subject", ["Job 33 (a) Complete", "Job 33 Complete", "Job 33 (a) is late", "Job (a) Started"]
)
def test_sge_subjects_that_tell_nothing(subject: str) -> None:
    assert news_of(sge.DECODER, subject, "Exit: 0") is None


# --- LSF

LSF_BODY = """Job <A_1.x-y> was submitted from host <head> by user <sci> in cluster <c> at Tue May  6 10:00:00 2031
Job was executed on host(s) <node1>, in queue <normal>, as user <sci> in cluster <c>

Your job looked like:

------------------------------------------------------------
# LSBATCH: User input
echo "Exited with exit code 77."
------------------------------------------------------------

{}

Resource usage summary:
"""


@pytest.mark.parametrize(
    ("verb", "end", "state", "outcome", "exit_code", "signal"),
    [
        ("started", "", S.ACTIVE, None, None, None),
        ("Done", "Successfully completed.", S.COMPLETE, O.COMPLETED, 0, None),
        ("in cluster <c> Done", "Successfully completed.", S.COMPLETE, O.COMPLETED, 0, None),
        ("in cluster <c> Exited", "Exited with exit code 3.", S.FAILED, O.FAILED, 3, None),
        ("Exited", "Exited with exit code 3.", S.FAILED, O.FAILED, 3, None),
        ("Exited", "Exited by signal 9.", S.FAILED, O.SIGNALED, None, 9),
        (
            "Exited",
            "TERM_RUNLIMIT: job killed after reaching LSF run time limit.\nExited with exit code 140.",
            S.FAILED,
            O.WALLTIME,
            140,
            None,
        ),
        (
            "Exited",
            "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit.\nExited by signal 9.",
            S.FAILED,
            O.OUT_OF_MEMORY,
            None,
            9,
        ),
        (
            "Exited",
            "TERM_OWNER: job killed by owner.\nExited with exit code 143.",
            S.CANCELED,
            O.CANCELED,
            143,
            None,
        ),
        ("Exited", "TERM_REQUEUE_OWNER: job killed and requeued by owner.", S.QUEUED, None, None, None),
    ],
)
def test_lsf(
    verb: str, end: str, state: JobState, outcome: Outcome | None, exit_code: int | None, signal: int | None
) -> None:
    body = LSF_BODY.format(end).replace(
        'echo "Exited with exit code 77."', "Exited with exit code 77." if "code" in end else "true"
    )
    news = news_of(lsf.DECODER, f"Job 2477: <A_1.x-y> {verb}", body)
    assert told(news) == ("2477", "A_1.x-y", None, state, outcome, exit_code, signal)


@pytest.mark.parametrize("term", sorted(each for each in lsf_states.TERMS if "REQUEUE" not in each))
def test_lsf_mail_and_bjobs_say_the_same_of_a_reason(term: str) -> None:
    news = news_of(lsf.DECODER, "Job 2477: <a> Exited", f"{term}: job killed.\nExited with exit code 3.")
    shown = lsf_states.status(JobRef("2477", "a", "/d"), "EXIT", code=3, ended=f"{term}: job killed")
    assert news is not None
    assert (news.state, news.outcome) == (shown.state, shown.outcome)


def test_an_lsf_element() -> None:
    news = news_of(lsf.DECODER, "Job 2477[3]: <A_1[1-10]> Done", "")
    assert told(news) == ("2477", "A_1", 2, S.COMPLETE, O.COMPLETED, 0, None)
    assert news is not None
    assert news.other_ids == ("2477[3]",)
    assert news_of(lsf.DECODER, "Job 2477: <a> was suspended", "") is None


# --- HTCondor

CONDOR = """This is an automated email from the Condor system
on machine "submit.test".  Do not reply.

Your Condor job 123.0
\t/scratch/e1/.airavata/A_1.x-y/job.sh
{}

Submitted at:        Tue May  6 10:00:00 2031
"""


@pytest.mark.parametrize(
    ("end", "state", "outcome", "exit_code", "signal"),
    [
        ("has exited normally with status 0", S.COMPLETE, O.COMPLETED, 0, None),
        ("exited with status 3", S.FAILED, O.FAILED, 3, None),
        ("was killed by signal 9", S.FAILED, O.SIGNALED, None, 9),
        ("died on signal 11", S.FAILED, O.SIGNALED, None, 11),
        ("is being removed.", S.CANCELED, O.CANCELED, None, None),
        ("is being put on hold.", S.QUEUED, O.HELD, None, None),
    ],
)
def test_htcondor(end: str, state: JobState, outcome: Outcome, exit_code: int | None, signal: int | None) -> None:
    news = news_of(htcondor.DECODER, "[Condor] Condor Job 123.0", CONDOR.format(end))
    assert told(news) == ("123", "A_1.x-y", None, state, outcome, exit_code, signal)
    assert news is not None
    assert news.other_ids == ("123.0",)


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        ("[Condor] Condor Job 123.0", CONDOR.format("is thinking")),
        ("[Condor] Condor Job 123.0", CONDOR.format("exited with status 0").replace(".airavata", "elsewhere")),
        ("[Condor] Condor Job 123.1", CONDOR.format("exited with status 0")),
        ("[Condor] Problem on submit.test", CONDOR.format("exited with status 0")),
    ],
)
def test_htcondor_mail_that_tells_nothing(subject: str, body: str) -> None:
    assert news_of(htcondor.DECODER, subject, body) is None


# --- all

EVERY = [slurm.DECODER, pbs.DECODER, pbs.TORQUE, sge.DECODER, lsf.DECODER, htcondor.DECODER]
BEGINNINGS = ["Slurm Job_id=1 Name=", "PBS JOB 1", "Job 33 (", "Job-array task 1.2 (a) Complete", "Job 1: <a> Exited"]


@settings(max_examples=100)
@given(
    st.sampled_from(BEGINNINGS),
    st.text(max_size=60),
    st.lists(
        st.sampled_from(
            ["PBS Job Id: 1", "Job Name: a", "Execution terminated", "Exit_status=", "Exit Status = ", "9" * 30]
        )
        | st.text(max_size=20)
    ),
)
def test_decoders_never_raise(beginning: str, rest: str, lines: list[str]) -> None:
    mail = Mail(beginning + rest, "\n".join(lines), "", (), ARRIVED, ARRIVED, "")
    for decoder in EVERY:
        news = decoder.decode(mail)
        assert news is None or isinstance(news.state, JobState)
