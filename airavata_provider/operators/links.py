"""The link from a task in Airflow's UI to what this provider knows about its experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class ExperimentLink(BaseOperatorLink):
    """Opens the experiment's record: its jobs with their histories, its tasks with their times, its outputs."""

    name = "Experiment"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Path below the API server's address."""
        # A second run's experiment is found under either DAG's id.
        return f"/airavata/experiments/{quote(ti_key.dag_id, safe='')}/{quote(ti_key.run_id, safe='')}"
