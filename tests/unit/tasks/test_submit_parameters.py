"""What ``submit`` is told and what a scheduler is asked for have the same fields, written down in two places.

The parameters add limits and are pydantic's, at the edge; the request is a plain dataclass. A class made from the
other's fields would be one that neither a type checker nor a reader knows. So these tests keep them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from airavata_provider.schedulers.request import JobRequest
from airavata_provider.tasks.submission import Submit

PARAMETERS = Submit.Parameters.model_fields
REQUEST = {each.name: each for each in fields(JobRequest)}

TASK_S_OWN = {"webhook", "elements", "max_running"}
"""Parameters that no scheduler sees as they are."""

DERIVED = {"name", "directory", "comment", "shell", "array"}
"""Of a request, what follows from the task, its resource and its elements."""


def test_they_have_the_same_fields() -> None:
    assert PARAMETERS.keys() - TASK_S_OWN == REQUEST.keys() - DERIVED
    assert PARAMETERS.keys() >= TASK_S_OWN
    assert REQUEST.keys() >= DERIVED


def _plain(hint: Any) -> Any:
    """A type, with the immutable and the mutable mapping for the same."""
    if get_origin(hint) in (dict, Mapping):
        return ("mapping", *get_args(hint))
    return hint


@pytest.mark.parametrize("name", sorted(REQUEST.keys() - DERIVED))
def test_a_field_has_the_same_type_and_default(name: str) -> None:
    asked, parameter = REQUEST[name], PARAMETERS[name]
    assert _plain(parameter.annotation) == _plain(get_type_hints(JobRequest)[name])
    if asked.default is MISSING and asked.default_factory is MISSING:
        assert parameter.is_required()
        return
    default = asked.default if asked.default_factory is MISSING else asked.default_factory()
    assert parameter.get_default(call_default_factory=True) == default
