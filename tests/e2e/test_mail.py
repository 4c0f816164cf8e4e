"""Airflow reads a mailbox by its own means: a catalog that names one, a Connection, no process beside Airflow's."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import EventSource, JobState
from tests.bed import Bed
from tests.deployment import Site
from tests.mailboxes import Maildir, known_job, maildir

MAILBOX = "mailboxes:\n  box: {connection: mailbox, resources: [cluster]}\n"


@pytest.fixture
def box(bed: Bed, site: Site) -> Iterator[Maildir]:
    """A mailbox that the site's catalog names."""
    entry = site.catalog / "mail.yaml"
    with maildir(bed, site.mailbox) as made:
        entry.write_text(MAILBOX)
        try:
            yield made
        finally:
            entry.unlink()


async def test_mail_ends_a_job(site: Site, box: Maildir) -> None:
    store = JobStore(site.airflow.environment["AIRFLOW__AIRAVATA__SQL_ALCHEMY_CONN"])
    try:
        name = f"mail-{time.time_ns()}"
        native_id = str(900_000_000 + time.time_ns() % 10**8)
        await known_job(store, name, native_id)
        box.deliver(f"Slurm Job_id={native_id} Name={name} Ended, Run time 00:00:05, COMPLETED, ExitCode 0")
        job = await store.wait(name, 90)
        assert (job.state, job.exit_code, job.state_source) == (JobState.COMPLETE, 0, EventSource.MAIL)
        assert {b"\\Seen"} in box.flags().values()
    finally:
        await store.close()
