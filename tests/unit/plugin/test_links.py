"""The link to an experiment's record is on all our tasks, as soon as Airflow knows them, and on nobody else's."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.sdk import DAG, BaseOperator
from airflow.serialization.serialized_objects import DagSerialization

from airavata_provider.models.pattern_folders import builtin_patterns
from airavata_provider.operators.base import TaskOperator
from airavata_provider.operators.experiment import CleanUpOperator, RemoteCommandOperator
from airavata_provider.operators.pattern import PatternOperator
from airavata_provider.plugin.links import ServedExperimentLink
from dag_factories.factory import dags_from_file

RUN = "manual__2030-01-01T00:00:00+00:00"
LINK = "/airavata/experiments/d/manual__2030-01-01T00%3A00%3A00%2B00%3A00"


def links(dag: DAG) -> dict[str, dict[str, Any]]:
    """What Airflow's API server tells of each task: a link's address by its name."""
    found = {}
    for task in DagSerialization.from_dict(DagSerialization.to_dict(dag)).tasks:
        instance: Any = SimpleNamespace(key=TaskInstanceKey("d", task.task_id, RUN))
        found[task.task_id] = {name: task.get_extra_links(instance, name) for name in task.extra_links}
    return found


@pytest.mark.parametrize("path", sorted(builtin_patterns().glob("*.yaml")), ids=lambda path: path.stem)
def test_each_task_of_a_pattern_has_it(path: Any) -> None:
    for dag in dags_from_file(path):
        if dag is not None:
            assert links(dag) == {task: {"Experiment": LINK} for task in dag.task_ids}


class JobSensor(BaseOperator):
    """Somebody else's, of a name of ours."""

    template_fields = ("word",)

    def __init__(self, *, word: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.word = word


class Command(JobSensor):
    """Of which a name of ours has the name within it."""


def test_in_hand_written_dags_our_tasks_have_it_alone() -> None:
    with DAG("d", schedule=None, start_date=datetime(2030, 1, 1, tzinfo=UTC)) as dag:
        CleanUpOperator(task_id="ours", resource="r")
        RemoteCommandOperator.partial(task_id="mapped", resource="r", deferrable=False).expand(command=["a", "b"])
        JobSensor(task_id="theirs")
        JobSensor.partial(task_id="their_mapped").expand(word=["a", "b"])
        Command.partial(task_id="their_other").expand(word=["a", "b"])
    found = links(dag)
    assert found["ours"] == found["mapped"] == {"Experiment": LINK}
    assert found["theirs"] == {}
    # What has no address is not shown.
    assert [address for task in ("their_mapped", "their_other") for address in found[task].values() if address] == []


def test_every_operator_is_told() -> None:
    def below(operator: type[TaskOperator]) -> set[type[BaseOperator]]:
        own = {each for each in operator.__subclasses__() if each.__module__.startswith("airavata_provider.")}
        return own.union(*(below(each) for each in own))

    assert set(ServedExperimentLink.operators) == {PatternOperator, *below(TaskOperator)}


@pytest.mark.parametrize(
    ("base_url", "below"),
    [("", ""), ("https://airflow.example.org", ""), ("https://example.org/airflow/", "/airflow")],
)
def test_it_is_below_the_api_servers_address(base_url: str, below: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    dag, _ = dags_from_file(builtin_patterns() / "hpc_batch_fast.yaml")
    (found,) = links(dag).values()
    assert found == {"Experiment": below + LINK}
