"""Where an experiment's tasks run: decided once, at its first task, and kept."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from airavata_provider.errors import ExperimentRefused
from airavata_provider.jobs.limits import Limits, limits_of
from airavata_provider.jobs.placer import Placer, get_placer
from airavata_provider.jobs.placing import soonest
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.catalog import Catalog, load_catalog
from airavata_provider.models.experiment import Experiment, resolve_all
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult
from airavata_provider.triggers import host
from airavata_provider.triggers.host import Segment, cancel_segment, run_segment
from airavata_provider.triggers.hosted import HostedTask, Run, run_of
from airavata_provider.triggers.services import AirflowServices, HostServices

LOG = logging.getLogger("test")
RUN = Run("d", "r", -1, 1, conf={"application": "run"}, born="2031-05-06T12:00:00+00:00")
KEY = (RUN.dag_id, RUN.run_id, RUN.born)
CATALOG = """\
storage_resources:
  home: {type: local, root: /srv}
compute_resources:
  alpha: {connection: a, scheduler: fork, scratch: /scratch}
  beta: {connection: b, scheduler: fork, scratch: /scratch, max_jobs: 20}
applications:
  run:
    deployments:
      alpha: {executable: /bin/run}
      beta: {executable: /bin/run}
"""


class Nothing(Parameters):
    """None."""


class Tell(Task[Nothing]):
    """Tells where it works, and where it was cancelled."""

    name: ClassVar[str] = "tell"
    Parameters: ClassVar[type[Parameters]] = Nothing
    cancelled: ClassVar[list[str]] = []

    async def run(self, context: TaskContext[Nothing]) -> TaskResult:
        return TaskResult({"on": context.resource.name})

    async def cancel(self, context: TaskContext[Nothing]) -> None:
        self.cancelled.append(context.resource.name)


class Services(HostServices):
    def __init__(self, store: JobStore, catalog: Catalog) -> None:
        self.store = store
        self.known = catalog

    def catalog(self) -> Catalog:
        return self.known

    def placer(self) -> Placer:
        return Placer(self.store, lambda: limits_of(self.known), read_again_s=-1)

    async def host(self, resource: Any) -> Any:
        raise NotImplementedError

    async def storage(self, name: str) -> Any:
        raise NotImplementedError

    def webhook_url(self, resource: Any, job: str) -> str | None:
        return None

    def webhook_token(self, job: str) -> str:
        return ""

    async def watch(self) -> None:
        return None


@pytest_asyncio.fixture
async def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Services]:
    store = JobStore(f"sqlite:///{tmp_path}/a.db")
    await store.create_tables()
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    monkeypatch.setattr(host, "task_type", lambda name: Tell())
    monkeypatch.setattr(Tell, "cancelled", [])
    monkeypatch.setattr(Tell, "defaults", classmethod(lambda cls, resolved: {}), raising=False)
    yield Services(store, load_catalog([tmp_path]))
    await store.close()


async def drain(store: JobStore, resource: str) -> str:
    said = Availability(resource, AvailabilityState.DRAINING, datetime.now(UTC) - timedelta(minutes=1))
    return (await store.set_availability(said)).id


def segment(services: HostServices, run: Run, *tasks: str) -> Segment:
    return Segment([HostedTask(id=each, type="tell") for each in tasks], run, services, LOG)


async def where(services: HostServices, run: Run, task: str) -> str:
    found: Mapping[str, Mapping[str, Any]] = await run_segment(segment(services, run, task))
    return str(found[task]["on"])


async def test_the_choice_holds_for_all_tasks_and_retries(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    key = await drain(services.store, "alpha")
    with caplog.at_level("INFO"):
        assert await where(services, RUN, "first") == "beta"
    assert "alpha: alpha is draining" in caplog.text
    found = await services.store.placement("d", "r", RUN.born)
    assert found is not None
    assert (found.resource, found.queue) == ("beta", None)
    assert found.reasons[0].startswith("beta: chosen; 0 of at most 20 jobs there")
    await services.store.clear_availability(key)
    await drain(services.store, "beta")
    # Another process, too: nothing but the record tells it.
    again = Services(services.store, services.known)
    assert await where(again, RUN, "second") == "beta"
    assert await where(again, replace(RUN, try_number=2), "third") == "beta"
    assert await services.store.placement("d", "r", RUN.born) == found


async def test_another_run_of_the_same_id_is_decided_anew(services: Services) -> None:
    assert await where(services, RUN, "first") == "alpha"
    await drain(services.store, "alpha")
    assert await where(services, replace(RUN, born="2031-05-07T12:00:00+00:00"), "first") == "beta"
    assert await where(services, RUN, "second") == "alpha"


async def test_who_is_killed_after_the_decision_goes_on_there(services: Services) -> None:
    """The decision is on record before the first task begins."""
    begun = asyncio.Event()

    class Hangs(Tell):
        async def run(self, context: TaskContext[Nothing]) -> TaskResult:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "task_type", lambda name: Hangs())
        task = asyncio.create_task(where(services, RUN, "first"))
        await begun.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await drain(services.store, "alpha")
    assert await where(Services(services.store, services.known), RUN, "first") == "alpha"


async def test_a_cancel_goes_where_it_runs_and_nowhere_before_that(services: Services) -> None:
    await cancel_segment(segment(services, RUN, "first"))
    assert Tell.cancelled == []
    assert await services.store.placement("d", "r", RUN.born) is None
    await drain(services.store, "alpha")
    await where(services, RUN, "first")
    await cancel_segment(segment(services, RUN, "first"))
    assert Tell.cancelled == ["beta"]


async def test_an_experiment_that_names_its_resource_has_no_decision(services: Services) -> None:
    await drain(services.store, "beta")
    named = replace(RUN, conf={"application": "run", "compute_resource": "beta"})
    assert await where(services, named, "first") == "beta"
    assert await services.store.placement("d", "r", RUN.born) is None


async def test_what_fits_nowhere_is_refused_before_it_is_decided(services: Services) -> None:
    with pytest.raises(ExperimentRefused, match="on alpha: alpha cannot be asked for it"):
        await where(services, replace(RUN, conf={"application": "run", "qos": "high"}), "first")
    assert await services.store.placement("d", "r", RUN.born) is None


async def test_two_that_decide_at_the_same_moment_agree(services: Services) -> None:
    others = [Services(services.store, services.known) for _ in range(4)]
    found = await asyncio.gather(*(where(each, RUN, f"t{n}") for n, each in enumerate(others)))
    assert len(set(found)) == 1


async def test_a_burst_is_spread(services: Services) -> None:
    fitting = resolve_all(Experiment(application="run"), services.known)
    placer = get_placer(services.store, lambda: limits_of(services.known))
    assert get_placer(services.store, Limits) is placer
    found = await asyncio.gather(*(placer.place("d", f"r{n}", "born", fitting, soonest) for n in range(60)))
    counts = Counter(each.resource for each in found)
    # The preferred one first; beta never over its limit while alpha has none.
    assert counts["alpha"] >= 30
    assert 10 <= counts["beta"] <= 20


async def test_a_cluster_that_cannot_be_reached_fails_no_placement(services: Services, tmp_path: Path) -> None:
    """Clusters are asked how full they are over the ways that tasks have."""
    (tmp_path / "catalog.yaml").write_text(CATALOG.replace("scheduler: fork", "scheduler: slurm"))
    services.known = load_catalog([tmp_path])
    fitting = resolve_all(Experiment(application="run"), services.known)
    found = await HostServices.placer(services).choose("d", "r", "born", fitting, soonest)
    assert found.reasons[0].startswith("alpha: chosen; ")
    assert all(each.endswith("everybody's jobs are not known (NotImplementedError)") for each in found.reasons)


@pytest.mark.parametrize(
    ("interval", "of_task", "asks"), [(60.0, False, True), (0.0, False, False), (60.0, True, False)]
)
def test_a_deployment_may_ask_no_cluster_and_a_task_s_process_asks_none(
    interval: float, of_task: bool, asks: bool
) -> None:
    settings = SimpleNamespace(queue_load_interval=interval)
    services: Any = SimpleNamespace(settings=settings, way=None, _of_task=of_task)
    assert (AirflowServices.loads(services) is not None) is asks


async def test_a_submission_hands_over_when_it_is_done_however_often(services: Services) -> None:
    store = services.store
    run = run_of(
        SimpleNamespace(dag_id="d__after", run_id="r", map_index=None, try_number=1),
        SimpleNamespace(conf=RUN.conf, run_after=datetime.fromisoformat(RUN.born)),
        experiment=True,
    )
    assert (run.dag_id, run.born) == (RUN.dag_id, RUN.born)
    handing = Segment([HostedTask(id="submit", type="tell", hands_over=True)], RUN, services, LOG)
    await run_segment(handing)
    known = await store.handovers.of(*KEY)
    assert known is not None
    assert (known.task_id, known.try_number, known.state) == ("submit", 1, "WAITING")
    await store.handovers.dropped(known)
    # Killed after the task was on record: the next host finds it done, and hands over.
    await run_segment(handing)
    assert await store.handovers.of(*KEY) == known


def test_a_dag_of_somebody_elses_keeps_its_name() -> None:
    run = run_of(
        SimpleNamespace(dag_id="d__after", run_id="r", map_index=1, try_number=1), None, experiment=False, born="b"
    )
    assert run.dag_id == "d__after"
