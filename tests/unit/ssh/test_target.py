from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.errors import ConfigurationError
from airavata_provider.ssh.target import Limits, Target, fetch_target, host_key, target_from_connection

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@dataclass
class FakeConnection:
    conn_id: str = "cluster"
    host: str | None = "login.example.org"
    port: int | None = None
    login: str | None = "ada"
    password: str | None = None
    extra_dejson: dict[str, Any] = field(default_factory=dict)


def test_a_bare_connection() -> None:
    target = target_from_connection(FakeConnection())
    assert (target.name, target.label) == ("ada@login.example.org:22", "cluster")
    assert target.agent
    assert target.look_for_keys
    assert target.check_host_key
    assert target.jump is None


def test_every_extra() -> None:
    target = target_from_connection(
        FakeConnection(
            port=2222,
            password="word",
            extra_dejson={
                "private_key": "KEYTEXT",
                "private_key_passphrase": "phrase",
                "certificate_file": "/c-cert.pub",
                "agent": "true",
                "host_key": f"{KEY}\n{KEY.split()[1]} ",
                "known_hosts": "/kh",
                "conn_timeout": 7,
                "keepalive_interval": "11",
            },
        ),
        limits=Limits(max_connections=5),
        user="grace",
    )
    assert target == Target(
        host="login.example.org",
        port=2222,
        user="grace",
        password="word",
        private_key="KEYTEXT",
        passphrase="phrase",
        certificate_file="/c-cert.pub",
        agent=True,
        look_for_keys=False,
        host_keys=(KEY, KEY),
        known_hosts="/kh",
    )
    assert target.limits == Limits(max_connections=5, connect_timeout_s=7, keepalive_s=11)


def test_secrets_are_not_in_its_text() -> None:
    target = target_from_connection(
        FakeConnection(
            password="s3cret1",
            extra_dejson={"private_key": "s3cret2", "passphrase": "s3cret3", "certificate": "s3cret4"},
        )
    )
    assert "s3cret" not in repr(target) + str(target) + target.name


@pytest.mark.parametrize(
    "connection",
    [
        FakeConnection(host=None),
        FakeConnection(extra_dejson={"private_key": "x", "key_file": "y"}),
        FakeConnection(extra_dejson={"certificate": "x", "certificate_file": "y"}),
        FakeConnection(extra_dejson={"host_key": KEY, "no_host_key_check": True}),
        FakeConnection(extra_dejson={"host_key": "ssh-rsa"}),
        FakeConnection(extra_dejson={"host_key": KEY.replace("ssh-ed25519", "ssh-rsa", 1)}),
        FakeConnection(extra_dejson={"host_proxy_cmd": "nc %h %p"}),
        FakeConnection(extra_dejson={"conn_timeout": "soon"}),
        FakeConnection(extra_dejson={"keepalive_interval": -1}),
        FakeConnection(extra_dejson={"jump_host": "ada@"}),
        FakeConnection(extra_dejson={"jump_host": "ada@gate:http"}),
        FakeConnection(extra_dejson={"jump_host": "gate"}),
    ],
)
def test_what_is_refused(connection: FakeConnection) -> None:
    with pytest.raises(ConfigurationError):
        target_from_connection(connection)


def test_inline_jump_hosts_get_the_keys_but_no_password() -> None:
    target = target_from_connection(
        FakeConnection(
            password="word",
            extra_dejson={"jump_host": "eve@near, bob@[::1]:2200", "key_file": "/k", "host_key": KEY},
        )
    )
    far = target.jump
    assert far is not None
    near = far.jump
    assert near is not None
    assert (far.user, far.host, far.port) == ("bob", "::1", 2200)
    assert (near.user, near.host, near.port, near.jump) == ("eve", "near", 22, None)
    for jump in (far, near):
        assert (jump.password, jump.host_keys, jump.private_key_file) == (None, (), "/k")


def test_jump_hosts_that_are_connections() -> None:
    book = {
        "cluster": FakeConnection(extra_dejson={"jump_host": "gate"}),
        "gate": FakeConnection("gate", "gate.example.org", extra_dejson={"jump_host": "door"}),
        "door": FakeConnection("door", "door.example.org", password="word"),
    }

    async def get(conn_id: str) -> FakeConnection:
        return book[conn_id]

    target = asyncio.run(fetch_target("cluster", get))
    assert target.jump is not None
    assert target.jump.jump is not None
    assert target.jump.host == "gate.example.org"
    assert target.jump.jump.password == "word"

    book["door"].extra_dejson["jump_host"] = "cluster"
    with pytest.raises(ConfigurationError, match="circle"):
        asyncio.run(fetch_target("cluster", get))


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        Limits(max_connections=0)


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda b: base64.b64encode(b).decode()))
def test_host_key_accepts_keys_or_refuses(text: str) -> None:
    try:
        key = host_key(text)
    except ConfigurationError:
        return
    assert host_key(key) == key


def test_reading_a_target_does_not_load_asyncssh() -> None:
    program = "import airavata_provider.ssh.target, sys; sys.exit('asyncssh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
