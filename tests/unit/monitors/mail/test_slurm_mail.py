"""SLURM's mail: captured from a real SLURM through a real mail server, and subjects of other versions' shapes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.mail.message import Mail, read
from airavata_provider.monitors.mail.news import MailNews
from airavata_provider.monitors.mail.slurm import DECODER, decode

CAPTURES = Path(__file__).parents[3] / "fixtures" / "mail"
ARRIVED = datetime(2026, 11, 21, 23, tzinfo=UTC)
S, O = JobState, Outcome  # noqa: E741


def captured(name: str) -> Mail:
    return read((CAPTURES / f"slurm-22.05.8-{name}.eml").read_bytes(), ARRIVED)


def news_of(subject: str) -> MailNews | None:
    return decode(read(f"Subject: {subject}\n\n".encode(), ARRIVED))


EXPECTED: dict[str, tuple[Any, ...] | None] = {
    # id, name, index, state, outcome, exit code, reason
    "array-summary-began": None,
    "array-summary-ended": None,
    "array-task-1-began": ("4160", "arrtask", 1, S.ACTIVE, None, None, ""),
    "array-task-1-ended": ("4160", "arrtask", 1, S.COMPLETE, O.COMPLETED, 0, ""),
    "array-task-3-began": ("4160", "arrtask", 3, S.ACTIVE, None, None, ""),
    "array-task-3-failed": ("4160", "arrtask", 3, S.FAILED, O.FAILED, 2, ""),
    "canceled-began": ("4146", "canceljob", None, S.ACTIVE, None, None, ""),
    "canceled-ended": ("4146", "canceljob", None, S.CANCELED, O.CANCELED, None, "CANCELLED"),
    "canceled-pending-ended": ("4147", "cancelpend", None, S.CANCELED, O.CANCELED, None, "CANCELLED"),
    "dependency-ended": ("4163", "depends", None, S.CANCELED, O.CANCELED, None, "CANCELLED"),
    "dependency-invalid-dependency": (
        "4163",
        "depends",
        None,
        S.QUEUED,
        O.NEVER_STARTS,
        None,
        "DependencyNeverSatisfied",
    ),
    "encoded-began": ("4161", "grün", None, S.ACTIVE, None, None, ""),
    "encoded-ended": ("4161", "grün", None, S.COMPLETE, O.COMPLETED, 0, ""),
    "failed-began": ("4143", "failjob", None, S.ACTIVE, None, None, ""),
    "failed-failed": ("4143", "failjob", None, S.FAILED, O.FAILED, 3, ""),
    "plain-began": ("4141", "hello_world-1.x", None, S.ACTIVE, None, None, ""),
    "plain-ended": ("4141", "hello_world-1.x", None, S.COMPLETE, O.COMPLETED, 0, ""),
    "requeued-began": ("4157", "requeuejob", None, S.ACTIVE, None, None, ""),
    "requeued-began-2": ("4157", "requeuejob", None, S.ACTIVE, None, None, ""),
    "requeued-ended": ("4157", "requeuejob", None, S.COMPLETE, O.COMPLETED, 0, ""),
    "requeued-requeued": ("4157", "requeuejob", None, S.QUEUED, None, None, ""),
    "signal-began": ("4144", "sigjob", None, S.ACTIVE, None, None, ""),
    "signal-failed": ("4144", "sigjob", None, S.FAILED, O.SIGNALED, None, ""),
    "spaces-began": ("4142", "hello world (2) Name=x", None, S.ACTIVE, None, None, ""),
    "spaces-ended": ("4142", "hello world (2) Name=x", None, S.COMPLETE, O.COMPLETED, 0, ""),
    "timeout-began": ("4145", "tojob", None, S.ACTIVE, None, None, ""),
    "timeout-failed": ("4145", "tojob", None, S.FAILED, O.WALLTIME, None, "TIMEOUT"),
    "timeout-reached-50-of-time-limit": None,
    "timeout-reached-80-of-time-limit": None,
    "timeout-reached-90-of-time-limit": None,
}


def test_every_capture_has_its_expectation() -> None:
    assert {f"slurm-22.05.8-{name}.eml" for name in EXPECTED} == {file.name for file in CAPTURES.glob("slurm-*.eml")}


@pytest.mark.parametrize("name", EXPECTED)
def test_captures(name: str) -> None:
    mail, expected = captured(name), EXPECTED[name]
    assert DECODER.subject.search(mail.subject)
    news = decode(mail)
    if expected is None:
        assert news is None
        return
    assert news is not None
    assert (
        news.native_id,
        news.name,
        news.index,
        news.state,
        news.outcome,
        news.exit_code,
        news.reason,
    ) == expected
    # The mailer's clock counts, not the mailbox's.
    assert news.at == mail.at < ARRIVED


def test_captures_are_all_different_messages() -> None:
    digests = {captured(name).digest for name in EXPECTED}
    assert len(digests) == len(EXPECTED)


@pytest.mark.parametrize(
    ("end", "state", "outcome", "exit_code"),
    [
        ("Failed, Run time 00:00:05, OUT_OF_MEMORY", S.FAILED, O.OUT_OF_MEMORY, None),
        ("Failed, Run time 00:00:05, OUT_OF_MEMORY, ExitCode 125", S.FAILED, O.OUT_OF_MEMORY, 125),
        ("Failed, Run time 1-00:00:05, NODE_FAIL", S.NON_CRITICAL_FAIL, O.NODE_FAILURE, None),
        ("Failed, Run time 00:00:05, NODE_FAIL, ExitCode 0", S.NON_CRITICAL_FAIL, O.NODE_FAILURE, None),
        ("Ended, Run time 00:00:05, CANCELLED, ExitCode 0", S.CANCELED, O.CANCELED, None),
        ("Staged Out, StageOut time 00:00:01", S.ACTIVE, None, None),
        ("Ended, Run time 00:00:05, NEW_KIND_OF_END", S.UNKNOWN, None, None),
    ],
)
def test_other_ends(end: str, state: JobState, outcome: Outcome | None, exit_code: int | None) -> None:
    news = news_of(f"Slurm Job_id=7 Name=a.b-c_d {end}")
    assert news is not None
    assert (news.name, news.state, news.outcome, news.exit_code) == ("a.b-c_d", state, outcome, exit_code)


@pytest.mark.parametrize(
    "subject",
    [
        "Slurm Job_id=7 Name=a Ended",
        "Slurm Job_id=7 Name=a Reached time limit, Run time 00:01:00",
        "Slurm Array Summary Job_id=7_* (7) Name=a Failed, FAILED, ExitCode [0-1]",
        "Slurm Array Task Job_id=7 (8) Name=a Began",
        "Slurm Job_id=7_3 (8) Name=a Began",
        "Slurm Job_id=7 Name=a Ended, Run time 00:00:05, Completed, ExitCode 0",
        "Re: Slurm Job_id=7 Name=a Began, Queued time 00:00:01",
        "Fwd: Slurm Job_id=7 Name=a Ended, Run time 00:00:05, COMPLETED, ExitCode 0",
    ],
)
def test_what_is_no_news(subject: str) -> None:
    assert news_of(subject) is None


def test_a_name_that_looks_like_an_end_is_a_name() -> None:
    news = news_of("Slurm Job_id=7 Name=x Failed, Run time 00:00:05, FAILED, ExitCode 1 Began, Queued time 00:00:01")
    assert news is not None
    assert (news.name, news.state) == ("x Failed, Run time 00:00:05, FAILED, ExitCode 1", S.ACTIVE)


@settings(max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1), st.integers(1, 10**9))
def test_any_name_comes_through(name: str, number: int) -> None:
    news = decode(
        Mail(
            f"Slurm Job_id={number} Name={name} Ended, Run time 00:00:00, COMPLETED, ExitCode 0",
            "",
            "",
            (),
            ARRIVED,
            ARRIVED,
            "",
        )
    )
    assert news is not None
    assert (news.name, news.native_id, news.state) == (name, str(number), S.COMPLETE)
