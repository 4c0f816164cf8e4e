"""Templates: types are kept, names must exist, code stays in the sandbox."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.models.template import TemplateError, check, is_template, render

values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers())


@given(values)
def test_one_expression_keeps_its_type(value: Any) -> None:
    result = render("{{ x }}", {"x": value})
    assert result == value
    assert type(result) is type(value)


@given(st.text(), st.text().filter(lambda text: not is_template(text)))
def test_values_are_data(value: str, rest: str) -> None:
    assert render("{{ x }}|{{ x }}", {"x": value}) == f"{value}|{value}"
    assert render(rest, {}) == rest


@given(st.recursive(values.filter(lambda value: not is_template(value)), st.lists, max_leaves=8))
def test_what_is_no_template_is_left_alone(value: Any) -> None:
    assert render({"key": value}, {}) == {"key": value}


def test_deep() -> None:
    value = {"a": ["{{ n }}", ("{{ n + 1 }}", "n={{ n }}")], "b": {"c": " {{ n }} "}, "d": 5}
    assert render(value, {"n": 3}) == {"a": [3, (4, "n=3")], "b": {"c": 3}, "d": 5}


@pytest.mark.parametrize(
    ("template", "result"),
    [
        ("{{ '}}' }}", "}}"),
        ("{{ a }}{{ a }}", "11"),
        ("{{- a -}}", 1),
        ("{{ -a }}", -1),
        ("{{ d.items }}", 5),
        ("{{ d['items'] }}", 5),
        ("{{ d.get('items') }}", 5),
        ("{% if a %}yes{% endif %}", "yes"),
        ("{# note #}x", "x"),
        ("{{ 'a b/c' | urlencode }}", "a%20b/c"),
        ("x\n", "x\n"),
    ],
)
def test_forms(template: str, result: object) -> None:
    assert render(template, {"a": 1, "d": {"items": 5}}) == result


@pytest.mark.parametrize(
    "template",
    [
        "{{ nothing }}",
        "{{ d.nothing }}",
        "{{ d.nothing.more }}",
        "x {{ nothing }}",
        "{{ 1 / 0 }}",
        "{{ a",
        "{{ a | nofilter }}",
        "{{ ''.__class__.__mro__ }}",
        "x{{ ''.__class__.__mro__ }}",
        "{{ d.update({'x': 1}) }}",
    ],
)
def test_errors_name_the_template(template: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(template, {"a": 1, "d": {}})
    assert template in str(caught.value)


def test_check_tells_names() -> None:
    names, tasks = check("{{ experiment.id }}{% set y = 1 %}{{ y }}{{ tasks.submit.id }}{{ tasks['a'].b }}{{ odd }}")
    assert names == {"experiment", "tasks", "odd"}
    assert tasks == {"submit", "a"}


@pytest.mark.parametrize("template", ["{{", "{{ a | nofilter }}", "{% for %}", "{{ a b }}", "{{ a is notest }}"])
def test_check_refuses(template: str) -> None:
    with pytest.raises(TemplateError):
        check(template)


@given(st.text(st.sampled_from("{}%#|. -'a1"), max_size=20))
def test_any_text_is_checked_or_refused(text: str) -> None:
    try:
        check(text)
    except TemplateError:
        return
    try:
        render(text, {"a": {}})
    except TemplateError as error:
        assert "template" in str(error)
