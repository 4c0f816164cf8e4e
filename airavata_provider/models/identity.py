"""Names that a retry finds again: derived from what was asked for, never from a try number or chance.

Pure; no Airflow.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


CONTROL_DIRECTORY = ".airavata"
"""Our own directory inside every working directory; no input, output or stream may take its name."""


@dataclass(frozen=True)
class TaskIdentity:
    """Which task of which experiment.

    :param dag_id: the DAG, which is the pattern's name when a pattern made it
    :param experiment_id: the DAG run's id
    :param task_id: the task's id in the pattern (not the segment's)
    :param map_index: -1 when the task is not mapped
    :param born: when the DAG run was made, to the microsecond; tells it from another run of the same id, of another
        deployment or after the first was deleted, whose jobs the cluster still remembers
    """

    dag_id: str
    experiment_id: str
    task_id: str
    map_index: int = -1
    born: str = ""


def job_name(task: TaskIdentity, attempt: int = 1) -> str:
    """Name of the job that the given submission task makes on its n-th attempt; the job's key everywhere.

    15 characters, a letter first, letters and digits only: what Torque (15 characters) and Grid Engine
    (no digit first) accept. 70 bits of SHA-256, so two of a million jobs share one with a chance of 4e-10.
    """
    text = "\0".join((task.dag_id, task.experiment_id, task.task_id, str(task.map_index), str(attempt), task.born))
    digest = hashlib.sha256(text.encode()).digest()
    return "a" + base64.b32encode(digest).decode("ascii")[:14].lower()


def birth(run_after: datetime) -> str:
    """What :attr:`TaskIdentity.born` is, from the DAG run's ``run_after``; the same in whatever zone it is told.

    ``run_after`` is what Airflow fixes when it makes a run and tells everybody who works on it.
    """
    return run_after.astimezone(UTC).isoformat()


def element_name(array: str, index: int) -> str:
    """The key of an array's element. No other job's name has a full stop."""
    return f"{array}.{index}"


def array_name(name: str) -> str:
    """The name that a job has in its scheduler, which all elements of an array share: its array's or its own."""
    return name.partition(".")[0]


def experiment_directory(dag_id: str, experiment_id: str, born: str) -> str:
    """Directory of an experiment below a resource's scratch directory: readable, safe, and its own.

    One path component of at most 73 characters from ``[A-Za-z0-9_-]``.

    :param born: of its DAG run; "" for a place that another run of the same id shall share
    """
    readable = _UNSAFE.sub("-", experiment_id).strip("-")[:60] or "experiment"
    digest = hashlib.sha256(f"{dag_id}\0{experiment_id}\0{born}".encode()).hexdigest()[:12]
    return f"{readable}-{digest}"
