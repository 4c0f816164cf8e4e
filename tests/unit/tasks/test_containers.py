"""What becomes of a container while its Engine comes and goes, without one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from docker import DockerClient
from docker.errors import APIError
from requests import Response
from requests.exceptions import ConnectionError as Unreachable
from requests.exceptions import ReadTimeout

from airavata_provider.errors import AiravataError, DeadlineExceeded, EngineUnreachable
from airavata_provider.tasks import containers
from airavata_provider.tasks.containers import ContainerRequest, _engine, _remove, _wait

REQUEST = ContainerRequest(name="parse", image="wordcount:1", command=None, inputs={}, outputs=())


class Ends:
    """A container; what each call of ``wait`` brings, the last one again and again."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers: Iterator[int | Exception] = iter(answers)
        self._last: int | Exception = 0
        self.calls = 0

    def wait(self, *, timeout: float) -> dict[str, Any]:
        self.calls += 1
        self._last = next(self._answers, self._last)
        if isinstance(self._last, Exception):
            raise self._last
        return {"StatusCode": self._last}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "STEP_S", 0.01)


def wait(container: Ends, stop: threading.Event, timeout_s: float) -> int:
    request = ContainerRequest(**{**REQUEST.__dict__, "timeout_s": timeout_s})
    return _wait(container, request, stop)  # type: ignore[arg-type]


class Leaving:
    """A container that somebody else removes just now, and the client that has it."""

    def __init__(self) -> None:
        self.containers = self
        self.waited_for: list[str] = []

    def get(self, _name: str) -> Leaving:
        return self

    def remove(self, **_options: bool) -> None:
        answer = Response()
        answer.status_code = 409
        raise APIError("already in progress", response=answer)

    def wait(self, *, condition: str, timeout: float) -> None:
        self.waited_for.append(condition)


def test_a_container_that_somebody_else_removes_is_waited_for() -> None:
    leaving = Leaving()
    _remove(cast(DockerClient, leaving), "parse")
    assert leaving.waited_for == ["removed"]


def test_an_engine_that_is_started_anew_is_waited_for() -> None:
    # Refused connections answer at once; they are not the seconds that the container had.
    container = Ends(ReadTimeout(), *[Unreachable("refused")] * 20, 3)
    assert wait(container, threading.Event(), 60.0) == 3
    assert container.calls == 22


def test_an_engine_that_stays_away_ends_with_the_tasks_time() -> None:
    with pytest.raises(DeadlineExceeded, match="timeout_s"):
        wait(Ends(Unreachable("refused")), threading.Event(), 0.05)


def test_who_no_longer_waits_is_obeyed() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(DeadlineExceeded):
        wait(Ends(ReadTimeout()), stop, 3600)


@pytest.mark.parametrize("error", [APIError("500 server error"), Unreachable("gone"), ReadTimeout("slow")])
def test_errors_of_the_engine_are_ours(error: Exception) -> None:
    with pytest.raises(EngineUnreachable) as told, _engine("parse"):
        raise error
    assert isinstance(told.value, AiravataError)
    assert told.value.transient
    assert "parse" in str(told.value)
    assert told.value.__cause__ is error
