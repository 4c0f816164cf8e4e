"""What this deployment knows, kept current: its catalog and the names of its patterns; and whether a request
fits them.

For the API server and the CLI. Blocking: to be called off an event loop. Loads neither asyncssh nor the job
store.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airavata_provider.errors import ExperimentRefused, Fault
from airavata_provider.models.catalog import Catalog
from airavata_provider.models.catalog_folders import LOOK_AGAIN_S, CatalogFolders
from airavata_provider.models.experiment import Experiment, ResolvedExperiment
from airavata_provider.models.pattern import Pattern, load_pattern
from airavata_provider.models.pattern_folders import builtin_patterns, pattern_files
from airavata_provider.settings import get_settings
from airavata_provider.tasks.job_request import fit, option_faults
from airavata_provider.tasks.registry import parameter_models


class Deployment:
    """The catalog and the patterns of some folders.

    :param catalog_folders: the catalog's
    :param patterns_folders: the patterns'
    """

    def __init__(self, catalog_folders: tuple[Path, ...], patterns_folders: tuple[Path, ...]) -> None:
        self._catalog = CatalogFolders(catalog_folders)
        self._patterns_folders = patterns_folders
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._patterns: frozenset[str] = frozenset()

    @property
    def patterns(self) -> frozenset[str]:
        """Names of the patterns, which are their DAGs' ids."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_AGAIN_S:
                self._patterns = frozenset(
                    file.name for file in pattern_files((builtin_patterns(), *self._patterns_folders))
                )
                self._looked = time.monotonic()
            return self._patterns

    @property
    def catalog(self) -> Catalog:
        """The catalog as its files are now.

        :raises CatalogError: they have faults
        """
        return self._catalog.current()

    def check(
        self, conf: Mapping[str, Any], *, experiment_id: str | None, dag_id: str | None = None
    ) -> ResolvedExperiment:
        """A request, checked as far as it can be before it runs.

        :param conf: the experiment's fields
        :param experiment_id: the DAG run's id, where it is known already
        :param dag_id: the pattern's DAG, where the caller chose one
        :raises ExperimentRefused: with every fault
        :raises CatalogError: the deployment's own catalog has faults
        """
        try:
            experiment = Experiment.from_conf(conf, experiment_id=experiment_id)
        except ExperimentRefused as error:
            more = self._faults_beside(conf, error.faults, dag_id)
            raise ExperimentRefused(error.title, [*error.faults, *more]) from error
        return self.fit(experiment, dag_id=dag_id)

    def _faults_beside(self, conf: Mapping[str, Any], faults: Sequence[Fault], dag_id: str | None) -> list[Fault]:
        """What the catalog has to say about those fields of a malformed request that are well-formed."""
        faulty = {_field(fault) for fault in faults} | {"id"}
        rest = {name: value for name, value in conf.items() if name not in faulty}
        try:
            self.fit(Experiment.from_conf(rest, experiment_id=None), dag_id=dag_id)
        except ExperimentRefused as error:
            return [fault for fault in error.faults if _field(fault) not in faulty]
        return []

    def fit(self, experiment: Experiment, *, dag_id: str | None = None) -> ResolvedExperiment:
        """An experiment's names and sizes against the catalog and the patterns; see :meth:`check`.

        Where it may run in several places, it is told of the one that its application prefers; which one it will be
        is decided when it begins.
        """
        faults: list[Fault] = []
        if dag_id is not None:
            if experiment.pattern not in {None, dag_id}:
                faults.append(Fault("pattern", f"is {experiment.pattern}, and the request is for {dag_id}"))
            experiment = experiment.model_copy(update={"pattern": dag_id})
        try:
            found = fit(experiment, self.catalog, patterns=self.patterns, now=datetime.now(UTC))
        except ExperimentRefused as error:
            beside = option_faults(experiment, self.catalog)
            told = dict.fromkeys([*faults, *error.faults, *beside])
            raise ExperimentRefused(error.title, list(told)) from error
        if faults:
            raise ExperimentRefused(f"experiment {experiment.id or 'without an id'} cannot run", faults)
        return found.places[0]


def named_pattern(name: str, folders: Sequence[Path]) -> Pattern | None:
    """The pattern of that name, the package's own or from the folders; None where there is none.

    :raises PatternError: it has faults
    """
    for file in pattern_files((builtin_patterns(), *folders)):
        if file.name == name:
            return load_pattern(file.path, parameter_models(), shown_as=file.shown_as)
    return None


def _field(fault: Fault) -> str:
    """The experiment's field that a fault is about."""
    return re.split(r"[.\[]", fault.where, maxsplit=1)[0]


@functools.cache
def get_deployment() -> Deployment:
    """This process' one; ``get_deployment.cache_clear()`` forgets it."""
    settings = get_settings()
    return Deployment(settings.catalog_folders, settings.patterns_folders)
