"""Jinja templates in patterns and deployments: sandboxed, and strict about names that do not exist.

What people write between ``{{`` and ``}}`` sees data only. A name looked up in a mapping is first the
mapping's key, then an attribute, so an input may be called ``items``.

Pure; no Airflow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from airavata_provider.errors import ConfigurationError
from airavata_provider.models.values import shown


class TemplateError(ConfigurationError):
    """A template that cannot be read, or that asks for what is not there."""


class _Environment(ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        """Keys before attributes."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


@functools.cache
def _environment() -> _Environment:
    return _Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)


def is_template(value: Any) -> bool:
    """Whether a value is, or holds, text that Jinja would change."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value or "{#" in value
    if isinstance(value, Mapping):
        return any(is_template(each) for each in (*value.keys(), *value.values()))
    return isinstance(value, list | tuple) and any(is_template(each) for each in value)


def render(value: Any, variables: Mapping[str, Any]) -> Any:
    """Replace the templates in a value, deep: in strings, in lists and tuples, in mappings' values.

    A string that is one single ``{{ expression }}`` becomes that expression's value with its type; any other
    becomes text. What is no template comes back unchanged.

    :param variables: plain data by name
    :raises TemplateError: names the template
    """
    if isinstance(value, str):
        return _render_text(value, variables) if is_template(value) else value
    if isinstance(value, Mapping):
        return {key: render(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [render(each, variables) for each in value]
    if isinstance(value, tuple):
        return tuple(render(each, variables) for each in value)
    return value


def _render_text(text: str, variables: Mapping[str, Any]) -> Any:
    try:
        result = _compiled(text)(**variables)
        if isinstance(result, jinja2.Undefined):
            str(result)  # StrictUndefined's own message
    except Exception as error:  # whatever an expression does (1 / 0, a filter's TypeError) is the template's fault
        raise TemplateError(f"template {shown(text, 200)}: {error}") from error
    return result


@functools.lru_cache(maxsize=1024)
def _compiled(text: str) -> Callable[..., Any]:
    """Kept, since the same few templates serve every experiment and compiling one takes about a millisecond."""
    expression = _single_expression(text)
    if expression is None:
        return _environment().from_string(text).render
    return _environment().compile_expression(expression, undefined_to_none=False)


def _single_expression(text: str) -> str | None:
    """The expression of a text that is nothing but one ``{{ expression }}``, else None.

    Told from the tokens: ``{{ '}}' }}`` is one expression, ``{{ a }}{{ b }}`` is two.
    """
    stripped = text.strip()
    tokens = [kind for _, kind, _ in _environment().lex(stripped)]
    if tokens[:1] != ["variable_begin"] or tokens[-1] != "variable_end" or tokens.count("variable_begin") != 1:
        return None
    return stripped.removeprefix("{{").removesuffix("}}").strip("-+")


def check(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Read a template without running it.

    :return: the names it takes from outside; the names that it looks up in ``tasks``
    :raises TemplateError: it is no Jinja
    """
    try:
        tree = _environment().parse(text)
        # Compiling finds what parsing does not: an unknown filter or test.
        _environment().compile(tree)
        tree = _environment().parse(text)
    except jinja2.TemplateError as error:
        raise TemplateError(f"template {shown(text, 200)}: {error}") from error
    return frozenset(jinja2.meta.find_undeclared_variables(tree)), frozenset(_tasks_in(tree))


def _tasks_in(tree: nodes.Template) -> Iterator[str]:
    for attribute in tree.find_all(nodes.Getattr):
        if isinstance(attribute.node, nodes.Name) and attribute.node.name == "tasks":
            yield attribute.attr
    for item in tree.find_all(nodes.Getitem):
        of, key = item.node, item.arg
        if isinstance(of, nodes.Name) and of.name == "tasks" and isinstance(key, nodes.Const):
            yield str(key.value)
