"""The second run of an experiment in two (``models.split``), in Airflow's own database. For the API server.

What always holds: however often it is asked and by however many processes, an experiment has one second run, and none
when its first run failed or was cancelled: both are decided while the first run's row is locked. The second run stays
on the version of the pattern that the first began with.

Blocking; so never in an event loop, and never in a triggerer, a task or a DAG file.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airavata_provider.errors import AiravataError
from airavata_provider.models.identity import birth
from airavata_provider.models.split import Handover, second_dag

if TYPE_CHECKING:
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagbag import DBDagBag
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

_LOG = logging.getLogger(__name__)

Restore = Callable[[str, str, str], Any]
"""A DAG as that version of a bundle has it: the bundle's name, the version, the DAG's id; None where it has none."""


class Outcome(StrEnum):
    """What became of the wish to start a second run."""

    STARTED = "STARTED"
    NOT_YET = "NOT_YET"
    """The first run is not over."""
    GONE = "GONE"
    """The first run failed, was cancelled or deleted."""


def start_second_run(known: Handover, restore: Restore) -> Outcome:
    """Make the second run, or find it; after a person cleared the first run, clear the second as well.

    :param known: as the job store has it
    :raises AiravataError: Airflow has not got what it takes
    """
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from sqlalchemy import select

    with create_session() as session:
        runs = select(DagRun).where(DagRun.run_id == known.experiment_id)
        # Whoever cancels locks it too: either there is a second run to cancel, or there will be none.
        first = session.scalar(runs.where(DagRun.dag_id == known.dag_id).with_for_update())
        if first is None or birth(first.run_after) != known.born or first.state == DagRunState.FAILED:
            return Outcome.GONE
        if first.state != DagRunState.SUCCESS:
            return Outcome.NOT_YET
        second = session.scalar(runs.where(DagRun.dag_id == second_dag(known.dag_id)))
        if second is not None and birth(second.run_after) != known.born:
            # Of an experiment of the same id whose first run was deleted.
            session.delete(second)
            session.flush()
            second = None
        if second is None:
            _create(first, restore, session)
        elif known.starts:
            _clear(second, session)
        return Outcome.STARTED


@functools.cache
def _dags() -> DBDagBag:
    """Keeps DAGs that were read: one of a few hundred runs a minute would else be read anew for each."""
    from airflow.models.dagbag import DBDagBag

    return DBDagBag()


def _create(first: DagRun, restore: Restore, session: Session) -> None:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from sqlalchemy import update

    version = _version(first, restore, session)
    dag = _dags().get_dag(version.id, session)
    if dag is None:
        raise AiravataError(f"Airflow has no DAG {version.dag_id} in version {version.version_number} any more")
    run = dag.create_dagrun(
        run_id=first.run_id,
        # Of both runs together it tells which experiment of that id they are.
        run_after=first.run_after,
        conf=first.conf,
        run_type=DagRunType.OPERATOR_TRIGGERED,
        triggered_by=DagRunTriggeredByType.OPERATOR,
        triggering_user_name=first.triggering_user_name,
        state=DagRunState.QUEUED,
        session=session,
    )
    # Airflow takes the newest version of a DAG for every new run.
    run.created_dag_version = version
    run.bundle_version = first.bundle_version
    session.execute(
        update(TaskInstance)
        .where(TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
        .values(dag_version_id=version.id)
        .execution_options(synchronize_session=False)
    )


def _clear(second: DagRun, session: Session) -> None:
    dag = _dags().get_dag_for_run(second, session)
    if dag is None:
        raise AiravataError(f"Airflow has no DAG {second.dag_id} for the run {second.run_id} any more")
    dag.clear(run_id=second.run_id, session=session)


def _version(first: DagRun, restore: Restore, session: Session) -> DagVersion:
    """The version of the second run's DAG that belongs to the first run's.

    Airflow keeps no version of a DAG of which no task was ever made: a pattern that changes while its first
    experiments wait leaves none for their second runs. Then the bundle's own archive has it.
    """
    from airflow.models.dag import DagModel
    from airflow.models.dag_version import DagVersion
    from sqlalchemy import select

    dag_id = second_dag(first.dag_id)
    query = select(DagVersion).where(DagVersion.dag_id == dag_id).order_by(DagVersion.version_number.desc())
    there = list(session.scalars(query))
    if not there:
        raise AiravataError(
            f"{dag_id} is not among Airflow's DAGs: it is new, or has import errors",
            advice="the experiment waits; look at the DAG processor's log",
        )
    if first.bundle_version is None or first.created_dag_version_id is None:
        return there[0]
    text = _text(first.created_dag_version_id, session)
    found = next((version for version in there if _text(version.id, session) == text), None)
    if found is not None:
        return found
    model = session.get(DagModel, first.dag_id)
    dag = restore(model.bundle_name, first.bundle_version, dag_id) if model is not None else None
    if dag is None:
        raise AiravataError(f"version {first.bundle_version} of the patterns has no DAG {dag_id}")
    _LOG.info("%s of version %s of the patterns is restored for %s", dag_id, first.bundle_version, first.run_id)
    return _restored(dag, first, there, session)


def _text(version_id: Any, session: Session) -> str | None:
    """What the DAG of that version says of its pattern's file: the same in both of a pattern's DAGs."""
    from airflow.models.serialized_dag import SerializedDagModel
    from sqlalchemy import select

    row = session.scalar(select(SerializedDagModel).where(SerializedDagModel.dag_version_id == version_id))
    data: dict[str, Any] = (row.data if row is not None else None) or {}
    text: str | None = data.get("dag", {}).get("doc_md")
    return text


def _restored(dag: Any, first: DagRun, there: list[DagVersion], session: Session) -> DagVersion:
    """A version of that DAG before all others, so that the newest stays the newest."""
    from airflow.models.dag_version import DagVersion
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import LazyDeserializedDAG

    version = DagVersion(
        dag_id=dag.dag_id,
        version_number=there[-1].version_number - 1,
        bundle_name=there[0].bundle_name,
        bundle_version=first.bundle_version,
    )
    session.add(version)
    serialized = SerializedDagModel(LazyDeserializedDAG.from_dag(dag))
    serialized.dag_version = version
    session.add(serialized)
    session.flush()
    return version
