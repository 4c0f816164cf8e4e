"""A running job's runner: a detached process that starts it, ends it when it must end, and writes down how.

Started by :meth:`tests.standins.engine.Cluster.tick` as ``runner.py FOLDER KEY``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

# Run as a file, with its own folder first on the path, not the project's.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.standins import processes
from tests.standins.engine import Cluster
from tests.standins.model import MEMORY, START, WALLTIME, Job, State


def run(cluster: Cluster, key: str) -> None:
    """A runner's whole life: one start of one job."""
    with cluster.locked():  # whoever started it has saved its record
        job = cluster.job(key)
    if job is None:
        return
    stop = cluster.folder / "jobs" / f"{key}.stop"
    try:
        process = _popen(cluster, job)
    except OSError as error:
        _end(cluster, key, exit_status=None, number=None, why=START, comment=str(error))
        return
    with cluster.locked():
        if (job := cluster.job(key)) is not None:
            job = cluster.save(replace(job, leader=process.pid))
    if job is None:
        return
    began, why, killed_at = time.monotonic(), "", 0.0
    noticed = False
    while process.poll() is None:
        now = time.monotonic()
        age = now - began
        if not why and stop.exists():
            why = stop.read_text()
        if not why and job.spec.walltime_s is not None and age > job.spec.walltime_s:
            why = WALLTIME
        if job.spec.notice and job.spec.walltime_s is not None and not noticed:
            number, seconds = job.spec.notice
            if age > job.spec.walltime_s - seconds:
                noticed = True
                os.kill(process.pid, number)
        if why and not killed_at:
            killed_at = now
            hard = why in (MEMORY, "requeue")
            processes.signal_session(process.pid, signal.SIGCONT)
            processes.signal_session(process.pid, signal.SIGKILL if hard else signal.SIGTERM)
        elif why and now - killed_at > cluster.settings.kill_delay_s:
            processes.signal_session(process.pid, signal.SIGKILL)
        time.sleep(0.02)
    # What is left of the session goes with its leader.
    processes.signal_session(process.pid, signal.SIGKILL)
    code = process.returncode
    stop.unlink(missing_ok=True)
    if why == "requeue":
        with cluster.locked():
            if (job := cluster.job(key)) is not None:
                waits = replace(job, state=State.WAITING, restarts=job.restarts + 1, runner=None, leader=None)
                cluster.save(waits)
        cluster.tick()
        return
    _end(cluster, key, exit_status=code if code >= 0 else None, number=-code if code < 0 else None, why=why)


def _end(
    cluster: Cluster, key: str, *, exit_status: int | None, number: int | None, why: str, comment: str = ""
) -> None:
    with cluster.locked():
        job = cluster.job(key)
        if job is not None:
            ended = replace(job, state=State.ENDED, ended=time.time(), exit_status=exit_status, signal=number)
            cluster.save(replace(ended, why=why, comment=comment or job.comment))
    cluster.tick()


def _popen(cluster: Cluster, job: Job) -> subprocess.Popen[bytes]:
    spec = job.spec
    words = {"NUMBER": str(job.number), "SCRIPT": str(cluster.script(job.number))}
    if job.index is not None:
        words |= {"INDEX": str(job.index), **spec.elements.get(job.index, {})}

    def filled(text: str) -> str:
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        return text

    mode = "ab" if spec.append else "wb"
    with contextlib.ExitStack() as files:
        stdin = files.enter_context(Path(filled(spec.stdin) or os.devnull).open("rb"))
        stdout = files.enter_context(Path(filled(spec.stdout) or os.devnull).open(mode))
        path = filled(spec.stderr)
        stderr = files.enter_context(Path(path).open(mode)) if path and path != filled(spec.stdout) else stdout
        return subprocess.Popen(
            [filled(word) for word in spec.command],
            cwd=filled(spec.directory),
            env={name: filled(value) for name, value in spec.environment.items()},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )


def _runner(arguments: Sequence[str]) -> None:
    # The submitter's descriptors (a lock, a pipe to its caller) are none of the job's business.
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(3, 1024)
    run(Cluster(Path(arguments[0])), arguments[1])


if __name__ == "__main__":
    _runner(sys.argv[1:])
