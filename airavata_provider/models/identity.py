"""Names that a retry finds again: derived from what was asked for, never from a try number or chance.

Pure; no Airflow.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


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


def experiment_directory(dag_id: str, experiment_id: str) -> str:
    """Directory of an experiment below a resource's scratch directory: readable, safe, and its own.

    One path component of at most 73 characters from ``[A-Za-z0-9_-]``.
    """
    readable = _UNSAFE.sub("-", experiment_id).strip("-")[:60] or "experiment"
    digest = hashlib.sha256(f"{dag_id}\0{experiment_id}".encode()).hexdigest()[:12]
    return f"{readable}-{digest}"
