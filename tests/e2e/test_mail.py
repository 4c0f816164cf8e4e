"""Airflow reads a mailbox by its own means: a catalog that names one, a Connection, no process beside Airflow's."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import EventSource, JobState
from tests.bed import Bed
from tests.deployment import Site
from tests.mailboxes import Maildir, known_job, maildir, mailed, told, until

BEGAN = "Began, Queued time 00:00:01"
NUMBERS = itertools.count()
ENDED = "Ended, Run time 00:00:05, COMPLETED, ExitCode 0"
MAILBOX = "mailboxes:\n  box: {connection: mailbox, resources: [cluster]}\n"


@pytest.fixture(scope="module")
def box(bed: Bed, site: Site) -> Iterator[Maildir]:
    """A mailbox that the site's catalog names."""
    entry = site.catalog / "mail.yaml"
    with maildir(bed, site.mailbox) as made:
        entry.write_text(MAILBOX)
        try:
            yield made
        finally:
            entry.unlink()


@pytest.fixture
async def store(site: Site) -> AsyncIterator[JobStore]:
    """The site's."""
    store = JobStore(site.airflow.environment["AIRFLOW__AIRAVATA__SQL_ALCHEMY_CONN"])
    yield store
    await store.close()


async def test_mail_ends_a_job(store: JobStore, box: Maildir) -> None:
    name, native_id = await a_job(store)
    deliver(box, name, native_id, ENDED)
    job = await store.wait(name, 90)
    assert (job.state, job.exit_code, job.state_source) == (JobState.COMPLETE, 0, EventSource.MAIL)
    await until(lambda: {b"\\Seen"} in box.flags().values())


async def test_another_triggerer_reads_on_when_the_readers_one_is_killed(
    site: Site, store: JobStore, box: Maildir
) -> None:
    """Each message is one event: those that it was reading at that moment, and those that came when nobody read."""
    first = await a_job(store)
    deliver(box, *first, BEGAN)
    await until(lambda: told(store, first[0], 1))
    dead = reader(site)
    triggerer = site.airflow.component_of(int(dead.split(":")[1]))
    jobs = [await a_job(store) for _ in range(40)]
    for job in jobs:
        deliver(box, *job, BEGAN)
    await until(lambda: told(store, jobs[0][0], 1))
    site.airflow.kill(triggerer)
    try:
        for job in [first, *jobs]:
            deliver(box, *job, ENDED)
        for name, _ in [first, *jobs]:
            assert (await store.wait(name, 90)).state is JobState.COMPLETE
            await until(lambda name=name: told(store, name, 2))  # type: ignore[misc]
        assert reader(site) != dead
    finally:
        site.airflow.launch(triggerer)
    for name, _ in [first, *jobs]:
        assert sorted(each.state for each in await mailed(store, name)) == [JobState.ACTIVE, JobState.COMPLETE]
    await until(lambda: all(b"\\Seen" in flags for flags in box.flags().values()))


async def a_job(store: JobStore) -> tuple[str, str]:
    """A new job of the store, by its name and the scheduler's id."""
    number = next(NUMBERS)
    name, native_id = f"mail-{number}", str(900_000_000 + number)
    await known_job(store, name, native_id)
    return name, native_id


def deliver(box: Maildir, name: str, native_id: str, what: str) -> None:
    box.deliver(f"Slurm Job_id={native_id} Name={name} {what}")


def reader(site: Site) -> str:
    """Who holds the mailbox's lease: ``host:process id:word``."""
    with psycopg.connect(site.airflow.environment["AIRFLOW__AIRAVATA__SQL_ALCHEMY_CONN"]) as connection:
        row = connection.execute("SELECT holder FROM airavata_lease WHERE name = 'mail:box'").fetchone()
    assert row is not None
    return str(row[0])
