"""Operators for hand-written DAGs: one for each task type, no more than a name and arguments.

All of one DAG run's tasks on one resource share a directory there, below the resource's scratch directory::

    with DAG("analysis", schedule=None):
        stage = StageInOperator(task_id="stage", resource="cluster", files=[("storage://data/poem.txt", "poem.txt")])
        submit = SubmitJobOperator(task_id="submit", resource="cluster", executable="wc", arguments=["poem.txt"])
        wait = JobSensor(task_id="wait", resource="cluster", job="submit")
        fetch = StageOutOperator(task_id="fetch", resource="cluster", files=["stdout.txt"], to="storage://data/out")
        EnvironmentSetupOperator(task_id="setup", resource="cluster") >> stage >> submit >> wait >> fetch
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airavata_provider.operators.base import TaskOperator


class EnvironmentSetupOperator(TaskOperator):
    """Makes the DAG run's directory on a compute resource."""

    task_kind: ClassVar[str] = "environment_setup"


class StageInOperator(TaskOperator):
    """Copies files from storage into the directory, verified.

    :param files: pairs of a storage URI and a file name in the directory (templated)
    """

    task_kind: ClassVar[str] = "stage_in"

    def __init__(self, *, files: Sequence[tuple[str, str]], **kwargs: Any) -> None:
        entries = [{"source": source, "target": target} for source, target in files]
        super().__init__(parameters={"files": entries}, **kwargs)


class SubmitJobOperator(TaskOperator):
    """Submits a job to the resource's scheduler, once, however often it is retried.

    :param executable: path or command, one word (templated, as all that follows)
    :param arguments: its arguments, passed as they are
    :param options: more of :class:`~airavata_provider.tasks.submission.SubmitParameters`: ``queue``, ``nodes``,
        ``tasks``, ``memory_mb``, ``walltime_s``, ``modules``, ``environment``, …
    """

    task_kind: ClassVar[str] = "submit"

    def __init__(
        self,
        *,
        executable: str,
        arguments: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        parameters = {"executable": executable, "arguments": list(arguments), **(options or {})}
        super().__init__(parameters=parameters, **kwargs)


class StageOutOperator(TaskOperator):
    """Copies files from the directory into storage, verified.

    :param files: names or glob patterns in the directory (templated)
    :param to: storage URI of the folder to copy into (templated)
    """

    task_kind: ClassVar[str] = "stage_out"

    def __init__(self, *, files: Sequence[str], to: str, **kwargs: Any) -> None:
        entries = [{"source": name} for name in files]
        super().__init__(parameters={"files": entries, "to": to}, **kwargs)


class RemoteCommandOperator(TaskOperator):
    """Runs a shell command in the directory, on the login node; run again after a kill, it finds its first run.

    :param command: POSIX shell text (templated)
    :param environment: exported to it (templated)
    """

    task_kind: ClassVar[str] = "remote_command"

    def __init__(self, *, command: str, environment: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(parameters={"command": command, "environment": dict(environment or {})}, **kwargs)


class DockerParserOperator(TaskOperator):
    """Runs one container over files in storage, on a worker.

    :param image: the image's name
    :param command: the container's command, one entry each; None for the image's own
    :param inputs: storage URIs by file name in the container's input directory (templated)
    :param outputs: names of the files that it writes to its output directory (templated)
    :param to: storage URI of the folder that they are copied into (templated)
    :param options: more of :class:`~airavata_provider.tasks.parsing.DockerParserParameters`
    """

    task_kind: ClassVar[str] = "docker_parser"

    def __init__(
        self,
        *,
        image: str,
        inputs: Mapping[str, str],
        outputs: Sequence[str],
        to: str,
        command: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        parameters = {
            "image": image,
            "command": list(command) if command is not None else None,
            "inputs": dict(inputs),
            "outputs": list(outputs),
            "to": to,
            **(options or {}),
        }
        super().__init__(parameters=parameters, **kwargs)


class CleanUpOperator(TaskOperator):
    """Removes the DAG run's directory from a compute resource."""

    task_kind: ClassVar[str] = "clean_up"
