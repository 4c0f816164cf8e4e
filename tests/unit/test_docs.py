"""The documentation says what is so: its examples run, its files load, its tables are the code's, its links lead somewhere.

Run as a script, this writes the generated parts (between ``<!-- generated: NAME -->`` and ``<!-- end -->``) anew.
In a page, python blocks with ``run`` behind the language are executed in their order, in one module; then their
``test_…`` functions are called. A table behind ``<!-- table: NAME -->`` has the names of its rows compared.
"""

from __future__ import annotations

import ast
import asyncio
import configparser
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from airavata_provider.errors import ExperimentRefused, SubmissionUncertain
from airavata_provider.models.catalog import load_catalog
from airavata_provider.models.experiment import Experiment, command_arguments, read_experiment, resolve
from airavata_provider.models.job import Effect, Job, JobEvent, JobState, SubmissionState
from airavata_provider.models.pattern import TEMPLATE_NAMES, _Handling, _PatternModel, _TaskModel, load_pattern
from airavata_provider.settings import Settings
from airavata_provider.tasks.base import Task
from airavata_provider.tasks.registry import parameter_models, task_types

PROJECT = Path(__file__).resolve().parents[2]
PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
EXAMPLES = PROJECT / "examples" / "catalog"
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())

_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CATALOG = {"compute_resources", "storage_resources", "applications"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its first line's number, its language, what follows that, its text."""

    line: int
    language: str
    info: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    text = page.read_text()
    return tuple(
        Block(text[: found.start()].count("\n") + 2, found[1], found[2].strip(), found[3])
        for found in _FENCE.finditer(text)
    )


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def of_language(language: str) -> list[tuple[Path, Block]]:
    return [(page, block) for page in PAGES for block in blocks(page) if block.language == language]


def rows(name: str) -> tuple[list[list[str]], Path]:
    """Cells of the rows of the table of that name, and its page."""
    for page in PAGES:
        _, found, rest = page.read_text().partition(f"<!-- table: {name} -->\n")
        if found:
            lines = rest.split("\n\n", 1)[0].splitlines()[2:]
            return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines], page
    raise AssertionError(f"no table {name}")


# --- what is generated ------------------------------------------------------------------------------------------


def settings_table() -> str:
    lines = ["| option | default | meaning |", "| --- | --- | --- |"]
    for field in fields(Settings):
        default = field.default if isinstance(field.default, int | float) else "see there"
        meaning = field.metadata["description"].replace("``", "`").replace("|", "\\|")
        least = f" At least {field.metadata['least']:g}." if field.metadata["least"] is not None else ""
        example = f" Example: `{field.metadata['example']}`." if field.metadata["example"] else ""
        sensitive = " Sensitive." if field.metadata["sensitive"] else ""
        shown = default if field.default not in ((), "") or "Default:" in meaning else "none"
        lines.append(f"| `{field.name}` | {shown} | {meaning}{least}{example}{sensitive} |")
    return "\n".join(lines)


def uncertain_advice() -> str:
    """What :func:`submit` tells a person, by letting it meet a host that gives no answers."""
    from airavata_provider.jobs.submission import submit
    from airavata_provider.schedulers.base import JobRequest
    from airavata_provider.schedulers.slurm import Slurm
    from airavata_provider.ssh.command import RawResult
    from airavata_provider.testing import ScriptedHost

    class Silent:
        async def submitted(self, name: str, native_id: str, at: object) -> None: ...
        async def refused(self, name: str, reason: str) -> None: ...
        async def uncertain(self, name: str, reason: str) -> None: ...

    host = ScriptedHost(lambda command, data: RawResult(0, b"", b""))
    job = Job("JOB", "dag", "run", "submit", -1, 1, resource="cluster", directory="DIRECTORY")
    request = JobRequest(name="JOB", directory="DIRECTORY", executable="true")
    work = submit(host, Slurm(), request, store=Silent(), job=job, deadline_s=0)
    with pytest.raises(SubmissionUncertain) as caught:
        asyncio.run(work)
    return f"> {caught.value.advice}"


def state_table() -> str:
    from airavata_provider.jobs.state import markdown_table

    return markdown_table().strip()


def state_diagram() -> str:
    from airavata_provider.jobs.state import mermaid_diagram

    return f"```mermaid\n{mermaid_diagram()}```"


def layers() -> str:
    contract = PYPROJECT["tool"]["importlinter"]["contracts"][0]
    assert contract["type"] == "layers"
    return "\n".join(["```", *(line.replace("airavata_provider.", "") for line in contract["layers"]), "```"])


GENERATED: Mapping[str, Callable[[], str]] = {
    "settings": settings_table,
    "uncertain": uncertain_advice,
    "job state table": state_table,
    "job state diagram": state_diagram,
    "layers": layers,
}


def generated(text: str) -> str:
    """A page's text with its generated parts as they should be."""

    def put(found: re.Match[str]) -> str:
        return f"<!-- generated: {found[1]} -->\n{GENERATED[found[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- generated: ([\w ]+) -->\n.*?<!-- end -->", put, text, flags=re.DOTALL)


def test_generated_parts_are_current() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert set(re.findall(r"<!-- generated: ([\w ]+) -->", text)) == set(GENERATED)
    for page in PAGES:
        assert page.read_text() == generated(page.read_text()), "run: python tests/unit/test_docs.py"


# --- examples ---------------------------------------------------------------------------------------------------


@cache
def module_of(page: Path) -> ModuleType:
    """The module that a page's ``run`` blocks make together."""
    module = ModuleType("docs_" + re.sub(r"\W", "_", name_of(page)))
    sys.modules[module.__name__] = module
    for block in blocks(page):
        if block.language == "python" and block.info == "run":
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True)
            exec(code, vars(module))
    return module


@pytest.mark.parametrize(("page", "block"), of_language("python"), ids=lambda value: getattr(value, "stem", ""))
def test_python_compiles(page: Path, block: Block) -> None:
    ast.parse(block.text, f"{page}:{block.line}")
    assert block.info in ("", "run")


@pytest.mark.parametrize("page", dict.fromkeys(p for p, b in of_language("python") if b.info == "run"), ids=name_of)
def test_examples_run(page: Path, tmp_path: Path) -> None:
    tests = [value for key, value in vars(module_of(page)).items() if key.startswith("test_")]
    assert tests or "extending" not in page.parts
    for number, test in enumerate(tests):
        folder = tmp_path / str(number)
        folder.mkdir()
        test(*([folder] if inspect.signature(test).parameters else []))


def pages_task_types(page: Path) -> dict[str, Any]:
    found = [value for value in vars(module_of(page)).values() if inspect.isclass(value)]
    return {kind.type: kind.Parameters for kind in found if issubclass(kind, Task) and "type" in vars(kind)}


@pytest.mark.parametrize("page", dict.fromkeys(page for page, _ in of_language("yaml")), ids=name_of)
def test_yaml_loads(page: Path, tmp_path: Path) -> None:
    catalog_folder = tmp_path / "catalog"
    catalog_folder.mkdir()
    patterns, experiments = [], []
    for block in blocks(page):
        if block.language != "yaml":
            continue
        keys = set(yaml.safe_load(block.text))
        place = catalog_folder if keys <= _CATALOG else tmp_path
        path = place / f"line-{block.line}.yaml"
        path.write_text(block.text)
        if "tasks" in keys:
            patterns.append(path)
        elif "application" in keys:
            experiments.append(path)
        else:
            assert keys <= _CATALOG, f"{name_of(page)}:{block.line}: what is this?"
    own = any(catalog_folder.iterdir())
    catalog = load_catalog([catalog_folder if own else EXAMPLES])
    for path in patterns:
        load_pattern(path, {**parameter_models(), **pages_task_types(page)})
    known = [path.stem for path in (PROJECT / "patterns").glob("*.yaml")]
    for path in experiments:
        resolved = resolve(read_experiment(path, catalog), catalog, patterns=known)
        if resolved.application.name == "solver":
            words = [*resolved.deployment.launcher, resolved.deployment.executable, *command_arguments(resolved)]
            assert f"`{' '.join(words)}`" in page.read_text()


def test_the_refusal_is_what_is_really_told() -> None:
    from airavata_provider.deployment import Deployment

    ((_, block),) = of_language("json")
    shown = json.loads(block.text)
    conf = {
        "application": "wordcount",
        "compute_resource": "demo",
        "walltime": "02:00:00",
        "inputs": {"txt": "storage://examples/poem.txt"},
    }
    with pytest.raises(ExperimentRefused) as caught:
        Deployment((EXAMPLES,), ()).check(conf, experiment_id="poem-1", dag_id="hpc_batch")
    told = [{"where": fault.where, "message": fault.message} for fault in caught.value.faults]
    assert shown == {"detail": str(caught.value), "faults": told}


def test_requests_in_curl_commands_resolve() -> None:
    found = 0
    for page, block in of_language("console"):
        own = page.name == "README.md"
        for text in re.findall(r"-d '(\{.*\})'", block.text):
            body = json.loads(text)
            conf = body.get("conf", body)
            if "application" not in conf or own:
                continue
            found += 1
            catalog = load_catalog([EXAMPLES])
            resolve(Experiment.from_conf(conf, experiment_id=None), catalog)
    assert found


def test_entry_points_are_groups_that_exist() -> None:
    groups = {group for group in PYPROJECT["project"]["entry-points"] if group.startswith("airavata.")}
    shown = set()
    for page, block in of_language("toml"):
        for group, entries in tomllib.loads(block.text)["project"]["entry-points"].items():
            shown.add(group)
            for target in entries.values():
                assert hasattr(module_of(page), target.partition(":")[2])
    assert shown == groups


# --- names ------------------------------------------------------------------------------------------------------


def model_fields(path: str) -> set[str]:
    module, _, name = path.rpartition(".")
    return set(getattr(import_module(f"airavata_provider.{module}"), name).model_fields)


def routes() -> set[str]:
    from airavata_provider.plugin.experiments import router

    found: list[Any] = list(router.routes)
    return {f"{method} /airavata{route.path}" for route in found for method in route.methods}


def connection_extras() -> set[str]:
    from airavata_provider.ssh import target

    return set(re.findall(r"^``(\w+)``", target.__doc__ or "", re.MULTILINE))


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
    from airavata_provider.cli import get_airavata_cli_commands

    (group,) = get_airavata_cli_commands()
    return {
        each.name: {flag for argument in each.args for flag in argument.flags if flag.startswith("-")}
        for each in group.subcommands
    }


def libraries() -> set[str]:
    project = PYPROJECT["project"]
    every = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    return {re.split(r"[\[<>=;~! ]", each, maxsplit=1)[0] for each in every} - {project["name"]}


_RESOURCE, _APPLICATION = "models.resource", "models.application"
NAMES: Mapping[str, Callable[[], set[str]]] = {
    "experiment": lambda: set(Experiment.model_fields),
    "compute resource": lambda: model_fields(f"{_RESOURCE}.ComputeResource") - {"name"},
    "reachable": lambda: model_fields(f"{_RESOURCE}.Reachable"),
    "queue": lambda: model_fields(f"{_RESOURCE}.Queue"),
    "module system": lambda: model_fields(f"{_RESOURCE}.ModuleSystem"),
    "callbacks": lambda: model_fields(f"{_RESOURCE}.Callbacks"),
    "storage resource": lambda: model_fields(f"{_RESOURCE}.StorageResource") - {"name"},
    "application": lambda: model_fields(f"{_APPLICATION}.Application") - {"name"},
    "input": lambda: model_fields(f"{_APPLICATION}.InputField"),
    "output": lambda: model_fields(f"{_APPLICATION}.OutputField"),
    "deployment": lambda: model_fields(f"{_APPLICATION}.Deployment"),
    "pattern": lambda: set(_PatternModel.model_fields),
    "task": lambda: set(_TaskModel.model_fields),
    "variables": lambda: set(TEMPLATE_NAMES),
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
        f"task type {name}": lambda kind=kind: set(kind.Parameters.model_fields)
        for name, kind in task_types().items()
        if kind.Parameters.model_fields
    },
}


@pytest.mark.parametrize("table", NAMES)
def test_tables_name_what_there_is(table: str) -> None:
    names = [row[0].strip("`") for row in rows(table)[0]]
    assert len(names) == len(set(names))
    assert set(names) == NAMES[table]()


def test_every_table_is_compared() -> None:
    marks = [mark for page in PAGES for mark in re.findall(r"<!-- table: (.+?) -->", page.read_text())]
    assert sorted(marks) == sorted([*NAMES, "tuned", "operators"])


def test_defaults_of_tasks_are_told() -> None:
    ((text,),) = [[row[1]] for row in rows("pattern")[0] if row[0] == "`defaults`"]
    assert set(re.findall(r"`(\w+)`", text)) == set(_Handling.model_fields)


def test_every_task_type_has_a_section() -> None:
    assert set(re.findall(r"^### `(\w+)`$", (PROJECT / "docs/patterns.md").read_text(), re.MULTILINE)) == set(task_types())


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
        for command, rest in re.findall(r"airflow airavata (\w+)([^\n`#]*)", text):
            assert command in known, name_of(page)
            assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", rest)) <= known[command], f"{name_of(page)}: {rest}"
    for row in rows("cli")[0]:
        flags = set(re.findall(r"`(--[\w-]+)`", row[1]))
        assert flags == {flag for flag in known[row[0].strip("`")] if flag.startswith("--")} - {"--output"}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:[`$] ?|=1 )make (\w+)", page.read_text())) <= targets


def test_modules_and_files_exist() -> None:
    """What is named in backquotes like a module or a path of this project."""
    for page in PAGES:
        for path in re.findall(r"`((?:airavata_provider|dag_factories|tests|scripts|benchmarks|patterns|examples)/[\w./-]*)`", prose(page)):
            assert (PROJECT / path).exists(), f"{name_of(page)}: {path}"
        for dotted in re.findall(r"`((?:airavata_provider|dag_factories)\.[\w.]+)`", prose(page)):
            module, _, name = dotted.rpartition(".")
            found = import_module(module)
            assert hasattr(found, name) or import_module(dotted), f"{name_of(page)}: {dotted}"


# --- links ------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", each).lower() for each in headings]
    return {re.sub(r"[^\w\- ]", "", each).replace(" ", "-") for each in plain}


def relative_links(page: Path) -> Iterator[tuple[Path, str]]:
    for link in _LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in relative_links(page):
        assert target.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: {target.name}#{anchor}"


def test_every_page_is_reached_from_the_readme() -> None:
    found = {PROJECT / "README.md"}
    waiting = list(found)
    for page in waiting:
        for target, _ in relative_links(page):
            if target.suffix == ".md" and target not in found:
                found.add(target)
                waiting.append(target)
    assert found == set(PAGES)


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(generated(each.read_text()))
