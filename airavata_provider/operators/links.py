"""The link from a task in Airflow's UI to what this provider knows about its experiment.

Airflow keeps the link of an operator as an XCom that only a worker writes. So the API server makes those of our
operators itself, also while a task runs: ``plugin.links`` tells it which operators these are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class ExperimentLink(BaseOperatorLink):
    """Opens the experiment's record: its jobs with their histories, its tasks with their times, its outputs."""

    name = "Experiment"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Path at the API server's address."""
        from airflow.sdk.configuration import conf

        below = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
        # A second run's experiment is found under either DAG's id.
        return f"{below}/airavata/experiments/{quote(ti_key.dag_id, safe='')}/{quote(ti_key.run_id, safe='')}"
