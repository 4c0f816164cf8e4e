"""The limits: Airflow's own work for tasks that start from the trigger, end there, and do nothing: as many as
``hpc_batch`` has, and as many as ``hpc_batch_fast``.

A DAG file; ``benchmarks.run`` copies it into the bench's DAG folder.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import DAG, chain

PAST = datetime(2000, 1, 1, tzinfo=UTC)

for dag_id, tasks in (("empty_six", 6), ("empty_one", 1)):
    with DAG(dag_id, schedule=None, catchup=False, max_active_runs=10000) as dag:
        chain(
            *(
                DateTimeSensorAsync(
                    task_id=f"step_{number}", target_time=PAST, start_from_trigger=True, end_from_trigger=True
                )
                for number in range(tasks)
            )
        )
