from __future__ import annotations

from tests.unit.ssh.conftest import network, pool, server

__all__ = ["network", "pool", "server"]
