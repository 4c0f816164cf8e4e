"""How a program is started: its parallelism, and templates of its words.

Pure; no Airflow.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator

from airavata_provider.models.template import TemplateError, check
from airavata_provider.models.values import Text, shown


class Parallelism(StrEnum):
    """How an executable is parallel; decides its launcher."""

    SERIAL = "SERIAL"
    MPI = "MPI"
    OPENMP = "OPENMP"
    OPENMP_MPI = "OPENMP_MPI"


VARIABLES = frozenset(
    {"experiment", "application", "deployment", "resource", "queue", "inputs", "outputs", "directory"}
)
"""Names that a template about an experiment sees; ``models.resolved.ResolvedExperiment.variables``."""


def _template(value: str) -> str:
    try:
        names, _ = check(value)
    except TemplateError as error:
        raise ValueError(str(error)) from None
    if unknown := names - VARIABLES:
        raise ValueError(f"template {shown(value)}: there is no {', '.join(sorted(unknown))} here")
    return value


Template = Annotated[Text, AfterValidator(_template)]
"""Text with values of the experiment in it."""
