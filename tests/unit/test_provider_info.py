"""What Airflow is told about the provider: it fits Airflow's schema, what it names exists, and it loads fast."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import airflow
import pytest

from airavata_provider import __version__
from airavata_provider.connection import SSHConnectionHook
from airavata_provider.get_provider_info import CONNECTION_TYPE, PACKAGE, get_provider_info

jsonschema: Any = import_module("jsonschema")  # comes with Airflow, without types


def test_it_fits_airflows_schema() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_connection_type_fits_the_schema_of_providers() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider.yaml.schema.json").read_text())
    part = schema["properties"]["connection-types"]
    jsonschema.validate(get_provider_info()["connection-types"], part)


def test_name_and_version_are_the_distributions() -> None:
    assert metadata.version(PACKAGE) == __version__ == get_provider_info()["versions"][0]


def named_things() -> list[str]:
    info = get_provider_info()
    modules = [
        module
        for key in ("operators", "sensors", "triggers", "hooks", "bundles")
        for group in info[key]
        for module in group["python-modules"]
    ]
    classes = [*info["cli"], *info["db-managers"], info["plugins"][0]["plugin-class"]]
    return [*modules, *classes, info["connection-types"][0]["hook-class-name"]]


@pytest.mark.parametrize("name", named_things())
def test_what_it_names_exists(name: str) -> None:
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        module, _, attribute = name.rpartition(".")
        if error.name != name:
            raise
        assert hasattr(import_module(module), attribute)


def test_it_loads_neither_airflow_nor_anything_heavy() -> None:
    code = (
        "import sys; from airavata_provider.get_provider_info import get_provider_info; get_provider_info();"
        "heavy = {'airflow', 'pydantic', 'asyncssh', 'sqlalchemy', 'fastapi', 'yaml', 'jinja2'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.slow
def test_the_plugin_and_the_cli_load_no_web_and_no_ssh() -> None:
    code = (
        "import sys; import airflow.plugins_manager, airflow.cli.cli_config; before = set(sys.modules);"
        "import airavata_provider.plugin, airavata_provider.cli;"
        "assert 'airavata_provider.operators' not in sys.modules;"
        "assert airavata_provider.plugin.AiravataPlugin.operator_extra_links;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "heavy = {'asyncssh', 'fastapi', 'aiosqlite'} & new; assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, stderr=subprocess.DEVNULL)


def test_the_connection_form_hides_what_is_secret() -> None:
    fields: dict[str, Any] = get_provider_info()["connection-types"][0]["conn-fields"]
    assert fields["private_key_passphrase"]["schema"]["format"] == "password"


def test_the_hook_is_the_connection_types() -> None:
    assert SSHConnectionHook.conn_type == CONNECTION_TYPE
    assert SSHConnectionHook().airavata_conn_id == "airavata_default"
