"""Second runs in Airflow's own database: one, of the right version of the pattern, or none."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow import settings
from airflow.listeners import hookimpl
from airflow.listeners.listener import get_listener_manager
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import create_engine, select
from sqlalchemy.exc import SAWarning
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from airavata_provider import runs, second_runs
from airavata_provider.errors import AiravataError
from airavata_provider.models.identity import birth
from airavata_provider.models.split import Handover, HandoverState
from airavata_provider.second_runs import Outcome, start_second_run
from dag_factories.factory import dags_from_file

NOON = datetime(2031, 5, 6, 12, 0, 0, 123456, tzinfo=UTC)
pytestmark = [
    pytest.mark.slow,
    # by what marks runs as failed, when it is loaded
    pytest.mark.filterwarnings("ignore:Using `httpx` with"),
]
PATTERN = """\
name: two
split_at: wait
tasks:
  - {id: submit, type: submit}
  - {id: wait, type: monitor, after: [submit]}
  - {id: out, type: stage_out, after: [wait]}
"""
KNOWN = Handover("two", "e1", birth(NOON), "submit", 1, HandoverState.WAITING)


class Airflow:
    """Airflow's database with that pattern's DAGs, as its processor writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with create_session() as session:
            session.add(DagBundleModel(name="airavata"))

    def parse(self, text: str, version: str) -> tuple[Any, Any]:
        """The pattern's file has that text in that version of the bundle."""
        path = self.folder / "two.yaml"
        path.write_text(text)
        dags = dags_from_file(path, shown_as="two.yaml")
        with create_session() as session:
            for dag in dags:
                assert dag is not None
                model = session.get(DagModel, dag.dag_id)
                if model is None:
                    model = DagModel(dag_id=dag.dag_id, bundle_name="airavata", relative_fileloc="two.py")  # type: ignore[no-untyped-call]
                    session.add(model)
                model.bundle_version = version
                session.flush()
                dag.fileloc = str(path)
                SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), "airavata", version, session=session)
        return dags

    def start(self, state: DagRunState = DagRunState.SUCCESS) -> None:
        """A first run that got that far."""
        with create_session() as session:
            model = SerializedDagModel.get("two", session=session)
            assert model is not None
            run = model.dag.create_dagrun(
                run_id="e1",
                run_after=NOON,
                conf={"application": "a"},
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.REST_API,
                triggering_user_name="ada",
                state=DagRunState.QUEUED,
                session=session,
            )
            run.state = state

    def second(self) -> DagRun | None:
        with create_session() as session:
            run: DagRun | None = session.scalar(select(DagRun).where(DagRun.dag_id == "two__after"))
            return run

    def tasks(self) -> dict[str, tuple[str | None, str | None]]:
        """The second run's tasks: state, and version of the bundle."""
        with create_session() as session:
            query = (
                select(TaskInstance.task_id, TaskInstance.state, DagVersion.bundle_version)
                .join(DagVersion, DagVersion.id == TaskInstance.dag_version_id)
                .where(TaskInstance.dag_id == "two__after")
            )
            return {task: (state, version) for task, state, version in session.execute(query)}

    def delete(self, *dag_ids: str) -> None:
        """A person deletes runs."""
        with create_session() as session, warnings.catch_warnings():
            # Airflow's own: a run's row has a relation to one version of its DAG, of which there may be several.
            warnings.simplefilter("ignore", SAWarning)
            for run in session.scalars(select(DagRun).where(DagRun.dag_id.in_(dag_ids))).all():
                session.delete(run)
                session.flush()

    def end(self, state: DagRunState, dag_id: str = "two__after") -> None:
        with create_session() as session:
            run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id))
            assert run is not None
            run.state = state
            for task in session.scalars(select(TaskInstance).where(TaskInstance.dag_id == dag_id)):
                task.state = "success"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of Airflow's with nothing in it."""
    path = tmp_path_factory.mktemp("airflow") / "airflow.db"
    import_all_models()  # type: ignore[no-untyped-call]
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return path


@pytest.fixture
def airflow(tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Airflow]:
    engine = create_engine(f"sqlite:///{shutil.copy(empty, tmp_path)}")
    made = scoped_session(sessionmaker(engine, class_=Session, expire_on_commit=False))
    monkeypatch.setattr(settings, "engine", engine)
    monkeypatch.setattr(settings, "Session", made)
    second_runs._dags.cache_clear()
    yield Airflow(tmp_path)
    second_runs._dags.cache_clear()
    made.remove()
    engine.dispose()


def nothing(bundle: str, version: str, dag_id: str) -> Any:
    raise AssertionError("nothing has to be restored")


def test_one_second_run_however_often_it_is_asked_for(airflow: Airflow) -> None:
    airflow.parse(PATTERN, "v1")
    airflow.start()
    for _ in range(2):
        assert start_second_run(KNOWN, nothing) is Outcome.STARTED
    second = airflow.second()
    assert second is not None
    assert (second.run_id, second.state, second.conf) == ("e1", "queued", {"application": "a"})
    assert (birth(second.run_after), second.bundle_version, second.triggering_user_name) == (KNOWN.born, "v1", "ada")
    assert airflow.tasks() == {"wait": (None, "v1"), "out": (None, "v1")}
    whole = runs.read_run("two__after", "e1")
    assert whole is not None
    assert (whole.dag_id, whole.second_dag_id, whole.state) == ("two", "two__after", "queued")
    assert {task.id for task in whole.tasks} == {"submit", "wait", "out"}
    assert runs.dags_with_run("e1") == ["two"]


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        (DagRunState.RUNNING, Outcome.NOT_YET),
        (DagRunState.QUEUED, Outcome.NOT_YET),
        (DagRunState.FAILED, Outcome.GONE),
    ],
)
def test_none_before_the_first_succeeded(airflow: Airflow, state: DagRunState, outcome: Outcome) -> None:
    airflow.parse(PATTERN, "v1")
    airflow.start(state)
    assert start_second_run(KNOWN, nothing) is outcome
    assert airflow.second() is None


def test_none_of_a_first_run_that_was_deleted_or_is_another(airflow: Airflow) -> None:
    airflow.parse(PATTERN, "v1")
    assert start_second_run(KNOWN, nothing) is Outcome.GONE
    airflow.start()
    other = replace(KNOWN, born="another birth")
    assert start_second_run(other, nothing) is Outcome.GONE


def test_the_second_run_of_a_deleted_experiment_gives_way(airflow: Airflow) -> None:
    airflow.parse(PATTERN, "v1")
    airflow.start()
    start_second_run(KNOWN, nothing)
    with create_session() as session:
        left = session.scalar(select(DagRun).where(DagRun.dag_id == "two__after"))
        assert left is not None
        left.run_after = datetime(2030, 1, 1, tzinfo=UTC)
        left.state = DagRunState.SUCCESS
    assert start_second_run(KNOWN, nothing) is Outcome.STARTED
    second = airflow.second()
    assert second is not None
    assert birth(second.run_after) == KNOWN.born


def test_a_first_run_that_was_cleared_clears_the_second(airflow: Airflow) -> None:
    airflow.parse(PATTERN, "v1")
    airflow.start()
    start_second_run(KNOWN, nothing)
    airflow.end(DagRunState.SUCCESS)
    again = replace(KNOWN, try_number=2, starts=1)
    assert start_second_run(again, nothing) is Outcome.STARTED
    second = airflow.second()
    assert second is not None
    assert second.state == "queued"
    assert {state for state, _ in airflow.tasks().values()} == {None}


def test_while_a_cleared_first_run_goes_on_the_second_is_of_the_past(airflow: Airflow) -> None:
    airflow.parse(PATTERN, "v1")
    airflow.start()
    start_second_run(KNOWN, nothing)
    airflow.end(DagRunState.SUCCESS)
    again = replace(KNOWN, try_number=2, starts=1)
    done = replace(KNOWN, state=HandoverState.STARTED, starts=1)

    def look(handover: Handover) -> tuple[str, bool]:
        run = runs.read_run("two", "e1")
        assert run is not None
        return runs.experiment_state(run, [], NOON, handover).value, runs.between_runs(run, handover)

    assert look(done) == ("COMPLETED", False)
    assert not runs.fail_run("two", "e1", by="ada")
    airflow.end(DagRunState.RUNNING, "two")
    assert look(done) == ("EXECUTING", False)
    airflow.end(DagRunState.SUCCESS, "two")
    assert look(again) == ("EXECUTING", True)
    assert runs.fail_run("two", "e1", by="ada", between=True)
    assert look(again) == ("CANCELED", False)
    assert start_second_run(again, nothing) is Outcome.GONE


def test_it_stays_on_the_version_that_the_first_began_with(airflow: Airflow) -> None:
    airflow.parse(PATTERN, "v1")
    airflow.start()
    start_second_run(KNOWN, nothing)
    # There are tasks of the first text now, so Airflow keeps it beside the second.
    airflow.parse(PATTERN.replace("id: out", "id: fetch"), "v2")
    airflow.delete("two__after")
    assert start_second_run(KNOWN, nothing) is Outcome.STARTED
    assert airflow.tasks() == {"wait": (None, "v1"), "out": (None, "v1")}


def test_a_version_that_airflow_did_not_keep_is_restored(airflow: Airflow) -> None:
    _, old = airflow.parse(PATTERN, "v1")
    airflow.start()
    # No task of the second DAG was ever made: Airflow writes the new text over the old one.
    airflow.parse(PATTERN.replace("id: out", "id: fetch"), "v2")
    asked = []

    def restore(*what: str) -> Any:
        asked.append(what)
        return old

    assert start_second_run(KNOWN, restore) is Outcome.STARTED
    assert asked == [("airavata", "v1", "two__after")]
    assert airflow.tasks() == {"wait": (None, "v1"), "out": (None, "v1")}
    # It is an older version, not the newest, of which the next experiments are.
    with create_session() as session:
        latest = DagVersion.get_latest_version("two__after", session=session)
        assert latest is not None
        assert latest.bundle_version == "v2"
        model = SerializedDagModel.get("two__after", session=session)
        assert model is not None
        assert set(model.dag.task_ids) == {"wait", "fetch"}
    # The next of that version finds it.
    airflow.delete("two__after")
    assert start_second_run(KNOWN, nothing) is Outcome.STARTED


def test_what_nobody_keeps_is_not_made_up(airflow: Airflow) -> None:
    airflow.parse(PATTERN, "v1")
    airflow.start()
    airflow.parse(PATTERN.replace("id: out", "id: fetch"), "v2")
    with pytest.raises(AiravataError, match="version v1 of the patterns has no DAG two__after"):
        start_second_run(KNOWN, lambda *what: None)
    assert airflow.second() is None


@pytest.mark.parametrize("between", [False, True])
def test_cancelling_between_the_runs_leaves_no_second(airflow: Airflow, between: bool) -> None:
    airflow.parse(PATTERN, "v1")
    airflow.start()
    assert runs.fail_run("two", "e1", by="ada", between=between) is between
    assert start_second_run(KNOWN, nothing) is (Outcome.GONE if between else Outcome.STARTED)
    found = runs.read_run("two", "e1")
    assert found is not None
    assert (found.state, found.note) == (("failed", "Cancelled by ada") if between else ("queued", ""))


def test_what_hears_of_a_cancelled_run_knows_who_asked(airflow: Airflow) -> None:
    class Ears:
        @hookimpl
        def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
            heard.append((dag_run.dag_id, runs.asker()))

    airflow.parse(PATTERN, "v1")
    airflow.start(DagRunState.RUNNING)
    heard: list[tuple[str, str]] = []
    ears, manager = Ears(), get_listener_manager()
    manager.add_listener(ears)  # type: ignore[no-untyped-call]
    try:
        assert runs.fail_run("two", "e1", by="ada")
    finally:
        manager.pm.unregister(ears)
    assert heard == [("two", "ada")]
    assert runs.asker() == "marked failed in Airflow"


def test_cancelling_while_the_second_runs_ends_that(airflow: Airflow) -> None:
    airflow.parse(PATTERN, "v1")
    airflow.start()
    start_second_run(KNOWN, nothing)
    # Whoever cancels had seen none yet.
    assert runs.fail_run("two", "e1", by="ada", between=True)
    second = airflow.second()
    assert second is not None
    assert second.state == "failed"
    found = runs.read_run("two", "e1")
    assert found is not None
    assert (found.state, found.note, found.over) == ("failed", "Cancelled by ada", True)
