"""Hosts tasks on a worker: the same segment runner, in a loop of its own.

Used for tasks that move heavy data or run containers, with ``deferrable=False``, and by ``dag.test()``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airavata_provider.errors import AiravataError
from airavata_provider.models.identity import birth
from airavata_provider.triggers.host import Segment, Skipped, run_segment
from airavata_provider.triggers.hosted import hosted_tasks, run_of
from airavata_provider.triggers.services import close_services, get_services

if TYPE_CHECKING:
    from airflow.sdk import Context

_LOG = logging.getLogger("airavata_provider.task")


def born(context: Context) -> str:
    """When the DAG run was made: fixed for its life, other for every run."""
    return birth(context["dag_run"].run_after)


def run_on_worker(kwargs: Mapping[str, Any], context: Context, *, retries: int) -> dict[str, Any] | None:
    """Run a trigger's tasks here and now.

    :param kwargs: what the trigger would have been given, rendered
    :param context: Airflow's
    :param retries: the operator's; tells retries from a person's clearing
    :return: the last task's result, which becomes the XCom
    :raises AirflowFailException: an error that a retry will not cure
    :raises AirflowException: an error that it may
    """
    ti = context["ti"]
    experiment = kwargs.get("experiment", False)
    tasks = hosted_tasks(kwargs["tasks"], kwargs.get("parameters"), kwargs.get("resource"), experiment=experiment)
    run = run_of(
        ti, context["dag_run"], experiment=experiment, cleared_through=ti.max_tries - retries, may_retry=retries > 0
    )

    async def work() -> dict[str, Mapping[str, Any]]:
        try:
            return await run_segment(Segment(tasks=tasks, run=run, services=get_services(of_task=True), log=_LOG))
        finally:
            try:
                await close_services()
            except Exception:
                # What the task did stands, whatever becomes of its connections.
                _LOG.exception("Not everything could be closed")

    try:
        results = asyncio.run(work())
    except Skipped as skipped:
        raise AirflowSkipException(f"{skipped}: nothing to do") from None
    except AiravataError as error:
        kind = AirflowException if error.transient else AirflowFailException
        raise kind(f"{type(error).__name__}: {error}") from error
    return dict(results[tasks[-1].id]) if results else None
