"""Who is let in, and whom we trust: over the embedded server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from airavata_provider.errors import AuthenticationFailed, ConfigurationError, HostKeyRejected
from airavata_provider.ssh.breaker import BreakerPolicy
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Target
from airavata_provider.testing import EmbeddedSSH

pytestmark = pytest.mark.slow


@pytest.fixture
def authority() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
async def server(tmp_path: Path, authority: asyncssh.SSHKey) -> AsyncIterator[EmbeddedSSH]:
    trusted = "cert-authority " + authority.export_public_key().decode()
    async with EmbeddedSSH(tmp_path / "state", tmp_path / "home", password="open sesame", trusted=trusted) as server:
        yield server


async def lets_in(pool: SSHPool, target: Target) -> bool:
    return (await pool.host(target).run("echo in")).stdout == "in\n"


async def test_a_key_file_and_a_keys_text(server: EmbeddedSSH, pool: SSHPool) -> None:
    assert await lets_in(pool, server.target())
    assert await lets_in(pool, server.target(private_key_file=None, private_key=server.key.read_text()))


async def test_a_password(server: EmbeddedSSH, pool: SSHPool) -> None:
    target = server.target(private_key_file=None, password="open sesame")
    assert await lets_in(pool, target)
    with pytest.raises(AuthenticationFailed):
        await lets_in(pool, replace(target, password="open poppy"))


@pytest.mark.parametrize("field", ["passphrase", "password"])
async def test_a_key_with_a_passphrase(server: EmbeddedSSH, pool: SSHPool, tmp_path: Path, field: str) -> None:
    locked = asyncssh.read_private_key(server.key).export_private_key("pkcs8-pem", "hush").decode()
    as_text = server.target(private_key_file=None, private_key=locked)
    assert await lets_in(pool, server.target(private_key_file=None, private_key=locked, **{field: "hush"}))
    file = tmp_path / "locked"
    file.write_text(locked)
    as_file = server.target(private_key_file=str(file))
    assert await lets_in(pool, server.target(private_key_file=str(file), **{field: "hush"}))
    for target in (as_text, as_file):
        with pytest.raises(ConfigurationError):
            await lets_in(pool, target)
        with pytest.raises(ConfigurationError):
            await lets_in(pool, replace(target, passphrase="loud"))


async def test_a_certificate(server: EmbeddedSSH, pool: SSHPool, tmp_path: Path, authority: asyncssh.SSHKey) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    key_text = key.export_private_key().decode()
    target = server.target(private_key_file=None, private_key=key_text)
    certificate = authority.generate_user_certificate(key, "ada", principals=[target.user])
    text = certificate.export_certificate().decode()
    with pytest.raises(AuthenticationFailed):
        await lets_in(pool, target)
    assert await lets_in(pool, replace(target, certificate=text))
    file, key_file = tmp_path / "k-cert.pub", tmp_path / "k"
    file.write_text(text)
    key_file.write_text(key_text)
    assert await lets_in(pool, replace(target, certificate_file=str(file)))
    assert await lets_in(pool, replace(target, private_key=None, private_key_file=str(key_file)))


async def test_an_unknown_key_is_refused_and_the_host_not_asked_again(server: EmbeddedSSH, tmp_path: Path) -> None:
    pool = SSHPool(BreakerPolicy(pause_s=1000, longest_pause_s=1000))
    target = server.target(private_key=asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode())
    target = replace(target, private_key_file=None)
    for _ in range(5):
        with pytest.raises(AuthenticationFailed, match="does not accept our credentials"):
            await lets_in(pool, target)
    assert server.counts.connections == 1
    await pool.close()


async def test_host_keys(server: EmbeddedSSH, pool: SSHPool, tmp_path: Path) -> None:
    genuine = " ".join(server.known_hosts.read_text().split()[1:3])
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    rsa = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode().strip()
    empty = tmp_path / "empty"
    empty.touch()
    nowhere = replace(server.target(), known_hosts=str(empty))
    assert await lets_in(pool, replace(nowhere, host_keys=(genuine,)))
    assert await lets_in(pool, replace(nowhere, host_keys=(other, genuine)))
    assert await lets_in(pool, replace(nowhere, check_host_key=False))
    for target in (nowhere, replace(server.target(), host_keys=(other,)), replace(nowhere, host_keys=(rsa,))):
        with pytest.raises(HostKeyRejected):
            await lets_in(pool, target)


async def test_without_known_hosts_nobody_is_trusted(
    server: EmbeddedSSH, pool: SSHPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    with pytest.raises(HostKeyRejected):
        await lets_in(pool, server.target(known_hosts=None))
    (tmp_path / "nobody" / ".ssh").mkdir(parents=True)
    (tmp_path / "nobody" / ".ssh" / "known_hosts").write_text(server.known_hosts.read_text())
    assert await lets_in(pool, server.target(known_hosts=None, label="again", look_for_keys=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"known_hosts": "/no/such/file"},
        {"private_key_file": "/no/such/file"},
        {"private_key_file": "/etc/passwd"},
        {"private_key_file": None, "private_key": "-----BEGIN GARBAGE-----"},
        {"certificate": "ssh-ed25519-cert-v01@openssh.com AAAA"},
        {"host_keys": ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA",)},
    ],
)
async def test_what_cannot_be_read_is_the_deployments_fault(
    server: EmbeddedSSH, pool: SSHPool, changes: dict[str, object]
) -> None:
    with pytest.raises(ConfigurationError):
        await lets_in(pool, server.target(**changes))
    assert server.counts.connections <= 1


async def test_through_jump_hosts(server: EmbeddedSSH, pool: SSHPool, tmp_path: Path) -> None:
    async with EmbeddedSSH(tmp_path / "s2", tmp_path / "h2") as far:
        assert await lets_in(pool, far.target(jump=server.target()))
        assert (server.counts.connections, far.counts.connections) == (1, 1)
        await server.drop_connections()
        assert await lets_in(pool, far.target(jump=server.target()))
        assert (server.counts.connections, far.counts.connections) == (2, 2)
