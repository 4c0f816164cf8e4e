"""Reads Airflow Connections in an event loop.

What always holds, as a worker's line to its supervisor carries one question at a time, and neither forgets one that
was asked nor tells two apart:

- What was asked is heard to its end, also when who asked is cancelled.
- What is handed out is a value: Airflow's own Connection speaks to the supervisor whenever its extra is looked at,
  which ends a task whose other coroutine waits for an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airavata_provider.errors import ConfigurationError
from airavata_provider.jobs.again import again
from airavata_provider.jobs.unbroken import Unbroken

if TYPE_CHECKING:
    from airflow.sdk import Connection

AGAIN_S = (1.0, 4.0, 10.0)
"""Pauses, in seconds, before a Connection that is not there is looked for again: Airflow says the same when its API
server does not answer."""


@dataclass(frozen=True)
class FoundConnection:
    """An Airflow Connection as it was; the fields are Airflow's."""

    conn_id: str
    conn_type: str | None = None
    host: str | None = None
    schema: str | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    port: int | None = None
    extra_dejson: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Connections:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._unbroken = Unbroken()

    async def get(self, conn_id: str) -> FoundConnection:
        """The Connection of that id; Airflow masks its secrets in logs from then on.

        :raises ConfigurationError: there is none
        """
        return await self._unbroken.run(_read(conn_id))

    async def close(self) -> None:
        """Hear what was asked."""
        await self._unbroken.close()


async def _read(conn_id: str) -> FoundConnection:
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        found = await _find(conn_id)
    except AirflowNotFoundException as error:
        raise ConfigurationError(
            f"there is no Airflow connection {conn_id!r}",
            advice="make it (type ssh, airavata_ssh or imap), or correct the catalog's entry that names it",
        ) from error
    except PermissionError as error:
        raise ConfigurationError(
            f"Airflow denies this task the connection {conn_id!r}",
            advice="share it with the task's team, or correct the catalog's entry that names it",
        ) from error
    return FoundConnection(
        conn_id=conn_id,
        conn_type=found.conn_type,
        host=found.host,
        schema=found.schema,
        login=found.login,
        password=found.password,
        port=found.port,
        extra_dejson=await found.aextra_dejson(),
    )


async def _find(conn_id: str) -> Connection:
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    return await again(
        lambda: BaseHook.aget_connection(conn_id),
        AGAIN_S,
        lambda error: isinstance(error, AirflowNotFoundException),
    )
