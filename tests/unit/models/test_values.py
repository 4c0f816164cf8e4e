"""Numbers, times and names: what is taken and what is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from airavata_provider.models.values import (
    Count,
    Model,
    clock,
    file_name,
    real_number,
    relative_path,
    suggestion,
    walltime_seconds,
    whole_number,
)


@given(st.integers(min_value=1, max_value=10_000 * 24 * 3600 - 1))
def test_walltime_comes_back(seconds: int) -> None:
    assert walltime_seconds(clock(seconds)) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 5400),
        ("90", 5400),
        ("01:30:00", 5400),
        ("1:30:00", 5400),
        ("2-00:00:30", 172830),
        ("00:00:01", 1),
    ],
)
def test_walltime(value: object, seconds: int) -> None:
    assert walltime_seconds(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        0,
        "0",
        10**17,
        14_400_000,
        "240000:00:00",
        -5,
        "00:00:00",
        "01:30",
        "1:60:00",
        True,
        None,
        1.5,
        "1h",
        "",
        "1:30:00\n2",
        [5],
    ],
)
def test_walltime_refused(value: object) -> None:
    with pytest.raises(ValueError, match="should be"):
        walltime_seconds(value)


@given(st.integers(min_value=-(10**17), max_value=10**17))
def test_digits_are_numbers(number: int) -> None:
    assert whole_number(str(number)) == whole_number(number) == number


@pytest.mark.parametrize(
    "value", [True, False, None, "", "3.0", "0x3", "three", "٣", 3.5, float("nan"), "9" * 30, [3]]
)
def test_no_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="whole number"):
        whole_number(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_finite_numbers(number: float) -> None:
    assert real_number(number) == real_number(repr(number)) == number


@pytest.mark.parametrize("value", [True, None, "", "nan", "inf", "1e999", 10**400, "1_0", " ", float("inf")])
def test_no_finite_number(value: object) -> None:
    with pytest.raises(ValueError, match="finite number"):
        real_number(value)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0", "\ud800", "é" * 128])
def test_no_file_name(name: str) -> None:
    with pytest.raises(ValueError, match="not a file name"):
        file_name(name)


@pytest.mark.parametrize("name", ["a b", "-rf", "a\nb", "$(x)", "é" * 127, "..."])
def test_file_name(name: str) -> None:
    assert file_name(name) == name
    assert relative_path(f"{name}/{name}") == f"{name}/{name}"


@pytest.mark.parametrize("path", ["", "/x", "x/", "../x", "x/../y", "x//y"])
def test_no_relative_path(path: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        relative_path(path)


def test_suggestion() -> None:
    assert suggestion("wordcuont", ["echo", "wordcount"]) == " (did you mean 'wordcount'?)"
    assert suggestion("ECHO", ["echo"]) == " (did you mean 'echo'?)"
    assert suggestion("zzz", ["echo", "date"]) == " (there is: date, echo)"
    assert suggestion("zzz", []) == ""


class _Example(Model):
    needed: str
    number: Count = 5
    words: tuple[str, ...] = Field(default=(), alias="list")


@pytest.mark.parametrize("empty", [None, ""])
def test_empty_optional_fields_are_their_defaults(empty: Any) -> None:
    assert _Example.model_validate({"needed": "x", "number": empty, "list": empty}) == _Example(needed="x")
    with pytest.raises(ValidationError):
        _Example.model_validate({"needed": None})


@pytest.mark.parametrize("number", [True, 0, "x", 2.5])
def test_counts_are_not_coerced(number: object) -> None:
    with pytest.raises(ValidationError):
        _Example.model_validate({"needed": "x", "number": number})
