"""What an Airflow Connection says about a mail server. Over a real server: ``tests/integration``."""

from __future__ import annotations

import json
import ssl
from typing import Any

import pytest
from airflow.models import Connection

from airavata_provider.errors import ConfigurationError
from airavata_provider.monitors.mail.imap import Account


def account(extra: dict[str, Any] | None = None, **values: Any) -> Account:
    whole = {"host": "imap.test", "login": "me", "password": "secret", **values}
    return Account.of(Connection(conn_id="box", conn_type="imap", extra=json.dumps(extra or {}), **whole))


def test_defaults_are_safe() -> None:
    found = account()
    assert (found.port, found.use_ssl, found.check_certificate) == (993, True, True)
    context = found.context()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert "secret" not in repr(found)


@pytest.mark.parametrize("word", [False, "false", "False", "0"])
def test_without_tls(word: Any) -> None:
    found = account({"use_ssl": word})
    assert (found.port, found.context()) == (143, None)
    assert account({"use_ssl": word}, port=10143).port == 10143


def test_any_certificate() -> None:
    context = account({"ssl_context": "none"}).context()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize("missing", ["host", "login", "password"])
def test_what_is_missing_is_told(missing: str) -> None:
    with pytest.raises(ConfigurationError, match="box"):
        account(**{missing: None})


def test_another_extra_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ssl_context"):
        account({"ssl_context": "maybe"})
