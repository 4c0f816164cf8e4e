from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.listeners.listener import get_listener_manager

from airavata_provider.models.identity import birth
from tests.unit.jobs.factory import make_job

with warnings.catch_warnings():
    # Airflow's web parts import libraries that warn about each other.
    warnings.simplefilter("ignore")
    from airavata_provider.plugin.api import app, lifespan

SOMEBODY_ELSES = """
from datetime import datetime, timezone
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import DAG

with DAG("theirs"):
    DateTimeSensorAsync(
        task_id="wait",
        target_time=datetime(2000, 1, 1, tzinfo=timezone.utc),
        start_from_trigger=True,
        end_from_trigger=True,
    )
"""


@pytest.fixture(autouse=True)
def new_process() -> Iterator[None]:
    """Airflow's listeners as a process has them that has just started."""
    get_listener_manager.cache_clear()
    yield
    get_listener_manager.cache_clear()


def test_dags_of_others_that_end_from_their_trigger_are_still_read(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(SOMEBODY_ELSES)
    bag = BundleDagBag(str(tmp_path), bundle_name="theirs", bundle_path=tmp_path, load_op_links=False)
    assert bag.import_errors == {}
    assert list(bag.dags) == ["theirs"]


async def test_the_api_server_hears_of_what_is_marked_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airavata_provider.jobs import store as stores

    real = stores.get_store
    monkeypatch.setattr(stores, "get_store", lambda: real(f"sqlite:///{tmp_path}/a.db"))
    made = datetime(2031, 5, 6, 12, tzinfo=UTC)
    runs = [SimpleNamespace(dag_id="d", run_id=run_id, run_after=made) for run_id in ("whole", "part")]
    submits = SimpleNamespace(trigger_kwargs={"tasks": [{"id": "submit", "type": "submit"}]})
    task = SimpleNamespace(dag_run=runs[1], task=SimpleNamespace(start_trigger_args=submits))
    store = stores.get_store()
    await store.create_tables()
    for run in runs:
        sent = make_job(run.run_id, dag_id="d", experiment_id=run.run_id, born=birth(made), submitting_at=made)
        await store.intend(sent)
    async with lifespan(app):
        hook = get_listener_manager().hook
        # Airflow calls listeners from threads.
        told = partial(hook.on_dag_run_failed, dag_run=runs[0], msg="manually set to `failed`")
        await asyncio.to_thread(told)
        assert {job.name for job in await store.cancel_requests()} == {"whole"}
        told = partial(
            hook.on_task_instance_failed, previous_state=None, task_instance=task, error="manually set to `failed`"
        )
        await asyncio.to_thread(told)
        assert {job.name for job in await store.cancel_requests()} == {"whole", "part"}
