"""Airflow itself starts with this provider installed: every component is healthy, the provider is listed."""

from __future__ import annotations

from pathlib import Path

from tests.airflow_instance import AirflowInstance, processes_of


def test_airflow_starts_lists_the_provider_and_stops(tmp_path: Path) -> None:
    with AirflowInstance(tmp_path / "airflow", patterns=False) as airflow:
        providers = airflow.api("GET", "/providers", params={"limit": 200})["providers"]
        assert "airflow-provider-airavata" in {provider["package_name"] for provider in providers}
        assert airflow.import_errors() == []
        airflow.restart("triggerer")
        airflow.wait_healthy()
        assert all(seconds > 0 for seconds in airflow.cpu_seconds().values())
    assert list(processes_of(airflow.home)) == []
