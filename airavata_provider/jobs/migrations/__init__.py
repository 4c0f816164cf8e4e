"""Alembic migrations of the job store's tables; ``versions`` holds one file per revision."""

from __future__ import annotations

VERSION_TABLE = "alembic_version_airavata"
