"""The sensor that waits for a job, whoever brings the news of its end."""

from __future__ import annotations

from typing import Any, ClassVar

from airavata_provider.operators.base import TaskOperator


class JobSensor(TaskOperator):
    """Waits until the job that a submission task of the same DAG run submitted has ended.

    Fails when the job failed or was cancelled. Ten thousand of them wait in one triggerer; none holds a worker.

    :param job: task id of the submission (templated)
    """

    task_kind: ClassVar[str] = "monitor"
    ui_color = "#fff2cc"

    def __init__(self, *, job: str, **kwargs: Any) -> None:
        super().__init__(parameters={"job": job}, **kwargs)
