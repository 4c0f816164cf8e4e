"""``docker_parser``: one container over files in storage, on a worker.

Imports no Airflow, and neither asyncssh nor docker at its top.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from airavata_provider.models.identity import job_name
from airavata_provider.models.uri import parse_storage_uri
from airavata_provider.models.values import FileName
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult

if TYPE_CHECKING:
    from airavata_provider.models.resolved import ResolvedExperiment
    from airavata_provider.tasks.containers import ContainerResult

CHUNK = 1 << 20


class DockerParserParameters(Parameters):
    """See :class:`~airavata_provider.tasks.containers.ContainerRequest`.

    :param inputs: storage URIs by the file's name in the input directory; by default the outputs that the
        application declares as one file, by their names in the interface
    :param outputs: names of the files that the container writes to its output directory
    :param to: storage URI of the folder that they go to; by default where the experiment's outputs go
    """

    image: str = Field(min_length=1)
    command: tuple[str, ...] | None = None
    inputs: dict[FileName, str]
    outputs: tuple[FileName, ...] = ()
    to: str
    environment: dict[str, str] = Field(default_factory=dict)
    input_directory: str = Field(default="/input", pattern="^/.+")
    output_directory: str = Field(default="/output", pattern="^/.+")
    memory_mb: int | None = Field(default=None, ge=6)
    timeout_s: float = Field(default=3600, gt=0)
    network: bool = False


class DockerParser(Task[DockerParserParameters]):
    """Brings the inputs to the worker, runs the container, puts its outputs into storage."""

    name: ClassVar[str] = "docker_parser"
    Parameters: ClassVar[type[Parameters]] = DockerParserParameters
    run_on: ClassVar[str] = "worker"

    def defaults(self, experiment: ResolvedExperiment) -> Mapping[str, Any]:
        """The experiment's own outputs in, and to the same place out."""
        to = experiment.outputs_to
        single = {name: field.file for name, field in experiment.outputs.items() if field.type == "FILE"}
        return {
            "inputs": {name: str(to.child(file)) for name, file in single.items()},
            "to": str(to),
        }

    async def run(self, context: TaskContext[DockerParserParameters]) -> TaskResult:
        """:raises ContainerFailed: its exit status was not 0
        :raises FileMissing: an input, or an expected output, is not there
        :raises ConfigurationError: no Docker Engine on this worker, or no such image
        """
        parameters = context.parameters
        with tempfile.TemporaryDirectory(prefix="airavata-parser-") as folder:
            inputs: dict[str, Path] = {}
            for number, (name, uri) in enumerate(parameters.inputs.items()):
                inputs[name] = Path(folder) / f"input-{number}"
                await self._bring(context, uri, inputs[name])
            result = await self._contain(context, inputs, Path(folder))
            context.log.info("The container ended well; the end of its log:\n%s", result.log)
            to = parse_storage_uri(parameters.to, directory=True)
            storage = await context.services.storage(to.storage)
            files = []
            for name, path in result.outputs.items():
                target = to.child(name)
                digest = await storage.write(target.path, _chunks(path))
                files.append({"name": str(target), "size": digest.size, "sha256": digest.sha256})
        outputs = {name: file["name"] for name, file in zip(result.outputs, files, strict=True)}
        return TaskResult({"files": files, "count": len(files), "outputs": outputs})

    async def _bring(self, context: TaskContext[DockerParserParameters], text: str, path: Path) -> None:
        uri = parse_storage_uri(text)
        storage = await context.services.storage(uri.storage)
        with await asyncio.to_thread(path.open, "wb") as target:
            async with aclosing(storage.read(uri.path)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(target.write, chunk)

    async def _contain(
        self, context: TaskContext[DockerParserParameters], inputs: Mapping[str, Path], folder: Path
    ) -> ContainerResult:
        from airavata_provider.tasks.containers import ContainerRequest, run_container

        parameters = context.parameters
        request = ContainerRequest(
            name=f"airavata-{job_name(context.identity)}",
            image=parameters.image,
            command=parameters.command,
            inputs=inputs,
            outputs=parameters.outputs,
            environment=parameters.environment,
            input_directory=parameters.input_directory,
            output_directory=parameters.output_directory,
            memory_mb=parameters.memory_mb,
            timeout_s=parameters.timeout_s,
            network=parameters.network,
        )
        stop = threading.Event()
        try:
            return await asyncio.to_thread(run_container, request, folder, stop)
        finally:
            # A thread cannot be cancelled; the container's end ends it.
            stop.set()


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as source:
        while chunk := await asyncio.to_thread(source.read, CHUNK):
            yield chunk
