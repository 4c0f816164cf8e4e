"""Waiting for a job: a submission task's, and one that somebody else submitted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from airavata_provider.errors import AiravataError, JobCanceled, JobFailed, SubmissionRefused
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.identity import TaskIdentity, job_name
from airavata_provider.models.job import EventSource, Job, JobEvent, JobState
from airavata_provider.models.outcome import ADVICE, STANDSTILLS, Outcome
from airavata_provider.models.resource import ComputeResource
from airavata_provider.monitors.output import Tail, outputs
from airavata_provider.monitors.poll import refs
from airavata_provider.tasks.base import Services, TaskContext
from airavata_provider.tasks.monitoring import Monitor, MonitorParameters, log_file
from tests.unit.jobs.factory import make_job

if TYPE_CHECKING:
    from airavata_provider.ssh.host import Host
    from airavata_provider.storage.base import Storage

LOG = logging.getLogger("tests.monitoring")
RESOURCE = ComputeResource(name="cluster", connection="c", scheduler="slurm", scratch="/scratch")


class Store(Services):
    """A store, and nothing else of the world."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.watched = asyncio.Event()

    def compute_resource(self, name: str) -> ComputeResource:
        raise NotImplementedError

    async def host(self, resource: ComputeResource) -> Host:
        raise AssertionError("nobody has to reach it")

    async def storage(self, name: str) -> Storage:
        raise AssertionError

    def webhook_url(self, resource: ComputeResource, job: str) -> str | None:
        return None

    def webhook_token(self, job: str) -> str:
        return ""

    def admitter(self) -> Any:
        raise AssertionError("nothing is submitted")

    async def watch(self) -> None:
        self.watched.set()


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Store]:
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db", watch_interval=0.05)
    await store.create_tables()
    yield Store(store)
    await store.close()


def context(services: Store, **parameters: Any) -> TaskContext[MonitorParameters]:
    return TaskContext(
        identity=TaskIdentity("dag", "run", "wait", -1, "born"),
        try_number=1,
        fresh=False,
        parameters=MonitorParameters(**parameters),
        experiment=None,
        resource=RESOURCE,
        directory="/scratch/run",
        services=services,
        log=LOG,
    )


async def the_row(services: Store) -> Job:
    """The row of the job that is waited for by now."""
    await services.watched.wait()
    services.watched.clear()
    (job,) = await services.store.jobs_named(await services.store.versions_to_poll("cluster", datetime.now(UTC)))
    return job


def ends(job: Job, state: JobState, **values: Any) -> JobEvent:
    now = datetime.now(UTC)
    return JobEvent(job.name, EventSource.POLL, f"{state}", state, now, native_id=job.native_id, **values)


async def test_anothers_job_is_waited_for(services: Store) -> None:
    waiting = asyncio.create_task(Monitor().run(context(services, native_id="4711", name="wing", walltime_s=60)))
    job = await the_row(services)
    assert (job.native_id, job.resource, job.walltime_s, job.ours) == ("4711", "cluster", 60, False)
    (ref,) = refs([job])
    assert (ref.native_id, ref.name) == ("4711", "wing")
    await services.store.append(ends(job, JobState.COMPLETE, exit_code=0))
    result = await waiting
    assert (result.values["state"], result.values["native_id"]) == ("COMPLETE", "4711")


async def test_a_retry_finds_the_row_and_a_new_id_gets_its_own(services: Store) -> None:
    first = asyncio.create_task(Monitor().run(context(services, native_id="1")))
    job = await the_row(services)
    first.cancel()
    await asyncio.wait([first])
    await services.store.append(ends(job, JobState.FAILED, exit_code=3))
    with pytest.raises(JobFailed, match="exit code 3"):
        await Monitor().run(context(services, native_id="1"))
    services.watched.clear()
    second = asyncio.create_task(Monitor().run(context(services, native_id="2")))
    other = await the_row(services)
    assert (other.native_id, other.attempt, job.attempt) == ("2", -1, 0)
    assert refs([other])[0].name == ""
    await services.store.append(ends(other, JobState.CANCELED))
    with pytest.raises(JobCanceled, match="somebody on the cluster"):
        await second


async def test_a_row_without_its_id_is_used_again(services: Store) -> None:
    """A try was killed between the row and the id."""
    me = context(services, native_id="1").identity
    row = await services.store.intend(
        make_job(
            job_name(me, 0), attempt=0, dag_id="dag", experiment_id="run", task_id="wait", born="born", directory="/"
        )
    )
    waiting = asyncio.create_task(Monitor().run(context(services, native_id="1")))
    job = await the_row(services)
    assert (job.name, job.native_id) == (row.name, "1")
    await services.store.append(ends(job, JobState.COMPLETE))
    await waiting


async def test_anothers_job_is_never_ended(services: Store) -> None:
    waiting = asyncio.create_task(Monitor().run(context(services, native_id="1")))
    job = await the_row(services)
    await Monitor().cancel(context(services, native_id="1"))
    assert await services.store.cancel_requests() == []
    await services.store.append(ends(job, JobState.COMPLETE))
    await waiting


async def test_given_up_is_told_as_such(services: Store) -> None:
    waiting = asyncio.create_task(Monitor().run(context(services, native_id="1")))
    job = await the_row(services)
    await services.store.append(ends(job, JobState.UNKNOWN, given_up=True, reason="nowhere. Last words: none"))
    with pytest.raises(AiravataError, match=r"became of it \(UNKNOWN\): nowhere\. Last words: none"):
        await waiting


async def submitted(services: Store) -> Job:
    """A job of the task ``submit``."""
    store, now = services.store, datetime.now(UTC)
    job = await store.intend(make_job(dag_id="dag", experiment_id="run", born="born", created_at=now))
    return await store.submitted(job.name, "17", now)


STATES = {Outcome.CANCELED: JobState.CANCELED, Outcome.UNKNOWN: JobState.UNKNOWN}


@pytest.mark.parametrize("outcome", [each for each in Outcome if each is not Outcome.COMPLETED])
async def test_the_error_tells_the_outcome_the_schedulers_words_and_advice(services: Store, outcome: Outcome) -> None:
    if outcome is Outcome.REFUSED:
        job = await services.store.intend(make_job(dag_id="dag", experiment_id="run", born="born"))
        await services.store.refused(job.name, "its own\nwords")
    else:
        job, state = await submitted(services), STATES.get(outcome, JobState.FAILED)
        given_up = state is JobState.UNKNOWN
        await services.store.append(ends(job, state, outcome=outcome, reason="its own\nwords", given_up=given_up))
    with pytest.raises(AiravataError, match=rf" \({outcome}\): its own words \(") as told:
        await Monitor().run(context(services, job="submit"))
    assert told.value.advice is not None
    assert told.value.advice.startswith(ADVICE[outcome])
    assert isinstance(told.value, SubmissionRefused) == (outcome is Outcome.REFUSED)


async def test_a_completed_job_needs_no_advice(services: Store) -> None:
    job = await submitted(services)
    await services.store.append(ends(job, JobState.COMPLETE, outcome=Outcome.COMPLETED, exit_code=0))
    await Monitor().run(context(services, job="submit"))


async def test_who_asked_for_a_jobs_end_needs_no_advice_on_it(services: Store) -> None:
    job = await submitted(services)
    await services.store.request_cancel(job.name, "ada")
    await services.store.append(ends(job, JobState.FAILED, outcome=Outcome.OUT_OF_MEMORY))
    with pytest.raises(JobCanceled, match=r"cancelled by ada \(OUT_OF_MEMORY\)$") as told:
        await Monitor().run(context(services, job="submit"))
    assert not told.value.advice


class Told(logging.Handler):
    """What a log is told, message by message."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.put_nowait(record.getMessage())

    async def next(self) -> str:
        async with asyncio.timeout(60):
            return await self.messages.get()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    handler = Told()
    caplog.set_level(logging.INFO, LOG.name)
    LOG.addHandler(handler)
    yield handler
    LOG.removeHandler(handler)


@pytest.mark.parametrize("outcome", sorted(STANDSTILLS))
async def test_that_it_does_not_go_on_is_told_and_that_it_does(services: Store, told: Told, outcome: Outcome) -> None:
    waiting = asyncio.create_task(Monitor().run(context(services, native_id="17", output=None)))
    job = await the_row(services)
    assert (await told.next()).startswith("Waiting for job 17")
    state = JobState.SUSPENDED if outcome is Outcome.SUSPENDED else JobState.QUEUED
    await services.store.append(ends(job, state, outcome=outcome, reason="its own words"))
    assert await told.next() == f"Job 17 does not go on: {outcome} (its own words); {ADVICE[outcome]}"
    await services.store.append(ends(job, JobState.ACTIVE))
    assert await told.next() == "Job 17 goes on: it is ACTIVE"
    await services.store.append(ends(job, JobState.COMPLETE))
    await waiting
    assert await told.next() == "Job 17 completed"
    assert told.messages.empty()


async def test_elements_that_do_not_go_on_are_told_and_that_all_do(services: Store, told: Told) -> None:
    store = services.store
    await store.intend_array(make_job(dag_id="dag", experiment_id="run", born="born"), range(3))
    await store.submitted("a1", "17", datetime.now(UTC), element_id=lambda native_id, index: f"{native_id}_{index}")
    waiting = asyncio.create_task(Monitor().run(context(services, job="submit")))
    assert (await told.next()).startswith("Waiting for job 17")
    elements = await store.elements("a1")
    await store.append(ends(elements[1], JobState.QUEUED, outcome=Outcome.HELD, reason="its own words"))
    advice = ADVICE[Outcome.HELD]
    assert await told.next() == f"Element 1 of array 17 does not go on: HELD (its own words); {advice}"
    await store.append(ends(elements[1], JobState.ACTIVE))
    assert await told.next() == "No element of array 17 is HELD any more"
    for element in elements:
        await store.append(ends(element, JobState.COMPLETE))
    await waiting


async def test_output_is_shown_while_it_runs(services: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    waiting = asyncio.create_task(Monitor().run(context(services, native_id="1", directory="/job", output="my.out")))
    job = await the_row(services)
    assert not outputs().any("cluster")
    await services.store.append(ends(job, JobState.ACTIVE))
    await until_followed()
    files = outputs().next("cluster")
    assert [file.path for file in files] == ["/job/my.out"]
    outputs().take_in("cluster", files, {0: Tail(0, b"step 1\n::group::no marker\n")})
    await services.store.append(ends(job, JobState.COMPLETE))
    await waiting
    assert "| step 1\n| ::group::no marker" in caplog.text
    assert not outputs().any("cluster")


async def until_followed() -> None:
    async with asyncio.timeout(60):
        while not outputs().any("cluster"):  # noqa: ASYNC110 -- nobody is told
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("parameters", "job", "path"),
    [
        ({"job": "submit"}, make_job(), "/scratch/a1/stdout.txt"),
        ({"job": "submit", "output": None}, make_job(), None),
        ({"job": "submit", "output": "/abs/out"}, make_job(), "/abs/out"),
        ({"job": "submit"}, make_job(size=3), None),
        ({"native_id": "1"}, make_job(attempt=0), None),
        ({"native_id": "1", "output": "/abs/out"}, make_job(attempt=0), "/abs/out"),
        ({"native_id": "1", "directory": "/scratch/a1"}, make_job(attempt=0), "/scratch/a1/stdout.txt"),
    ],
)
def test_which_file_is_shown(parameters: dict[str, Any], job: Job, path: str | None) -> None:
    assert log_file(MonitorParameters(**parameters), job) == path


@pytest.mark.parametrize("parameters", [{}, {"job": "a", "native_id": "1"}, {"native_id": "1\n2"}])
def test_one_job_is_named(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MonitorParameters(**parameters)
