"""Airflow itself starts with this provider installed: every component is healthy, and Airflow shows what the provider
brings.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from airflow.cli.cli_config import GroupCommand

from airavata_provider.cli import get_airavata_cli_commands
from airavata_provider.get_provider_info import CONNECTION_TYPE, PACKAGE, get_provider_info
from tests.airflow_instance import AirflowInstance, processes_of


def test_airflow_starts_shows_the_provider_and_stops(tmp_path: Path) -> None:
    with AirflowInstance(tmp_path / "airflow", patterns=False) as airflow, ThreadPoolExecutor() as beside:
        commands = beside.submit(airflow.cli, "airavata", "--help")
        config = beside.submit(airflow.cli, "config", "list", "--section", "airavata", "--defaults")
        providers = airflow.api("GET", "/providers", params={"limit": 200})["providers"]
        assert PACKAGE in {provider["package_name"] for provider in providers}
        assert airflow.import_errors() == []
        (plugin,) = named(airflow.api("GET", "/plugins")["plugins"], name="airavata")
        assert [app["url_prefix"] for app in plugin["fastapi_apps"]] == ["/airavata"]
        assert (len(plugin["fastapi_root_middlewares"]), len(plugin["operator_extra_links"])) == (2, 1)
        forms = airflow.client.get("/ui/connections/hook_meta").raise_for_status().json()
        (form,) = named(forms, connection_type=CONNECTION_TYPE)
        (told,) = get_provider_info()["connection-types"]
        assert set(form["extra_fields"]) == set(told["conn-fields"])
        (group,) = get_airavata_cli_commands()
        assert isinstance(group, GroupCommand)
        assert {command.name for command in group.subcommands} <= set(commands.result().stdout.split())
        options = set(re.findall(r"^# (\w+) =", config.result().stdout, re.MULTILINE))
        assert options == set(get_provider_info()["config"]["airavata"]["options"])
        airflow.restart("triggerer")
        airflow.wait_healthy()
        airflow.wait("all work", lambda: all(each > 0 for each in airflow.cpu_seconds().values()), timeout=60)
    assert list(processes_of(airflow.home)) == []


def named(entries: list[dict[str, Any]], **wanted: str) -> list[dict[str, Any]]:
    """Those of which these fields have these values."""
    return [entry for entry in entries if wanted.items() <= entry.items()]
