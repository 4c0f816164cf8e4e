from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.jobs.admitter_contract import AdmitterContract


class TestSQLite(AdmitterContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/airavata.db"
