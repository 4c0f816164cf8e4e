"""Where to connect, as whom, and how far to trust the answer: read from an Airflow Connection of type
``ssh``.

The extras of a Connection that are read here; names that ``apache-airflow-providers-ssh`` has too mean the
same:

========================== ==================================================================================
extra                      meaning
========================== ==================================================================================
``private_key``            text of a private key (OpenSSH or PEM)
``key_file``               path of a private key; not together with ``private_key``
``private_key_passphrase`` passphrase of that key (``passphrase`` is read too); else the password is tried
``certificate``            text of an OpenSSH user certificate (``…-cert.pub``) that belongs to that key
``certificate_file``       path of one; not together with ``certificate``
``agent``                  ``true``: keys of the agent at ``SSH_AUTH_SOCK`` too; default: only if neither key
                           nor password is given
``look_for_keys``          ``true``: the keys in ``~/.ssh`` too; default: as for ``agent``
``host_key``               the host's public key, ``ssh-ed25519 AAAA…`` or the bare base64; several: one a
                           line
``known_hosts``            path of a known_hosts file (``@cert-authority`` lines count); default
                           ``~/.ssh/known_hosts``
``no_host_key_check``      ``true``: any host key will do. Only for hosts on a network that nobody else is on
``jump_host``              hosts to pass through, the nearest first, separated by commas:
                           ``user@host[:port]``, or the id of another ``ssh`` Connection (whose own
                           ``jump_host`` then counts too)
``conn_timeout``           seconds for one attempt to connect; default: the compute resource's, else 15
``keepalive_interval``     seconds between signs of life on a quiet connection, default 30
========================== ==================================================================================

A jump host written as ``user@host`` is given this Connection's keys and known hosts, never its password or
its ``host_key``. ``host_proxy_cmd`` is refused: it would start a process per connection.

Secrets are not part of a target's text. This module imports neither Airflow nor asyncssh and does no I/O.
"""

from __future__ import annotations

import base64
import getpass
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from airavata_provider.errors import ConfigurationError

if TYPE_CHECKING:
    from airavata_provider.models.resource import Reachable


VIA = " to "
"""Between the accounts of a chain of jump hosts."""


class ConnectionLike(Protocol):
    """The part of an Airflow Connection that is read here."""

    @property
    def conn_id(self) -> Any: ...
    @property
    def host(self) -> str | None: ...
    @property
    def port(self) -> int | None: ...
    @property
    def login(self) -> str | None: ...
    @property
    def password(self) -> str | None: ...
    @property
    def extra_dejson(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Limits:
    """How gently a host is used.

    :param max_connections: connections at a time
    :param sessions_per_connection: commands in flight on one connection, the shared SFTP session counted
    :param connects_per_minute: attempts to connect in any 60 s
    :param connect_timeout_s: for one attempt: TCP, key exchange, log-in
    :param patience_s: how long a caller waits for a host that cannot be reached before it is told
    :param keepalive_s: between signs of life on a quiet connection; three unanswered ones end it
    :param idle_s: a connection that nobody used for so long is closed
    """

    max_connections: int = 2
    sessions_per_connection: int = 4
    connects_per_minute: int = 30
    connect_timeout_s: float = 15.0
    patience_s: float = 45.0
    keepalive_s: float = 30.0
    idle_s: float = 300.0

    @classmethod
    def of(cls, resource: Reachable) -> Limits:
        """Those that a compute or storage resource sets."""
        return cls(
            max_connections=resource.max_connections,
            sessions_per_connection=resource.sessions_per_connection,
            connects_per_minute=resource.connects_per_minute,
            connect_timeout_s=resource.connect_timeout,
        )

    def __post_init__(self) -> None:
        for name in ("max_connections", "sessions_per_connection", "connects_per_minute"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Target:
    """One account on one host. Equal targets share connections; limits and label do not count there.

    :param private_key: text of the key; alternatively ``private_key_file``
    :param agent: use the keys of the agent at ``SSH_AUTH_SOCK``
    :param look_for_keys: use the keys in ``~/.ssh``
    :param jump: the host to go through
    :param host_keys: public keys (``type base64``) of which the host must show one; () asks known_hosts
    :param known_hosts: path, None for ``~/.ssh/known_hosts``
    :param check_host_key: False accepts any host
    :param label: what people call it (the Connection's id), for messages
    """

    host: str
    port: int = 22
    user: str = field(default_factory=getpass.getuser)
    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    private_key_file: str | None = None
    passphrase: str | None = field(default=None, repr=False)
    certificate: str | None = field(default=None, repr=False)
    certificate_file: str | None = None
    agent: bool = False
    look_for_keys: bool = False
    jump: Target | None = None
    host_keys: tuple[str, ...] = ()
    known_hosts: str | None = None
    check_host_key: bool = True
    limits: Limits = field(default_factory=Limits, compare=False)
    label: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """``user@host:port``, for messages."""
        return f"{self.user}@{self.host}:{self.port}"

    @property
    def account(self) -> str:
        """What limits are counted for: the same for all who log in there as this one, with whatever key.

        Who needs two at a time takes the greater one first, as text. So a host comes before its jump host, whose
        connection it needs.
        """
        return self.name if self.jump is None else f"{self.jump.account}{VIA}{self.name}"


def target_from_connection(
    connection: ConnectionLike,
    *,
    limits: Limits | None = None,
    user: str | None = None,
    find: Callable[[str], ConnectionLike] | None = None,
) -> Target:
    """The target that an Airflow Connection describes.

    :param limits: of the compute resource; the Connection's ``conn_timeout`` and ``keepalive_interval`` go in
    :param user: log in as this one instead of the Connection's
    :param find: looks up another Connection, for jump hosts named by id; see :func:`fetch_target`
    :raises ConfigurationError: something is missing, contradicts itself or cannot be read
    """
    target = _target(connection, limits or Limits(), find, ())
    return replace(target, user=user) if user else target


def jump_connections(connection: ConnectionLike) -> tuple[str, ...]:
    """Ids of the Connections that this one's ``jump_host`` names."""
    return tuple(word for word in _jump_words(connection) if "@" not in word)


async def fetch_target(
    conn_id: str,
    get: Callable[[str], Awaitable[ConnectionLike]],
    *,
    limits: Limits | None = None,
    user: str | None = None,
) -> Target:
    """Fetch a Connection and those of its jump hosts, and make the target of them.

    :param get: returns the Connection of an id; its errors come through
    """
    found: dict[str, ConnectionLike] = {}
    wanted = [conn_id]
    while wanted:
        this = wanted.pop()
        if this not in found:
            found[this] = await get(this)
            wanted += jump_connections(found[this])
    return target_from_connection(found[conn_id], limits=limits, user=user, find=found.__getitem__)


def _target(
    connection: ConnectionLike,
    limits: Limits,
    find: Callable[[str], ConnectionLike] | None,
    outer: tuple[str, ...],
) -> Target:
    conn_id = str(connection.conn_id or "")
    where = f"Connection {conn_id}"
    extra = connection.extra_dejson
    if not connection.host:
        raise ConfigurationError("names no host", where=where)
    if extra.get("host_proxy_cmd"):
        raise ConfigurationError("host_proxy_cmd is not supported", where=where, advice="use jump_host")
    for one, other in (("private_key", "key_file"), ("certificate", "certificate_file")):
        if extra.get(one) and extra.get(other):
            raise ConfigurationError(f"has both {one} and {other}", where=where, advice="give one of them")
    check = not _yes(extra, "no_host_key_check", default=False)
    keys = _text(extra, "host_key")
    if keys and not check:
        raise ConfigurationError("has a host_key and no_host_key_check", where=where, advice="drop one")
    password = connection.password or None
    own = bool(extra.get("private_key") or extra.get("key_file") or password)
    target = Target(
        host=connection.host,
        port=int(connection.port or 22),
        user=connection.login or getpass.getuser(),
        password=password,
        private_key=_text(extra, "private_key"),
        private_key_file=_text(extra, "key_file"),
        passphrase=_text(extra, "private_key_passphrase") or _text(extra, "passphrase"),
        certificate=_text(extra, "certificate"),
        certificate_file=_text(extra, "certificate_file"),
        agent=_yes(extra, "agent", default=not own),
        look_for_keys=_yes(extra, "look_for_keys", default=not own),
        host_keys=tuple(host_key(line, where) for line in (keys or "").splitlines() if line.strip()),
        known_hosts=_text(extra, "known_hosts"),
        check_host_key=check,
        limits=replace(
            limits,
            connect_timeout_s=_seconds(extra, "conn_timeout", limits.connect_timeout_s, where),
            keepalive_s=_seconds(extra, "keepalive_interval", limits.keepalive_s, where),
        ),
        label=conn_id,
    )
    return replace(target, jump=_jump(target, _jump_words(connection), limits, find, (*outer, conn_id)))


def _jump(
    target: Target,
    words: tuple[str, ...],
    limits: Limits,
    find: Callable[[str], ConnectionLike] | None,
    outer: tuple[str, ...],
) -> Target | None:
    """The chain of jump hosts: each word is reached through the words before it."""
    reached: Target | None = None
    for word in words:
        if "@" in word:
            reached = _inline_jump(word, target, reached)
        elif word in outer:
            raise ConfigurationError(
                f"jump hosts run in a circle: {' → '.join((*outer, word))}", where=f"Connection {outer[0]}"
            )
        elif find is None:
            raise ConfigurationError(
                f"jump_host names the Connection {word!r}, and no Connections can be looked up here",
                where=f"Connection {outer[-1]}",
            )
        else:
            named = _target(find(word), limits, find, outer)
            if reached is not None and named.jump is not None:
                raise ConfigurationError(
                    f"jump_host reaches {word!r} through {reached.name}, which has a jump_host of its own",
                    where=f"Connection {outer[-1]}",
                )
            reached = named if reached is None else replace(named, jump=reached)
    return reached


def _inline_jump(word: str, target: Target, reached: Target | None) -> Target:
    user, _, place = word.rpartition("@")
    host, port = place, "22"
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        port = rest.removeprefix(":") or "22"
    elif place.count(":") == 1:
        host, _, port = place.partition(":")
    if not user or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigurationError(
            f"jump_host {word!r} is not user@host or user@host:port", where=f"Connection {target.label}"
        )
    return replace(
        target, host=host, port=int(port), user=user, password=None, host_keys=(), jump=reached, label=word
    )


def _jump_words(connection: ConnectionLike) -> tuple[str, ...]:
    text = _text(connection.extra_dejson, "jump_host") or ""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def host_key(text: str, where: str = "host key") -> str:
    """A host key as ``type base64``, from that or from the bare base64.

    The key's own type counts (RFC 4253 §6.6: the blob starts with it), so a bare key may be of any type.

    :raises ConfigurationError: not a public key
    """
    words = text.split()
    bare = words[1] if len(words) > 1 else words[0] if words else ""
    try:
        blob = base64.b64decode(bare, validate=True)
        (length,) = struct.unpack_from(">I", blob)
        kind = blob[4 : 4 + length].decode("ascii")
    except (ValueError, struct.error) as error:
        raise ConfigurationError(
            f"host_key {text[:40]!r} is no public key",
            where=where,
            advice="paste what `ssh-keyscan HOST` shows",
        ) from error
    if not kind or len(blob) <= 4 + length or (len(words) > 1 and words[0] != kind):
        raise ConfigurationError(f"host_key {text[:40]!r} is no public key of the type it names", where=where)
    return f"{kind} {bare}"


def _text(extra: Mapping[str, Any], name: str) -> str | None:
    value = extra.get(name)
    return None if value is None or value == "" else str(value)


def _yes(extra: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = _text(extra, name)
    return default if value is None else value.lower() == "true"


def _seconds(extra: Mapping[str, Any], name: str, default: float, where: str) -> float:
    value = _text(extra, name)
    if value is None:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}", where=where)
    return seconds
