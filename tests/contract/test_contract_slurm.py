"""SLURM keeps the contract; on a real one in ``tests/integration/test_submission_slurm.py``."""

from __future__ import annotations

from airavata_provider.schedulers.slurm import Slurm
from tests.contract.suite import PureContract


class TestSlurm(PureContract):
    """The pure half."""

    adaptor = Slurm()
