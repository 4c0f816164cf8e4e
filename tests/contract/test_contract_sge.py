"""Grid Engine keeps the contract; on a real one in ``tests/integration/test_submission_gridengine.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from airavata_provider.schedulers.sge import Sge
from tests.contract.suite import PureContract


class TestSge(PureContract):
    """The pure half."""

    adaptor = Sge()
    plain: ClassVar[Mapping[str, str]] = {"reservation": "12"}
