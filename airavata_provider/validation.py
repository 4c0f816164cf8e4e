"""Checks files without running anything: catalogs, patterns, experiments; every fault of all of them at once.

Reads the files that it is given, and the deployment's own. Blocking; loads neither asyncssh nor the job store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airavata_provider.errors import ExperimentRefused, Fault, FaultyInput
from airavata_provider.models.catalog import Catalog, catalog_files, load_catalog
from airavata_provider.models.experiment import read_experiment
from airavata_provider.models.pattern import load_pattern
from airavata_provider.models.pattern_folders import builtin_patterns, pattern_files
from airavata_provider.models.source import read_yaml
from airavata_provider.settings import get_settings
from airavata_provider.tasks.job_request import fit
from airavata_provider.tasks.registry import parameter_models

_CATALOG_SECTIONS = frozenset({"compute_resources", "storage_resources", "applications"})

Outcome = tuple[list[str], list[Fault]]
"""What was checked, by name, and every fault."""


@dataclass
class _Files:
    """Files by what they hold."""

    catalogs: list[Path] = field(default_factory=list)
    patterns: list[Path] = field(default_factory=list)
    experiments: list[Path] = field(default_factory=list)


def validate_deployment() -> Outcome:
    """The catalog and the patterns of this deployment."""
    settings = get_settings()
    faults: list[Fault] = []
    folders = [folder for folder in settings.patterns_folders if not folder.is_dir()]
    faults.extend(Fault(str(folder), "no such folder") for folder in folders)
    checked = [str(path) for path in catalog_files([f for f in settings.catalog_folders if f.is_dir()])]
    _catalog(settings.catalog_folders, faults)
    files = [file.path for file in pattern_files((builtin_patterns(), *settings.patterns_folders))]
    _patterns(files, faults)
    return checked + [str(path) for path in files], faults


def validate_paths(paths: Sequence[Path]) -> Outcome:
    """Those files, and all of those folders.

    A catalog's file is checked together with the others of its folder, and with the deployment's catalog, since
    entries refer to each other.
    """
    faults: list[Fault] = []
    files = _Files()
    every = list(_yaml_files(paths, faults))
    for path in every:
        _sort(path, files, faults)
    settings = get_settings()
    folders = _topmost([*settings.catalog_folders, *(path.parent for path in files.catalogs)])
    catalog = _catalog(folders, faults) if files.catalogs or files.experiments else None
    own = [file.path for file in pattern_files((builtin_patterns(), *settings.patterns_folders))]
    known = _patterns([path for path in own if path not in files.patterns], [])
    known |= _patterns(files.patterns, faults)
    for path in files.experiments:
        _experiment(path, catalog, known, faults)
    return [str(path) for path in every], list(dict.fromkeys(faults))


def _yaml_files(paths: Iterable[Path], faults: list[Fault]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            found = catalog_files([path])
            if not found:
                faults.append(Fault(str(path), "no *.yaml or *.yml in it"))
            yield from found
        elif path.exists():
            yield path
        else:
            faults.append(Fault(str(path), "no such file or folder"))


def _sort(path: Path, files: _Files, faults: list[Fault]) -> None:
    """Tell what a file holds by the fields that only its kind has."""
    try:
        document = read_yaml(path)
    except FaultyInput as error:
        faults.extend(error.faults)
        return
    keys: set[Any] = set(document.data) if isinstance(document.data, dict) else set()
    if keys & _CATALOG_SECTIONS:
        files.catalogs.append(path)
    elif "tasks" in keys:
        files.patterns.append(path)
    elif "application" in keys:
        files.experiments.append(path)
    else:
        message = "neither a catalog (applications:, …), nor a pattern (tasks:), nor an experiment (application:)"
        faults.append(document.fault((), message))


def _topmost(folders: Iterable[Path]) -> list[Path]:
    """Folders without those inside others, which are read with them."""
    unique = list(dict.fromkeys(folder.absolute() for folder in folders))
    return [each for each in unique if not any(other in each.parents for other in unique)]


def _catalog(folders: Sequence[Path], faults: list[Fault]) -> Catalog | None:
    try:
        return load_catalog(folders)
    except FaultyInput as error:
        faults.extend(error.faults)
        return None


def _patterns(paths: Sequence[Path], faults: list[Fault]) -> set[str]:
    """Names of the good ones."""
    names: dict[str, Path] = {}
    for path in paths:
        try:
            name = load_pattern(path, parameter_models()).name
        except FaultyInput as error:
            faults.extend(error.faults)
            continue
        if name in names:
            faults.append(Fault(str(path), f"the pattern {name!r} is already there, from {names[name]}"))
        names.setdefault(name, path)
    return set(names)


def _experiment(path: Path, catalog: Catalog | None, patterns: set[str], faults: list[Fault]) -> None:
    told: Sequence[Fault] = ()
    try:
        experiment = read_experiment(path, catalog)
        if catalog is not None:
            fit(experiment, catalog, patterns=patterns, now=datetime.now(UTC))
    except ExperimentRefused as error:
        told = error.faults
    # The faults that the catalog tells name the field alone.
    faults.extend(
        fault if fault.where.startswith(str(path)) else Fault(f"{path}: {fault.where}", fault.message)
        for fault in told
    )
