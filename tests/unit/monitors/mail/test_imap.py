"""What an Airflow Connection says about a mail server. Over a real server: ``tests/integration``."""

from __future__ import annotations

import imaplib
import json
import socket
import ssl
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models import Connection

from airavata_provider.errors import ConfigurationError
from airavata_provider.models.mailbox import Mailbox
from airavata_provider.monitors.mail.imap import Account, Folder


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


def folder(**attributes: Any) -> Folder:
    made = Folder(account(), Mailbox.model_validate({"name": "box", "connection": "c"}), "INBOX")
    for name, value in attributes.items():
        setattr(made, f"_{name}", value)
    return made


def test_closing_wakes_who_reads_and_does_not_let_go_of_tls() -> None:
    ours, theirs = socket.socketpair()
    tls = ssl.create_default_context()
    with theirs, tls.wrap_socket(ours, do_handshake_on_connect=False, server_hostname="imap.test") as spoken:
        folder(socket=spoken).close()
        assert theirs.recv(1) == b""
        with pytest.raises(ssl.SSLError, match=r"(?i)shutdown while in init"):
            spoken.unwrap()  # a socket without TLS would say so


@pytest.mark.parametrize(("kept", "told"), [([], False), ([b""], False), ([b"* 1 EXISTS\r\n"], True)])
def test_what_came_with_the_servers_assent_is_in_the_librarys_buffer_since_python_3_14(
    kept: list[bytes], told: bool
) -> None:
    class Buffered(imaplib.IMAP4):
        def __init__(self) -> None:
            self._readbuf = kept

    with socket.socket() as connection:
        client = SimpleNamespace(idle=lambda: None, socket=lambda: connection, _imap=Buffered())
        assert folder(client=client)._start_idle() is told
