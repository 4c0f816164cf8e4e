"""Field types that several models share: what a number, a time or a name may look like, and where it is
refused.

People write these values in YAML, in JSON and in a web form that sends numbers as text and an empty box as
null or ``""``. So a number may come as digits in a string, and an empty optional field means "not given";
nothing else is converted.

Pure; no Airflow.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_CLOCK = re.compile(r"(?:([0-9]{1,4})-)?([0-9]{1,6}):([0-5][0-9]):([0-5][0-9])")
_TEN_THOUSAND_DAYS = 10_000 * 24 * 3600
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def suggestion(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` when a known word is near, else what there is to choose from, else nothing."""
    words = sorted(set(known))
    lowered = {each.lower(): each for each in reversed(words)}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    if near:
        return f" (did you mean {lowered[near[0]]!r}?)"
    return f" (there is: {', '.join(words[:12])}{', …' if len(words) > 12 else ''})" if words else ""


def shown(value: object, limit: int = 60) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def whole_number(value: object) -> int:
    """An integer, or digits in a string, or a float without a fraction (JSON Schema's integer).

    :raises ValueError: anything else, booleans too
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    raise ValueError(f"should be a whole number, not {shown(value)}")


def real_number(value: object) -> float:
    """A finite number, or one written in a string.

    :raises ValueError: anything else, booleans too
    """
    number = float("nan")
    if isinstance(value, str) and _REAL.fullmatch(value.strip()):
        number = float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf")
    if number - number != 0:
        raise ValueError(f"should be a finite number, not {shown(value)}")
    return number


def walltime_seconds(value: object) -> int:
    """Seconds of a time limit: minutes as a whole number, or ``HH:MM:SS`` or ``D-HH:MM:SS`` as text.

    The two-part ``HH:MM`` is refused: schedulers disagree on whether it means minutes and seconds.

    :raises ValueError: anything else; zero and below, 10,000 days and above
    """
    match = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if match:
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    else:
        try:
            total = whole_number(value) * 60
        except ValueError:
            raise ValueError(f"should be minutes or HH:MM:SS, not {shown(value)}") from None
    if not 0 < total < _TEN_THOUSAND_DAYS:
        raise ValueError(f"should be longer than nothing and shorter than 10,000 days, not {shown(value)}")
    return total


def clock(seconds: int) -> str:
    """``HH:MM:SS``, with as many hours as it takes."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def moment(value: object) -> datetime:
    """A moment of ISO 8601, in UTC; without a time zone it is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(f"should be a time like 2030-01-31T08:00:00+01:00, not {shown(value)}") from None
    if not isinstance(value, datetime):
        raise ValueError(f"should be a time as text, not {shown(value)}")  # noqa: TRY004
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{value.isoformat()} is out of reach") from None


def upper(value: object) -> object:
    """Words of an enumeration may be written in any case."""
    return value.upper() if isinstance(value, str) else value


def lower(value: object) -> object:
    """The same, for words in lower case."""
    return value.lower() if isinstance(value, str) else value


def _duration(value: object) -> object:
    """A number of seconds, or ``HH:MM:SS``."""
    if isinstance(value, str) and _CLOCK.fullmatch(value.strip()):
        return float(walltime_seconds(value))
    return real_number(value)


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("should start with a letter or digit and hold only letters, digits, '_', '.' and '-'")
    return value


def file_name(value: str) -> str:
    """One component of a path: any characters but ``/`` and NUL, at most 255 bytes of UTF-8, no ``.`` or
    ``..``.

    :raises ValueError: it is none
    """
    if not value or value in {".", ".."} or "/" in value or "\0" in value:
        raise ValueError(f"{shown(value)} is not a file name")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{shown(value)} is not a file name: it holds half a character") from None
    if size > 255:
        raise ValueError(f"{shown(value)} is not a file name: longer than 255 bytes")
    return value


def relative_path(value: str) -> str:
    """Components as :func:`file_name` allows them, joined by ``/``: a path that stays below its start.

    :raises ValueError: absolute, empty, or with ``.`` or ``..`` in it
    """
    if value.startswith("/"):
        raise ValueError(f"{shown(value)} should be a relative path")
    for part in value.split("/"):
        file_name(part)
    return value


def argument_text(value: str) -> str:
    """Text that a command line can carry.

    :raises ValueError: it holds a NUL or half a character
    """
    if "\0" in value:
        raise ValueError("a NUL character cannot be passed to a program")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate)") from None
    return value


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, AfterValidator(argument_text)]
FileName = Annotated[str, AfterValidator(file_name)]
RelativePath = Annotated[str, AfterValidator(relative_path)]
Count = Annotated[int, BeforeValidator(whole_number), Field(ge=1)]
CountOrNone = Annotated[int, BeforeValidator(whole_number), Field(ge=0)]
Walltime = Annotated[int, BeforeValidator(walltime_seconds)]
Duration = Annotated[float, BeforeValidator(_duration), Field(ge=0)]
Moment = Annotated[datetime, BeforeValidator(moment)]


class Model(BaseModel):
    """Base of the models: frozen, no unknown fields; null and ``""`` mean the default, where there is one."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        optional = {
            name for key, field in cls.model_fields.items() if not field.is_required() for name in (key, field.alias)
        }
        return {key: value for key, value in data.items() if not ((value is None or value == "") and key in optional)}
