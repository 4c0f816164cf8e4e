"""The door: refuses bad experiments before Airflow makes a run of them.

An ASGI middleware around Airflow's API server. It looks at one route only, ``POST /api/v2/dags/{dag_id}/dagRuns``
(which REST clients and the UI's trigger form use), and there only at our patterns' DAGs (of which those of second
runs are nobody's to trigger) and at callers who may trigger them; everything else passes as it is, so that Airflow
itself answers whoever is not let in, and nobody else learns what the catalog holds.

Runs that come another way (``airflow dags trigger``, ``TriggerDagRunOperator``, a cleared run) are checked by
their first task, in the same words.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse

from airavata_provider.deployment import Deployment, get_deployment
from airavata_provider.errors import CatalogError, ExperimentRefused
from airavata_provider.models.resolved import ResolvedExperiment
from airavata_provider.models.split import first_dag
from airavata_provider.plugin.callers import path_of, user_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

BODY_LIMIT = 1024 * 1024
"""Bytes of a request that are read at most."""

_TRIGGER = re.compile(r"/api/v2/dags/([^/]+)/dagRuns/?")

Authorise = Callable[[Request, str], Awaitable[bool]]


class ExperimentDoor:
    """See the module.

    :param app: what is behind the door
    :param deployment: the catalog and the patterns; default: this process' own
    :param authorise: whether a request's caller may trigger that DAG; default: what Airflow says
    """

    def __init__(
        self, app: ASGIApp, *, deployment: Deployment | None = None, authorise: Authorise | None = None
    ) -> None:
        self._app = app
        self._deployment = deployment
        self._authorise = authorise or may_trigger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or let it pass."""
        dag_id = _dag_to_trigger(scope)
        second = dag_id is not None and first_dag(dag_id) != dag_id and await self._ours(first_dag(dag_id))
        if dag_id is not None and second and await self._authorise(Request(scope), dag_id):
            detail = f"{dag_id} is the second run of {first_dag(dag_id)}: the end of a job starts it, nobody else."
            await JSONResponse({"detail": detail}, status_code=400)(scope, receive, send)
            return
        if dag_id is None or not await self._ours(dag_id) or not await self._authorise(Request(scope), dag_id):
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            detail = f"An experiment of more than {BODY_LIMIT} bytes is not accepted."
            await JSONResponse({"detail": detail}, status_code=413)(scope, receive, send)
            return
        request = json_object(body)
        if request is not None:
            refusal = await run_in_threadpool(self._complete, request, dag_id)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            body = json.dumps(request).encode()
        await self._app(_with_length(scope, len(body)), _replay(body, receive), send)

    async def _ours(self, dag_id: str) -> bool:
        return dag_id in await run_in_threadpool(lambda: self._known().patterns)

    def _known(self) -> Deployment:
        return self._deployment or get_deployment()

    def _complete(self, request: dict[str, Any], dag_id: str) -> JSONResponse | None:
        """Check the experiment and fill in what follows from it; an answer when it is refused."""
        conf = request.get("conf")
        run_id = request.get("dag_run_id")
        if not isinstance(conf, dict | None) or not isinstance(run_id, str | None):
            return None  # Airflow's own model says what is wrong with it.
        try:
            resolved = self._known().check(conf or {}, experiment_id=run_id or None, dag_id=dag_id)
        except ExperimentRefused as error:
            return refusal(error)
        except CatalogError as error:
            return catalog_broken(error)
        complete(request, resolved)
        return None


def complete(request: dict[str, Any], resolved: ResolvedExperiment) -> None:
    """Fill in what Airflow's request leaves to the experiment: the run's id and the earliest start.

    A start that both name is the later of the two. ``logical_date`` is not ours to have, but Airflow insists
    on the field.
    """
    experiment = resolved.experiment
    request.setdefault("logical_date", None)
    if experiment.id is not None:
        request["dag_run_id"] = experiment.id
    if experiment.not_before is not None:
        given = _moment(request.get("run_after"))
        if given is None or given < experiment.not_before:
            request["run_after"] = experiment.not_before.isoformat()


def refusal(error: ExperimentRefused) -> JSONResponse:
    """400 with every fault: ``detail`` as text, which Airflow's UI shows line by line, and one by one."""
    faults = [{"where": fault.where, "message": fault.message} for fault in error.faults]
    return JSONResponse({"detail": str(error), "faults": faults}, status_code=400)


def catalog_broken(error: CatalogError) -> JSONResponse:
    """503: not the caller's fault, and what is wrong is for the administrator's eyes."""
    log.error("Experiments cannot be accepted: %s", error)
    detail = "The deployment's catalog has faults; its administrator finds them in the API server's log."
    return JSONResponse({"detail": detail}, status_code=503)


async def may_trigger(request: Request, dag_id: str) -> bool:
    """Whether Airflow would let this request's caller trigger that DAG."""
    user = await user_of(request)
    return user is not None and await run_in_threadpool(user_may, user, "POST", dag_id)


def user_may(user: Any, method: Any, dag_id: str) -> bool:
    """Whether a user may do that with the runs of a DAG. Blocking.

    :param user: as Airflow's ``GetUserDep`` gives it
    :param method: ``GET``, ``POST``, ``PUT``
    """
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
    from airflow.models.dag import DagModel

    return get_auth_manager().is_authorized_dag(
        method=method,
        access_entity=DagAccessEntity.RUN,
        details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id)),
        user=user,
    )


def _dag_to_trigger(scope: Scope) -> str | None:
    """The DAG that a request wants to trigger, None for every other request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    match = _TRIGGER.fullmatch(path_of(scope))
    return match[1] if match else None


async def _read(receive: Receive) -> bytes | None:
    """A request's body, None when it is too long."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > BODY_LIMIT:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def json_object(body: bytes) -> dict[str, Any] | None:
    """The body as a JSON object; None when it is none, which Airflow answers."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    # Airflow reads a time without a zone in its own default zone: it cannot be compared here.
    return moment if moment is not None and moment.tzinfo is not None else None


def _with_length(scope: Scope, length: int) -> Scope:
    scope = {**scope, "headers": list(scope["headers"])}
    headers = MutableHeaders(scope=scope)
    headers["content-length"] = str(length)
    if "transfer-encoding" in headers:
        del headers["transfer-encoding"]
    return scope


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body again, then whatever comes."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
