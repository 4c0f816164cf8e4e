"""A message as it lies in a mailbox, read: subject and body as text, who sent it, when, and who vouches for that.

:func:`read` takes whatever bytes there are and raises nothing: what cannot be understood is empty, and bytes that are
in no charset become replacement characters. RFC 5322, 2045 to 2047, 8601. Pure; no Airflow.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from email.utils import getaddresses, parsedate_to_datetime

BODY_LIMIT = 64 * 1024
"""Bytes of a message that are looked at: a scheduler says what it has to say at the beginning, LSF after the job's
script."""

_LONGEST_WAY = timedelta(days=5)
"""A message that took longer from the sender's clock to the mailbox has a clock that is wrong."""

_SUBJECT = re.compile(rb"^subject:[ \t]*(.*(?:\r?\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)
_TAG = re.compile(r"<[^<>]*>")
_BREAK = re.compile(r"<(?:br|/p|/div|/tr|/h\d|/li|/pre)\b[^<>]*>", re.IGNORECASE)
_INVISIBLE = re.compile(r"<(style|script|head)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_COMMENT = re.compile(r"\([^()]*\)")


@dataclass(frozen=True)
class Verdict:
    """One line of an ``Authentication-Results`` header: what a mail server found out about a message.

    :param server: the server's authserv-id, lower case
    :param method: ``spf``, ``dkim``, ``dmarc``, …
    :param result: ``pass``, ``fail``, …
    :param domain: for whom, lower case; empty where it is not told
    """

    server: str
    method: str
    result: str
    domain: str = ""


@dataclass(frozen=True)
class Mail:
    """A message, as far as decoders need it.

    :param subject: one line
    :param body: lines end with ``\\n``; empty when only the header was read
    :param sender: the address in From, lower case; empty when there is none, or more than one
    :param verdicts: of the topmost ``Authentication-Results`` of each server, which is the one it wrote itself
    :param at: when it was sent, or, where its own date cannot be, when it arrived
    :param received_at: when it arrived
    :param digest: the same for every copy of the message, and for no other
    """

    subject: str
    body: str
    sender: str
    verdicts: tuple[Verdict, ...]
    at: datetime
    received_at: datetime
    digest: str


def subject_of(header: bytes) -> str:
    """The subject of a header; quick for plain ones, as it is asked of every message of a mailbox."""
    found = _SUBJECT.search(header)
    if found is None:
        return ""
    if found[1].isascii() and b"=?" not in found[1]:
        return _line(found[1].decode("ascii"))
    return _text(_parsed(b"Subject: " + found[1] + b"\r\n\r\n"), "Subject")


def read(raw: bytes, received_at: datetime) -> Mail:
    """Read a message, or a message's header alone.

    :param raw: of any length; what is beyond :data:`BODY_LIMIT` is not looked at
    :param received_at: when it came into the mailbox; timezone-aware
    """
    message = _parsed(raw[:BODY_LIMIT])
    subject, body = _text(message, "Subject"), _body(message)
    parts = (_text(message, "Message-ID"), _text(message, "Date"), subject, body)
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()
    return Mail(
        subject=subject,
        body=body,
        sender=_sender(message),
        verdicts=tuple(_verdicts(message)),
        at=_moment(message, received_at),
        received_at=received_at,
        digest=digest,
    )


def _parsed(raw: bytes) -> EmailMessage:
    return message_from_bytes(raw, policy=policy.default)


def _texts(message: Message, name: str) -> list[str]:
    """The texts of all headers of that name, decoded, each on one line."""
    found = []
    for key, raw in message.raw_items():
        if key.lower() != name.lower():
            continue
        value = str(raw)
        if "=?" in value or not value.isascii():
            # A full parse is slow, and few need it.
            with contextlib.suppress(Exception):  # the standard library's parser stumbles over some malformed values
                value = str(policy.default.header_factory(key, value))
        found.append(_line(value))
    return found


def _text(message: Message, name: str) -> str:
    return next(iter(_texts(message, name)), "")


def _line(text: str) -> str:
    whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join(whole.split())


def _body(message: EmailMessage) -> str:
    try:
        part: Message | None = message.get_body(preferencelist=("plain", "html"))
    except Exception:  # a structure that is none
        part = None
    if part is None:
        if message.is_multipart() or message.get_content_maintype() != "text":
            return ""
        part = message
    text = _content(part)
    if part.get_content_subtype() == "html":
        text = html.unescape(_TAG.sub("", _BREAK.sub("\n", _INVISIBLE.sub("", text))))
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " ").replace("\0", "")


def _content(part: Message) -> str:
    """A part's text: in its own charset, in UTF-8 where that one is unknown or wrong, else in Latin-1."""
    try:
        payload = part.get_payload(decode=True)
    except Exception:  # a transfer encoding that is none
        payload = None
    data = payload if isinstance(payload, bytes) else b""
    for charset in (str(part.get_content_charset() or "utf-8"), "utf-8"):
        try:
            return data.decode(charset)
        except (LookupError, ValueError):  # an unknown charset, or bytes that are not in it
            continue
    return data.decode("latin-1")


def _sender(message: Message) -> str:
    try:
        addresses = [address for _, address in getaddresses(_texts(message, "From"))]
    except Exception:  # a malformed address is nobody's
        return ""
    return addresses[0].lower() if len(addresses) == 1 else ""


def _moment(message: Message, received_at: datetime) -> datetime:
    try:
        sent = parsedate_to_datetime(_text(message, "Date"))
        # Without a zone (-0000) it is UTC by RFC 5322.
        sent = sent.replace(tzinfo=UTC) if sent.tzinfo is None else sent.astimezone(UTC)
        possible = received_at - _LONGEST_WAY <= sent <= received_at
    except (ValueError, TypeError, OverflowError, IndexError):
        return received_at
    return sent if possible else received_at


def _verdicts(message: Message) -> Iterator[Verdict]:
    """What each server says in its topmost header; below that it could be anyone's.

    ``Authentication-Results: server; method=result ptype.property=value …; …`` (RFC 8601, 2.2)
    """
    seen = set()
    for value in _texts(message, "Authentication-Results"):
        while (bare := _COMMENT.sub(" ", value)) != value:
            value = bare  # noqa: PLW2901  # comments nest
        head, *results = value.split(";")
        server = next(iter(head.split()), "").lower()
        if server in seen:
            continue
        seen.add(server)
        for result in results:
            words = dict(word.lower().split("=", 1) for word in result.split() if "=" in word)
            if not words:
                continue
            method = next(iter(words))
            domains = (words.get(key) for key in ("header.from", "header.d", "header.i", "smtp.mailfrom"))
            domain = next((each.rpartition("@")[2] for each in domains if each), "")
            yield Verdict(server, method.partition("/")[0], words[method], domain)


def is_authentic(mail: Mail, server: str) -> bool:
    """Whether that mail server found the From address genuine: DMARC passed, or DKIM or SPF did for that domain."""
    domain = mail.sender.rpartition("@")[2]
    return any(
        verdict.result == "pass"
        and (verdict.method == "dmarc" or (verdict.method in ("dkim", "spf") and _aligned(verdict.domain, domain)))
        for verdict in mail.verdicts
        if verdict.server == server.lower()
    )


def _aligned(vouched: str, domain: str) -> bool:
    """Whether one of the two domains is the other's, or the same."""
    return bool(vouched and domain) and (
        vouched == domain or domain.endswith(f".{vouched}") or vouched.endswith(f".{domain}")
    )
