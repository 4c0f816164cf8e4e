"""What services give their tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from airavata_provider import settings
from airavata_provider.jobs import store as store_module
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.resource import Reachable
from airavata_provider.settings import Settings
from airavata_provider.ssh.pool import get_pool
from airavata_provider.ssh.target import Target
from airavata_provider.triggers.services import AirflowServices


@pytest.mark.parametrize("of_task", [False, True])
async def test_all_processes_share_a_hosts_limits(
    of_task: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    monkeypatch.setattr(settings, "get_settings", Settings)
    monkeypatch.setattr(store_module, "get_store", lambda **_: store)
    services = AirflowServices(of_task=of_task)

    async def target(resource: Reachable) -> Target:
        return Target("example.org", user="ada")

    monkeypatch.setattr(services, "_target", target)
    assert (await services.host(Reachable(connection="c"))).name == "ada@example.org:22"
    places = get_pool().places
    assert places is not None
    assert (places._ledger, places._modest) == (store.host_uses, of_task)
    await store.close()


async def test_a_task_waits_for_a_database_that_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor is not tried again."""
    monkeypatch.setattr(settings, "get_settings", lambda: Settings(sql_alchemy_conn="sqlite://"))
    assert AirflowServices().store._patience_s >= 120
    await store_module.close_store()
