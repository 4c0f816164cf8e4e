"""The options of the ``[airavata]`` section: one table, read both by Airflow and by this package.

:class:`Settings` is the table. Each of its fields carries what Airflow's configuration wants to know about
the option, so that ``airflow config list`` and the code cannot disagree. Options are read like all of
Airflow's: ``airflow.cfg``, ``AIRFLOW__AIRAVATA__<OPTION>``, and for the sensitive ones ``…_CMD`` and
``…_SECRET``.

Imported while Airflow's configuration is being loaded: nothing but the standard library and ``errors`` at the
top, and Airflow itself only inside :func:`get_settings`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from airavata_provider.errors import ConfigurationError, Fault, FaultyInput

SECTION = "airavata"

T = TypeVar("T")


class SettingsError(FaultyInput, ConfigurationError):
    """Options of ``[airavata]`` that cannot be what they say."""


def _option(
    default: T,
    description: str,
    *,
    sensitive: bool = False,
    example: str | None = None,
    least: float | None = None,
    since: str = "0.1.0",
) -> T:
    """One option: its default, and what Airflow shows about it.

    :param default: the value when nobody sets it
    :param description: reStructuredText, for ``airflow config list``
    :param sensitive: hidden wherever Airflow shows its configuration, and from our own ``repr``
    :param example: shown beside the description
    :param least: smallest number that makes sense
    :param since: this package's version that first had it
    """
    metadata = {
        "description": description,
        "sensitive": sensitive,
        "example": example,
        "least": least,
        "since": since,
    }
    return dataclasses.field(default=default, repr=not sensitive, metadata=metadata)


_FOLDERS = "Several are separated by ``:`` or ``,``; a relative one is looked for below ``AIRFLOW_HOME``."


@dataclass(frozen=True)
class Settings:
    """What the deployment set, with defaults filled in; also the table of options (see the module).

    Two fields never keep an empty text: ``sql_alchemy_conn`` and ``webhook_secret`` get the defaults that
    their descriptions tell.
    """

    sql_alchemy_conn: str = _option(
        "",
        "Where jobs and their events are kept: an SQLAlchemy URL, ``sqlite:///…`` or ``postgresql://…``. A "
        "database of its own, never Airflow's. Default: the SQLite file ``airavata.db`` in ``AIRFLOW_HOME``, "
        "which every scheduler, triggerer, worker and API server has to see.",
        sensitive=True,
        example="postgresql://airavata:secret@database/airavata",
    )
    sql_alchemy_pool_size: int = _option(
        5,
        "Connections that one process keeps open to that database at most.",
        least=1,
    )
    catalog_folders: tuple[Path, ...] = _option(
        (),
        "Folders with the catalog: YAML files of compute resources, storage resources and applications. " + _FOLDERS,
        example="/opt/airavata/catalog",
    )
    patterns_folders: tuple[Path, ...] = _option(
        (),
        "Folders with execution patterns of this deployment, beside those that come with the package. " + _FOLDERS,
        example="/opt/airavata/patterns",
    )
    webhook_base_url: str = _option(
        "",
        "Where jobs on the clusters reach this deployment's API server. Empty: job scripts call nobody, and "
        "the poll alone brings news.",
        example="https://airflow.example.org",
    )
    webhook_secret: str = _option(
        "",
        "Key of the tokens that job scripts show when they call; the same for every component. Default: "
        "derived from ``[core] fernet_key``. A new key makes the tokens of running jobs invalid; the poll "
        "then follows those jobs.",
        sensitive=True,
    )
    poll_interval: float = _option(
        30.0,
        "Seconds after which a cluster is asked about a job at the latest, when nobody else brought news of it: the "
        "end of such a job is known within that time. All jobs that are due are asked about in one status call.",
        least=1,
    )
    poll_interval_min: float = _option(
        10.0,
        "The same while news is expected of a job: in its first minute, near its expected end, and when its script "
        "says that it was stopped from outside. Two status calls to one cluster are no closer than that, but for the "
        "first looks after a cancel. Never more than ``poll_interval``.",
        least=1,
    )
    poll_interval_max: float = _option(
        300.0,
        "The longest pause between two questions about a job whose own script calls, or leaves its news for the "
        "relay. Never less than ``poll_interval``.",
        least=1,
    )
    unknown_grace: float = _option(
        600.0,
        "Seconds past the time at which a job must have ended, before a job that neither the queue nor the history "
        "knows is given up as ``UNKNOWN``.",
        least=0,
    )
    unreachable_grace: float = _option(
        86400.0,
        "The same for a job whose cluster does not answer, or not in a way that makes sense.",
        least=0,
    )
    webhook_grace: float = _option(
        3600.0,
        "Seconds after a job's end for which its script is still heard; later its token is worth nothing.",
        least=0,
    )
    live_log_interval: float = _option(
        15.0,
        "Seconds between two looks at what running jobs write, for the logs of the tasks that wait for them: the "
        "command that asks a cluster about its jobs reads it too. 0: nothing is shown.",
        least=0,
    )
    watch_interval: float = _option(
        0.25,
        "Seconds between two looks at the job store by a process in which tasks wait for jobs. PostgreSQL tells of "
        "changes at once; there it counts only while that connection is down.",
        least=0.05,
    )

    placement_policy: str = _option(
        "soonest",
        "What decides where an experiment runs that may run in several places: ``soonest`` (by how things are "
        "there), ``preferred`` (by the order of the application's deployments), or one that a package adds (entry "
        "points ``airavata.placement_policies``).",
    )
    queue_load_interval: float = _option(
        60.0,
        "Seconds between two questions of one process to a cluster how full its queues are, which it is asked when "
        "an experiment may run in several places. 0: no cluster is asked.",
        least=0,
    )

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense, all at once.

        :raises SettingsError: an option is below its least value
        """
        faults = []
        for field in fields(self):
            least = field.metadata["least"]
            value = getattr(self, field.name)
            if least is not None and not value >= least:
                faults.append(Fault(f"[{SECTION}] {field.name}", f"must be at least {least}, not {value}"))
        if faults:
            raise SettingsError("the configuration cannot be used", faults)


def _parse(name: str, default: object, text: str, home: Path) -> object:
    """An option's value from its text, by the type of its default."""
    if isinstance(default, tuple):
        folders = (part.strip() for part in re.split(r"[:,]", text))
        try:
            return tuple(home / Path(folder).expanduser() for folder in folders if folder)
        except RuntimeError:
            raise SettingsError(
                "the configuration cannot be used",
                [Fault(f"[{SECTION}] {name}", f"{text!r} names the home of somebody who has none")],
            ) from None
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise SettingsError(
                "the configuration cannot be used",
                [Fault(f"[{SECTION}] {name}", f"must be {kind}, not {text!r}")],
            ) from None
    return text.strip()


def parse_settings(texts: Mapping[str, str], *, home: Path, fernet_key: str = "") -> Settings:
    """Settings from the options' texts; pure but for the secret that nobody is to know.

    :param texts: option → text; an option that is absent or empty has its default
    :param home: ``AIRFLOW_HOME``
    :param fernet_key: ``[core] fernet_key``
    :raises SettingsError: every option that cannot be what it says
    """
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for field in fields(Settings):
        text = texts.get(field.name, "").strip()
        if not text:
            continue
        try:
            values[field.name] = _parse(field.name, field.default, text, home)
        except SettingsError as error:
            faults.extend(error.faults)
    if faults:
        raise SettingsError("the configuration cannot be used", faults)
    values.setdefault("sql_alchemy_conn", f"sqlite:///{home / 'airavata.db'}")
    values["webhook_base_url"] = values.get("webhook_base_url", "").rstrip("/")
    if "webhook_secret" not in values:
        values["webhook_secret"] = _derived_secret(fernet_key, needed=bool(values["webhook_base_url"]))
    return Settings(**values)


def _derived_secret(fernet_key: str, *, needed: bool) -> str:
    """The webhook's key where the deployment names none.

    Without a Fernet key nothing is common to all components and yet secret: then webhooks cannot be used, and
    a throw-away value makes sure that no token is ever good.

    :raises SettingsError: webhooks are wanted and there is nothing to derive a key from
    """
    if fernet_key:
        return hmac.new(fernet_key.encode(), b"airavata webhook", hashlib.sha256).hexdigest()
    if needed:
        raise SettingsError(
            "the configuration cannot be used",
            [
                Fault(
                    f"[{SECTION}] webhook_secret",
                    "must be set, because webhook_base_url is and [core] fernet_key is not",
                )
            ],
        )
    return secrets.token_hex(32)


@functools.cache
def get_settings() -> Settings:
    """This process' settings, read once from Airflow's configuration; ``get_settings.cache_clear()`` forgets.

    :raises SettingsError: every option that cannot be what it says
    """
    from airflow.configuration import AIRFLOW_HOME, conf

    texts = {field.name: conf.get(SECTION, field.name, fallback="") or "" for field in fields(Settings)}
    return parse_settings(
        texts,
        home=Path(AIRFLOW_HOME),
        fernet_key=conf.get("core", "fernet_key", fallback="") or "",
    )


def config_section() -> dict[str, Any]:
    """The section as ``get_provider_info``'s ``config`` wants it."""
    types = {str: "string", int: "integer", float: "float", tuple: "string"}
    options: dict[str, Any] = {}
    for field in fields(Settings):
        default = field.default
        options[field.name] = {
            "description": field.metadata["description"] + "\n",
            "version_added": field.metadata["since"],
            "type": types[type(default)],
            "example": field.metadata["example"],
            # Airflow takes defaults as text; an empty one means what the description says.
            "default": "" if isinstance(default, tuple) else str(default),
            "sensitive": field.metadata["sensitive"],
        }
    description = "How experiments become jobs on clusters, and how news of them comes back."
    return {"description": description, "options": options}
