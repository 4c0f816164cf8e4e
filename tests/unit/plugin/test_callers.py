"""Who marks a run or a task as failed: known to what is behind, on these routes alone, and in no request's way."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.routing import APIRoute
from jwt import InvalidTokenError
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import Response

from airavata_provider.plugin.callers import CallerNames, marks, user_of
from airavata_provider.runs import asker

with warnings.catch_warnings():
    # Airflow's web parts import libraries that warn about each other.
    warnings.simplefilter("ignore")
    from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
    from airflow.api_fastapi.core_api import security
    from airflow.api_fastapi.core_api.routes.public import public_router

RUN = "/api/v2/dags/hpc_batch/dagRuns/e1"
UNKNOWN = "marked failed in Airflow"
ADA = SimpleNamespace(get_name=lambda: "ada")


class Site:
    """An API server of one route, which answers who asks, behind a middleware like those of Airflow."""

    def __init__(self) -> None:
        self.user: Any = ADA
        self.asked = 0
        self.app = FastAPI()

        # In a thread, as Airflow's are.
        @self.app.api_route("/{path:path}", methods=["GET", "PATCH", "POST"])
        def answer(path: str) -> str:
            return asker()

        async def between(request: Request, call_next: Any) -> Response:
            answered: Response = await call_next(request)
            return answered

        self.app.add_middleware(BaseHTTPMiddleware, dispatch=between)
        self.app.add_middleware(CallerNames, identify=self.identify)

    async def identify(self, request: Request) -> Any:
        self.asked += 1
        if isinstance(self.user, Exception):
            raise self.user
        return self.user

    async def send(self, path: str = RUN, method: str = "PATCH", body: bytes = b'{"state": "failed"}') -> Any:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.request(method, path, content=body)
            answer.raise_for_status()
            return answer.json()


async def test_the_route_knows_the_caller_and_the_next_request_does_not() -> None:
    site = Site()
    assert await site.send() == "marked failed in Airflow by ada"
    site.user = SimpleNamespace(get_name=lambda: "bob")
    assert await site.send(f"{RUN}/taskInstances/monitor") == "marked failed in Airflow by bob"
    assert await site.send(method="GET") == UNKNOWN
    assert asker() == UNKNOWN


@pytest.mark.parametrize("user", [None, HTTPException(401), RuntimeError("no database"), SimpleNamespace()])
async def test_a_caller_who_cannot_be_told_is_airflows_to_answer(user: Any) -> None:
    site = Site()
    site.user = user
    assert await site.send() == UNKNOWN
    assert site.asked == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", RUN),
        ("POST", "/api/v2/dags/hpc_batch/dagRuns"),
        ("PATCH", "/api/v2/dags/hpc_batch"),
        ("PATCH", f"{RUN}/taskInstances/monitor/dry_run"),
        ("PATCH", "/airavata/experiments"),
    ],
)
async def test_nobody_is_asked_for_elsewhere(method: str, path: str) -> None:
    site = Site()
    assert await site.send(path, method) == UNKNOWN
    assert site.asked == 0


def test_the_routes_are_airflows() -> None:
    found = {
        route.endpoint.__name__
        for route in public_router.routes
        if isinstance(route, APIRoute)
        and "PATCH" in route.methods
        and marks(request(route.path_format.format_map(Ones())))
    }
    assert found == {
        "patch_dag_run",
        "bulk_dag_runs",
        "patch_task_instance",
        "bulk_task_instances",
        "patch_task_group_instances",
    }


class Ones(dict[str, str]):
    """Any parameter of a path."""

    def __missing__(self, key: str) -> str:
        return "1"


def request(path: str, **scope: Any) -> dict[str, Any]:
    return {"type": "http", "method": "PATCH", "path": path, "headers": [], "query_string": b"", **scope}


def test_airflow_below_a_path() -> None:
    assert marks(request(f"/airflow{RUN}", root_path="/airflow"))
    assert not marks(request(f"/airflow{RUN}"))
    assert not marks({"type": "lifespan"})


async def test_airflow_says_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def user_from(token: str) -> Any:
        if token != "adas":
            raise InvalidTokenError
        return ADA

    manager = SimpleNamespace(get_user_from_token=user_from)
    monkeypatch.setattr(security, "get_auth_manager", lambda: manager)
    told = {token: request(RUN, headers=[(b"authorization", b"Bearer " + token)]) for token in (b"adas", b"x")}
    assert await user_of(Request(told[b"adas"])) is ADA
    assert await user_of(Request(told[b"x"])) is None
    assert await user_of(Request(request(RUN))) is None
    cookie = f"{COOKIE_NAME_JWT_TOKEN}=adas".encode()
    assert await user_of(Request(request(RUN, headers=[(b"cookie", cookie)]))) is ADA
