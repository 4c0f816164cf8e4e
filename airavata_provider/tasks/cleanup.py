"""``clean_up``: removes the experiment's directory from the resource.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from posixpath import normpath
from typing import ClassVar

from pydantic import Field

from airavata_provider.errors import AiravataError, CommandFailed
from airavata_provider.models.job import Job
from airavata_provider.models.rules import left_by
from airavata_provider.schedulers.base import quote
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult

# A file system that shows a job's last writes late can refuse the first try with "Directory not empty".
_REMOVE = """\
for try in 1 2 3; do
  rm -rf -- {directory} && exit 0
  sleep 1
done
exit 1
"""


class CleanUpParameters(Parameters):
    """:param keep: leave everything where it is, for a look at it"""

    keep: bool = Field(default=False, description="Leave the directory on the resource")


class CleanUp(Task[CleanUpParameters]):
    """Removes the directory; a directory that is gone already is fine.

    So it does where an attempt was that a rule answered elsewhere, if that place can be reached.
    """

    name: ClassVar[str] = "clean_up"
    Parameters: ClassVar[type[Parameters]] = CleanUpParameters

    async def run(self, context: TaskContext[CleanUpParameters]) -> TaskResult:
        """:raises CommandFailed: something in the directory cannot be removed"""
        if context.parameters.keep:
            context.log.info("Kept %s on %s", context.directory, context.resource.name)
            return TaskResult({"removed": False, "directory": context.directory})
        check_removable(context.directory, context.resource.scratch)
        host = await context.services.host(context.resource)
        result = await host.run(_REMOVE.format(directory=quote(context.directory)), timeout=600)
        if result.exit_status != 0:
            raise CommandFailed(
                f"cannot remove {context.directory}: {result.stderr.strip()[-500:]}",
                exit_status=result.exit_status,
                stderr=result.stderr,
                where=context.resource.name,
            )
        context.log.info("Removed %s on %s", context.directory, context.resource.name)
        await self._remove_left(context)
        return TaskResult({"removed": True, "directory": context.directory})

    async def _remove_left(self, context: TaskContext[CleanUpParameters]) -> None:
        """Remove the directories at the places that a rule left; one that cannot be removed is told of."""
        me = context.identity
        jobs = await context.services.store.jobs_of(me.dag_id, me.experiment_id, me.born)
        here = (context.resource.name, context.directory)
        for name, directory in left_places(jobs):
            if (name, directory) == here:
                continue
            try:
                resource = context.services.compute_resource(name)
                check_removable(directory, resource.scratch)
                host = await context.services.host(resource)
                await host.check(_REMOVE.format(directory=quote(directory)), timeout=600)
                context.log.info("Removed %s on %s", directory, name)
            except (AiravataError, ValueError) as error:
                context.log.warning("%s stays on %s, where an attempt before was: %s", directory, name, error)


def left_places(jobs: Sequence[Job]) -> list[tuple[str, str]]:
    """Resources that a rule left, and the experiment's directory there, each once. Pure.

    :param jobs: an experiment's
    """
    by_attempt = {(job.task_id, job.map_index, job.attempt): job for job in jobs}
    found: dict[tuple[str, str], None] = {}
    for job in jobs:
        before = by_attempt.get((job.task_id, job.map_index, job.attempt - 1))
        if before is not None and left_by(job) == before.resource:
            found[before.resource, before.directory] = None
    return list(found)


def check_removable(directory: str, scratch: str) -> None:
    """Refuse to remove anything that is not strictly below the scratch directory.

    :raises ValueError: it is not; a fault of the program, never of a user
    """
    base = normpath(scratch)
    if normpath(directory) != directory or base == "/" or not directory.startswith(f"{base}/"):
        raise ValueError(f"refusing to remove {directory!r}, which is not below {scratch!r}")
