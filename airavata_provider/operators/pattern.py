"""The operator that a pattern's DAG is made of; the factory makes them, nobody else needs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.param import ParamsDict
from airflow.triggers.base import StartTriggerArgs

from airavata_provider.operators.base import fail_for_good
from airavata_provider.operators.links import ExperimentLink
from airavata_provider.triggers.trigger import CLASSPATH

if TYPE_CHECKING:
    from airflow.sdk import Context


class PatternOperator(BaseOperator):
    """One segment of an execution pattern: one task, or several that follow each other.

    Templates in a pattern see the experiment and are rendered by its host, so Airflow renders nothing here.

    :param tasks: dicts of :class:`~airavata_provider.triggers.hosted.HostedTask`
    :param run_on: ``triggerer`` or ``worker``
    """

    template_fields: Sequence[str] = ()
    operator_extra_links = (ExperimentLink(),)
    ui_color = "#cfe2f3"

    def __init__(self, *, tasks: Sequence[Mapping[str, Any]], run_on: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Airflow copies the DAG's params into every task and validates each copy twice whenever it parses the DAG,
        # which it does after each success: nine tenths of a parse's time. Nothing here reads them.
        self.params = ParamsDict()
        self._hosted = {"tasks": [dict(task) for task in tasks], "experiment": True, "xcom": False}
        if run_on == "triggerer":
            self.start_trigger_args = StartTriggerArgs(
                trigger_cls=CLASSPATH, next_method="execute_complete", trigger_kwargs=self._hosted
            )
            self.start_from_trigger = True

    def execute(self, context: Context) -> Any:
        """Run on a worker."""
        from airavata_provider.triggers.worker import run_on_worker

        return run_on_worker(self._hosted, context, retries=self.retries or 0)

    def execute_complete(self, context: Context, event: Any = None) -> None:
        """Reached with an error that a retry does not cure.

        :raises AirflowFailException: always
        """
        fail_for_good(event)
