"""Runs one container to its end with Docker Engine: files in, files out, nothing shared with the host.

Files travel through the Engine's API as tar archives, so the worker and the Engine need no common file system: a
worker that is itself a container works the same. Blocking; callers use a thread. The ``docker`` package is
imported here alone.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airavata_provider.errors import (
    ConfigurationError,
    ContainerFailed,
    DeadlineExceeded,
    EngineUnreachable,
    FileMissing,
)

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

LOG_TAIL = 200
"""Lines of a container's output that are kept."""
STEP_S = 2
"""Seconds after which a wait for a container's end looks whether it is still wanted."""
_CONFLICT = 409


@dataclass(frozen=True)
class ContainerRequest:
    """What to run.

    :param name: the container's name; an older container of that name is removed first
    :param image: any form that Docker takes, a registry's port included
    :param command: one entry each; None for the image's own
    :param environment: variables
    :param inputs: local files by their name in the input directory
    :param outputs: names of files expected in the output directory
    :param input_directory: absolute, in the container
    :param output_directory: absolute, in the container
    :param memory_mb: limit, None for none
    :param timeout_s: the container is killed after that many seconds
    :param network: whether it may use the network
    """

    name: str
    image: str
    command: Sequence[str] | None
    inputs: Mapping[str, Path]
    outputs: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    input_directory: str = "/input"
    output_directory: str = "/output"
    memory_mb: int | None = None
    timeout_s: float = 3600.0
    network: bool = False


@dataclass(frozen=True)
class ContainerResult:
    """What is left of it: the end of its log, and its files as they were copied out."""

    log: str
    outputs: Mapping[str, Path]


def run_container(request: ContainerRequest, destination: Path, stop: threading.Event) -> ContainerResult:
    """Run it, copy its outputs into ``destination``, remove it whatever happened.

    :param stop: set by the caller when it no longer waits; the container is then killed
    :raises ConfigurationError: no Docker Engine, or no such image
    :raises ContainerFailed: its exit status was not 0; carries the end of its log
    :raises DeadlineExceeded: it ran longer than allowed
    :raises FileMissing: an expected output is not there
    :raises EngineUnreachable: the Engine went away meanwhile
    """
    client = _client()
    try:
        with _engine(request.name):
            return _run(client, request, destination, stop)
    finally:
        client.close()


def _run(
    client: DockerClient, request: ContainerRequest, destination: Path, stop: threading.Event
) -> ContainerResult:
    _remove(client, request.name)
    container = _create(client, request)
    try:
        # Set before the start as well as after it: the caller may have gone in between.
        if stop.is_set():
            raise DeadlineExceeded("stopped before it started", where=request.name)
        _put_inputs(container, request)
        container.start()
        status = _wait(container, request, stop)
        log = container.logs(tail=LOG_TAIL).decode("utf-8", "replace")
        if status != 0:
            raise ContainerFailed(
                f"the container of {request.image} ended with status {status}"
                f"{_oom(container)}; its last words:\n{log}",
                where=request.name,
            )
        return ContainerResult(log, _get_outputs(container, request, destination))
    finally:
        with suppress(Exception):
            container.remove(force=True, v=True)


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """Errors of ``docker``, and of ``requests`` below it, become ours."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException) as error:
        raise EngineUnreachable(
            f"the Docker Engine did not do what it should: {error}",
            where=name,
            advice="see whether it runs, and what its own log says; the task can be tried again",
        ) from error


def _client() -> DockerClient:
    try:
        import docker
        from docker.errors import DockerException
    except ImportError as error:
        raise ConfigurationError(
            "this worker has no docker package", advice="pip install 'airflow-provider-airavata[docker]'"
        ) from error
    try:
        client = docker.from_env(timeout=60)
        client.ping()
    except DockerException as error:
        raise ConfigurationError(
            f"no Docker Engine answers: {error}",
            advice="send tasks of this type to a worker with an Engine by their queue, or set DOCKER_HOST there",
        ) from error
    return client


def _remove(client: DockerClient, name: str) -> None:
    from docker.errors import APIError, NotFound

    with suppress(NotFound):
        container = client.containers.get(name)
        try:
            container.remove(force=True, v=True)
        except APIError as error:
            if error.status_code != _CONFLICT:
                raise
            # Somebody else, whose run was cancelled, is at it.
            container.wait(condition="removed", timeout=60)


def _create(client: DockerClient, request: ContainerRequest) -> Container:
    from docker.errors import APIError, ImageNotFound

    options: dict[str, Any] = {
        "name": request.name,
        "environment": dict(request.environment),
        "network_mode": "bridge" if request.network else "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 512,
        "labels": {"org.apache.airavata.parser": request.name},
    }
    if request.memory_mb is not None:
        options["mem_limit"] = f"{request.memory_mb}m"
    command = list(request.command) if request.command is not None else None
    try:
        return client.containers.create(request.image, command, **options)
    except ImageNotFound:
        pass
    try:
        client.images.pull(request.image)
        return client.containers.create(request.image, command, **options)
    except APIError as error:
        raise ConfigurationError(
            f"the image {request.image} is not on this worker and cannot be pulled: {error.explanation or error}",
            advice="pull or load it there, or correct its name",
        ) from error


def _put_inputs(container: Container, request: ContainerRequest) -> None:
    """One archive at the root: an image made from scratch has no directories to copy into.

    The output directory is open to all, for images that do not run as root.
    """
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for directory, mode in ((request.input_directory, 0o755), (request.output_directory, 0o777)):
                entry = tarfile.TarInfo(directory.lstrip("/"))
                entry.type, entry.mode = tarfile.DIRTYPE, mode
                archive.addfile(entry)
        container.put_archive("/", buffer.getvalue())
    for name, path in request.inputs.items():
        with path.open("rb") as content, _spool() as buffer:
            with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = path.stat().st_size, 0o644
                archive.addfile(entry, content)
            buffer.seek(0)
            container.put_archive(request.input_directory, buffer)


def _wait(container: Container, request: ContainerRequest, stop: threading.Event) -> int:
    """Wait in short steps, so that a caller who no longer waits is obeyed, and an Engine may be started anew.

    Whoever calls this removes the container, which kills it.
    """
    from requests.exceptions import ConnectionError as Unreachable
    from requests.exceptions import ReadTimeout

    began = time.monotonic()
    while True:
        step = time.monotonic()
        with suppress(ReadTimeout, Unreachable):
            return int(container.wait(timeout=STEP_S)["StatusCode"])
        # One that refuses connections answers at once.
        stop.wait(max(0.0, STEP_S - (time.monotonic() - step)))
        waited = time.monotonic() - began
        if stop.is_set() or waited >= request.timeout_s:
            raise DeadlineExceeded(
                f"the container of {request.image} was killed after {waited:.0f} s",
                where=request.name,
                advice="raise the task's timeout_s if it needs longer",
            )


def _oom(container: Container) -> str:
    container.reload()
    return " (out of memory)" if container.attrs.get("State", {}).get("OOMKilled") else ""


def _get_outputs(container: Container, request: ContainerRequest, destination: Path) -> dict[str, Path]:
    from docker.errors import NotFound

    found: dict[str, Path] = {}
    missing: list[str] = []
    for number, name in enumerate(request.outputs):
        try:
            chunks, _ = container.get_archive(posixpath.join(request.output_directory, name))
        except NotFound:
            missing.append(name)
            continue
        with _spool() as buffer:
            for chunk in chunks:
                buffer.write(chunk)
            buffer.seek(0)
            with tarfile.open(fileobj=buffer, mode="r") as archive:
                member = archive.next()
                content = archive.extractfile(member) if member is not None and member.isfile() else None
                if content is None:
                    missing.append(name)
                    continue
                # Named by number: the container's names never become paths of the worker.
                found[name] = destination / f"output-{number}"
                with found[name].open("wb") as target:
                    while block := content.read(1 << 20):
                        target.write(block)
    if missing:
        raise FileMissing(
            f"the container of {request.image} left no file {', '.join(map(repr, missing))} "
            f"in {request.output_directory}",
            where=request.name,
        )
    return found


def _spool() -> Any:
    import tempfile

    return tempfile.SpooledTemporaryFile(max_size=16 << 20)
