from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airavata_provider.jobs import store as stores
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.identity import birth
from airavata_provider.plugin.listener import on_dag_run_failed, on_task_instance_failed
from airavata_provider.runs import asked_by
from tests.unit.jobs.factory import make_job

MADE = datetime(2031, 5, 6, 12, tzinfo=UTC)
RUN = SimpleNamespace(dag_id="hpc_batch", run_id="e1", run_after=MADE)
BY_HAND = "manually set to `failed`"
UNKNOWN = "marked failed in Airflow"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, str]]:
    """Who asked for the end of which job; of two of the run's, and one of a run of the same id before it."""
    url = f"sqlite:///{tmp_path}/a.db"

    def in_store(work: Callable[[JobStore], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            store = JobStore(url)
            await store.create_tables()
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(run())

    async def fill(store: JobStore) -> None:
        for name, task, made in (
            ("a1", "submit", MADE),
            ("a2", "more", MADE),
            ("old", "submit", MADE - timedelta(1)),
        ):
            sent = make_job(name, experiment_id="e1", task_id=task, born=birth(made), submitting_at=made)
            await store.intend(sent)
        # Somebody else's, which a task of the run waits for.
        await store.intend(make_job("theirs", experiment_id="e1", task_id="w", attempt=0, born=birth(MADE)))

    in_store(fill)
    real = stores.get_store
    monkeypatch.setattr(stores, "get_store", lambda: real(url))
    return lambda: {job.name: job.cancel_requested_by for job in in_store(lambda store: store.cancel_requests())}


def test_a_run_that_is_marked_failed_ends_its_own_jobs(asked: Callable[[], dict[str, str]]) -> None:
    on_dag_run_failed(RUN, "the task failed")
    assert asked() == {}
    on_dag_run_failed(RUN, BY_HAND)
    assert asked() == {"a1": UNKNOWN, "a2": UNKNOWN}


def test_the_record_says_who_marked_it(asked: Callable[[], dict[str, str]]) -> None:
    with asked_by("marked failed in Airflow by ada"):
        on_dag_run_failed(RUN, BY_HAND)
    assert asked() == dict.fromkeys(("a1", "a2"), "marked failed in Airflow by ada")


def test_a_second_run_that_is_marked_failed_ends_the_experiments_jobs(asked: Callable[[], dict[str, str]]) -> None:
    on_dag_run_failed(SimpleNamespace(**{**vars(RUN), "dag_id": "hpc_batch__after"}), BY_HAND)
    assert set(asked()) == {"a1", "a2"}


def test_a_task_that_is_marked_failed_ends_the_jobs_that_it_is_about(asked: Callable[[], dict[str, str]]) -> None:
    arguments = SimpleNamespace(
        trigger_kwargs={"tasks": [{"id": "wait", "type": "monitor", "parameters": {"job": "submit"}}]}
    )
    task = SimpleNamespace(
        dag_id="hpc_batch", run_id="e1", dag_run=RUN, task=SimpleNamespace(start_trigger_args=arguments)
    )
    on_task_instance_failed(None, task, RuntimeError("it failed"))
    assert asked() == {}
    with asked_by("marked failed in Airflow by ada"):
        on_task_instance_failed(None, task, BY_HAND)
    assert asked() == {"a1": "marked failed in Airflow by ada"}
