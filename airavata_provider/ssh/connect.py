"""One SSH connection to a target: asyncssh's options made from it, and asyncssh's errors made ours.

Only what a :class:`~airavata_provider.ssh.target.Target` names is used: ``~/.ssh/config`` is not read, and
keys in ``~/.ssh`` or in an agent only when the target asks for them. Must not import the pool."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import asyncssh

from airavata_provider.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ConnectFailed,
    HostKeyRejected,
    SSHError,
)
from airavata_provider.ssh.target import Target

# It logs every command and session at INFO, into the log of whichever task runs.
asyncssh.set_log_level("WARNING")

DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


async def connect(target: Target, tunnel: asyncssh.SSHClientConnection | None) -> asyncssh.SSHClientConnection:
    """Make one connection: one attempt, bounded by the target's ``connect_timeout_s``.

    :param tunnel: connection to the target's jump host, None to connect directly
    :raises ConnectFailed: refused, dropped, not resolved, too slow
    :raises AuthenticationFailed: the host accepts none of the target's credentials
    :raises HostKeyRejected: not the host that we know
    :raises ConfigurationError: a key, a certificate or known_hosts cannot be read
    """
    limits = target.limits
    keys = await asyncio.to_thread(_load_keys, target)
    with translated(target.name), _configured(target):
        known = _known_hosts(target)
        async with asyncio.timeout(limits.connect_timeout_s), AsyncExitStack() as stack:
            if target.agent and (socket := os.environ.get("SSH_AUTH_SOCK")):
                agent = asyncssh.SSHAgentClient(socket)
                stack.push_async_callback(agent.wait_closed)
                stack.callback(agent.close)
                keys = [*keys, *(await agent.get_keys())]
            return await asyncssh.connect(
                target.host,
                target.port,
                tunnel=tunnel or (),
                config=None,
                username=target.user,
                password=target.password,
                client_keys=keys or None,
                agent_path=None,
                known_hosts=known,
                gss_auth=False,
                gss_kex=False,
                keepalive_interval=limits.keepalive_s,
                keepalive_count_max=3,
                login_timeout=limits.connect_timeout_s,
                compression_algs=None,
                # One call of the library a packet instead of three; as good as what goes first else.
                encryption_algs="^aes256-gcm@openssh.com,aes128-gcm@openssh.com",
            )
    raise AssertionError("translated() lets nothing pass")  # pragma: no cover


@contextmanager
def translated(where: str, *, started: bool = False) -> Iterator[None]:
    """Turn asyncssh's and the socket's errors into ours.

    :param started: whether a remote command may have run by now; becomes the error's ``started``
    """
    try:
        yield
    except SSHError:
        raise
    except asyncssh.PermissionDenied as error:
        raise AuthenticationFailed(
            "does not accept our credentials",
            where=where,
            advice="check the Connection's user, key or password",
        ) from error
    except asyncssh.HostKeyNotVerifiable as error:
        raise HostKeyRejected(
            f"its host key is not one that is trusted here ({error.reason})",
            where=where,
            advice="if the host is genuine, put its key into the Connection's host_key or into known_hosts",
        ) from error
    except asyncssh.KeyExchangeFailed as error:
        # With a known host key, only algorithms of that key's type are offered, so a host with a key of
        # another type alone ends here.
        raise HostKeyRejected(
            f"no common way to exchange keys ({error.reason})",
            where=where,
            advice="the host may have a host key of another type than the one known here",
        ) from error
    except TimeoutError as error:
        raise _failed("gave no answer in time", where, started) from error
    except (asyncssh.Error, OSError) as error:
        raise _failed(str(error) or type(error).__name__, where, started) from error


@contextmanager
def _configured(target: Target) -> Iterator[None]:
    """What asyncssh refuses to parse (a host key, a line of known_hosts) is the deployment's fault."""
    try:
        yield
    except ValueError as error:
        raise ConfigurationError(str(error), where=target.label or target.name) from error


def _failed(message: str, where: str, started: bool) -> ConnectFailed:
    error = ConnectFailed(message, where=where)
    error.started = started
    return error


def _known_hosts(target: Target) -> object:
    """asyncssh's ``known_hosts``: None trusts anybody; a triple has trusted keys, CA keys, revoked keys."""
    if not target.check_host_key:
        return None
    if target.host_keys:
        return ([asyncssh.import_public_key(key) for key in target.host_keys], [], [])
    path = Path(target.known_hosts or "~/.ssh/known_hosts").expanduser()
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        if target.known_hosts is None:
            return ([], [], [])
        raise ConfigurationError(f"known_hosts {path} does not exist", where=target.label or target.name) from error
    except OSError as error:
        raise ConfigurationError(
            f"known_hosts {path} cannot be read: {error.strerror}", where=target.label or target.name
        ) from error


def _load_keys(target: Target) -> list[asyncssh.SSHKeyPair]:
    """The target's own keys, with their certificates. Slow where it derives a key from a passphrase."""
    where = target.label or target.name
    certificates: list[object] = []
    loaded: list[asyncssh.SSHKeyPair] = []
    try:
        if target.certificate:
            certificates.append(asyncssh.import_certificate(target.certificate))
        if target.certificate_file:
            certificates.append(str(Path(target.certificate_file).expanduser()))
        if target.private_key:
            loaded += _load(target, asyncssh.import_private_key, target.private_key, certificates)
        if target.private_key_file:
            path = str(Path(target.private_key_file).expanduser())
            loaded += _load(target, None, path, certificates)
    except asyncssh.KeyEncryptionError as error:
        raise ConfigurationError("the key's passphrase is wrong", where=where) from error
    except asyncssh.KeyImportError as error:
        raise ConfigurationError(f"a key or certificate cannot be read: {error}", where=where) from error
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read: {error.strerror}", where=where) from error
    if target.look_for_keys:
        for default in (Path("~/.ssh").expanduser() / name for name in DEFAULT_KEYS):
            try:
                loaded += asyncssh.load_keypairs(str(default))
            except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
                continue  # a default key that is absent or locked is no fault
    return loaded


def _load(
    target: Target,
    parse: Callable[[str, str | None], asyncssh.SSHKey] | None,
    source: str,
    certificates: list[object],
) -> list[asyncssh.SSHKeyPair]:
    """Load one key; its passphrase is the target's, else its password, as OpenSSH users expect of Airflow."""
    passphrase = target.passphrase or target.password
    key: asyncssh.SSHKey | str = parse(source, passphrase) if parse else source
    return list(asyncssh.load_keypairs([key], passphrase, certificates))  # type: ignore[arg-type]
