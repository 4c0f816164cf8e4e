"""``stage_in`` and ``stage_out``: files between storage and the experiment's directory, verified both ways.

Imports no Airflow, and no asyncssh at its top.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from pydantic import Field

from airavata_provider.errors import FileMissing, JobFailed
from airavata_provider.models.job import Job, JobState
from airavata_provider.models.uri import StorageURI, parse_storage_uri
from airavata_provider.models.values import Model
from airavata_provider.schedulers.base import quote
from airavata_provider.tasks.arrays import SHARED, element_directory, elements_of, named
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult

if TYPE_CHECKING:
    from airavata_provider.models.resolved import ResolvedExperiment
    from airavata_provider.ssh.host import Host
    from airavata_provider.storage.base import Storage
    from airavata_provider.storage.transfer import Transfer

T = TypeVar("T")
Fetched: TypeAlias = "tuple[list[Transfer], list[str], list[str]]"
"""Files, the addresses that they went to, and required ones that are not there."""

ELEMENTS_AT_A_TIME = 4
"""Elements of an array whose outputs are fetched at the same time."""

LATE_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Pauses between looks for what a completed job should have left: a shared file system shows a file seconds after
another machine wrote it, and the news of a job's end may be faster.
"""

NAMED = 50
"""Files of one task that are named in its log and result; a task may move thousands."""


_LINKS = """\
set -eu
cd -- {directory}
n=0
while [ $n -lt {elements} ]; do ln -sf {files} $n/; n=$((n + 1)); done
"""


class FileToStage(Model):
    """:param source: storage URI
    :param target: name in the experiment's directory
    :param element: of an array: the element whose directory it goes to; None: all of them see it
    """

    source: str
    target: str
    element: int | None = None


class StageInParameters(Parameters):
    """:param files: what to bring; by default the experiment's FILE inputs
    :param elements: of an array: how many it has; a file that all of them see is brought once, and linked
    """

    files: tuple[FileToStage, ...]
    elements: int = Field(default=0, ge=0)


class StageIn(Task[StageInParameters]):
    """Brings files from storage; one that is there already, whole, is not sent again."""

    name: ClassVar[str] = "stage_in"
    Parameters: ClassVar[type[Parameters]] = StageInParameters

    def defaults(self, experiment: ResolvedExperiment) -> Mapping[str, Any]:
        """Every FILE input under its name."""
        shared = set(experiment.files)
        own = [
            (file, place)
            for place in range(len(experiment.elements))
            for file in experiment.of_element(place).files
            if file not in shared
        ]
        files = [(file, None) for file in experiment.files] + own
        return {
            "files": [{"source": str(file.source), "target": file.name, "element": place} for file, place in files],
            "elements": len(experiment.elements),
        }

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
            uploads.append(Upload(Place(storages[uri.storage], uri.path), _target(file, context.parameters)))
        if not uploads:
            context.log.info("No files to bring")
            return TaskResult({"files": [], "bytes": 0})
        host = await context.services.host(context.resource)
        transfers = await many_to_host(uploads, host, context.directory)
        shared = [file.target for file in context.parameters.files if file.element is None]
        if shared and context.parameters.elements:
            words = " ".join(quote(f"../{SHARED}/{name}") for name in shared)
            script = _LINKS.format(
                directory=quote(context.directory), files=words, elements=context.parameters.elements
            )
            await host.check(script, timeout=60 + context.parameters.elements / 20)
        return _told(context, transfers, [transfer.name for transfer in transfers], "Brought")


def _target(file: FileToStage, parameters: StageInParameters) -> str:
    """Its path in the experiment's directory."""
    if not parameters.elements:
        return file.target
    return f"{SHARED if file.element is None else file.element}/{file.target}"


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
    :param elements: of an array: how many it has; the files of each go into a folder that is called after its index
    """

    files: tuple[FileToFetch, ...]
    to: str
    elements: int = Field(default=0, ge=0)


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
        return {
            "files": list(files.values()),
            "to": str(experiment.outputs_to),
            "elements": len(experiment.elements),
        }

    async def run(self, context: TaskContext[StageOutParameters]) -> TaskResult:
        """:raises FileMissing: a required file is not there, although the job completed
        :raises JobFailed: there was no job at all, so there is nothing to fetch
        :raises TransferError: one did not arrive whole
        """
        parameters = context.parameters
        to = parse_storage_uri(parameters.to, directory=True)
        host, storage = await context.services.host(context.resource), await context.services.storage(to.storage)
        if not parameters.elements:
            failed = await self._failed_job(context) is not None
            fetch = _Fetch(host, context.directory, storage, to)
            fetched = await until_there(lambda _: fetch.all(parameters.files), [0], {0} if failed else set())
            transfers, uris, missing = fetched[0]
            if missing and not failed:
                raise _without(context, missing)
            if missing:
                context.log.warning("The job failed and left no %s", ", ".join(missing))
        else:
            transfers, uris = await self._of_elements(context, host, storage, to)
        told = _told(context, transfers, uris, "Fetched")
        outputs = dict(list(zip((transfer.name for transfer in transfers), uris, strict=True))[:NAMED])
        return TaskResult({**told.values, "outputs": outputs})

    async def _of_elements(
        self, context: TaskContext[StageOutParameters], host: Host, storage: Storage, to: StorageURI
    ) -> tuple[list[Transfer], list[str]]:
        """Every element's files, below its index in storage as on the host."""
        failed = await self._failed_elements(context)
        turns = asyncio.Semaphore(ELEMENTS_AT_A_TIME)

        async def fetch(place: int) -> Fetched:
            async with turns:
                one = _Fetch(host, element_directory(context.directory, place), storage, to.child(str(place)))
                transfers, uris, missing = await one.all(context.parameters.files)
                return [replace(each, name=f"{place}/{each.name}") for each in transfers], uris, missing

        fetched = await until_there(fetch, range(context.parameters.elements), failed)
        lacking = {place: missing for place, (_, _, missing) in fetched.items() if missing}
        for place in sorted(lacking.keys() & failed):
            context.log.warning("Element %d failed and left no %s", place, ", ".join(lacking[place]))
        faulty = sorted(lacking.keys() - failed)
        if faulty:
            raise _without(context, lacking[faulty[0]], f" in elements {named(faulty)}")
        every = fetched.values()
        return [each for some, _, _ in every for each in some], [uri for _, uris, _ in every for uri in uris]

    async def _failed_elements(self, context: TaskContext[StageOutParameters]) -> set[int]:
        identity = context.identity
        store = context.services.store
        jobs = await store.jobs_of(identity.dag_id, identity.experiment_id, identity.born)
        if not jobs and context.experiment is not None:
            raise _no_job()
        return {
            element.place
            for elements in (await elements_of(store, jobs)).values()
            for element in elements
            if element.place is not None and element.state is not JobState.COMPLETE
        }

    async def _failed_job(self, context: TaskContext[StageOutParameters]) -> Job | None:
        """The experiment's job that did not complete, if one did not.

        In a hand-written DAG files may be fetched without any job; a pattern's experiment has one.
        """
        identity = context.identity
        latest: dict[tuple[str, int], Job] = {}
        for job in await context.services.store.jobs_of(identity.dag_id, identity.experiment_id, identity.born):
            latest[job.task_id, job.map_index] = job
        if not latest and context.experiment is not None:
            raise _no_job()
        return next((job for job in latest.values() if job.state is not JobState.COMPLETE), None)


@dataclass(frozen=True)
class _Fetch:
    """From a directory of a host into a folder of a storage."""

    host: Host
    directory: str
    storage: Storage
    to: StorageURI

    async def all(self, files: Sequence[FileToFetch]) -> Fetched:
        """What was fetched, where it went, and which required files are not there."""
        from airavata_provider.storage.transfer import find_outputs, many_from_host

        found = await find_outputs(self.host, self.directory, [file.source for file in files])
        missing = [file.source for file in files if file.required and not found[file.source]]
        names = {
            name: self.to.child(file.target if file.target and name == file.source else name).path
            for file in files
            for name in found[file.source]
        }
        transfers = await many_from_host(self.host, self.directory, names, self.storage)
        return transfers, [str(StorageURI(self.to.storage, names[each.name])) for each in transfers], missing


async def until_there(
    fetch: Callable[[int], Coroutine[Any, Any, Fetched]], places: Iterable[int], failed: Set[int]
) -> dict[int, Fetched]:
    """What was fetched for each place; where a required file is missing, asked for again for a while, all together.

    :param failed: places whose job did not complete: what they did not leave, they never will
    """
    wanted = list(places)
    fetched = dict(zip(wanted, await _all(map(fetch, wanted)), strict=True))
    for pause in LATE_S:
        late = [place for place, (_, _, missing) in fetched.items() if missing and place not in failed]
        if not late:
            break
        await asyncio.sleep(pause)
        fetched.update(zip(late, await _all(map(fetch, late)), strict=True))
    return fetched


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first error ends the others, and leaves when they have ended."""
    running = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*running)
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _without(context: TaskContext[Any], missing: Sequence[str], which: str = "") -> FileMissing:
    return FileMissing(
        f"the job completed without {', '.join(map(repr, missing))}{which}",
        where=f"{context.resource.name}:{context.directory}",
        advice="look at the job's standard error, and at the outputs that the application declares",
    )


def _no_job() -> JobFailed:
    return JobFailed("no job was submitted, so there is nothing to fetch", advice="look at the tasks before this one")


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
