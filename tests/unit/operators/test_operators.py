"""Operators start in the triggerer unless a value can only be rendered by a worker."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException

from airavata_provider.operators.base import TaskOperator, fail_for_good
from airavata_provider.operators.experiment import (
    CleanUpOperator,
    DockerParserOperator,
    EnvironmentSetupOperator,
    RemoteCommandOperator,
    StageInOperator,
    StageOutOperator,
    SubmitJobOperator,
)
from airavata_provider.sensors.job import JobSensor
from airavata_provider.tasks.registry import task_types

ALL: list[tuple[type[TaskOperator], dict[str, Any]]] = [
    (EnvironmentSetupOperator, {}),
    (StageInOperator, {"files": [("storage://files/a", "a")]}),
    (SubmitJobOperator, {"executable": "wc", "arguments": ["-l", "{{ params.file }}"], "options": {"nodes": 2}}),
    (JobSensor, {"job": "submit"}),
    (JobSensor, {"native_id": "{{ params.id }}", "name": "wing", "directory": "/wing", "output": None}),
    (StageOutOperator, {"files": ["*.txt"], "to": "storage://files/out"}),
    (RemoteCommandOperator, {"command": "echo {{ run_id }}"}),
    (DockerParserOperator, {"image": "i", "inputs": {}, "outputs": ["o"], "to": "storage://files/out"}),
    (CleanUpOperator, {}),
]


@pytest.mark.parametrize(("operator", "arguments"), ALL)
def test_each_operators_parameters_are_its_task_types(
    operator: type[TaskOperator], arguments: dict[str, Any]
) -> None:
    made = operator(task_id="t", resource="cluster", **arguments)
    model = task_types()[made.task_kind].Parameters
    model.model_validate(made.parameters)
    starts_in_triggerer = task_types()[made.task_kind].run_on == "triggerer"
    assert made.start_from_trigger is starts_in_triggerer


def test_there_is_an_operator_for_every_task_type() -> None:
    assert {operator.task_kind for operator, _ in ALL} == set(task_types())


def test_a_value_from_another_task_is_rendered_by_a_worker() -> None:
    with DAG("d", schedule=None):

        @task
        def name() -> str:
            return "a"

        templated = RemoteCommandOperator(
            task_id="templated", resource="r", command="echo {{ ti.xcom_pull(task_ids='name') }}"
        )
        given = SubmitJobOperator(task_id="given", resource="r", executable="wc", arguments=[name()])  # type: ignore[list-item]
    assert not templated.start_from_trigger
    assert not given.start_from_trigger
    assert given.upstream_task_ids == {"name"}


@pytest.mark.parametrize("given", [{}, {"job": "submit", "native_id": "1"}])
def test_a_sensor_waits_for_one_job(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either job or native_id"):
        JobSensor(task_id="t", resource="r", **given)


def test_on_a_worker_when_asked() -> None:
    assert not CleanUpOperator(task_id="t", resource="r", deferrable=False).start_from_trigger


def test_the_triggers_arguments_are_rendered_by_airflow() -> None:
    made = RemoteCommandOperator(task_id="t", resource="{{ params.where }}", command="true")
    assert made.start_trigger_args is not None
    kwargs = made.start_trigger_args.trigger_kwargs
    assert kwargs is not None
    assert set(made.template_fields) <= set(kwargs)
    assert not {"run", "serialize", "on_kill"} & set(kwargs)


def test_a_triggers_error_fails_without_a_retry() -> None:
    fail_for_good("success")
    with pytest.raises(AirflowFailException, match="the job failed"):
        fail_for_good({"error": "the job failed"})
    with pytest.raises(AirflowFailException, match="failed"):
        fail_for_good("failed")
