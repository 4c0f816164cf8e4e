"""``docker_parser`` on a real Docker Engine: what a parser may do wrong, and a worker that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from airavata_provider.errors import ConfigurationError, ContainerFailed, DeadlineExceeded, FileMissing
from airavata_provider.triggers.hosted import HostedTask
from tests.bed import Bed
from tests.integration.test_tasks import name, request
from tests.services import BedServices


@pytest.fixture
def engine(bed: Bed) -> Iterator[docker.DockerClient]:
    assert os.environ["DOCKER_HOST"] == bed.docker_host
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def parser(services: BedServices, bed: Bed) -> Any:
    """Runs one parser whose container has that shell script; its result."""
    (services.root / "out").mkdir()
    (services.root / "out" / "result.txt").write_text("one\ntwo\n")

    async def run(script: str, *, experiment: str | None = None, **parameters: Any) -> dict[str, Any]:
        given = {"image": bed.docker_image, "command": ["sh", "-c", script], "outputs": ["counted"]}
        task = HostedTask(id="parse", type="docker_parser", parameters=given | parameters)
        return dict((await services.run(experiment or name(), request("host"), task))["parse"])

    return run


def there(engine: docker.DockerClient, script: str) -> list[str]:
    """States of the containers that have that script; those of other tests come and go."""
    with_it = []
    for each in engine.api.containers(all=True):
        with contextlib.suppress(docker.errors.NotFound):
            found = engine.containers.get(each["Id"])
            if (found.attrs["Config"]["Cmd"] or [""])[-1] == script:
                with_it.append(found.status)
    return with_it


async def test_a_status_that_is_not_0_is_told_with_the_last_words(parser: Any) -> None:
    with pytest.raises(ContainerFailed, match=r"status 7; its last words:\nno such gene"):
        await parser("echo no such gene; exit 7")


async def test_an_output_that_is_not_there_is_named(parser: Any) -> None:
    with pytest.raises(FileMissing, match="'counted'"):
        await parser("true")


async def test_one_that_takes_too_long_is_killed(parser: Any, engine: docker.DockerClient) -> None:
    script = f"sleep 60 # {uuid.uuid4()}"
    with pytest.raises(DeadlineExceeded, match="timeout_s"):
        await parser(script, timeout_s=1)
    assert there(engine, script) == []


async def test_an_image_that_is_nowhere_is_named(parser: Any) -> None:
    with pytest.raises(ConfigurationError, match="no-such-image:9"):
        await parser("true", image="127.0.0.1:9/lab/no-such-image:9")


async def test_an_image_may_name_its_registrys_port(parser: Any, bed: Bed, engine: docker.DockerClient) -> None:
    image = f"localhost:5000/lab/{uuid.uuid4().hex}"
    engine.images.get(bed.docker_image).tag(image, "1.0")
    try:
        assert (await parser("wc -l < /input/result > /output/counted", image=f"{image}:1.0"))["count"] == 1
    finally:
        engine.images.remove(f"{image}:1.0")


async def test_one_that_is_killed_and_run_again_ends_the_same(
    parser: Any, services: BedServices, engine: docker.DockerClient
) -> None:
    experiment, script = name(), f"sleep 60 # {uuid.uuid4()}"
    slow = asyncio.create_task(parser(script, experiment=experiment))
    while "running" not in await asyncio.to_thread(there, engine, script):
        assert not slow.done()
        await asyncio.sleep(0.1)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    await parser("wc -l < /input/result > /output/counted", experiment=experiment)
    assert (services.root / "out" / "counted").read_text().strip() == "2"
    assert there(engine, script) == []
