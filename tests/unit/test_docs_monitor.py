"""The documentation's monitor as a package of its own: installed, found by its entry point, kept running, heard."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from airavata_provider.jobs.store import JobStore
from airavata_provider.models.catalog import load_catalog
from airavata_provider.models.job import Job, JobState
from airavata_provider.monitors.base import GROUP, MonitorContext, monitors
from airavata_provider.monitors.keeper import ensure_keeper, stop_keeper
from tests.unit.docs_pages import PROJECT, blocks

PAGE = PROJECT / "docs" / "extending" / "monitors.md"
CATALOG = "compute_resources: {cluster: {connection: c, scheduler: fork, scratch: /scratch}}"


@pytest.fixture
def sitelog(tmp_path: Path) -> Iterator[ModuleType]:
    """The page's module and metadata as an installer leaves them."""
    site = tmp_path / "site"
    information = site / "sitelog-1.0.dist-info"
    information.mkdir(parents=True)
    groups: dict[str, Any] = {}
    for block in blocks(PAGE):
        if block.language == "toml":
            groups |= tomllib.loads(block.text)["project"]["entry-points"]
    (information / "entry_points.txt").write_text(f"[{GROUP}]\nsitelog = {groups[GROUP]['sitelog']}\n")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: sitelog\nVersion: 1.0\n")
    code = [block.text for block in blocks(PAGE) if (block.language, block.info) == ("python", "run")]
    (site / "sitelog.py").write_text("\n\n".join(code))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        yield importlib.import_module("sitelog")
    sys.modules.pop("sitelog", None)


async def test_it_is_found_and_its_news_ends_a_job(sitelog: ModuleType, tmp_path: Path) -> None:
    assert {"mail", "sitelog"} <= set(monitors())
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "catalog.yaml").write_text(CATALOG)
    catalog = load_catalog([tmp_path / "catalog"])
    log = tmp_path / "jobs.log"
    log.touch()
    sitelog.FILES["cluster"] = str(log)

    async def connection(name: str) -> Any:
        raise AssertionError(name)

    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}", watch_interval=0.05)
    try:
        await store.create_tables()
        await store.intend(
            Job("ajob", "hpc_batch", "run-1", "submit", -1, 1, "cluster", "/s", created_at=datetime.now(UTC))
        )
        ensure_keeper(MonitorContext(store, lambda: catalog, connection))
        log.write_text("2026-01-05T10:00:00+00:00 ajob start -\n2026-01-05T10:05:00+00:00 ajob end 0\n")
        job = await store.wait("ajob", 20)
        assert (job.state, job.exit_code, job.state_source) == (JobState.COMPLETE, 0, "sitelog")
    finally:
        await stop_keeper()
        await store.close()
