"""Who marks a run or a task as failed through Airflow's API: their name goes on the record of what ends by that.

An ASGI middleware around Airflow's API server. Airflow tells its listeners what was marked, and not by whom. This
looks at the routes that mark things, and there asks Airflow whose request it is; the name is known for as long as the
request is served (``runs.asked_by``), since a route's thread has a copy of its request's context. Every request
passes as it is: one whose caller cannot be told is Airflow's to answer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from airavata_provider.runs import asked_by

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

# One run or many; one task, one of its mapped ones, a group, or many.
_MARKS = re.compile(
    r"/api/v2/dags/[^/]+/dagRuns(?:/[^/]+(?:/taskInstances(?:/[^/]+(?:/-?\d+)?)?|/taskGroupInstances/[^/]+)?)?/?"
)

Identify = Callable[[Request], Awaitable[Any]]


class CallerNames:
    """See the module.

    :param app: what is behind it
    :param identify: a request's user, None for one whom Airflow does not let in; default: who Airflow says it is
    """

    def __init__(self, app: ASGIApp, *, identify: Identify | None = None) -> None:
        self._app = app
        self._identify = identify or user_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        name = await self._name(scope) if marks(scope) else ""
        if not name:
            await self._app(scope, receive, send)
            return
        with asked_by(f"marked failed in Airflow by {name}"):
            await self._app(scope, receive, send)

    async def _name(self, scope: Scope) -> str:
        try:
            user = await self._identify(Request(scope))
            return "" if user is None else str(user.get_name())
        except Exception:
            log.exception("Nobody can tell who sent %s %s", scope["method"], scope["path"])
            return ""


def marks(scope: Scope) -> bool:
    """Whether a request may mark runs or tasks. Pure."""
    return scope["type"] == "http" and scope["method"] == "PATCH" and _MARKS.fullmatch(path_of(scope)) is not None


def path_of(scope: Scope) -> str:
    """The path of a request below the one that Airflow is served at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path


async def user_of(request: Request) -> Any:
    """Airflow's user who sent a request, None when Airflow would not let them in."""
    from airflow.api_fastapi.core_api.security import bearer_scheme, get_user

    try:
        return await get_user(request, None, await bearer_scheme(request))
    except HTTPException:
        return None
