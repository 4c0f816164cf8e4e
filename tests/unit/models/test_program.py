"""Templates of a program's words: what they may name, and that nothing else is accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from airavata_provider.models.program import VARIABLES, Parallelism, Template

TEMPLATE: TypeAdapter[str] = TypeAdapter(Template)


@given(st.text(st.characters(exclude_characters="{}\0", exclude_categories=["Cs"]), min_size=1))
def test_text_without_templates_stays_as_it_is(text: str) -> None:
    assert TEMPLATE.validate_python(text) == text


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_every_variable_may_be_named(name: str) -> None:
    assert TEMPLATE.validate_python(f"--x={{{{ {name}.y }}}}") == f"--x={{{{ {name}.y }}}}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ run.id }}", "there is no run here"),
        ("{{ tasks.a }} {{ b }}", "there is no b, tasks here"),
        ("{{ inputs", "template"),
        ("{% for %}", "template"),
        ("a\0b", "NUL"),
    ],
)
def test_what_cannot_be_a_template(text: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TEMPLATE.validate_python(text)


def test_parallelism_is_airavatas() -> None:
    assert set(Parallelism) == {"SERIAL", "MPI", "OPENMP", "OPENMP_MPI"}
