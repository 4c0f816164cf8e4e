"""Keeps the reconciler and the monitors running in exactly one triggerer, by Airflow's own means.

The watcher of an asset is a trigger that Airflow keeps alive for as long as the DAG that names the asset is
active, and moves to another triggerer when one dies. It ends no task and fires no event: cancellations go on
being repeated, jobs being polled and mailboxes being read when nothing waits for them, after a restart too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

CLASSPATH = "airavata_provider.triggers.keeper.ReconcilerTrigger"
PAUSE_S = 10.0

_LOG = logging.getLogger(__name__)


class ReconcilerTrigger(BaseEventTrigger):
    """Runs for ever and sees to it that a reconciler and every installed monitor do too."""

    def __init__(self, **unknown: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unknown = unknown

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path; there are no fields."""
        return CLASSPATH, {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Never yields. When it is cancelled, the monitors go with it: it runs elsewhere by then."""
        from airavata_provider.monitors.keeper import stop_keeper

        try:
            while True:
                try:
                    from airavata_provider.triggers.services import get_services

                    services = get_services()
                    await services.watch()
                    services.keep_monitors()
                except Exception:
                    _LOG.exception("Reconciler or monitors cannot be started; trying again in %g s", PAUSE_S)
                await asyncio.sleep(PAUSE_S)
        finally:
            await stop_keeper()
        yield TriggerEvent(None)  # makes this an asynchronous generator, as Airflow expects
