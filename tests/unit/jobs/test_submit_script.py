"""The remote half of a submission: what it starts, and what it leaves as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from airavata_provider.jobs.submit_script import Call, Kind, SubmitScript, _in_place, read_answer
from airavata_provider.schedulers.base import CommandResult
from airavata_provider.schedulers.frame import TROUBLE
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.schedulers.script import Webhook, write_script
from airavata_provider.schedulers.shell import FUNCTIONS
from airavata_provider.schedulers.slurm import Slurm
from tests.contract.hosts import LocalHost

NONCE = "0123456789abcdef01234567"
PROGRAMS = ("cat", "mv", "mkdir", "flock", "timeout", "tail", "uname", "find", "rmdir", "id", "tr", "date", "rm")


@pytest.fixture
def host(tmp_path: Path) -> LocalHost:
    """A host that writes down which programs are started; its ``sbatch`` tells how it was."""
    place = tmp_path / "bin"
    place.mkdir()
    scripts = {name: f'exec {shutil.which(name)} "$@"' for name in PROGRAMS}
    scripts["sbatch"] = f"umask >{tmp_path}/umask; [ ! -e {tmp_path}/broken ] || exit 1; echo 17"
    for name, text in scripts.items():
        (place / name).write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/started\n{text}\n")
        (place / name).chmod(0o755)
    return LocalHost(place)


def script_of(folder: Path, name: str = "a1") -> SubmitScript:
    request = JobRequest(name, str(folder), "/bin/true", walltime_s=60)
    webhook = Webhook(f"http://127.0.0.1:9/airavata/jobs/{name}/events", "token")
    text = write_script(Slurm(), request, webhook, f"{folder}/.airavata/{name}")
    return SubmitScript(Slurm(), request, text, webhook, None, 90)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("exec sbatch -J 'a b' s", "sbatch -J 'a b' s"),
        ("exec bsub <'/a b/s'", "bsub <'/a b/s'"),
        ("exec sbatch s; true", "/bin/sh -c 'exec sbatch s; true'"),
        ("exec sbatch s | tail", "/bin/sh -c 'exec sbatch s | tail'"),
        ("exec sbatch $(cat s)", "/bin/sh -c 'exec sbatch $(cat s)'"),
        ("exec 3>&-\nsbatch s", "/bin/sh -c 'exec 3>&-\nsbatch s'"),
        ("exec <s", "/bin/sh -c 'exec <s'"),
        ("cd x && exec sbatch s", "/bin/sh -c 'cd x && exec sbatch s'"),
    ],
)
def test_a_shell_is_started_only_for_what_is_not_one_program(command: str, expected: str) -> None:
    assert _in_place(command) == f"exec $airavata_limit_words {expected}"


async def test_a_first_try_starts_no_more_than_it_has_to(host: LocalHost, tmp_path: Path) -> None:
    script = script_of(tmp_path)
    result = await host.run(f"umask 027\n{script.text(Call(), NONCE, 1)}")
    answer = read_answer(result, NONCE, 5.0)
    assert (answer.kind, answer.age_s) == (Kind.NEW, 4.0)
    assert answer.result == CommandResult(0, "17", "")
    assert (tmp_path / "started").read_text().split() == ["mkdir", "flock", "timeout", "sbatch"]
    control = tmp_path / ".airavata" / "a1"
    assert FUNCTIONS in script.script
    assert (control / "script").read_text() == script.script
    assert [oct(path.stat().st_mode & 0o777) for path in (control, control / "webhook")] == ["0o700", "0o600"]
    assert (tmp_path / "umask").read_text() == "0027\n"


async def test_another_try_replaces_the_script_by_a_rename(host: LocalHost, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    script = script_of(tmp_path)
    first = await host.run(script.text(Call(), NONCE, 1))
    assert first.exit_status == TROUBLE
    file = tmp_path / ".airavata" / "a1" / "script"
    before = file.stat().st_ino
    (tmp_path / "broken").unlink()
    again = await host.run(script.text(Call(proven=NONCE), NONCE[::-1], 1))
    assert read_answer(again, NONCE[::-1], 1.0).result.stdout == "17"
    assert file.stat().st_ino != before
    assert not file.with_name("script.new").exists()


async def test_a_lock_that_cannot_be_made_breaks_that_job_alone(host: LocalHost, tmp_path: Path) -> None:
    (tmp_path / ".airavata" / "a1" / "lock").mkdir(parents=True)
    texts = [script_of(tmp_path, name).text(Call(), NONCE, 1) for name in ("a1", "a2")]
    together = "\n".join(
        (texts[0].common, *(text.first for text in texts), texts[0].own, "echo; echo --", texts[1].own)
    )
    broken, good = (await host.run(together)).stdout.split("--\n")
    answer = read_answer(CommandResult(0, broken, ""), NONCE, 1.0)
    assert answer.kind is Kind.BROKEN
    assert "cannot write into" in answer.result.stdout
    assert read_answer(CommandResult(0, good, ""), NONCE, 1.0).result.stdout == "17"
