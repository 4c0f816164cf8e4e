"""What this provider adds to Airflow's API server: an API beside Airflow's, a door before its triggering, links of
its tasks, a listener that knows who marks what.

Airflow loads providers' plugins only when ``[core] lazy_discover_providers`` is off; the plugin is therefore
an entry point, too, which is always loaded, in every component. So its parts are imported when they are asked for:
the links by whoever reads serialized DAGs, the others by the API server.

The listener is added by the application when it starts, and not named here: a plugin with listeners makes Airflow
refuse every DAG with ``end_from_trigger=True``, also those that have nothing to do with us.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


class _WebApps:
    """Imported when they are asked for."""

    def __get__(self, instance: object, owner: type) -> list[dict[str, Any]]:
        from airavata_provider.plugin.api import app

        return [{"name": "Airavata", "app": app, "url_prefix": "/airavata"}]


class _WebMiddlewares:
    """Imported when they are asked for."""

    def __get__(self, instance: object, owner: type) -> list[dict[str, Any]]:
        from airavata_provider.plugin.callers import CallerNames
        from airavata_provider.plugin.door import ExperimentDoor

        return [
            {"name": "Airavata's door", "middleware": ExperimentDoor},
            {"name": "Airavata's callers", "middleware": CallerNames},
        ]


class _OperatorLinks:
    """Imported when they are asked for."""

    def __get__(self, instance: object, owner: type) -> list[Any]:
        from airavata_provider.plugin.links import ServedExperimentLink

        return [ServedExperimentLink()]


class AiravataPlugin(AirflowPlugin):
    """Mounted at ``/airavata`` in the API server."""

    name = "airavata"
    fastapi_apps = _WebApps()
    fastapi_root_middlewares = _WebMiddlewares()
    operator_extra_links = _OperatorLinks()
