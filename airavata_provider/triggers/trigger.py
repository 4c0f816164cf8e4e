"""The one trigger class: hosts a segment's tasks in the triggerer.

Always holds: ``__init__`` only stores what it is given (an exception there would kill the whole triggerer, and
again after its restart); :meth:`TaskTrigger.run` catches everything and ends with an event; no deadline is left to
Airflow, whose time-outs resume on a worker only to fail there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.triggers.base import (
    BaseTrigger,
    TaskFailedEvent,
    TaskSkippedEvent,
    TaskSuccessEvent,
    TriggerEvent,
)

from airavata_provider.errors import AiravataError

CLASSPATH = "airavata_provider.triggers.trigger.TaskTrigger"

MESSAGE_LIMIT = 4000
"""Characters of an error that travel to the worker."""

XCOM_AGAIN_S = (1.0, 2.0, 5.0, 10.0, 20.0, 20.0)
"""Pauses before an XCom is written again that could not be, in seconds."""

# Loggers of libraries inherit the task's log through the context; ours carries the package's name.
_LOG = logging.getLogger("airavata_provider.task")


class TaskTrigger(BaseTrigger):
    """Runs tasks in the triggerer and ends the Airflow task with their outcome.

    :param tasks: one dict per task, see :class:`~airavata_provider.triggers.hosted.HostedTask`
    :param experiment: True when the run's ``conf`` is an experiment, as in a pattern's DAG
    :param parameters: of the only task, in a hand-written DAG; rendered by Airflow
    :param resource: compute resource of the only task, in a hand-written DAG; rendered by Airflow
    :param xcom: push the results as XComs
    :param born: when the run was made, told by the worker that handed over; else it comes with the trigger
    """

    def __init__(
        self,
        *,
        tasks: Any = None,
        experiment: Any = False,
        parameters: Any = None,
        resource: Any = None,
        xcom: Any = True,
        born: Any = None,
        **unknown: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tasks = tasks
        self.experiment = experiment
        self.parameters = parameters
        self.resource = resource
        self.xcom = xcom
        self.born = born
        # Fields of a newer version's trigger, met after a downgrade.
        self.unknown = unknown

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the fields, all JSON."""
        return CLASSPATH, {
            "tasks": self.tasks,
            "experiment": self.experiment,
            "parameters": self.parameters,
            "resource": self.resource,
            "xcom": self.xcom,
            "born": self.born,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run the tasks; yields exactly one event."""
        yield await self._outcome()

    async def _outcome(self) -> TriggerEvent:
        from airavata_provider.triggers.host import Skipped, expect_retry, run_segment

        try:
            segment = self._segment()
            results = await run_segment(segment)
            if self.xcom:
                try:
                    await self._push(results)
                except Exception:
                    await expect_retry(segment)
                    raise
        except Skipped:
            return TaskSkippedEvent()
        except AiravataError as error:
            _LOG.error("%s: %s", type(error).__name__, error)
            if not error.transient and self._may_retry():
                message = f"{type(error).__name__}: {error}"[:MESSAGE_LIMIT]
                return TriggerEvent({"error": message})  # type: ignore[no-untyped-call]
            return TaskFailedEvent()
        except asyncio.CancelledError:
            raise
        except BaseException:
            _LOG.exception("Failed unexpectedly")
            return TaskFailedEvent()
        return TaskSuccessEvent()

    def _may_retry(self) -> bool:
        """Whether Airflow may answer a failure with a retry, which an error that time does not cure must not get.

        The triggerer can only say "failed". A worker can say "failed, and do not retry", so such an error goes
        there, to ``execute_complete``, unless no retry is configured anyway.
        """
        return bool(getattr(self.task, "retries", 1))

    def _segment(self) -> Any:
        from airavata_provider.triggers.host import Segment
        from airavata_provider.triggers.hosted import hosted_tasks, run_of
        from airavata_provider.triggers.services import get_services

        ti = self.task_instance
        if ti is None:
            raise AiravataError("the trigger was started for no task")
        # A trigger that a worker handed over comes without its run.
        dag_run = None if self.born and not self.experiment else _dag_run(ti)
        return Segment(
            tasks=hosted_tasks(self.tasks, self.parameters, self.resource, experiment=self.experiment),
            run=run_of(ti, dag_run, experiment=self.experiment, born=self.born, may_retry=self._may_retry()),
            services=get_services(),
            log=_LOG,
        )

    async def _push(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the XComs here: values on the event would be encoded twice.

        The last task's result is the return value, each of its entries is an XCom of its own as well.
        """
        ti = self.task_instance
        if ti is None or not results:
            return
        result = dict(list(results.values())[-1])
        for key, value in {**result, "return_value": result}.items():
            await _set_xcom(ti, key, value)

    async def on_kill(self) -> None:
        """A person acted on the task. Only one who marked it failed wants its job to end.

        A cleared task's next attempt has started by now and takes the job over; a task marked successful is
        done with as it is.
        """
        from airavata_provider.triggers.host import cancel_segment

        try:
            if await self._state() in ("failed", "upstream_failed", "skipped", "removed"):
                _LOG.info("Marked failed: cancelling")
                await cancel_segment(self._segment())
        except Exception:
            _LOG.exception("Cancelling failed; the reconciler repeats what was asked for so far")

    async def _state(self) -> str | None:
        from airflow.sdk.execution_time import task_runner
        from airflow.sdk.execution_time.comms import GetTaskStates, TaskStatesResult

        ti = self.task_instance
        if ti is None:
            return None
        answer = await task_runner.SUPERVISOR_COMMS.asend(
            GetTaskStates(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index)
        )
        if not isinstance(answer, TaskStatesResult):
            return None
        for state in answer.task_states.get(ti.run_id, {}).values():
            return str(state) if state is not None else None
        return None


def _dag_run(ti: Any) -> Any:
    """The run, as it came with the trigger: the template context would validate all params anew."""
    from_server = getattr(ti, "_ti_context_from_server", None)
    return from_server.dag_run if from_server is not None else ti.get_template_context()["dag_run"]


async def _set_xcom(ti: Any, key: str, value: Any) -> None:
    """Write it, again while Airflow's database does not answer: what the task did must not be for nothing."""
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.exceptions import AirflowRuntimeError

    from airavata_provider.jobs.again import again

    place = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id}
    map_index = -1 if ti.map_index is None else ti.map_index

    def told(error: Exception, pause_s: float) -> None:
        _LOG.warning("The XCom %s is not written yet; again in %g s: %s", key, pause_s, error)

    await again(
        lambda: BaseXCom.aset(key, value, **place, map_index=map_index),
        XCOM_AGAIN_S,
        lambda error: isinstance(error, AirflowRuntimeError),
        told,
    )
