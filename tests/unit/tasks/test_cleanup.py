"""Nothing outside the scratch directory is ever removed."""

from __future__ import annotations

import pytest

from airavata_provider.tasks.cleanup import check_removable


@pytest.mark.parametrize(
    ("directory", "scratch"),
    [
        ("/scratch", "/scratch"),
        ("/scratchy/a", "/scratch"),
        ("/scratch/../home", "/scratch"),
        ("/scratch/a/..", "/scratch"),
        ("/scratch//a", "/scratch"),
        ("/a", "/"),
        ("", "/scratch"),
        ("relative", "relative"),
    ],
)
def test_refused(directory: str, scratch: str) -> None:
    with pytest.raises(ValueError, match="refusing"):
        check_removable(directory, scratch)


def test_below_scratch() -> None:
    check_removable("/scratch/run-1", "/scratch")
    check_removable("/scratch/run-1", "/scratch/")
