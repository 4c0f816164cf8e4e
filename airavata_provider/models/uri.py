"""Addresses of files: ``storage://<storage resource>/<path>``.

The path is percent-decoded exactly once, component by component, after it was split at ``/``; so ``%2F`` can
never make a directory, and ``%2e%2e`` is as refused as ``..``. ``?`` and ``#`` must be written ``%3F`` and
``%23`` (RFC 3986 gives them another meaning); every other character may stand for itself.

Pure; no Airflow.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from airavata_provider.models.values import file_name, shown

_STORAGE = re.compile(r"storage://([A-Za-z0-9][A-Za-z0-9_.-]{0,99})(?:/(.*))?", re.DOTALL)
_FILE = re.compile(r"file://(?:localhost)?/(.*)", re.DOTALL)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class StorageURI:
    """Where a file or a directory is.

    :param storage: the storage resource's name in the catalog
    :param path: below that resource's root, decoded, components joined by ``/``; ``""`` is the root itself
    """

    storage: str
    path: str

    @property
    def name(self) -> str:
        """The last component, ``""`` for the root."""
        return posixpath.basename(self.path)

    def __str__(self) -> str:
        """Ready for ``/name`` to be put behind it."""
        return f"storage://{self.storage}/{quote(self.path, safe='/')}".removesuffix("/")

    def child(self, path: str) -> StorageURI:
        """The address of a path (decoded, relative) below this one."""
        return StorageURI(self.storage, f"{self.path}/{path}" if self.path else path)


def parse_storage_uri(text: str, *, directory: bool = False) -> StorageURI:
    """Read a ``storage://`` address.

    :param directory: a directory is meant: a trailing ``/`` and the root are fine
    :raises ValueError: it is none, or it leaves the storage's root
    """
    match = _STORAGE.fullmatch(text)
    if not match:
        raise ValueError(f"should be storage://<storage resource>/<path>, not {shown(text)}")
    path = _decode(match[2] or "", directory=directory)
    if not path and not directory:
        raise ValueError(f"{shown(text)} names no file")
    return StorageURI(match[1], path)


def parse_file_uri(text: str, *, directory: bool = False) -> str:
    """The absolute path of a ``file:///`` address of this machine, decoded.

    :raises ValueError: it is none
    """
    match = _FILE.fullmatch(text)
    if not match:
        raise ValueError(f"should be file:///<absolute path>, not {shown(text)}")
    path = _decode(match[1], directory=directory)
    if not path and not directory:
        raise ValueError(f"{shown(text)} names no file")
    return "/" + path


def file_uri(path: str) -> str:
    """``file://`` address of an absolute path; :func:`parse_file_uri` reads it back."""
    return "file://" + quote(path, safe="/")


def _decode(path: str, *, directory: bool) -> str:
    if "?" in path or "#" in path:
        raise ValueError(f"{shown(path)}: write '?' as %3F and '#' as %23")
    if _BAD_ESCAPE.search(path):
        raise ValueError(f"{shown(path)}: a '%' is not followed by two hexadecimal digits (write it %25)")
    if directory:
        path = path.removesuffix("/")
    if not path:
        return ""
    parts = []
    for part in path.split("/"):
        try:
            # Half a character in the text itself has no bytes; half a UTF-8 sequence in escapes has no text.
            decoded = unquote_to_bytes(part.encode()).decode()
        except UnicodeError:
            raise ValueError(f"{shown(path)}: not UTF-8") from None
        parts.append(file_name(decoded))
    return "/".join(parts)
