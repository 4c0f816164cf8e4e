"""Turns an execution pattern into an Airflow DAG.

Parsing loads neither asyncssh nor the job store's tables. DAGs are kept small: the whole serialized DAG travels
with every trigger, and its params are copied into every task.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param

from airavata_provider.models.moving import before_submission, goes_elsewhere
from airavata_provider.models.pattern import Pattern, Segment, TaskSpec, answers_ends, load_pattern, segments
from airavata_provider.models.segments import linked
from airavata_provider.models.split import parts, version_text
from airavata_provider.operators.pattern import PatternOperator
from airavata_provider.tasks.registry import parameter_models, task_types

TAG = "airavata"

MAX_ACTIVE_RUNS = 100_000
"""Airflow's default of 16 would make requests wait for the jobs of others; limits per host and per queue are
kept where the work is done."""

_DRAFT: dict[str, Any] = {"$schema": "http://json-schema.org/draft-03/schema#"}
"""Airflow validates each param, and each param's schema, at every parse and for every request: by this draft, whose
own schema is the smallest, in a fifth of the time that the newest one takes."""

_EPOCH = datetime(2020, 1, 1)  # noqa: DTZ001 - Airflow reads a naive start date in its own time zone


def dags_from_file(path: Path, *, shown_as: str | None = None) -> tuple[DAG, DAG | None]:
    """The DAG of the pattern in that file; and that of its second run, None where it has no such.

    :param path: the YAML file
    :param shown_as: the file's name in messages, when ``path`` is a copy
    :raises PatternError: everything that is wrong with it, with file and line
    """
    pattern = load_pattern(path, parameter_models(), shown_as=shown_as)
    first, second = parts(pattern)
    return _dag(first, pattern), None if second is None else _dag(second, pattern)


def _dag(part: Pattern, pattern: Pattern) -> DAG:
    """The DAG of a part of a pattern, or of the whole: one Airflow task per segment."""
    kinds = task_types()
    second = part.name != pattern.name
    with DAG(
        dag_id=part.name,
        description=f"Second run of {pattern.name}, which a job's end starts"
        if second
        else pattern.description or None,
        # Part of what is serialized: runs stay on the text that they started with, so every text is a version.
        doc_md=version_text(pattern.file, pattern.sha256),
        schedule=None,
        start_date=_EPOCH,
        catchup=False,
        tags=[TAG],
        params={} if second else form(),
        max_active_runs=MAX_ACTIVE_RUNS,
        max_active_tasks=MAX_ACTIVE_RUNS,
        is_paused_upon_creation=False,
        render_template_as_native_obj=False,
    ) as dag:
        made: dict[str, PatternOperator] = {}
        for segment in segments(part, {name: kind.run_on for name, kind in kinds.items()}):
            made[segment.id] = _operator(segment, pattern)
            for upstream in segment.after:
                made[upstream] >> made[segment.id]
    return dag


def _operator(segment: Segment, pattern: Pattern) -> PatternOperator:
    arguments: dict[str, Any] = {}
    if segment.queue is not None:
        arguments["queue"] = segment.queue
    return PatternOperator(
        task_id=segment.id,
        tasks=[
            _hosted(task, pattern) | linked(task, before, segment) | _hands_over(task, pattern)
            for before, task in zip((None, *segment.tasks), segment.tasks, strict=False)
        ],
        run_on=segment.run_on,
        retries=segment.retries,
        retry_delay=timedelta(seconds=segment.retry_delay_s),
        retry_exponential_backoff=2.0 if segment.retry_backoff else 0,
        max_retry_delay=timedelta(minutes=10),
        trigger_rule=segment.trigger_rule,
        **arguments,
    )


def _hosted(task: TaskSpec, pattern: Pattern) -> dict[str, Any]:
    hosted: dict[str, Any] = {"id": task.id, "type": task.type}
    parameters = dict(task.parameters)
    for name in _references(task.type, parameters):
        parameters.setdefault(name, pattern.nearest_upstream(task.id, "submit"))
    if parameters:
        hosted["parameters"] = parameters
    if answers_ends(parameter_models()[task.type], parameters):
        hosted["submission"] = _hosted(pattern.task(parameters["job"]), pattern)
        if goes_elsewhere(parameters["on_outcome"]):
            kinds = task_types()
            run_on = {each.id: each.run_on or kinds[each.type].run_on for each in pattern.tasks}
            before = before_submission(pattern.tasks, parameters["job"], run_on)
            hosted["before"] = [_hosted(pattern.task(each), pattern) for each in before]
    if task.resource is not None:
        hosted["resource"] = task.resource
    if task.deadline_s is not None:
        hosted["deadline_s"] = task.deadline_s
    return hosted


def _hands_over(task: Any, pattern: Pattern) -> dict[str, Any]:
    """That the second run follows that task's job: in a pattern of two, the first one's last."""
    if pattern.split_at is None:
        return {}
    job = pattern.task(pattern.split_at).parameters.get("job") or pattern.nearest_upstream(pattern.split_at, "submit")
    return {"hands_over": True} if task.id == job else {}


def _references(kind: str, given: Mapping[str, Any]) -> list[str]:
    """Parameters of a task type that name an upstream submission, and need to, beside those given."""
    found = []
    for name, field in parameter_models()[kind].model_fields.items():
        extra = field.json_schema_extra
        if not isinstance(extra, dict) or extra.get("refers_to") != "upstream_task":
            continue
        if field.is_required() or ("unless" in extra and extra["unless"] not in given):
            found.append(name)
    return found


def form() -> dict[str, Param]:
    """The trigger form in Airflow's UI: what most experiments set; the request may hold more.

    As few as that: for every trigger that it starts, Airflow 3.3 validates each of them, with a schema that has
    become empty, by the newest draft: most of what a start costs the triggerer's process.
    """
    text: list[str] = ["string", "null"]
    number: list[str] = ["integer", "string", "null"]
    schemas: dict[str, tuple[Any, dict[str, Any]]] = {
        "application": (None, {"type": text}),
        "compute_resource": (None, {"type": text}),
        "only_on": (None, {"type": ["array", "null"], "items": {"type": "string"}}),
        "inputs": ({}, {"type": "object"}),
        "queue": (None, {"type": text}),
        "nodes": (None, {"type": number}),
        "cpus": (None, {"type": number}),
        "walltime": (None, {"type": ["string", "integer", "null"]}),
        "outputs_to": (None, {"type": text}),
        "priority": ("NORMAL", {"enum": ["LOW", "NORMAL", "HIGH", "URGENT"]}),
    }
    return {name: Param(default, **schema, **_DRAFT) for name, (default, schema) in schemas.items()}
