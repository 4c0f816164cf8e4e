"""Fixtures of several modules of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from airavata_provider.jobs.reconcile import stop_reconciler
from airavata_provider.jobs.store import JobStore
from airavata_provider.ssh.pool import close_pool
from airavata_provider.ssh.target import Target
from tests.bed import Bed
from tests.mailboxes import Maildir, maildir
from tests.services import BedServices


@pytest.fixture
def box(bed: Bed) -> Iterator[Maildir]:
    """A mailbox on the bed's IMAP server, empty."""
    with maildir(bed) as made:
        yield made


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    """A store of its own, in a file, looked at often."""
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}", watch_interval=0.05)
    await store.create_tables()
    yield store
    await store.close()


@pytest.fixture
async def services(bed: Bed, ssh_target: Target, tmp_path: Path, store: JobStore) -> AsyncIterator[BedServices]:
    """What tasks are given, on the bed; its storage is a folder, ``root``."""
    yield BedServices(bed, ssh_target, tmp_path, store)
    await stop_reconciler()
    await close_pool()


@pytest.fixture
def certificate_known(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate of the bed's IMAP server is one that OpenSSL trusts here."""
    monkeypatch.setenv("SSL_CERT_FILE", str(bed.imap_certificate))
