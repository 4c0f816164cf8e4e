"""``remote_command``: a shell command in the experiment's directory, on the resource's login node.

It runs detached, as the ``fork`` scheduler's jobs do, with an exit record of its own: a broken connection does not
end it, and a task that is killed and run again finds its first run, still going or over.

Imports no Airflow, and neither asyncssh nor SQLAlchemy at its top.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from airavata_provider.errors import CommandFailed, FileMissing
from airavata_provider.models.identity import job_name
from airavata_provider.models.job import Job
from airavata_provider.schedulers.base import JobRef, JobStatus, quote
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult

if TYPE_CHECKING:
    from airavata_provider.ssh.host import Host

WATCH_S = 20
"""How long one session waits on the resource for the end of the command, in seconds."""

TAIL = 4096
"""Bytes of its standard output that are kept as the task's result."""

KILL_TRIES = 4

# Waits where the process is, so that its end is noticed at once and one session serves many seconds.
_WAIT = """\
n=0
while :; do
  state=$({status})
  case $state in *'|RUNNING|'*) ;; *) break;; esac
  [ $n -lt {rounds} ] || break
  n=$((n + 1))
  sleep 0.2 2>/dev/null || sleep 1
done
printf '%s\\n' "$state"
"""


class RemoteCommandParameters(Parameters):
    """:param command: POSIX shell text
    :param environment: exported to it
    :param modules: names for ``module load``
    :param outputs: files that it makes, names or glob patterns in the directory; staged out with the others
    :param walltime_s: seconds after which it is ended
    """

    command: str = Field(min_length=1)
    environment: dict[str, str] = Field(default_factory=dict)
    modules: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    walltime_s: int | None = Field(default=None, ge=1)


class RemoteCommand(Task[RemoteCommandParameters]):
    """Runs the command once; its standard output and error are kept as ``<task id>.out`` and ``.err``."""

    name: ClassVar[str] = "remote_command"
    Parameters: ClassVar[type[Parameters]] = RemoteCommandParameters

    async def run(self, context: TaskContext[RemoteCommandParameters]) -> TaskResult:
        """:raises CommandFailed: it ended with a status that is not 0, or was killed"""
        from airavata_provider.jobs.submission import submit
        from airavata_provider.schedulers.fork import Fork

        request = self._request(context)
        host = await context.services.host(context.resource)
        if context.fresh:
            await self._end(context, host)
            await host.remove(control_directory(request.directory, request.name))
            await context.begun()
        native_id = await submit(
            host,
            Fork(),
            request,
            store=_NoStore(),
            job=_unsaved(context, request),
            log=context.log,
        )
        status = await self._wait(host, JobRef(native_id, request.name, request.directory))
        return await self._result(context, host, request, status)

    async def _wait(self, host: Host, ref: JobRef) -> JobStatus:
        from airavata_provider.schedulers.fork import Fork

        fork = Fork()
        command = _WAIT.format(status=fork.status_command([ref]), rounds=int(WATCH_S / 0.2))
        while True:
            found = fork.parse_status(await host.run(command, timeout=WATCH_S * 6), [ref]).get(ref.native_id)
            if found is None:
                raise CommandFailed(
                    "the command left no trace: its directory was removed while it ran",
                    exit_status=-1,
                    where=host.name,
                )
            if found.state.terminal:
                return found
            await asyncio.sleep(0)

    async def _result(
        self,
        context: TaskContext[RemoteCommandParameters],
        host: Host,
        request: JobRequest,
        status: JobStatus,
    ) -> TaskResult:
        out = await _tail(host, posixpath.join(request.directory, request.stdout))
        if status.exit_code != 0 or status.reason:
            error = await _tail(host, posixpath.join(request.directory, request.stderr))
            how = status.reason or f"status {status.exit_code}"
            raise CommandFailed(
                f"the command ended with {how}: {error.strip()[-1000:] or out.strip()[-1000:] or 'it wrote nothing'}",
                exit_status=status.exit_code if status.exit_code is not None else -1,
                stderr=error,
                where=f"{host.name}:{request.directory}",
            )
        context.log.info("The command ended well; the end of what it wrote:\n%s", out)
        return TaskResult({"exit_code": 0, "stdout": out, "files": list(context.parameters.outputs)})

    async def cancel(self, context: TaskContext[RemoteCommandParameters]) -> None:
        """End the command and all that it started."""
        await self._end(context, await context.services.host(context.resource))

    async def _end(self, context: TaskContext[RemoteCommandParameters], host: Host) -> None:
        from airavata_provider.schedulers.fork import Fork

        fork, request = Fork(), self._request(context)
        native_id = fork.parse_find(
            await host.run(fork.find_command(request.name, None, request.directory)), request.name
        )
        if native_id is None:
            return
        ref = JobRef(native_id, request.name, request.directory)
        for _ in range(KILL_TRIES):
            status = fork.parse_status(await host.run(fork.status_command([ref])), [ref]).get(native_id)
            if status is None or status.state.terminal:
                return
            await host.run(fork.cancel_command([ref]))
            await asyncio.sleep(2)

    def _request(self, context: TaskContext[RemoteCommandParameters]) -> JobRequest:
        parameters, identity = context.parameters, context.identity
        module_system = context.resource.module_system
        return JobRequest(
            name=job_name(identity),
            directory=context.directory,
            executable="/bin/sh",
            arguments=("-c", parameters.command),
            environment=dict(parameters.environment),
            module_init=module_system.commands(bool(parameters.modules)),
            modules=parameters.modules,
            stdout=f"{identity.task_id}.out",
            stderr=f"{identity.task_id}.err",
            walltime_s=parameters.walltime_s,
            shell=context.resource.shell,
        )


def _unsaved(context: TaskContext[RemoteCommandParameters], request: JobRequest) -> Job:
    identity = context.identity
    return Job(
        name=request.name,
        dag_id=identity.dag_id,
        experiment_id=identity.experiment_id,
        task_id=identity.task_id,
        map_index=identity.map_index,
        attempt=1,
        resource=context.resource.name,
        directory=request.directory,
    )


class _NoStore:
    """A command is no job: what it leaves in its directory on the resource is all the record it needs."""

    async def submitted(
        self, name: str, native_id: str, at: datetime, element_id: Callable[[str, int], str] | None = None
    ) -> None:
        """Kept on the resource."""

    async def refused(self, name: str, reason: str) -> None:
        """Raised to the task."""

    async def uncertain(self, name: str, reason: str) -> None:
        """Raised to the task."""


async def _tail(host: Host, path: str) -> str:
    """The end of a text file; empty when there is none."""
    try:
        result = await host.run(f"tail -c {TAIL} -- {quote(path)}")
    except FileMissing:
        return ""
    return result.stdout
