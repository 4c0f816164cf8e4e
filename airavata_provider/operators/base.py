"""What all our operators share: the same task coroutines, started in the triggerer or run on a worker.

An operator is a name, a docstring and a constructor; the work is its task type's. Parsing a DAG file loads
neither asyncssh nor the job store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.xcom_arg import XComArg
from airflow.sdk.exceptions import AirflowFailException
from airflow.triggers.base import StartTriggerArgs

from airavata_provider.operators.links import ExperimentLink
from airavata_provider.tasks.registry import task_types
from airavata_provider.triggers.trigger import CLASSPATH, TaskTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class TaskOperator(BaseOperator):
    """Runs one task of this provider in a hand-written DAG.

    With ``deferrable=True`` (the default) it starts in the triggerer and needs no worker at all, unless a value
    comes from another task's XCom: then a worker renders it and hands over to the triggerer. With
    ``deferrable=False``, and in ``dag.test()``, the whole task runs on a worker.

    :param resource: compute resource, by its name in the catalog (templated)
    :param parameters: the task type's parameters (templated)
    :param deadline_s: seconds the task may take; no limit by default
    :param deferrable: run in the triggerer
    """

    template_fields: Sequence[str] = ("resource", "parameters")
    template_fields_renderers: ClassVar[dict[str, str]] = {"parameters": "json"}
    operator_extra_links = (ExperimentLink(),)
    ui_color = "#d9ead3"

    task_kind: ClassVar[str]
    """The task type's word."""

    def __init__(
        self,
        *,
        resource: str,
        parameters: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.resource = resource
        self.parameters = dict(parameters or {})
        self.deadline_s = deadline_s
        self.deferrable = deferrable
        if deferrable and task_types()[self.task_kind].run_on == "triggerer" and not self._needs_worker():
            self.start_trigger_args = StartTriggerArgs(
                trigger_cls=CLASSPATH, next_method="execute_complete", trigger_kwargs=self._trigger_kwargs()
            )
            self.start_from_trigger = True

    def _trigger_kwargs(self) -> dict[str, Any]:
        return {
            "tasks": [{"id": self.task_id, "type": self.task_kind, "deadline_s": self.deadline_s}],
            "parameters": self.parameters,
            "resource": self.resource,
            "xcom": self.do_xcom_push,
        }

    def _needs_worker(self) -> bool:
        """Whether a value can only be rendered by a worker.

        A task that starts in the triggerer gets ``task.output`` unresolved, and ``xcom_pull`` in a template
        waits there for ever.
        """
        found = False

        def look(value: Any) -> None:
            nonlocal found
            if isinstance(value, XComArg) or (isinstance(value, str) and "xcom" in value):
                found = True
            elif isinstance(value, Mapping):
                for entry in value.values():
                    look(entry)
            elif isinstance(value, list | tuple):
                for entry in value:
                    look(entry)

        look(self.parameters)
        look(self.resource)
        return found

    def execute(self, context: Context) -> Any:
        """Run on a worker; or, there only to render XComs, hand over to the triggerer."""
        if self.deferrable and not self.start_from_trigger and task_types()[self.task_kind].run_on == "triggerer":
            from airavata_provider.triggers.worker import born

            trigger = TaskTrigger(**self._trigger_kwargs(), born=born(context))
            self.defer(trigger=trigger, method_name="execute_complete")
        from airavata_provider.triggers.worker import run_on_worker

        result = run_on_worker(self._trigger_kwargs(), context, retries=self.retries or 0)
        if self.do_xcom_push:
            # As the trigger does: each value is an XCom of its own, too.
            for key, value in (result or {}).items():
                context["ti"].xcom_push(key=key, value=value)
        return result

    def execute_complete(self, context: Context, event: Any = None) -> None:
        """Reached with an error that a retry does not cure; in ``dag.test()`` with every outcome.

        :raises AirflowFailException: the trigger told of a failure
        """
        fail_for_good(event)


def fail_for_good(event: Any) -> None:
    """End a task as a trigger told: Airflow retries no ``AirflowFailException``.

    :raises AirflowFailException: unless the event is a success
    """
    if isinstance(event, Mapping) and "error" in event:
        raise AirflowFailException(str(event["error"]))
    if str(event) != "success":
        raise AirflowFailException(f"the task ended as {event}; its log tells why")
