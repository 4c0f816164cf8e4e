"""Small requests for the tests of adaptors."""

from __future__ import annotations

from airavata_provider.schedulers.request import Array, Element, JobRequest


def request(**fields: object) -> JobRequest:
    """A job that asks for nothing else."""
    return JobRequest(**{"name": "ajob", "directory": "/s/d", "executable": "x", **fields})  # type: ignore[arg-type]


def array(*indices: int, throttle: int | None = None) -> Array:
    """An array with these indices."""
    return Array(tuple(Element(index, f"/s/d/{index}") for index in indices), throttle)
