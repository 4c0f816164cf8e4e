"""What this provider adds to Airflow's components: an API beside Airflow's, a door before its triggering, a
listener.

Airflow loads providers' plugins only when ``[core] lazy_discover_providers`` is off; the plugin is therefore
an entry point, too, which is always loaded, in every component. So only the listener is imported at once; the
web parts are when the API server asks for them.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airavata_provider.plugin import listener


class _WebApps:
    """Imported when they are asked for."""

    def __get__(self, instance: object, owner: type) -> list[dict[str, Any]]:
        from airavata_provider.plugin.api import app

        return [{"name": "Airavata", "app": app, "url_prefix": "/airavata"}]


class _WebMiddlewares:
    """Imported when they are asked for."""

    def __get__(self, instance: object, owner: type) -> list[dict[str, Any]]:
        from airavata_provider.plugin.door import ExperimentDoor

        return [{"name": "Airavata's door", "middleware": ExperimentDoor}]


class AiravataPlugin(AirflowPlugin):
    """Mounted at ``/airavata`` in the API server."""

    name = "airavata"
    fastapi_apps = _WebApps()
    fastapi_root_middlewares = _WebMiddlewares()
    listeners = [listener]  # noqa: RUF012 - Airflow's own spelling
