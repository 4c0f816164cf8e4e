"""Experiments over HTTP, for gateways that would rather not speak of DAG runs: submit, look, cancel.

Callers are Airflow's users, authorised for the pattern's DAG exactly as for Airflow's own routes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from airavata_provider import runs
from airavata_provider.deployment import get_deployment
from airavata_provider.errors import CatalogError, ExperimentRefused
from airavata_provider.plugin.door import BODY_LIMIT, catalog_broken, json_object, refusal, user_may

router = APIRouter(prefix="/experiments")


@router.post("", status_code=201)
async def submit(request: Request, user: GetUserDep) -> Response:
    """Check an experiment and start its run.

    The body is the experiment's fields as JSON. 201 with ``id``, ``dag_id`` and ``state``; 400 with every
    fault; 403 for a pattern that the caller may not run; 409 when there is an experiment of that id.
    """
    conf = await _body(request)
    try:
        resolved = await run_in_threadpool(get_deployment().check, conf, experiment_id=None)
        if not await run_in_threadpool(user_may, user, "POST", resolved.pattern):
            raise HTTPException(403, f"You may not run {resolved.pattern}.")
        run = await run_in_threadpool(runs.create_run, resolved, via="rest_api", by=user.get_name())
    except ExperimentRefused as error:
        return refusal(error)
    except CatalogError as error:
        return catalog_broken(error)
    except runs.ExperimentExists as error:
        raise HTTPException(409, str(error)) from error
    state = runs.experiment_state(run, [], datetime.now(UTC)).value
    return JSONResponse({"id": run.id, "dag_id": run.dag_id, "state": state}, status_code=201)


@router.get(
    "/{dag_id}/{experiment_id}",
    dependencies=[Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN))],
)
async def look(dag_id: str, experiment_id: str) -> dict[str, Any]:
    """An experiment's state, its tasks with their times, its jobs with their histories, its outputs."""
    from airavata_provider.jobs.store import get_store

    run = await _run(dag_id, experiment_id)
    return await runs.experiment_report(run, get_store(), now=datetime.now(UTC))


@router.post(
    "/{dag_id}/{experiment_id}/cancel",
    status_code=202,
    dependencies=[Depends(requires_access_dag(method="PUT", access_entity=DagAccessEntity.RUN))],
)
async def cancel(dag_id: str, experiment_id: str, user: GetUserDep) -> dict[str, Any]:
    """End an experiment; its jobs, too, until their schedulers agree. 202 with :func:`look`'s answer."""
    from airavata_provider.jobs.store import get_store

    run = await _run(dag_id, experiment_id)
    await runs.cancel_experiment(run, get_store(), by=user.get_name())
    return await look(dag_id, experiment_id)


async def _run(dag_id: str, experiment_id: str) -> runs.Run:
    run = await run_in_threadpool(runs.read_run, dag_id, experiment_id)
    if run is None:
        raise HTTPException(404, f"{dag_id} has no experiment {experiment_id!r}.")
    return run


async def _body(request: Request) -> dict[str, Any]:
    """The request's JSON object, of a bearable size.

    Only ``application/json``: a browser sends that to another site only after asking it.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "An experiment is sent as application/json.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise HTTPException(413, f"An experiment of more than {BODY_LIMIT} bytes is not accepted.")
    conf = json_object(bytes(body))
    if conf is None:
        raise HTTPException(400, "The body is not a JSON object.")
    return conf
