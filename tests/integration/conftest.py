"""Fixtures of several modules of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from airavata_provider.jobs.store import JobStore
from tests.bed import Bed
from tests.mailboxes import Maildir, maildir


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
