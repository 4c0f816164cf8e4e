"""Job scripts in real shells, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airavata_provider.schedulers.fork import Fork
from airavata_provider.schedulers.record import ExitRecord, control_directory, parse_exit_record
from airavata_provider.schedulers.request import JobRequest
from airavata_provider.schedulers.script import Webhook, credential, write_script
from airavata_provider.schedulers.slurm import Slurm

NAME = f"a{os.urandom(7).hex()}"
"""The jobs' name. A script that is told to stop kills whatever on this machine carries its job's mark: of one name,
two processes of tests would kill each other's jobs.
"""
TOKEN = "s3cret-t0ken.with~safe+chars="
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

    def end(self, timeout: float = 300) -> int:
        self.process.wait(timeout)
        return self.process.returncode

    def until(self, there: Callable[[], bool]) -> None:
        """Wait for something that a running script does."""
        end = time.monotonic() + 300
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
