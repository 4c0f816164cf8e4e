"""Execution patterns: YAML files that say which typed tasks serve an experiment, and in which order.

A pattern that loads can become a DAG: its tasks form a graph without cycles, each has a known type,
parameters that this type knows, and templates that can be read and name only what is there. Tasks come in an
order in which each follows those it waits for.

Loaded while DAG files are parsed: imports no Airflow and nothing heavy; reads the file it is given.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from airavata_provider.errors import Fault, FaultyInput, PatternError
from airavata_provider.models.application import VARIABLES
from airavata_provider.models.moving import all_before, goes_elsewhere, moving_faults
from airavata_provider.models.segments import Segment, segments
from airavata_provider.models.source import Document, Location, faults_of, read_yaml
from airavata_provider.models.split import SUFFIX, split_faults
from airavata_provider.models.template import TemplateError, check, is_template
from airavata_provider.models.values import CountOrNone, Duration, Model, Name, shown, suggestion

__all__ = ["Pattern", "Segment", "TaskSpec", "load_pattern", "segments"]

TEMPLATE_NAMES = VARIABLES | {"tasks", "run"}
"""What a pattern's templates see: the experiment's names, ``tasks.<id>.<value>`` of tasks before, ``run``."""

_TASK_ID = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")


def _task_id(value: str) -> str:
    # No "-" and no ".": segments' ids are made with "-", and Airflow's task groups use ".".
    if not _TASK_ID.fullmatch(value):
        raise ValueError("should start with a letter and hold only letters, digits and '_', at most 100")
    return value


TriggerRule = Literal[
    "all_success",
    "all_failed",
    "all_done",
    "all_done_min_one_success",
    "all_skipped",
    "one_failed",
    "one_success",
    "one_done",
    "none_failed",
    "none_failed_min_one_success",
    "none_skipped",
    "always",
]
"""Airflow's trigger rules (``airflow.task.trigger_rule``), without the one for setup tasks."""


class _Handling(Model):
    """What a task may say about itself, and ``defaults:`` for all of them."""

    queue: str | None = None
    retries: CountOrNone | None = None
    retry_delay: Duration | None = None
    retry_backoff: bool | None = None
    deadline: Duration | None = None
    run_on: Literal["triggerer", "worker"] | None = None


class _TaskModel(_Handling):
    id: Annotated[str, AfterValidator(_task_id)]
    type: str
    description: str = ""
    after: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    resource: Name | None = None
    trigger_rule: TriggerRule = "all_success"


class _PatternModel(Model):
    name: Name | None = None
    description: str = ""
    granularity: Literal["task", "segment"] = "task"
    split_at: str | None = None
    defaults: _Handling = _Handling()
    tasks: tuple[_TaskModel, ...] = Field(min_length=1)


@dataclass(frozen=True)
class TaskSpec:
    """One task of a pattern.

    :param id: unique in the pattern
    :param type: word of a task type (entry points ``airavata.tasks``)
    :param after: ids of the tasks that it waits for
    :param parameters: as written, templates and all
    :param resource: a compute resource's name; None: the experiment's
    :param queue: the worker queue (Airflow's ``queue``); None: the default one
    :param retries: tries after the first one
    :param retry_delay_s: seconds before the second try
    :param retry_backoff: whether each further try waits longer
    :param deadline_s: seconds that one try may take, None for no limit
    :param run_on: ``triggerer`` or ``worker``; None: the task type's own
    :param trigger_rule: Airflow's
    """

    id: str
    type: str
    after: tuple[str, ...]
    parameters: Mapping[str, Any]
    resource: str | None = None
    queue: str | None = None
    retries: int = 0
    retry_delay_s: float = 10.0
    retry_backoff: bool = True
    deadline_s: float | None = None
    run_on: str | None = None
    trigger_rule: str = "all_success"
    description: str = ""


@dataclass(frozen=True)
class Pattern:
    """An execution pattern.

    :param name: also the DAG's id; the file's name without its ending where the file names none
    :param granularity: ``task``: each task is an Airflow task; ``segment``: tasks that hang together are one
    :param tasks: each after those it waits for, else in the file's order
    :param file: where it is from, as people are told
    :param sha256: of the file's bytes
    :param split_at: id of the monitor with which a second run begins (``models.split``); None: there is one run
    """

    name: str
    description: str
    granularity: Literal["task", "segment"]
    tasks: tuple[TaskSpec, ...]
    file: str
    sha256: str
    split_at: str | None = None

    def task(self, task_id: str) -> TaskSpec:
        """:raises KeyError: there is none."""
        for task in self.tasks:
            if task.id == task_id:
                return task
        raise KeyError(task_id)

    def upstream(self, task_id: str) -> tuple[str, ...]:
        """Ids of all tasks that end before that one starts, the nearest first."""
        return all_before({task.id: task.after for task in self.tasks}, task_id)

    def nearest_upstream(self, task_id: str, kind: str) -> str | None:
        """Id of the nearest task of a type before that one."""
        return next((each for each in self.upstream(task_id) if self.task(each).type == kind), None)


def load_pattern(
    path: Path, parameter_models: Mapping[str, type[BaseModel]], *, shown_as: str | None = None
) -> Pattern:
    """Read a pattern.

    :param parameter_models: by task type, the model of its parameters; a field with
        ``json_schema_extra={"refers_to": "upstream_task"}`` holds ids of tasks before the one that has it; see
        :func:`answers_ends` too
    :param shown_as: the file's name in messages, when ``path`` is a copy
    :raises PatternError: with every fault, its file and line
    """
    shown = shown_as or str(path)
    title = f"pattern {shown} cannot become a DAG"
    try:
        document = read_yaml(path, shown_as=shown_as)
    except FaultyInput as error:
        raise PatternError(title, error.faults) from error
    try:
        model = _PatternModel.model_validate(document.data)
    except ValidationError as error:
        raise PatternError(title, faults_of(error, _PatternModel, document=document)) from error
    faults = [
        *_graph_faults(model, document),
        *_parameter_faults(model, document, parameter_models),
        *_answer_faults(model, document, parameter_models),
    ]
    name = model.name or Path(shown).stem
    if model.name is None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        faults.append(document.fault(("name",), "missing, and the file's name cannot be a pattern's name"))
    if name.endswith(SUFFIX):
        faults.append(document.fault(("name",), f"{name}: names that end in {SUFFIX} are those of second runs"))
    after = {task.id: task.after for task in model.tasks}
    upstream = {task.id: all_before(after, task.id) for task in model.tasks}
    faults.extend(split_faults(model.split_at, model.tasks, document, upstream))
    if faults:
        raise PatternError(title, list(dict.fromkeys(faults)))
    return Pattern(
        name=name,
        description=model.description,
        granularity=model.granularity,
        tasks=_ordered([_spec(task, model.defaults) for task in model.tasks]),
        file=shown,
        sha256=document.sha256,
        split_at=model.split_at,
    )


def _spec(task: _TaskModel, defaults: _Handling) -> TaskSpec:
    def setting(name: str, otherwise: Any) -> Any:
        values = (getattr(task, name), getattr(defaults, name), otherwise)
        return next((value for value in values if value is not None), None)

    return TaskSpec(
        id=task.id,
        type=task.type,
        after=task.after,
        parameters=task.parameters,
        resource=task.resource,
        queue=setting("queue", None),
        retries=setting("retries", 0),
        retry_delay_s=setting("retry_delay", 10.0),
        retry_backoff=setting("retry_backoff", True),
        deadline_s=setting("deadline", None),
        run_on=setting("run_on", None),
        trigger_rule=task.trigger_rule,
        description=task.description,
    )


def _ordered(tasks: list[TaskSpec]) -> tuple[TaskSpec, ...]:
    """Each task after those it waits for; among those that could come next, the file's first."""
    done: dict[str, TaskSpec] = {}
    while len(done) < len(tasks):
        # Starts over after each one, so that a task comes as soon as it can.
        following = next(task for task in tasks if task.id not in done and all(each in done for each in task.after))
        done[following.id] = following
    return tuple(done.values())


def _graph_faults(model: _PatternModel, document: Document) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for index, task in enumerate(model.tasks):
        if task.id in first:
            place = document.place(("tasks", first[task.id], "id"))
            yield document.fault(("tasks", index, "id"), f"{task.id!r} is at {place} already")
        first.setdefault(task.id, index)
    for index, task in enumerate(model.tasks):
        for number, name in enumerate(task.after):
            location = ("tasks", index, "after", number)
            if name not in first:
                yield document.fault(location, f"no task {name!r}{suggestion(name, first)}")
            elif name in task.after[:number]:
                yield document.fault(location, f"{name!r} is named twice")
    graph = {task.id: [each for each in task.after if each in first] for task in model.tasks}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1]
        yield document.fault(("tasks", first[cycle[0]], "after"), f"a cycle: {' → '.join(cycle)}")


def _parameter_faults(
    model: _PatternModel, document: Document, parameter_models: Mapping[str, type[BaseModel]]
) -> Iterator[Fault]:
    after = {task.id: task.after for task in model.tasks}
    for index, task in enumerate(model.tasks):
        upstream = all_before(after, task.id)
        location: Location = ("tasks", index, "parameters")
        yield from _template_faults(task.parameters, location, document, upstream)
        parameters = parameter_models.get(task.type)
        if parameters is None:
            message = f"no task type {task.type!r}{suggestion(task.type, parameter_models)}"
            yield document.fault(("tasks", index, "type"), message)
            continue
        try:
            parameters.model_validate(task.parameters)
        except ValidationError as error:
            yield from faults_of(error, parameters, document=document, prefix=location, unless=_not_yet(task))
        yield from _reference_faults(task, parameters, location, document, upstream)


def answers_ends(model: type[BaseModel], given: Mapping[str, Any]) -> bool:
    """Whether such parameters of a task ask for answers to a job's end: a field with
    ``json_schema_extra={"answers": "upstream_task"}``, which needs to know how that task submits."""
    return bool(_answering(model, given))


def _answering(model: type[BaseModel], given: Mapping[str, Any]) -> str | None:
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("answers") == "upstream_task" and given.get(field.alias or name):
            return field.alias or name
    return None


def _answer_faults(
    model: _PatternModel, document: Document, parameter_models: Mapping[str, type[BaseModel]]
) -> Iterator[Fault]:
    after = {task.id: task.after for task in model.tasks}
    by_id = {task.id: task for task in model.tasks}
    for index, task in enumerate(model.tasks):
        kind = parameter_models.get(task.type)
        field = _answering(kind, task.parameters) if kind is not None else None
        if field is None:
            continue
        location = ("tasks", index, "parameters", field)
        if is_template(task.parameters[field]):
            yield document.fault(location, "should be written out, not a template")
            continue
        if task.parameters.get("native_id"):
            yield document.fault(location, "nobody here submitted that job, so nobody submits it again")
            continue
        submissions = [each for each in all_before(after, task.id) if by_id[each].type == "submit"]
        of = task.parameters.get("job") or next(iter(submissions), None)
        if of not in submissions:
            named = "no task" if of is None else f"{shown(of)} is no task"
            yield document.fault(location, f"{named} before this one that submits a job")
        elif goes_elsewhere(task.parameters[field]):
            if by_id[of].parameters.get("elements"):
                told = "submits an array, which stays where its elements' files are: so no rule goes elsewhere"
                yield document.fault(location, f"{of!r} {told}")
            yield from (document.fault(location, each) for each in moving_faults(model.tasks, task, by_id[of]))


def _not_yet(task: _TaskModel) -> Any:
    """Errors that say nothing before an experiment is there: a parameter left out may follow from it, and a
    template has no value."""

    def ignored(kind: str, location: Location) -> bool:
        if kind == "missing":
            return len(location) == 1
        if not location:
            return True
        value: Any = task.parameters
        for part in location:
            if kind != "extra_forbidden" and isinstance(value, str):
                break
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                break
        return kind != "extra_forbidden" and is_template(value)

    return ignored


def _template_faults(
    value: Any, location: Location, document: Document, upstream: Collection[str]
) -> Iterator[Fault]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _template_faults(each, (*location, key), document, upstream)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _template_faults(each, (*location, index), document, upstream)
    elif isinstance(value, str) and is_template(value):
        try:
            names, tasks = check(value)
        except TemplateError as error:
            yield document.fault(location, str(error))
            return
        for name in sorted(names - TEMPLATE_NAMES):
            yield document.fault(location, f"a template asks for {name!r}{suggestion(name, TEMPLATE_NAMES)}")
        for name in sorted(tasks - set(upstream)):
            yield document.fault(location, f"a template asks for task {name!r}, which is not before this one")


def _reference_faults(
    task: _TaskModel,
    model: type[BaseModel],
    location: Location,
    document: Document,
    upstream: Collection[str],
) -> Iterator[Fault]:
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if not isinstance(extra, dict) or extra.get("refers_to") != "upstream_task":
            continue
        given = task.parameters.get(field.alias or name, field.default)
        for each in given if isinstance(given, list | tuple) else [given]:
            if isinstance(each, str) and not is_template(each) and each not in upstream:
                message = f"{each!r} is not a task before this one{suggestion(each, upstream)}"
                yield document.fault((*location, name), message)
