"""Job scripts, run by real shells."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.errors import ConfigurationError
from airavata_provider.models.identity import CONTROL_DIRECTORY
from airavata_provider.monitors.relay import collect_command, directory_url, parse_collected
from airavata_provider.schedulers.fork import Fork
from airavata_provider.schedulers.record import ExitRecord, control_directory, parse_exit_record
from airavata_provider.schedulers.request import Array, Container, Element, JobRequest
from airavata_provider.schedulers.script import Webhook, credential, write_script
from airavata_provider.schedulers.slurm import Slurm

NAME = f"a{os.urandom(7).hex()}"
"""The jobs' name. A script that is told to stop kills whatever on this machine carries its job's mark: of one name,
two processes of tests would kill each other's jobs.
"""
TOKEN = "s3cret-t0ken.with~safe+chars="
# These run scripts in real shells.
pytestmark = pytest.mark.batch
SHELLS = [shell for shell in ("bash", "dash") if shutil.which(shell)]


@dataclass
class Run:
    """A script's folder and what became of it."""

    folder: Path
    script: str
    control: Path
    process: subprocess.Popen[bytes]

    @property
    def record(self) -> ExitRecord:
        found = parse_exit_record((self.control / "exit").read_text())
        assert found is not None
        return found

    def end(self, timeout: float = 30) -> int:
        self.process.wait(timeout)
        return self.process.returncode

    def until(self, there: Callable[[], bool]) -> None:
        """Wait for something that a running script does."""
        end = time.monotonic() + 20
        while not there():
            assert time.monotonic() < end, "it did not happen"
            os.sched_yield()
            time.sleep(0.01)


def start(
    folder: Path,
    *payload: str,
    shell: str = "bash",
    webhook: Webhook | None = None,
    env: dict[str, str] | None = None,
    fork: bool = False,
    restart: int = 0,
    **fields: Any,
) -> Run:
    request = JobRequest(NAME, str(folder), payload[0], payload[1:], **fields)
    control = Path(control_directory(str(folder), NAME))
    control.mkdir(mode=0o700, parents=True, exist_ok=True)
    if webhook is not None:
        (control / "webhook").write_text(credential(webhook))
    script = write_script(Fork() if fork else Slurm(), request, webhook, str(control))
    # By a rename: a shell reads its script as it goes, and an earlier one may be reading.
    (control / "script.new").write_text(script, newline="")
    (control / "script.new").rename(control / "script")
    env = {**os.environ, "SLURM_JOB_ID": "42", "SLURM_RESTART_COUNT": str(restart), **(env or {})}
    with (control / "log").open("ab") as log:
        process = subprocess.Popen(
            [shell, str(control / "script")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
        )
    return Run(folder, script, control, process)


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


# --- signals

WAITER = "trap 'echo got >>got; exit 7' {0}; touch up; while :; do sleep 0.05; done"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_watchdogs_end_is_not_the_jobs(tmp_path: Path, shell: str) -> None:
    # Bash runs the script's own trap in a subshell that is killed right after it was forked.
    runs = []
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        runs.append(start(folder, "sh", "-c", "exit 5", shell=shell, fork=True, walltime_s=300))
    assert [run.end() for run in runs] == [5] * len(runs)
    for run in runs:
        run.until(partial(_gone, run.process.pid))
    assert [run.record.exit_code for run in runs] == [5] * len(runs)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT])
def test_being_told_to_stop_reaches_the_payload_and_its_own_code_is_kept(
    tmp_path: Path, shell: str, signo: signal.Signals
) -> None:
    run = start(tmp_path, "sh", "-c", WAITER.format("TERM"), shell=shell)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signo)
    assert run.end() == 7
    assert (run.record.exit_code, run.record.signal) == (7, None)
    assert run.record.reason == f"SIGNAL {signo.name.removeprefix('SIG')}"
    assert (tmp_path / "got").read_text() == "got\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_payload_that_dies_of_the_signal(tmp_path: Path, shell: str) -> None:
    run = start(tmp_path, "sh", "-c", "touch up; exec sleep 60", shell=shell)
    run.until((tmp_path / "up").exists)
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.end() == 143
    assert (run.record.exit_code, run.record.signal) == (143, 15)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_notice_of_the_walltime_does_not_kill_a_payload_that_does_not_want_it(tmp_path: Path, shell: str) -> None:
    run = start(tmp_path, "sh", "-c", "touch up; while [ ! -e go ]; do sleep 0.05; done; exit 4", shell=shell)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    run.until(lambda: b"airavata" in Path(f"/proc/{run.process.pid}/cmdline").read_bytes())
    (tmp_path / "go").touch()
    assert run.end() == 4
    assert (run.record.exit_code, run.record.reason) == (4, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_payload_with_a_handler_gets_the_notice(tmp_path: Path, shell: str) -> None:
    run = start(tmp_path, "sh", "-c", WAITER.format("USR1"), shell=shell)
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    assert run.end() == 7
    assert (tmp_path / "got").read_text() == "got\n"


def test_a_stop_after_the_notice_is_the_walltimes(tmp_path: Path) -> None:
    run = start(tmp_path, "sh", "-c", "touch up; while :; do sleep 0.05; done")
    run.until((tmp_path / "up").exists)
    run.process.send_signal(signal.SIGUSR1)
    # Signals of different kinds may be taken in any order; the notice is given a minute before.
    run.until(lambda: not int(_proc_mask(run.process.pid, "ShdPnd"), 16))
    time.sleep(0.1)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143
    assert run.record.reason == "WALLTIME"


def _gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _proc_mask(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().split("\n")
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


@pytest.mark.parametrize("shell", SHELLS)
def test_without_a_scheduler_the_script_keeps_the_walltime(tmp_path: Path, shell: str) -> None:
    run = start(tmp_path, "sh", "-c", "sleep 60 & sleep 60", shell=shell, fork=True, walltime_s=1)
    assert run.end() == 143
    assert (run.record.exit_code, run.record.reason) == (143, "WALLTIME")
    assert not _marked(NAME, str(tmp_path))


def _marked(name: str, directory: str) -> list[str]:
    """Command lines of processes that carry a job's mark and work in that directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"AIRAVATA_JOB={name}".encode() in (process / "environ").read_bytes().split(b"\0")
            if marked and str((process / "cwd").readlink()) == directory:
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_no_watchdog_is_left_after_the_job(tmp_path: Path) -> None:
    run = start(tmp_path, "true", fork=True, walltime_s=86399, signal_before_end_s=0)
    assert run.end() == 0
    run.until(
        lambda: not subprocess.run(["pgrep", "-g", str(run.process.pid)], check=False, capture_output=True).stdout
    )


def test_only_one_process_of_a_job_runs_its_payload(tmp_path: Path) -> None:
    runs = [start(tmp_path, "sh", "-c", "echo ran >>count", fork=True) for _ in range(3)]
    assert [run.end() for run in runs] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "ran\n"


# --- the webhook


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


@pytest.mark.parametrize("tool", TOOLS)
def test_start_and_end_are_told_with_every_tool(tmp_path: Path, receiver: Receiver, tool: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    webhook = Webhook(receiver.url, TOKEN)
    run = start(work, "sh", "-c", "exit 3", webhook=webhook, env=tools(tmp_path, tool))
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
        assert start(tmp_path, "true", webhook=Webhook(receiver.url, TOKEN), restart=restart).end() == 0
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
    payload = f"while [ -e .airavata/{NAME}/telling ]; do sleep 0.02; done"
    assert start(tmp_path, "sh", "-c", payload, webhook=Webhook(receiver.url, TOKEN)).end() == 0
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
    assert time.monotonic() - began < 21
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
    run = start(
        work, "env", webhook=Webhook(receiver.url, TOKEN), env={"PATH": f"{spy}:{os.environ['PATH']}"}
    )  # fmt: skip
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


def test_an_elements_program_knows_its_place_among_all(tmp_path: Path) -> None:
    elements = (Element(0, str(tmp_path)), Element(1, str(tmp_path), place=1001))
    request = JobRequest("a1", str(tmp_path), "sh", array=Array(elements))
    text = write_script(Slurm(), request, None, f"{tmp_path}/.airavata/a1")
    assert f"0) cd {tmp_path} || exit 1; export AIRAVATA_INDEX=0;;" in text
    assert f"1) cd {tmp_path} || exit 1; export AIRAVATA_INDEX=1001;;" in text
