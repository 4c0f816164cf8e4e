"""The limit: how many jobs one open SSH connection can submit, with nothing around it."""

from __future__ import annotations

import asyncio
import time

import asyncssh

from tests.bed import Bed

IN_FLIGHT = 4
"""Sessions at a time; sshd allows 10, but frees one a moment after the client has seen it close."""


async def _submit(bed: Bed, count: int) -> float:
    async with asyncssh.connect(
        bed.ssh_host,
        bed.ssh_port,
        username=bed.ssh_user,
        client_keys=[str(bed.ssh_key)],
        known_hosts=str(bed.known_hosts),
        config=None,
    ) as connection:
        command = f"cd {bed.scratch} && sbatch --parsable -J limit -o /dev/null --wrap true"
        await connection.run(command, check=True)
        todo = iter(range(count))

        async def submitter() -> None:
            for _ in todo:
                await connection.run(command, check=True)

        started = time.monotonic()
        await asyncio.gather(*(submitter() for _ in range(IN_FLIGHT)))
        return time.monotonic() - started


def submissions_per_hour(bed: Bed, count: int = 600) -> float:
    """``sbatch`` over one connection, jobs an hour. Waits until the queue is empty again."""
    seconds = asyncio.run(_submit(bed, count))
    while bed.run("squeue -h -n limit").stdout.strip():
        time.sleep(0.5)
    return count / seconds * 3600
