from __future__ import annotations

from tests.unit.ssh.conftest import pool, server

__all__ = ["pool", "server"]
