"""``qadd``, ``qlist``, ``qhist`` and ``qdel`` over the stand-ins' engine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.standins.engine import Cluster
from tests.standins.model import CANCELLED, Job, Spec, State


def run(command: str, cluster: Cluster, arguments: list[str]) -> int:
    """One of the four."""
    if command == "qadd":
        return _add(cluster, *arguments[-2:])
    if command == "qdel":
        for key in arguments:
            cluster.cancel(key)
        return 0
    for job in cluster.queue() if command == "qlist" else cluster.history():
        code = "" if job.state is not State.ENDED else _code(job)
        sys.stdout.write(f"{job.key}|{_word(job)}|{job.spec.name}|{code}\n")
    return 0


def _add(cluster: Cluster, name: str, script: str) -> int:
    text = Path(script).read_text()
    asked = dict(line[3:].split("=") for line in text.splitlines() if line.startswith("#Q "))
    environment = {"HOME": os.environ.get("HOME", "/"), "PATH": "/usr/bin:/bin", "QJOB_ID": "@NUMBER@"}
    number = cluster.submit(
        Spec(
            name,
            ["@SCRIPT@"],
            "/",
            environment,
            script=text,
            walltime_s=int(asked["minutes"]) * 60 if "minutes" in asked else None,
        )
    )
    sys.stdout.write(f"{number}\n")
    return 0


def _word(job: Job) -> str:
    words = {State.WAITING: "waiting", State.RUNNING: "running", State.HELD: "held", State.SUSPENDED: "held"}
    if job.state is not State.ENDED:
        return words[job.state]
    return "deleted" if job.why == CANCELLED else "done" if job.exit_status == 0 else "error"


def _code(job: Job) -> int | str | None:
    return 128 + job.signal if job.signal else job.exit_status if job.exit_status is not None else ""
