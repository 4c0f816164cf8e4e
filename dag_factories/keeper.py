"""The DAG that keeps the reconciler and the monitors alive: an asset whose watcher is our service trigger.

It never runs. Pausing it stops nothing that waits, but after a restart of every triggerer nobody repeats the
cancellations of runs that are over until the next job is waited for, and nobody reads mailboxes.
"""

from __future__ import annotations

from datetime import datetime

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetWatcher

from airavata_provider.triggers.keeper import ReconcilerTrigger

DAG_ID = "airavata_reconciler"


def keeper_dag() -> DAG:
    """One task that is never reached, scheduled on an asset that never changes."""
    asset = Asset(
        name=DAG_ID,
        uri="x-airavata://reconciler",
        watchers=[AssetWatcher(name="reconciler", trigger=ReconcilerTrigger())],
    )
    with DAG(
        dag_id=DAG_ID,
        description="Keeps alive what polls clusters, repeats cancellations and reads mailboxes; it never runs",
        schedule=[asset],
        start_date=datetime(2020, 1, 1),  # noqa: DTZ001 - Airflow reads it in its own time zone
        catchup=False,
        tags=["airavata", "service"],
        is_paused_upon_creation=False,
    ) as dag:
        EmptyOperator(task_id="never_reached")
    return dag
