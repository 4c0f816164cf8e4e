"""YAML with places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from airavata_provider.errors import FaultyInput
from airavata_provider.models.source import faults_of, read_yaml


def write(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("off", "off"),
        ("NO", "NO"),
        ("true", True),
        ("1:30:00", "1:30:00"),
        ("01:30:00", "01:30:00"),
        ("2030-01-01", "2030-01-01"),
        ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00Z"),
        ("007", "007"),
        ("7", 7),
        ("-7", -7),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("1_000", "1_000"),
        ("~", None),
        ("", None),
        ("=", "="),
    ],
)
def test_scalars(tmp_path: Path, text: str, value: object) -> None:
    data = read_yaml(write(tmp_path, f"key: {text}\n")).data["key"]
    assert data == value
    assert type(data) is type(value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(categories=["Ll"]), min_size=1), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plain)
def test_json_is_read_as_json(tmp_path: Path, data: Any) -> None:
    assert read_yaml(write(tmp_path, json.dumps(data, ensure_ascii=False))).data == data


def test_lines_and_places(tmp_path: Path) -> None:
    document = read_yaml(write(tmp_path, "# head\na:\n  b:\n    - x\n    - c: 1\n      d: 2\n"))
    assert document.place(("a",)).endswith("file.yaml:2")
    assert document.place(("a", "b", 1, "d")).endswith("file.yaml:6")
    assert document.place(("a", "b", 1, "nothing", "there")).endswith("file.yaml:5")
    assert str(document.fault(("a", "b", 1, "d"), "bad")).endswith("file.yaml:6: a.b[1].d: bad")


def test_merge_and_alias(tmp_path: Path) -> None:
    text = "base: &base {a: 1, b: 2}\none: &one\n  <<: *base\n  b: 3\ntwo: *one\nthree: *one\n"
    data = read_yaml(write(tmp_path, text)).data
    assert data["one"] == data["two"] == data["three"] == {"a": 1, "b": 3}


def test_keys_are_text(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, "1: a\ntrue: b\n")).data == {"1": "a", "true": "b"}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a: comes twice"),
        ("a:\n  - {x: 1, x: 2}\n", 2, "a[0].x: comes twice"),
        ("a: 1\n b: 2\n", 2, "not YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        ("a: [1\n", 2, "not YAML"),
        ("x: 1\na: !!python/object:os.system {}\n", 2, "unknown tag"),
        ("a: &a\n  b: *a\n", 1, "aliases without end"),
        ("? [1, 2]\n: x\n", 1, "a key should be a word"),
    ],
)
def test_faults_have_lines(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(FaultyInput) as caught:
        read_yaml(path, shown_as="shown.yaml")
    assert str(caught.value.faults[0]).startswith(f"shown.yaml:{line}: ")
    assert message in str(caught.value.faults[0])


def test_aliases_that_double_each_other_are_stopped(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    with pytest.raises(FaultyInput, match="aliases without end"):
        read_yaml(write(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"a: \xff", b"\x00", b"[" * 5000])
def test_no_text(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(raw)
    with pytest.raises(FaultyInput):
        read_yaml(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FaultyInput, match="No such file"):
        read_yaml(tmp_path / "none.yaml")


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    walltime: int


class _Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    many: dict[str, _Inner] = {}
    some: tuple[_Inner, ...] = ()
    maybe: _Inner | None = None


def test_faults_of_a_model(tmp_path: Path) -> None:
    text = "many:\n  x:\n    walltme: 1\nsome:\n- walltime: soon\nmaybe:\n  waltime: 3\n  walltime: 3\nsoem: []"
    document = read_yaml(write(tmp_path, text), shown_as="f")
    with pytest.raises(ValidationError) as caught:
        _Outer.model_validate(document.data)
    faults = [str(fault) for fault in faults_of(caught.value, _Outer, document=document)]
    assert faults == [
        "f:2: many.x.walltime: missing",
        "f:3: many.x.walltme: unknown field (did you mean 'walltime'?)",
        "f:5: some[0].walltime: should be a valid integer, unable to parse string as an integer, not 'soon'",
        "f:7: maybe.waltime: unknown field (did you mean 'walltime'?)",
        "f:9: soem: unknown field (did you mean 'some'?)",
    ]
    assert next(fault.where for fault in faults_of(caught.value, _Outer)) == "many.x.walltime"
