"""The documentation's examples run, its files load, its links lead somewhere, its generated parts are current.

In a page, python blocks with ``run`` behind the language are executed in their order, in one module; then their
``test_…`` functions are called. What the pages name is ``test_docs_names``'s.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from airavata_provider.errors import ExperimentRefused
from airavata_provider.models.catalog import load_catalog
from airavata_provider.models.experiment import Experiment, command_arguments, read_experiment, resolve
from airavata_provider.models.pattern import load_pattern
from airavata_provider.models.resolved import launcher_words
from airavata_provider.tasks.base import Task
from airavata_provider.tasks.registry import parameter_models
from tests.unit.docs_pages import (
    GENERATED,
    PAGES,
    PROJECT,
    PYPROJECT,
    Block,
    blocks,
    generated,
    name_of,
    of_language,
    prose,
)

EXAMPLES = PROJECT / "examples" / "catalog"
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CATALOG = {"compute_resources", "storage_resources", "applications", "gateways", "mailboxes"}


def test_generated_parts_are_current() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert set(re.findall(r"<!-- generated: ([\w ]+) -->", text)) == set(GENERATED)
    for page in PAGES:
        assert page.read_text() == generated(page.read_text()), "run: python -m tests.unit.docs_pages"


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
    return {vars(kind)["type"]: kind.Parameters for kind in found if issubclass(kind, Task) and "type" in vars(kind)}


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
            words = [*launcher_words(resolved), resolved.deployment.executable, *command_arguments(resolved)]
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
