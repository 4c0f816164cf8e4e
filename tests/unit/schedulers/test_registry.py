"""Adaptors by name."""

from __future__ import annotations

import pytest

from airavata_provider.errors import ConfigurationError
from airavata_provider.schedulers.fork import Fork
from airavata_provider.schedulers.registry import known_schedulers, scheduler
from airavata_provider.schedulers.slurm import Slurm


def test_installed_adaptors_are_found_by_name() -> None:
    assert isinstance(scheduler("slurm"), Slurm)
    assert isinstance(scheduler("fork"), Fork)
    assert {"slurm", "fork"} <= set(known_schedulers())


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"unknown scheduler 'lsd' \(known schedulers: .*fork.*slurm"):
        scheduler("lsd")
