"""The ``airavata_ssh`` connection type: its name, and the button that tries a connection.

Tasks do not use this hook; they go through the pool (``ssh.pool``), which reads the connection itself.
Imports asyncssh only when a connection is tried.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from airavata_provider.errors import AiravataError

if TYPE_CHECKING:
    from airflow.models.connection import Connection as StoredConnection
    from airflow.sdk import Connection

    from airavata_provider.ssh.target import Target


class SSHConnectionHook(BaseHook):
    """A connection of the type ``airavata_ssh``, or of Airflow's ``ssh``.

    :param airavata_conn_id: the connection's id
    """

    conn_name_attr = "airavata_conn_id"
    default_conn_name = "airavata_default"
    conn_type = "airavata_ssh"
    hook_name = "SSH (Airavata)"

    def __init__(self, airavata_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.airavata_conn_id = airavata_conn_id

    def get_conn(self) -> Connection | StoredConnection:
        """The connection's record, as the pool takes it."""
        return self.get_connection(self.airavata_conn_id)

    def test_connection(self) -> tuple[bool, str]:
        """Log in and run ``true``; what Airflow's button shows."""
        from airavata_provider.ssh.target import target_from_connection

        try:
            asyncio.run(_try(target_from_connection(self.get_conn(), find=self.get_connection)))
        except (AiravataError, AirflowNotFoundException) as error:
            return False, str(error)
        return True, "Logged in, and a command ran."


async def _try(target: Target) -> None:
    from airavata_provider.ssh.pool import SSHPool

    pool = SSHPool()
    try:
        await pool.host(target).check("true")
    finally:
        await pool.close()
