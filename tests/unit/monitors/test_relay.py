from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.models.job import JobState
from airavata_provider.monitors.relay import (
    MOST_FILES,
    collect_command,
    directory_url,
    event_left,
    parse_collected,
)
from airavata_provider.monitors.webhook import WebhookCall
from airavata_provider.schedulers import frame
from tests.unit.jobs.factory import at, make_job

END: dict[str, Any] = {"event": "end", "id": "end-17-0", "exit_code": 3, "time": "2031-05-06T12:00:07Z"}


def spool(tmp_path: Path) -> Path:
    folder = tmp_path / f".airavata-relay-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


def collect(
    tmp_path: Path, done: tuple[str, ...] = (), more: str = ":", after: str = ""
) -> subprocess.CompletedProcess[str]:
    command = f"{collect_command(str(tmp_path), done, after)}\n{more}"
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)


def test_news_is_printed_until_it_is_told_to_be_stored(tmp_path: Path) -> None:
    folder = spool(tmp_path)
    (folder / "a1:end-0.json").write_text(json.dumps(END))
    (folder / ".a2:end-0").write_text('{"half')
    (folder / "noise.txt").write_text("x")
    for _ in range(2):
        left, _rest = parse_collected(collect(tmp_path).stdout)
        assert [(each.file, each.job, each.call and each.call.exit_code) for each in left] == [
            ("a1:end-0.json", "a1", 3)
        ]
    assert parse_collected(collect(tmp_path, ("a1:end-0.json",)).stdout)[0] == []
    assert sorted(path.name for path in folder.iterdir()) == [".a2:end-0", "noise.txt"]


def test_of_more_files_than_a_round_reads_each_has_its_turn(tmp_path: Path) -> None:
    folder = spool(tmp_path)
    names = [f"a{number:04}:end-0.json" for number in range(MOST_FILES + 1)]
    for name in names:
        (folder / name).write_text("{}")
    (folder / "noise.json").write_text("x")
    for after, expected in (
        ("", names[:-1]),
        (names[-2], [names[-1], *names[:-2]]),
        (names[-1], names[:-1]),
        ("a0500", [*names[500:], *names[:499]]),
    ):
        left, _rest = parse_collected(collect(tmp_path, after=after).stdout)
        assert [each.file for each in left] == expected
    left, _rest = parse_collected(collect(tmp_path, (names[0],), after=names[7]).stdout)
    assert [each.file for each in left] == [*names[8:], *names[1:8]]


def test_the_schedulers_answer_follows_untouched(tmp_path: Path) -> None:
    (spool(tmp_path) / "a1:end-0.json").write_text(json.dumps(END))
    more = f"{frame.SETUP}\n{frame.frame('queue', 'echo 17')}\nexit 3"
    answer = collect(tmp_path, more=more)
    left, rest = parse_collected(answer.stdout)
    assert (len(left), answer.returncode, answer.stderr) == (1, 3, "")
    assert rest.startswith("AIRAVATA-BEGIN queue")
    assert frame.whole(rest, "queue").lines == ("17",)


def test_no_directory_is_no_news(tmp_path: Path) -> None:
    answer = collect(tmp_path)
    assert (answer.returncode, parse_collected(answer.stdout)[0]) == (0, [])
    assert parse_collected("no frame at all") == ([], "no frame at all")


def test_a_cut_answer_is_none(tmp_path: Path) -> None:
    (spool(tmp_path) / "a1:end-0.json").write_text(json.dumps(END))
    text = collect(tmp_path).stdout
    with pytest.raises(AnswerUnreadable):
        parse_collected(text[: text.index("AIRAVATA-END")])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.characters(exclude_characters="/\0\n\r", exclude_categories=["Cs"]), max_size=40),
    body=st.binary(max_size=200),
)
def test_whatever_lies_there_harms_nobody(tmp_path: Path, name: str, body: bytes) -> None:
    folder = spool(tmp_path)
    path = folder / f"{name}.json"
    path.write_bytes(body)
    command = f"{collect_command(str(tmp_path))}\n:"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False)
    try:
        left, _rest = parse_collected(done.stdout.decode(errors="replace"))
    except AnswerUnreadable:
        left = []
    assert all(each.call is None for each in left)
    collect(tmp_path, (path.name,))
    assert not path.exists()


def test_a_script_of_another_resource_cannot_name_a_path() -> None:
    text = "AIRAVATA-BEGIN relay\n../x:end|{}\nnojob|{}\n:end|{}\n\nAIRAVATA-END relay 0 \n"
    assert parse_collected(text)[0] == []


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2031-05-06T12:00:07Z", 8),  # within that second
        ("2031-05-06T11:00:00Z", 500),  # before it was submitted: a clock that strays
        ("2031-05-06T13:00:00Z", 500),  # after now
        ("yesterday", 500),
        (None, 500),
    ],
)
def test_own_time_where_it_can_be_true(time: str | None, expected: int) -> None:
    job = replace(make_job(), submitted_at=at(5))
    event = event_left(job, WebhookCall.model_validate({**END, "time": time}), at(500))
    assert (event.source, event.state, event.at) == ("relay", JobState.FAILED, at(expected))


def test_address() -> None:
    assert directory_url("/scratch/x/", "a1") == "file:///scratch/x/.airavata-relay/a1"
