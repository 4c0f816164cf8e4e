"""Nothing outside the scratch directory is ever removed."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airavata_provider.errors import ConnectFailed
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.job import Job
from airavata_provider.models.resource import ComputeResource
from airavata_provider.models.rules import LEFT, MADE_BY
from airavata_provider.schedulers.base import CommandResult
from airavata_provider.tasks.base import Services, TaskContext
from airavata_provider.tasks.cleanup import CleanUp, CleanUpParameters, check_removable
from tests.unit.jobs.factory import make_job


@pytest.mark.parametrize(
    ("directory", "scratch"),
    [
        ("/scratch", "/scratch"),
        ("/scratchy/a", "/scratch"),
        ("/scratch/../home", "/scratch"),
        ("/scratch/a/..", "/scratch"),
        ("/scratch//a", "/scratch"),
        ("/a", "/"),
        ("", "/scratch"),
        ("relative", "relative"),
    ],
)
def test_refused(directory: str, scratch: str) -> None:
    with pytest.raises(ValueError, match="refusing"):
        check_removable(directory, scratch)


class _Services(SimpleNamespace):
    """Three places, of which one cannot be reached."""

    def compute_resource(self, name: str) -> ComputeResource:
        return resource(name)

    async def host(self, resource: ComputeResource) -> Any:
        if resource.name == "lost":
            raise ConnectFailed("no route")

        async def run(command: str, **_: Any) -> CommandResult:
            self.done.append((resource.name, command))
            return CommandResult(0, "", "")

        return SimpleNamespace(run=run, check=run)


def resource(name: str) -> ComputeResource:
    return ComputeResource(name=name, connection="c", scheduler="fork", scratch=f"/{name}")


async def test_places_that_a_rule_left_are_cleaned_up_too(caplog: pytest.LogCaptureFixture) -> None:
    went = [("first", None), ("lost", "first"), ("here", "lost"), ("here", None), ("other", None)]
    jobs = [
        make_job(
            f"a{number}",
            attempt=number,
            resource=name,
            directory=f"/{name}/e",
            request=None if left is None else {MADE_BY: {LEFT: left, "rule": 1, "of": number - 1}},
        )
        for number, (name, left) in enumerate(went, 1)
    ]
    done: list[tuple[str, str]] = []

    async def jobs_of(*_: str) -> list[Job]:
        return jobs

    context = TaskContext[CleanUpParameters](
        identity=TaskIdentity("d", "e", "clean_up"),
        try_number=1,
        fresh=False,
        parameters=CleanUpParameters(),
        experiment=None,
        resource=resource("here"),
        directory="/here/e",
        services=cast(Services, _Services(store=SimpleNamespace(jobs_of=jobs_of), done=done)),
        log=logging.getLogger("test"),
    )
    result = await CleanUp().run(context)
    assert [name for name, _ in done] == ["here", "first"]
    assert all(f"rm -rf -- /{name}/e " in command for name, command in done)
    assert result.values == {"removed": True, "directory": "/here/e"}
    assert "/lost/e stays on lost, where an attempt before was: no route" in caplog.text


def test_below_scratch() -> None:
    check_removable("/scratch/run-1", "/scratch")
    check_removable("/scratch/run-1", "/scratch/")
