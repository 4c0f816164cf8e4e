"""Job scripts, run by real shells."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.errors import ConfigurationError
from airavata_provider.models.identity import CONTROL_DIRECTORY
from airavata_provider.schedulers.request import Array, Container, Element, JobRequest
from airavata_provider.schedulers.script import write_script
from airavata_provider.schedulers.slurm import Slurm
from tests.unit.schedulers.scripts import NAME, SHELLS, start

# These run scripts in real shells.
pytestmark = pytest.mark.slow


# --- the payload gets what was asked for

free_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
nasty = st.sampled_from(
    ["$(touch pwned)", "`id`", "'", '"', "\\", "a\nb", "--help", "-", "", "*", "é☃", "$HOME", "\r"]
)
values = free_text | nasty
file_names = values.map(lambda t: t.replace("/", "_")[:20]).filter(
    lambda t: t not in ("", ".", "..", CONTROL_DIRECTORY) and len(t) < 60
)


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=25)
@given(
    arguments=st.lists(values, max_size=4),
    environment=st.dictionaries(st.from_regex(r"VAR_[A-Z0-9_]{0,8}", fullmatch=True), values, max_size=3),
    stdout=file_names,
    folder=file_names,
    comment=values,
)
def test_text_reaches_the_payload_as_data(
    shell: str, arguments: list[str], environment: dict[str, str], stdout: str, folder: str, comment: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name, folder)
        directory.mkdir()
        payload = "import os,sys,json;print(json.dumps([sys.argv[1:],dict(os.environ)]))"
        run = start(
            directory,
            "python3",
            "-c",
            payload,
            *arguments,
            shell=shell,
            fork=True,
            environment=environment,
            stdout=stdout,
            comment=comment,
        )
        assert run.end() == 0, (run.control / "log").read_text()
        got, env = json.loads((directory / stdout).read_text())
        assert got == arguments
        assert {key: env[key] for key in environment} == environment
        assert {p.name for p in directory.iterdir()} == {".airavata", stdout, "stderr.txt"}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_container_runs_the_executable_where_the_files_are(tmp_path: Path, shell: str) -> None:
    """The runtime is a stand-in that shows its words, then does what it is told in the directory it is told."""
    runtime = tmp_path / "bin" / "apptainer"
    runtime.parent.mkdir()
    runtime.write_text(
        "#!/bin/sh\nfor word do printf '%s\\n' \"$word\"; done >words\n"
        'while [ "$1" != "image of\'s.sif" ]; do [ "$1" != --pwd ] || cd "$2" || exit 1; shift; done\n'
        'shift; exec "$@"\n'
    )
    runtime.chmod(0o755)
    work = tmp_path / "work $dir"
    work.mkdir()
    container = Container("image of's.sif", binds=("/data $x:/data:ro",), options=("--env", "A=b c"), gpus=True)
    path = {"PATH": f"{runtime.parent}:{os.environ['PATH']}"}
    run = start(
        work,
        "sh",
        "-c",
        'echo "$1"; pwd; exit 7',
        "sh",
        "a $b",
        shell=shell,
        env=path,
        container=container,
        launcher=("env",),
    )
    assert run.end() == 7
    assert (work / "stdout.txt").read_text() == f"a $b\n{work}\n"
    assert (work / "words").read_text().splitlines() == [
        "exec", "--bind", str(work), "--pwd", str(work), "--nv", "--bind", "/data $x:/data:ro", "--env", "A=b c",
        "image of's.sif", "sh", "-c", 'echo "$1"; pwd; exit 7', "sh", "a $b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("directory", "image", "says"),
    [
        ("/a:b", "i.sif", "seen in a container"),
        ("/a,b", "i.sif", "seen in a container"),
        ("/d", "-i", "cannot be run"),
    ],
)
def test_containers_that_cannot_run(directory: str, image: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        write_script(Slurm(), JobRequest("a", directory, "x", container=Container(image)), None, "/d/.airavata/a")


def test_a_missing_stdin_file_or_directory_is_a_failure_on_record(tmp_path: Path) -> None:
    run = start(tmp_path, "cat", stdin="not there")
    assert run.end() != 0
    assert run.record.exit_code == run.process.returncode
    assert "not there" in (run.control / "log").read_text()


def test_stdin_and_one_file_for_both_streams(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello\n")
    run = start(tmp_path, "sh", "-c", "cat; echo error >&2", stdin="in", stdout="all", stderr="all")
    assert run.end() == 0
    assert (tmp_path / "all").read_text() == "hello\nerror\n"


@pytest.mark.parametrize("field", ["stdout", "stderr", "stdin"])
def test_our_own_directory_is_no_stream(field: str) -> None:
    names: dict[str, Any] = {field: ".airavata"}
    with pytest.raises(ConfigurationError, match=r"\.airavata"):
        write_script(Slurm(), JobRequest("a", "/d", "x", **names), None, "/d/.airavata/a")


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "airavata_pid", "AIRAVATA_JOB"])
def test_names_that_are_no_variables_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError):
        write_script(Slurm(), JobRequest("a", "/d", "x", environment={name: "v"}), None, "/d/.airavata/a")


# --- the end is on record, whatever happened


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("payload", "code", "signo"),
    [("exit 0", 0, None), ("exit 3", 3, None), ("kill -SEGV $$", 139, 11), ("exit 255", 255, None)],
)
def test_the_exit_code_is_the_payloads_own(
    tmp_path: Path, shell: str, payload: str, code: int, signo: int | None
) -> None:
    run = start(tmp_path, "sh", "-c", payload, shell=shell, post_commands=("echo done >post",))
    assert run.end() == code
    assert (run.record.exit_code, run.record.signal, run.record.reason) == (code, signo, "")
    assert (run.record.native_id, run.record.restart) == ("42", 0)
    assert (tmp_path / "post").read_text() == "done\n"
    assert (run.control / "started").read_text() == "42 0\n"


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    run = start(tmp_path, "no-such-command")
    assert run.end() == 127
    assert run.record.exit_code == 127


@pytest.mark.parametrize(
    ("pre", "code"), [(("exit 5",), 5), (("set -e", "false"), 1), (("set -u", "echo $nothing_at_all"), None)]
)
def test_pre_commands_may_end_the_job(tmp_path: Path, pre: tuple[str, ...], code: int | None) -> None:
    run = start(tmp_path, "touch", "ran", pre_commands=pre, post_commands=("echo done >post",))
    ended = run.end()
    assert ended == code if code is not None else ended != 0
    assert run.record.exit_code == ended
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "post").exists()


def test_modules_come_after_what_makes_them_known_and_a_missing_one_fails_the_job(tmp_path: Path) -> None:
    init = ('module() { [ "$2" = good ] && LOADED=yes && export LOADED; }',)
    good = start(tmp_path, "sh", "-c", "echo $LOADED", module_init=init, modules=("good",))
    assert good.end() == 0
    assert (tmp_path / "stdout.txt").read_text() == "yes\n"
    assert start(tmp_path, "true", module_init=init, modules=("good", "bad;id")).end() == 1


def test_post_commands_cannot_change_the_end(tmp_path: Path) -> None:
    run = start(tmp_path, "sh", "-c", "exit 3", post_commands=("cd /; exit 9",))
    assert run.end() == 3
    assert run.record.exit_code == 3


def test_an_environment_without_tools_does_not_lose_the_record(tmp_path: Path) -> None:
    run = start(tmp_path, shutil.which("true") or "", environment={"PATH": "/nowhere"})
    assert run.end() == 0
    assert run.record.exit_code == 0


def test_a_requeued_job_starts_without_the_old_end(tmp_path: Path) -> None:
    assert start(tmp_path, "false").end() == 1
    run = start(tmp_path, "sh", "-c", f"ls .airavata/{NAME}", restart=1)
    assert run.end() == 0
    assert "exit" not in (tmp_path / "stdout.txt").read_text().split()
    assert (run.record.exit_code, run.record.restart) == (0, 1)


def test_an_elements_program_knows_its_place_among_all(tmp_path: Path) -> None:
    elements = (Element(0, str(tmp_path)), Element(1, str(tmp_path), place=1001))
    request = JobRequest("a1", str(tmp_path), "sh", array=Array(elements))
    text = write_script(Slurm(), request, None, f"{tmp_path}/.airavata/a1")
    assert f"0) cd {tmp_path} || exit 1; export AIRAVATA_INDEX=0;;" in text
    assert f"1) cd {tmp_path} || exit 1; export AIRAVATA_INDEX=1001;;" in text
