"""``stage_in`` and ``stage_out``: files between storage and the experiment's directory, verified both ways.

Imports no Airflow, and no asyncssh at its top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from airavata_provider.errors import FileMissing, JobFailed
from airavata_provider.models.job import Job, JobState
from airavata_provider.models.uri import StorageURI, parse_storage_uri
from airavata_provider.models.values import Model
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult

if TYPE_CHECKING:
    from airavata_provider.models.resolved import ResolvedExperiment
    from airavata_provider.storage.base import Storage
    from airavata_provider.storage.transfer import Transfer

NAMED = 50
"""Files of one task that are named in its log and result; a task may move thousands."""


class FileToStage(Model):
    """:param source: storage URI
    :param target: name in the experiment's directory
    """

    source: str
    target: str


class StageInParameters(Parameters):
    """:param files: what to bring; by default the experiment's FILE inputs"""

    files: tuple[FileToStage, ...]


class StageIn(Task[StageInParameters]):
    """Brings files from storage; one that is there already, whole, is not sent again."""

    name: ClassVar[str] = "stage_in"
    Parameters: ClassVar[type[Parameters]] = StageInParameters

    def defaults(self, experiment: ResolvedExperiment) -> Mapping[str, Any]:
        """Every FILE input under its name."""
        return {"files": [{"source": str(file.source), "target": file.name} for file in experiment.files]}

    async def run(self, context: TaskContext[StageInParameters]) -> TaskResult:
        """:raises FileMissing: a storage has no such file
        :raises TransferError: one did not arrive whole
        """
        from airavata_provider.storage.transfer import Place, Upload, many_to_host

        storages: dict[str, Storage] = {}
        uploads = []
        for file in context.parameters.files:
            uri = parse_storage_uri(file.source)
            if uri.storage not in storages:
                storages[uri.storage] = await context.services.storage(uri.storage)
            uploads.append(Upload(Place(storages[uri.storage], uri.path), file.target))
        if not uploads:
            context.log.info("No files to bring")
            return TaskResult({"files": [], "bytes": 0})
        host = await context.services.host(context.resource)
        transfers = await many_to_host(uploads, host, context.directory)
        return _told(context, transfers, [transfer.name for transfer in transfers], "Brought")


class FileToFetch(Model):
    """:param source: name or glob pattern in the experiment's directory
    :param target: path below ``to``; the source's own name by default, and always for a pattern
    :param required: its absence is a failure, unless the job failed anyway
    """

    source: str = Field(min_length=1)
    target: str | None = None
    required: bool = True


class StageOutParameters(Parameters):
    """:param files: what to fetch; by default the application's outputs and the job's standard output and error
    :param to: storage URI of the folder to copy into; by default where the experiment's outputs go
    """

    files: tuple[FileToFetch, ...]
    to: str


class StageOut(Task[StageOutParameters]):
    """Fetches files into storage. Of a job that failed it fetches what is there: people need its logs."""

    name: ClassVar[str] = "stage_out"
    Parameters: ClassVar[type[Parameters]] = StageOutParameters

    def defaults(self, experiment: ResolvedExperiment) -> Mapping[str, Any]:
        """The outputs that the application declares, and its logs."""
        files = {
            field.file: {"source": field.file, "required": field.required} for field in experiment.outputs.values()
        }
        for log in (experiment.application.stdout, experiment.application.stderr):
            files.setdefault(log, {"source": log, "required": False})
        return {"files": list(files.values()), "to": str(experiment.outputs_to)}

    async def run(self, context: TaskContext[StageOutParameters]) -> TaskResult:
        """:raises FileMissing: a required file is not there, although the job completed
        :raises JobFailed: there was no job at all, so there is nothing to fetch
        :raises TransferError: one did not arrive whole
        """
        from airavata_provider.storage.transfer import find_outputs, many_from_host

        parameters = context.parameters
        failed = await self._failed_job(context)
        host = await context.services.host(context.resource)
        to = parse_storage_uri(parameters.to, directory=True)
        found = await find_outputs(host, context.directory, [file.source for file in parameters.files])
        missing = [file.source for file in parameters.files if file.required and not found[file.source]]
        if missing and failed is None:
            raise FileMissing(
                f"the job completed without {', '.join(map(repr, missing))}",
                where=f"{context.resource.name}:{context.directory}",
                advice="look at the job's standard error, and at the outputs that the application declares",
            )
        names = {
            name: to.child(file.target if file.target and name == file.source else name).path
            for file in parameters.files
            for name in found[file.source]
        }
        if missing:
            context.log.warning("The job failed and left no %s", ", ".join(missing))
        transfers = await many_from_host(host, context.directory, names, await context.services.storage(to.storage))
        uris = [str(StorageURI(to.storage, names[transfer.name])) for transfer in transfers]
        told = _told(context, transfers, uris, "Fetched")
        outputs = dict(list(zip((transfer.name for transfer in transfers), uris, strict=True))[:NAMED])
        return TaskResult({**told.values, "outputs": outputs})

    async def _failed_job(self, context: TaskContext[StageOutParameters]) -> Job | None:
        """The experiment's job that did not complete, if one did not.

        In a hand-written DAG files may be fetched without any job; a pattern's experiment has one.
        """
        identity = context.identity
        latest: dict[tuple[str, int], Job] = {}
        for job in await context.services.store.jobs_of(identity.dag_id, identity.experiment_id, identity.born):
            latest[job.task_id, job.map_index] = job
        if not latest and context.experiment is not None:
            raise JobFailed(
                "no job was submitted, so there is nothing to fetch",
                advice="look at the tasks before this one",
            )
        return next((job for job in latest.values() if job.state is not JobState.COMPLETE), None)


def _told(context: TaskContext[Any], transfers: Sequence[Transfer], names: Sequence[str], verb: str) -> TaskResult:
    size = sum(transfer.size for transfer in transfers)
    again = sum(not transfer.sent for transfer in transfers)
    context.log.info(
        "%s %d files, %d bytes%s: %s%s",
        verb,
        len(transfers),
        size,
        f" ({again} were there already)" if again else "",
        ", ".join(names[:NAMED]),
        " …" if len(names) > NAMED else "",
    )
    files = [
        {"name": name, "size": transfer.size, "sha256": transfer.sha256}
        for name, transfer in zip(names[:NAMED], transfers, strict=False)
    ]
    return TaskResult({"files": files, "count": len(transfers), "bytes": size})
