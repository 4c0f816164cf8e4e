from __future__ import annotations

import pytest

from tests.unit.jobs.admitter_contract import AdmitterContract


class TestPostgreSQL(AdmitterContract):
    @pytest.fixture
    def url(self, postgres_db: str) -> str:
        return postgres_db
