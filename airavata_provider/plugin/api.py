"""The application at ``/airavata`` in Airflow's API server.

Airflow guards nothing of a plugin's application: every route here names who may call it, Airflow's users
through Airflow's own dependencies, job scripts through their token.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from airavata_provider import __version__
from airavata_provider.plugin import experiments, listener, webhook


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hear of what is marked failed, and start second runs, while the server runs; close the job store with it."""
    from airflow.listeners.listener import get_listener_manager

    from airavata_provider.jobs.store import get_store
    from airavata_provider.plugin.second_runs import second_runs

    get_listener_manager().add_listener(listener)  # type: ignore[no-untyped-call]
    async with second_runs(get_store()):
        yield
    await get_store().close()


app = FastAPI(title="Airavata", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
app.include_router(webhook.router)
app.include_router(experiments.router)
