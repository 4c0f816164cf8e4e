"""The sensor that waits for a job, whoever brings the news of its end."""

from __future__ import annotations

from typing import Any, ClassVar

from airavata_provider.operators.base import TaskOperator


class JobSensor(TaskOperator):
    """Waits for the end of a job: that of a submission task of the same DAG run, or one that somebody else submitted.

    Fails when the job failed or was cancelled. Ten thousand of them wait in one triggerer; none holds a worker.
    Another's job is only watched: nothing that happens to this task ends it.

    :param job: task id of the submission (templated)
    :param native_id: instead: the scheduler's id of another's job (templated)
    :param name: with ``native_id``: its name there, so that no later job of the same id is taken for it (templated)
    :param directory: with ``native_id``: where its output is, absolute (templated)
    :param walltime_s: with ``native_id``: the time that it may take, in seconds
    :param output: file that it writes, shown in the task's log while it runs (templated); None shows nothing
    :raises ValueError: not one of ``job`` and ``native_id``
    """

    task_kind: ClassVar[str] = "monitor"
    ui_color = "#fff2cc"

    def __init__(
        self,
        *,
        job: str | None = None,
        native_id: str | None = None,
        name: str | None = None,
        directory: str | None = None,
        walltime_s: int | None = None,
        output: str | None = "stdout.txt",
        **kwargs: Any,
    ) -> None:
        if (job is None) == (native_id is None):
            raise ValueError("a JobSensor needs either job or native_id")
        given = {
            "job": job,
            "native_id": native_id,
            "name": name,
            "directory": directory,
            "walltime_s": walltime_s,
        }
        parameters = {key: value for key, value in given.items() if value is not None}
        super().__init__(parameters={**parameters, "output": output}, **kwargs)
