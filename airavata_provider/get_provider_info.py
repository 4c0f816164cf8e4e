"""What Airflow asks an installed provider for: names of things, none of which is imported here.

Loaded while Airflow's configuration is being read: nothing but the standard library, this package's own
version and ``settings``.
"""

from __future__ import annotations

from typing import Any

from airavata_provider import __version__
from airavata_provider.settings import config_section

PACKAGE = "airflow-provider-airavata"
CONNECTION_TYPE = "airavata_ssh"
"""Our connection type; Airflow's own ``ssh`` is read the same way (see ``ssh.target``)."""

_INTEGRATION = "Apache Airavata"


def get_provider_info() -> dict[str, Any]:
    """This provider, in the shape of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": PACKAGE,
        "name": "Airavata",
        "description": (
            "Scientific computing jobs on the world's clusters, over SSH and batch schedulers: experiments "
            "as DAG runs, execution patterns as DAGs."
        ),
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://airavata.apache.org/",
                "tags": ["science", "service"],
            }
        ],
        "operators": _modules("airavata_provider.operators"),
        "sensors": _modules("airavata_provider.sensors"),
        "triggers": _modules("airavata_provider.triggers"),
        "hooks": _modules("airavata_provider.connection"),
        "bundles": _modules("dag_factories.bundle"),
        "connection-types": [_connection_type()],
        "plugins": [
            {"name": "airavata", "plugin-class": "airavata_provider.plugin.AiravataPlugin"},
        ],
        "cli": ["airavata_provider.cli.get_airavata_cli_commands"],
        "db-managers": ["airavata_provider.jobs.db_manager.AiravataDBManager"],
        "config": {"airavata": config_section()},
    }


def _modules(*names: str) -> list[dict[str, Any]]:
    return [{"integration-name": _INTEGRATION, "python-modules": list(names)}]


def _connection_type() -> dict[str, Any]:
    return {
        "connection-type": CONNECTION_TYPE,
        "hook-class-name": "airavata_provider.connection.SSHConnectionHook",
        "hook-name": "SSH (Airavata)",
        "ui-field-behaviour": {
            "hidden-fields": ["schema"],
            "relabeling": {"login": "User"},
            "placeholders": {"host": "login.cluster.example.org", "port": "22"},
        },
        "conn-fields": {
            # A password field would drop the key's line ends; Airflow masks an extra of this name by itself.
            "private_key": _field("Private key", "The key itself, PEM or OpenSSH form.", form="multiline"),
            "private_key_passphrase": _field("Key's passphrase", "Where the key has one.", form="password"),
            "key_file": _field("Key file", "Path of a private key on the machines that Airflow runs on."),
            "certificate": _field("Certificate", "Text of an OpenSSH certificate that belongs to the key."),
            "certificate_file": _field(
                "Certificate file", "Path of one, instead, on the machines that Airflow runs on."
            ),
            "agent": _field("Use the SSH agent", "Offer the keys of the agent at SSH_AUTH_SOCK.", kind="boolean"),
            "look_for_keys": _field("Look for keys", "Offer the keys in ~/.ssh, too.", kind="boolean"),
            "jump_host": _field(
                "Jump host",
                "The host to go through: user@host, or a connection's id; that connection may name another.",
            ),
            "host_key": _field("Host key", "The host's public key: type and base64, as in known_hosts."),
            "known_hosts": _field(
                "Known hosts", "Path of a known_hosts file. Without it and a host key: the user's own."
            ),
            "no_host_key_check": _field(
                "Do not check the host's key",
                "Lets anybody between here and the host pose as it. For tests only.",
                kind="boolean",
            ),
            "conn_timeout": _field(
                "Time to connect",
                "Seconds for one attempt. Without it: the resource's connect_timeout.",
                kind="number",
            ),
            "keepalive_interval": _field(
                "Signs of life", "Seconds between them on a quiet connection. Default: 30.", kind="number"
            ),
        },
    }


def _field(
    label: str,
    description: str,
    *,
    kind: str = "string",
    form: str | None = None,
) -> dict[str, Any]:
    """One field of the connection form, kept in the connection's extras."""
    schema: dict[str, Any] = {"type": [kind, "null"]}
    if form is not None:
        schema["format"] = form
    return {"label": label, "description": description, "schema": schema}
