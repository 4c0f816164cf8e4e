"""The news that a job script tells; run by real shells."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airavata_provider.monitors.relay import collect_command, directory_url, parse_collected
from airavata_provider.schedulers.script import Webhook, credential
from tests.unit.schedulers.scripts import NAME, TOKEN, start

# These run scripts in real shells.
pytestmark = pytest.mark.slow


@dataclass
class Receiver:
    """An HTTP server that keeps what it is sent and answers as told."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    calls: list[tuple[str | None, dict[str, Any]]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["Content-Type"] == "application/json"
            state.calls.append((self.headers["Authorization"], body))
            self.send_response(state.answers.pop(0) if state.answers else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/airavata/jobs/{NAME}/events?a=1&b='2'"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


TOOLS = ["curl", "wget", "python3"]


def tools(folder: Path, keep: str) -> dict[str, str]:
    """An environment whose PATH has one of the tools and not those that are tried before it."""
    bin_ = folder / "bin"
    bin_.mkdir()
    for directory in ("/usr/bin", "/bin"):
        for file in Path(directory).iterdir():
            if file.name not in TOOLS[: TOOLS.index(keep)] and not (bin_ / file.name).exists():
                (bin_ / file.name).symlink_to(file)
    return {"PATH": str(bin_)}


START_TOLD = f"while [ -e .airavata/{NAME}/telling ]; do sleep 0.02; done"
"""A payload that goes on until its start was told: that of a job that is over is no news."""


@pytest.mark.parametrize("tool", TOOLS)
def test_start_and_end_are_told_with_every_tool(tmp_path: Path, receiver: Receiver, tool: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    webhook = Webhook(receiver.url, TOKEN)
    run = start(work, "sh", "-c", f"{START_TOLD}; exit 3", webhook=webhook, env=tools(tmp_path, tool))
    assert run.end() == 3
    assert [token for token, _ in receiver.calls] == [f"Bearer {TOKEN}"] * 2
    bodies = {body["event"]: body for _, body in receiver.calls}
    times = [body.pop("time") for body in bodies.values()]
    assert all(len(at) == 20 and at.endswith("Z") for at in times)
    assert bodies["start"] == {
        "event": "start", "id": "start-42-0", "exit_code": None, "signal": None, "reason": "", "native_id": "42",
    }  # fmt: skip
    assert bodies["end"] == {
        "event": "end", "id": "end-42-0", "exit_code": 3, "signal": None, "reason": "", "native_id": "42",
    }  # fmt: skip


def test_a_restarted_job_has_other_event_ids(tmp_path: Path, receiver: Receiver) -> None:
    for restart in (0, 1):
        run = start(tmp_path, "sh", "-c", START_TOLD, webhook=Webhook(receiver.url, TOKEN), restart=restart)
        assert run.end() == 0
    ids = [body["id"] for _, body in receiver.calls]
    assert sorted(ids) == ["end-42-0", "end-42-1", "start-42-0", "start-42-1"]


def test_the_end_is_told_also_when_the_script_was_told_to_stop(tmp_path: Path, receiver: Receiver) -> None:
    run = start(tmp_path, "sh", "-c", "touch up; exec sleep 60", webhook=Webhook(receiver.url, TOKEN))
    run.until((tmp_path / "up").exists)
    run.process.terminate()
    assert run.end() == 143
    end = next(body for _, body in receiver.calls if body["event"] == "end")
    assert (end["exit_code"], end["signal"], end["reason"]) == (143, 15, "SIGNAL TERM")


@pytest.mark.parametrize(
    ("answers", "calls"), [([204], 1), ([409], 1), ([403], 1), ([500, 204], 2), ([404, 204], 1), ([503, 409], 2)]
)
def test_which_answers_are_tried_again(tmp_path: Path, receiver: Receiver, answers: list[int], calls: int) -> None:
    receiver.answers = [204, *answers]
    assert start(tmp_path, "sh", "-c", START_TOLD, webhook=Webhook(receiver.url, TOKEN)).end() == 0
    assert len([1 for _, body in receiver.calls if body["event"] == "end"]) == calls


def test_without_a_way_out_the_news_is_left_for_the_relay(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    relay = Webhook(directory_url(str(tmp_path / "scratch"), "ajob"), TOKEN)
    payload = "while [ -e .airavata/ajob/telling ]; do sleep 0.02; done; exit 3"
    run = start(tmp_path, "sh", "-c", payload, webhook=relay)
    assert run.end() == 3
    folder = tmp_path / "scratch" / f".airavata-relay-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["ajob:end-0.json", "ajob:start-0.json"]
    answer = subprocess.run(
        ["/bin/sh", "-c", collect_command(str(tmp_path / "scratch"))], capture_output=True, text=True, check=True
    )
    told = {left.call.event: left.call for left in parse_collected(answer.stdout)[0] if left.call}
    assert (told["end"].exit_code, told["end"].native_id, told["start"].id) == (3, "42", "start-42-0")
    assert not (run.control / "webhook.log").read_text()


def test_a_relay_without_a_place_does_not_fail_the_job(tmp_path: Path) -> None:
    run = start(tmp_path, "true", webhook=Webhook(directory_url(str(tmp_path / "nowhere"), "ajob"), TOKEN))
    assert run.end() == 0
    assert "end could not be left" in (run.control / "webhook.log").read_text()


def test_a_webhook_that_nobody_answers_does_not_fail_the_job(tmp_path: Path) -> None:
    began = time.monotonic()
    run = start(tmp_path, "true", webhook=Webhook("http://127.0.0.1:9/x", TOKEN))
    assert run.end() == 0
    assert time.monotonic() - began < 120
    assert run.record.exit_code == 0
    assert "end did not get through" in (run.control / "webhook.log").read_text()


def test_the_token_is_in_no_text_no_environment_and_no_command_line(tmp_path: Path, receiver: Receiver) -> None:
    spy = tmp_path / "bin"
    spy.mkdir()
    real = shutil.which("curl")
    (spy / "curl").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >>{tmp_path}/args; env >>{tmp_path}/args\n{real} "$@"\n'
    )
    (spy / "curl").chmod(stat.S_IRWXU)
    work = tmp_path / "work"
    work.mkdir()
    environment = {"PATH": f"{spy}:{os.environ['PATH']}"}
    run = start(work, "sh", "-c", f"env; {START_TOLD}", webhook=Webhook(receiver.url, TOKEN), env=environment)
    assert run.end() == 0
    assert len(receiver.calls) == 2
    for text in (run.script, (tmp_path / "args").read_text(), (work / "stdout.txt").read_text()):
        assert TOKEN not in text
    for file in run.control.iterdir():
        if file.name not in ("webhook", "wgetrc"):
            assert TOKEN not in file.read_text()
    assert TOKEN not in repr(Webhook("u", TOKEN))


@pytest.mark.parametrize("token", ["", 'a"b', "a\nb", "a b", "é"])
def test_a_token_that_would_break_its_file_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        credential(Webhook("u", token))
