"""What the documentation names is there, and what is there is named: fields, options, commands, states, libraries.

A table behind ``<!-- table: NAME -->`` has the names of its rows compared with the code's.
"""

from __future__ import annotations

import configparser
import inspect
import json
import re
import shlex
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from importlib import import_module
from typing import Any

import pytest
from pydantic import BaseModel

from airavata_provider.get_provider_info import get_provider_info
from airavata_provider.models.experiment import Experiment
from airavata_provider.models.job import Effect, JobEvent, JobState, SubmissionState
from airavata_provider.models.options import JobOptions
from airavata_provider.models.pattern import TEMPLATE_NAMES, _Handling, _PatternModel, _TaskModel
from airavata_provider.monitors.mail.reader import Count
from airavata_provider.schedulers.sge_options import SITE_WORDS
from airavata_provider.settings import Settings
from airavata_provider.tasks.registry import task_types
from tests.unit.docs_pages import PAGES, PROJECT, PYPROJECT, name_of, of_language, prose, rows


def model_fields(path: str) -> set[str]:
    module, _, name = path.rpartition(".")
    return set(getattr(import_module(f"airavata_provider.{module}"), name).model_fields)


def parameters_of(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def routes() -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries below Airflow's API warn of each other as they are imported
        from airavata_provider.plugin.experiments import router

    found: list[Any] = list(router.routes)
    return {f"{method} /airavata{route.path}" for route in found for method in route.methods}


def connection_extras() -> set[str]:
    from airavata_provider.ssh import target

    return set(re.findall(r"^``(\w+)`` ", (target.__doc__ or "").split("====\n", 2)[2], re.MULTILINE))


def control_files() -> set[str]:
    from airavata_provider.schedulers import record

    return set(re.findall(r"``([\w.]+)``", record.__doc__ or "")) - {"fork"}


def bundle_arguments() -> set[str]:
    from dag_factories.bundle import PatternBundle

    return set(inspect.signature(PatternBundle.__init__).parameters) - {"self", "kwargs"}


def operator_arguments() -> set[str]:
    from airavata_provider.operators.base import TaskOperator

    return set(inspect.signature(TaskOperator.__init__).parameters) - {"self", "kwargs"}


def experiment_states() -> set[str]:
    from airavata_provider.runs import ExperimentState

    return set(ExperimentState)


def commands() -> dict[str, set[str]]:
    """Flags by subcommand."""
    from airflow.cli.cli_config import GroupCommand

    from airavata_provider.cli import get_airavata_cli_commands

    (group,) = get_airavata_cli_commands()
    assert isinstance(group, GroupCommand)
    return {
        each.name: {flag for argument in each.args for flag in argument.flags if flag.startswith("-")}
        for each in group.subcommands
    }


def libraries() -> set[str]:
    project = PYPROJECT["project"]
    every = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    return {re.split(r"[\[<>=;~! ]", each, maxsplit=1)[0] for each in every} - {project["name"]}


_RESOURCE, _APPLICATION = "models.resource", "models.application"
NAMES: Mapping[str, Callable[[], set[str]]] = {
    "options": lambda: set(JobOptions.model_fields),
    "experiment": lambda: set(Experiment.model_fields) - set(JobOptions.model_fields),
    "compute resource": lambda: model_fields(f"{_RESOURCE}.ComputeResource") - {"name"},
    "reachable": lambda: model_fields(f"{_RESOURCE}.Reachable"),
    "reservation": lambda: model_fields(f"{_RESOURCE}.Reservation"),
    "queue": lambda: model_fields(f"{_RESOURCE}.Queue") - set(JobOptions.model_fields),
    "module system": lambda: model_fields(f"{_RESOURCE}.ModuleSystem"),
    "callbacks": lambda: model_fields(f"{_RESOURCE}.Callbacks"),
    "storage resource": lambda: model_fields(f"{_RESOURCE}.StorageResource") - {"name"},
    "application": lambda: model_fields(f"{_APPLICATION}.Application") - {"name"},
    "input": lambda: model_fields(f"{_APPLICATION}.InputField"),
    "output": lambda: model_fields(f"{_APPLICATION}.OutputField"),
    "deployment": lambda: model_fields(f"{_APPLICATION}.Deployment") - set(JobOptions.model_fields),
    "container": lambda: model_fields(f"{_APPLICATION}.Container"),
    "gateway": lambda: model_fields("models.gateway.Gateway") - {"name"},
    "gateway on resource": lambda: model_fields("models.gateway.GatewayOnResource"),
    "mailbox": lambda: model_fields("models.mailbox.Mailbox") - {"name"},
    "mail counts": lambda: set(Count),
    "pattern": lambda: set(_PatternModel.model_fields),
    "task": lambda: set(_TaskModel.model_fields),
    "rule": lambda: model_fields("models.rules.Rule"),
    "variables": lambda: set(TEMPLATE_NAMES),
    "site words": lambda: set(SITE_WORDS),
    "patterns": lambda: {path.stem for path in (PROJECT / "patterns").glob("*.yaml")},
    "states": experiment_states,
    "job states": lambda: set(JobState),
    "submission": lambda: set(SubmissionState),
    "effects": lambda: set(Effect),
    "event": lambda: {field.name for field in fields(JobEvent)},
    "connection extras": connection_extras,
    "control directory": control_files,
    "bundle": bundle_arguments,
    "operator arguments": operator_arguments,
    "rest": routes,
    "cli": lambda: set(commands()),
    "libraries": libraries,
    **{
        f"task type {name}": partial(parameters_of, kind.Parameters)
        for name, kind in task_types().items()
        if kind.Parameters.model_fields
    },
}


@pytest.mark.parametrize("table", NAMES)
def test_tables_name_what_there_is(table: str) -> None:
    names = [row[0].strip("`") for row in rows(table)[0]]
    assert len(names) == len(set(names))
    assert set(names) == NAMES[table]()


def test_the_connection_form_has_a_field_for_every_extra() -> None:
    (kind,) = get_provider_info()["connection-types"]
    assert set(kind["conn-fields"]) == connection_extras()


def test_every_table_is_compared() -> None:
    marks = [mark for page in PAGES for mark in re.findall(r"<!-- table: (.+?) -->", page.read_text())]
    assert sorted(marks) == sorted([*NAMES, "tuned", "operators"])


def test_defaults_of_tasks_are_told() -> None:
    ((text,),) = [[row[1]] for row in rows("pattern")[0] if row[0] == "`defaults`"]
    assert set(re.findall(r"`(\w+)`", text)) == set(_Handling.model_fields)


def test_every_task_type_has_a_section() -> None:
    sections = re.findall(r"^### `(\w+)`$", (PROJECT / "docs/patterns.md").read_text(), re.MULTILINE)
    assert set(sections) == set(task_types())


def test_operators_are_told_with_their_task_types() -> None:
    from airavata_provider.operators import experiment
    from airavata_provider.operators.base import TaskOperator
    from airavata_provider.sensors.job import JobSensor

    known = {**vars(experiment), "JobSensor": JobSensor}
    kinds = {
        name: each.task_kind
        for name, each in known.items()
        if inspect.isclass(each) and issubclass(each, TaskOperator) and each is not TaskOperator
    }
    assert {row[0].strip("`"): row[1].strip("`") for row in rows("operators")[0]} == kinds


def test_tuning_is_what_the_tests_and_the_bench_run_with() -> None:
    from tests.airflow_instance import TUNED

    assert {row[0].strip("`"): row[1].strip("`") for row in rows("tuned")[0]} == dict(TUNED)


def test_options_exist() -> None:
    options = {field.name for field in fields(Settings)}
    for page in PAGES:
        text = page.read_text()
        assert {option.lower() for option in re.findall(r"AIRFLOW__AIRAVATA__([A-Z]\w+)", text)} <= options
        assert set(re.findall(r"\[airavata\]\s+(\w+)`", text)) <= options
    for page, block in of_language("ini"):
        parser = configparser.ConfigParser()
        parser.read_string(block.text, name_of(page))
        assert set(parser["airavata"]) <= options
        for bundle in json.loads(parser["dag_processor"]["dag_bundle_config_list"]):
            module, _, name = bundle["classpath"].rpartition(".")
            assert hasattr(import_module(module), name)


def test_commands_and_their_flags_exist() -> None:
    known = commands()
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for command, rest in re.findall(r"airflow airavata ([\w-]+)([^\n`#]*)", text):
            assert command in known, name_of(page)
            assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", rest)) <= known[command], f"{name_of(page)}: {rest}"
    for row in rows("cli")[0]:
        flags = set(re.findall(r"`(--[\w-]+)`", row[1]))
        long = {flag for flag in known[row[0].strip("`")] if flag.startswith("--")}
        assert flags == long - {"--output", "--verbose"}  # told of once, for all


def test_airflow_takes_the_commands() -> None:
    """Each command line of Airflow's in a console block, read by Airflow's own parser."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from airflow.cli.cli_parser import get_parser

        parser = get_parser()
    for _, block in of_language("console"):
        for line in re.findall(r"^\$ airflow (.*)$", block.text.replace("\\\n", " "), re.MULTILINE):
            parser.parse_args(shlex.split(line, comments=True))


def test_the_service_dag_is_told_of() -> None:
    from dag_factories.keeper import DAG_ID

    assert f"`{DAG_ID}`" in (PROJECT / "docs" / "operating.md").read_text()


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:`|\$ |=1 )make (\w+)", page.read_text())) <= targets


def test_modules_and_files_exist() -> None:
    """What is named in backquotes like a module or a path of this project."""
    for page in PAGES:
        for path in re.findall(
            r"`((?:airavata_provider|dag_factories|tests|scripts|benchmarks|patterns|examples)/[\w./-]*)`",
            prose(page),
        ):
            assert (PROJECT / path).exists(), f"{name_of(page)}: {path}"
        for dotted in re.findall(r"`((?:airavata_provider|dag_factories)\.[\w.]+)`", prose(page)):
            module, _, name = dotted.rpartition(".")
            found = import_module(module)
            assert hasattr(found, name) or import_module(dotted), f"{name_of(page)}: {dotted}"
