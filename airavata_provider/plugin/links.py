"""The links that the API server makes for our operators' tasks.

Airflow looks for the plugin's links in every component that reads serialized DAGs, so this loads no more than the
operators do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from airavata_provider.operators.experiment import (
    CleanUpOperator,
    DockerParserOperator,
    EnvironmentSetupOperator,
    RemoteCommandOperator,
    StageInOperator,
    StageOutOperator,
    SubmitJobOperator,
)
from airavata_provider.operators.links import ExperimentLink
from airavata_provider.operators.pattern import PatternOperator
from airavata_provider.sensors.job import JobSensor

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class ServedExperimentLink(ExperimentLink):
    """Of the tasks of our own operators; it takes the place of the operators' own."""

    operators: ClassVar[list[type[BaseOperator]]] = [
        PatternOperator,
        EnvironmentSetupOperator,
        StageInOperator,
        SubmitJobOperator,
        JobSensor,
        StageOutOperator,
        RemoteCommandOperator,
        DockerParserOperator,
        CleanUpOperator,
    ]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """See :class:`ExperimentLink`; "" for a task that is not of our operators."""
        # Of a mapped task Airflow compares no more than a part of its class' name.
        ours = {each.__module__ for each in self.operators}
        if getattr(operator, "_task_module", None) not in ours:
            return ""
        return super().get_link(operator, ti_key=ti_key)
