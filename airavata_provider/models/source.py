"""YAML files with places: every fault found in one can say ``file:line: field``.

Scalars follow YAML 1.2's core schema (section 10.3): ``yes`` and ``on`` are words, ``1:30:00`` is text and
not a number of seconds, dates are text; digits with a leading zero are text too (``007``). Keys are always
text. A key that comes twice in one mapping is a fault, not a silent overwrite.

Imports no Airflow; reads the files it is given and does no other I/O.
"""

from __future__ import annotations

import hashlib
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from airavata_provider.errors import Fault, FaultyInput
from airavata_provider.models.values import shown, suggestion

Location = tuple[str | int, ...]

_MAX_NODES = 200_000
"""More nodes than any real file has; aliases that double each other are stopped here."""


_PLAIN = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


class _Loader(yaml.SafeLoader):
    """Scalars of the core schema only."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _regex, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$",
        list("-+.0123456789"),
    ),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.nan|\.NaN|\.NAN)$", list("-+.")),
    ("merge", r"^<<$", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_regex), _first)


@dataclass(frozen=True)
class Document:
    """What a YAML file says, and where.

    :param path: the file
    :param shown_as: how people are told about it
    :param data: dicts, lists and scalars
    :param lines: line, from 1, of each value by its location
    :param sha256: of the file's bytes
    """

    path: Path
    shown_as: str
    data: Any
    lines: Mapping[Location, int]
    sha256: str

    def place(self, location: Sequence[str | int]) -> str:
        """``file:line`` of a location, or of the nearest thing around it that exists."""
        where = tuple(location)
        while where and where not in self.lines:
            where = where[:-1]
        return f"{self.shown_as}:{self.lines.get(where, 1)}"

    def fault(self, location: Sequence[str | int], message: str) -> Fault:
        """A fault with its file, line and field."""
        field = dotted(location)
        return Fault(f"{self.place(location)}: {field}" if field else self.place(location), message)


def dotted(location: Sequence[str | int]) -> str:
    """``tasks[2].after`` for ``("tasks", 2, "after")``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_yaml(path: Path, *, shown_as: str | None = None) -> Document:
    """Read a file of one YAML document.

    :param shown_as: the file's name in messages, when ``path`` is a copy

    :raises FaultyInput: it cannot be read; callers make it the error of what they wanted to read
    """
    shown_path = shown_as or str(path)
    title = f"{shown_path} cannot be read"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FaultyInput(title, [Fault(shown_path, error.strerror or str(error))]) from error
    faults: list[Fault] = []
    lines: dict[Location, int] = {}
    try:
        loader = _Loader(raw)
        try:
            node = loader.get_single_node()
            data = None if node is None else _Builder(loader, shown_path, faults, lines).build(node, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{shown_path}:{mark.line + 1}" if mark else shown_path
        context = f" {error.context}" if error.context else ""
        raise FaultyInput(title, [Fault(where, f"not YAML: {error.problem}{context}")]) from error
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise FaultyInput(title, [Fault(shown_path, f"not YAML: {error}")]) from error
    if faults:
        raise FaultyInput(title, faults)
    return Document(path, shown_path, data, lines, hashlib.sha256(raw).hexdigest())


class _Builder:
    """Plain data out of YAML's nodes, keeping each one's line."""

    def __init__(self, loader: _Loader, path: str, faults: list[Fault], lines: dict[Location, int]) -> None:
        self._loader, self._path, self._faults, self._lines = loader, path, faults, lines
        self._open: set[int] = set()
        self._merged: set[int] = set()
        self._count = 0

    def build(self, node: yaml.Node, location: Location) -> Any:
        self._count += 1
        if self._count > _MAX_NODES or id(node) in self._open:
            raise yaml.MarkedYAMLError(problem="aliases without end", problem_mark=node.start_mark)
        self._lines.setdefault(location, node.start_mark.line + 1)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN:
                raise yaml.MarkedYAMLError(problem=f"unknown tag {node.tag}", problem_mark=node.start_mark)
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, location)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(child, (*location, index)) for index, child in enumerate(node.value)]
            return self._scalar(node, location)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[Any, Any]:
        if id(node) not in self._merged:
            own: set[str] = set()
            for key_node, _ in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    self._fault(key_node, location, "a key should be a word")
                    return {}
                if key_node.value in own:
                    self._fault(key_node, (*location, key_node.value), "comes twice in this mapping")
                own.add(key_node.value)
            # Puts the merged keys before the node's own, for good: an alias comes here again.
            self._loader.flatten_mapping(node)
            self._merged.add(id(node))
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            # The text of a key, not its value: an entry may be called 8 or true.
            where = (*location, key_node.value)
            self._lines[where] = key_node.start_mark.line + 1
            result[key_node.value] = self.build(value_node, where)
        return result

    def _scalar(self, node: yaml.Node, location: Location) -> Any:
        try:
            # The resolver's tag decides; an explicit tag of something else has no constructor and raises.
            return self._loader.construct_object(node)
        except ValueError as error:
            self._fault(node, location, str(error))
            return None

    def _fault(self, node: yaml.Node, location: Location, message: str) -> None:
        place = f"{self._path}:{node.start_mark.line + 1}"
        field = dotted(location)
        self._faults.append(Fault(f"{place}: {field}" if field else place, message))


def faults_of(
    error: ValidationError,
    model: type[BaseModel],
    *,
    document: Document | None = None,
    prefix: Location = (),
    unless: Callable[[str, Location], bool] | None = None,
) -> list[Fault]:
    """A pydantic error as faults, in the order of the fields.

    :param model: the model that refused, for the names it knows
    :param document: the file, if there is one; else the faults name the field alone
    :param prefix: where in the file the model's data begins
    :param unless: pydantic's word for an error and its location in the model: true for one to leave out
    """
    faults = []
    for each in error.errors(include_url=False):
        if unless is not None and unless(each["type"], each["loc"]):
            continue
        location = (*prefix, *each["loc"])
        message = _message(each["type"], each["msg"], each["input"], each["loc"], model)
        faults.append(document.fault(location, message) if document else Fault(dotted(location), message))
    return list(dict.fromkeys(faults))


def _message(kind: str, message: str, value: Any, location: Location, model: type[BaseModel]) -> str:
    if kind == "extra_forbidden":
        return f"unknown field{suggestion(str(location[-1]), _fields(model, location[:-1]))}"
    if kind == "missing":
        return "missing"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    text = message[:1].lower() + message[1:]
    return text if isinstance(value, Mapping | list) else f"{text.removeprefix('input ')}, not {shown(value)}"


def _fields(model: type[BaseModel], location: Location) -> list[str]:
    """Names of the fields of the model at a location inside another."""
    annotation: Any = model
    for part in location:
        found = _model_in(annotation)
        if found is not None and part in found.model_fields:
            annotation = found.model_fields[str(part)].annotation
        else:
            arguments = typing.get_args(annotation)
            annotation = arguments[-1] if arguments and arguments[-1] is not Ellipsis else next(iter(arguments), None)
    found = _model_in(annotation)
    return [] if found is None else [field.alias or name for name, field in found.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in {typing.Union, types.UnionType, typing.Annotated}:
        return next((found for each in typing.get_args(annotation) if (found := _model_in(each))), None)
    return None
