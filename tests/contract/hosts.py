"""Stand-ins for a host and for the job store, for adaptors' and submissions' tests."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from airavata_provider.errors import CommandTimedOut
from airavata_provider.models.job import Job, SubmissionState
from airavata_provider.schedulers.base import CommandResult


class LocalHost:
    """This machine, as a ``Host``: each command is a shell of its own, fed over standard input.

    :param path: folders put before ``PATH``, for stand-ins of a scheduler's commands
    :param noise: written to both streams before every answer, as a login's banner is
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        noise: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = "local"
        self.commands: list[str] = []
        self._noise = noise
        self._environment = {**os.environ, **(environment or {})}
        if path is not None:
            self._environment["PATH"] = f"{path}:{self._environment['PATH']}"

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        """Run a text with ``/bin/sh``."""
        self.commands.append(command)
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-s",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
        )
        try:
            out, error = await asyncio.wait_for(process.communicate(command.encode()), timeout)
        except TimeoutError as late:
            process.kill()
            await process.wait()
            raise CommandTimedOut(f"no end after {timeout} s", where=self.name) from late
        return CommandResult(
            process.returncode or 0, self._noise + out.decode(errors="replace"), self._noise + error.decode()
        )


class ScriptedHost(LocalHost):
    """A host whose answers a test bends: ``before`` and ``after`` a command really ran.

    :param before: called with the command's number, from 0; may raise, and then the command does not run
    :param after: called with the number and the answer; returns the answer to give, or raises
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        before: Callable[[int], None] | None = None,
        after: Callable[[int, CommandResult], CommandResult] | None = None,
    ) -> None:
        super().__init__(path)
        self._before = before
        self._after = after

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        """Run a text, bent."""
        number = len(self.commands)
        if self._before is not None:
            self._before(number)
        result = await super().run(command, timeout=timeout)
        return self._after(number, result) if self._after is not None else result


class MemoryStore:
    """What a submission needs of the job store, in memory."""

    def __init__(self) -> None:
        self.outcomes: dict[str, tuple[SubmissionState, str]] = {}

    async def submitted(
        self, name: str, native_id: str, at: datetime, element_id: Callable[[str, int], str] | None = None
    ) -> None:
        """The scheduler accepted it."""
        self.outcomes[name] = (SubmissionState.SUBMITTED, native_id)

    async def refused(self, name: str, reason: str) -> None:
        """The scheduler refused it."""
        self.outcomes[name] = (SubmissionState.REFUSED, reason)

    async def uncertain(self, name: str, reason: str) -> None:
        """Nobody can tell."""
        self.outcomes[name] = (SubmissionState.UNCERTAIN, reason)


def job(name: str, directory: str) -> Job:
    """A job with that name, its intent saved."""
    return Job(
        name=name,
        dag_id="hpc_batch",
        experiment_id="e1",
        task_id="submit",
        map_index=-1,
        attempt=1,
        resource="here",
        directory=directory,
    )
