"""Whose news a message brings: the one job with both its id and its name, on a resource of that scheduler."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airavata_provider.models.job import EventSource, Job, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.mail.match import event_of, ids_of, is_half_known, job_of, keys_of
from airavata_provider.monitors.mail.message import read
from airavata_provider.monitors.mail.news import MailNews, decoder
from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.fork import Fork
from airavata_provider.schedulers.registry import known_schedulers, scheduler
from tests.unit.jobs.factory import make_job

AT = datetime(2031, 5, 6, 12, tzinfo=UTC)
SERVED = {"cluster": "slurm", "other": "pbs"}
ADAPTORS: dict[str, Scheduler] = {"slurm": scheduler("slurm")}


def news(name: str = "a1", native_id: str = "7", index: int | None = None, *other: str) -> MailNews:
    return MailNews(native_id, name, JobState.FAILED, AT, Outcome.FAILED, 3, reason="x", index=index, other_ids=other)


def find(each: MailNews, *jobs: Job, word: str = "slurm") -> str | None:
    found = job_of([(word, each)], jobs, SERVED, ADAPTORS)
    return found[0].name if found else None


def test_id_and_name() -> None:
    jobs = make_job("a1", native_id="7"), make_job("a2", native_id="8")
    assert find(news(), *jobs) == "a1"
    assert find(news("a1", "8"), *jobs) is None
    assert find(news("a3", "7"), *jobs) is None
    assert find(news("a", "7"), *jobs) is None


def test_other_ways_to_write_an_id() -> None:
    assert find(news("a1", "7.head", None, "7"), make_job("a1", native_id="7")) == "a1"


def test_a_job_without_an_id_yet_is_nobodys() -> None:
    job = make_job("a1")
    assert find(news(), job) is None
    assert not is_half_known([("slurm", news())], [job], ADAPTORS)


@pytest.mark.parametrize(("name", "native_id"), [("a1", "9"), ("a9", "7")])
def test_half_known(name: str, native_id: str) -> None:
    assert is_half_known([("slurm", news(name, native_id))], [make_job("a1", native_id="7")], ADAPTORS)


def test_only_jobs_on_resources_of_that_scheduler() -> None:
    assert find(news(), make_job("a1", native_id="7", resource="other")) is None
    assert find(news(), make_job("a1", native_id="7", resource="unserved")) is None
    assert find(news(), make_job("a1", native_id="7", resource="other"), word="pbs") == "a1"


def test_an_arrays_element_is_told_from_its_array() -> None:
    array, element = make_job("a1", native_id="7"), make_job("a1.3", native_id="7_3")
    assert find(news("a1", "7", 3, "7_3"), array, element) == "a1.3"
    assert find(news("a1", "7", 4, "7_4"), array, element) is None
    assert find(news("a1", "7"), array, element) == "a1"
    assert keys_of(news("a1", "7", 3)) == ("a1.3", "a1")


CONDOR_BODY = "/s/.airavata/a1/script\nhas exited normally with status 0"
PBS_BODY = "PBS Job Id: 7[2].head\nJob Name: a1\nBegun execution\n"


@pytest.mark.parametrize(
    ("word", "native_id", "index", "subject", "body"),
    [
        ("slurm", "7", 2, "Slurm Array Task Job_id=7_2 (9) Name=a1 Began, Queued time 00:00:01", ""),
        ("sge", "7", 2, "Job-array task 7.3 (a1) Started", ""),
        ("lsf", "7", 2, "Job 7[3]: <a1[1-5]> started", ""),
        ("pbs", "7[].head", 2, "PBS JOB 7[2].head", PBS_BODY),
        ("torque", "7[].head", 2, "PBS JOB 7[2].head", PBS_BODY.replace("a1", "a1-2")),
        # HTCondor counts an array's elements anew, without its gaps.
        (
            "htcondor",
            "7",
            None,
            "[Condor] Condor Job 7.0",
            "/s/.airavata/a1/script\nhas exited normally with status 0",
        ),
        (
            "htcondor",
            "7",
            None,
            "[Condor] Condor Job 7.2",
            "/s/.airavata/a1/script\nhas exited normally with status 0",
        ),
    ],
)
def test_each_schedulers_elements_are_told_apart(
    word: str, native_id: str, index: int | None, subject: str, body: str
) -> None:
    adaptor, by = scheduler(word), decoder(word)
    array = make_job("a1", native_id=native_id, size=5)
    elements = [
        make_job(f"a1.{each}", native_id=adaptor.element_id(native_id, each), array="a1", element=each)
        for each in range(5)
    ]
    assert by is not None
    said = by.decode(read(f"Subject: {subject}\r\n\r\n{body}".encode(), AT))
    told = [] if said is None else [(word, said)]
    found = job_of(told, [array, *elements], {"cluster": word}, {word: adaptor})
    assert (found and found[0]) == (None if index is None else elements[index])


def test_every_scheduler_that_writes_mail_has_a_decoder() -> None:
    assert {word for word in known_schedulers() if decoder(word) is None} <= {"fork"}


def test_an_array_itself_has_no_news() -> None:
    assert find(news("a1", "7"), make_job("a1", native_id="7", size=3)) is None


def test_an_elements_id_is_the_adaptors_to_write() -> None:
    class Arrays(Fork):
        def element_id(self, native_id: str, index: int) -> str:
            return f"{native_id}/{index}"

    assert ids_of(news("a1", "7", 3), Arrays()) == {"7/3"}
    assert ids_of(news("a1", "7", 3, "7_3"), Fork()) == {"7_3"}
    assert ids_of(news("a1", "7"), Arrays()) == {"7"}


def test_news_that_fits_two_jobs_is_nobodys() -> None:
    jobs = make_job("a1", native_id="7"), make_job("b1", native_id="8", resource="other")
    told = [("slurm", news("a1", "7")), ("pbs", news("b1", "8"))]
    assert job_of(told, jobs, SERVED, ADAPTORS) is None


def test_the_event() -> None:
    mail = read(b"Subject: s\r\nMessage-ID: <1>\r\n\r\n", AT)
    event = event_of(make_job("a1", native_id="7"), news(), mail)
    assert (event.job, event.source, event.event_id) == ("a1", EventSource.MAIL, mail.digest)
    assert (event.state, event.outcome, event.exit_code, event.native_id) == (JobState.FAILED, Outcome.FAILED, 3, "7")
