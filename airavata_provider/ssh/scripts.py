"""Shell texts that write, read, look at and list files on a host, and the reading of their answers. Pure.

Every text runs with a POSIX ``sh`` and what any login node has; every path is quoted. Content is compared
by SHA-256 where the host has ``sha256sum``, ``shasum`` or ``python3``, else by size alone. Starting a
program costs more than anything else here, so the texts start few.
"""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from airavata_provider.errors import TransferError
from airavata_provider.schedulers.base import quote

#: Exit status of these texts for "there is no such file or directory".
MISSING = 66

#: How the names of files that are still being written begin. Nobody stages those.
PART_PREFIX = ".airavata-"

# Becomes a program that prints the SHA-256 of standard input and something after it; nothing where there is none.
# For use in $(…) only.
_SUM = """_sum() {
  if command -v sha256sum >/dev/null 2>&1; then exec sha256sum
  elif command -v shasum >/dev/null 2>&1; then exec shasum -a 256
  elif command -v python3 >/dev/null 2>&1; then
    exec python3 -c 'import hashlib, sys
h = hashlib.sha256()
for b in iter(lambda: sys.stdin.buffer.read(1 << 20), b""): h.update(b)
print(h.hexdigest())'
  fi; }
"""

# One file below $_b: "missing", "outside", "unreadable", "big SIZE", or "small SIZE SHA256" and the content.
_LOOK = """_look() {
  cd -P "$_b/$1" 2>/dev/null || { echo missing; return; }
  case $PWD/ in "$_b"/*) ;; *) echo outside; return ;; esac
  if [ -z "$_follow" ] && [ -L "$2" ]; then
    case $(readlink -f "$2") in "$_b"/*) ;; *) echo outside; return ;; esac
  fi
  [ -f "$2" ] || { echo missing; return; }
  [ -r "$2" ] || { echo unreadable; return; }
  _n=$(($(wc -c < "$2"))); _t=$((_t + _n))
  if [ "$_n" -gt "$_small" ] || [ "$_t" -gt "$_most" ]; then _t=$((_t - _n)); echo "big $_n"; return; fi
  _s=$(_sum < "$2"); echo "small $_n ${_s%% *}"
  head -c "$_n" < "$2"
}
"""


@dataclass(frozen=True)
class Digest:
    """What a file's content is.

    :param size: bytes
    :param sha256: in hex; None where a host has no program that can tell
    """

    size: int
    sha256: str | None

    def matches(self, other: Digest) -> bool:
        """Whether the two can be of the same content; a hash that is not known says nothing."""
        hashes = {self.sha256, other.sha256} - {None}
        return self.size == other.size and len(hashes) <= 1


class Found(StrEnum):
    """What a name below a directory turned out to be."""

    SMALL = "small"
    BIG = "big"
    MISSING = "missing"
    OUTSIDE = "outside"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Look:
    """One file that was looked at.

    :param content: of a small one
    """

    found: Found
    digest: Digest | None = None
    content: bytes | None = None


@dataclass(frozen=True)
class FileToWrite:
    """One file of a :func:`write` text.

    :param name: below the directory
    :param mode: permission bits
    """

    name: str
    digest: Digest
    mode: int = 0o600


def place(path: str) -> str:
    """A path, quoted, that no command takes for an option; one that is not absolute starts at home."""
    return quote(path if posixpath.isabs(path) else f"./{path}")


def part_name() -> str:
    """A fresh name for a file until its content is complete."""
    return f"{PART_PREFIX}{secrets.token_hex(8)}.part"


def make_directory(path: str, *, private: bool, otherwise: str = "exit 1") -> str:
    """Make a directory and those above it: for the owner alone, or for all to read."""
    umask = "077" if private else "022"
    return f"[ -d {place(path)} ] || (umask {umask} && mkdir -p {place(path)}) || {otherwise}\n"


def write(directory: str, files: Sequence[FileToWrite]) -> str:
    """Write standard input, cut by the files' sizes, to files below a directory: each whole or not at all.

    They are put in place when all have arrived, in the order given.
    """
    parts = [part_name() for _ in files]
    private = all(file.mode & 0o077 == 0 for file in files)
    text = make_directory(directory, private=private) + f"cd {place(directory)} || exit 1\n"
    for file, part in zip(files, parts, strict=True):
        take = "cat" if len(files) == 1 else f"head -c {file.digest.size}"
        text += f"umask {0o777 & ~file.mode:03o}; {take} > {part} || {{ rm -f {' '.join(parts)}; exit 1; }}\n"
    return text + _accept(list(zip(parts, files, strict=True)))


def accept(part: str, directory: str, file: FileToWrite) -> str:
    """Put a part that was written by other means in its place."""
    return f"cd {place(directory)} || exit 1\n" + _accept([(part, file)])


def copy(source: str, part: str, directory: str, file: FileToWrite) -> str:
    """Copy a file to one below a directory: whole or not at all, as it was when its digest was taken."""
    here = place(posixpath.join(directory, part))
    return (
        f"[ -f {place(source)} ] || exit {MISSING}\n"
        + make_directory(directory, private=file.mode & 0o077 == 0)
        + f"umask {0o777 & ~file.mode:03o}; cat < {place(source)} > {here} || {{ rm -f {here}; exit 1; }}\n"
        + accept(part, directory, file)
    )


def _accept(files: Sequence[tuple[str, FileToWrite]]) -> str:
    """Put parts of the current directory in their places if all are whole, else remove them and exit 1."""
    parts = " ".join(part for part, _ in files)
    text = _SUM + f'_no() {{ rm -f {parts}; echo "$1" >&2; exit 1; }}\n'
    for part, file in files:
        digest = file.digest
        text += f"""case $(_sum < {part}) in
{digest.sha256 or "?"}*) ;;
'') [ "$(wc -c < {part})" -eq {digest.size} ] || _no 'did not arrive whole' ;;
*) _no 'did not arrive whole' ;;
esac
"""
    for part, file in files:
        target = place(file.name)
        if parent := posixpath.dirname(file.name):
            text += make_directory(parent, private=file.mode & 0o077 == 0, otherwise="_no mkdir")
        if file.mode & 0o111:
            text += f"chmod {file.mode & 0o7777:o} {part} || _no 'mode'\n"
        # mv would move a file into a directory of that name.
        text += f"[ ! -d {target} ] || _no 'is a directory'\nmv -f {part} {target} || _no 'not moved'\n"
    return text


def read(path: str, most: int) -> str:
    """Print the first bytes of a file."""
    return f"[ -f {place(path)} ] || exit {MISSING}\nexec head -c {most} < {place(path)}\n"


def look(directory: str, names: Sequence[str], *, small: int, most: int, follow: bool = False) -> str:
    """Look at files below a directory; symbolic links that lead out of it are not followed.

    :param small: files of at most so many bytes are printed
    :param most: most bytes printed in all
    :param follow: follow a link wherever it leads, if it is the last component
    """
    text = f"cd -P {place(directory)} || exit {MISSING}\n_b=${{PWD%/}}; _t=0; _small={small}; _most={most}\n"
    text += f"_follow={'1' if follow else ''}\n"
    for name in names:
        head, tail = posixpath.split(name)
        text += f"_look {quote(head)} {quote('./' + tail)}\n"
    return _SUM + _LOOK + text


def parse_look(answer: bytes, names: Sequence[str]) -> dict[str, Look]:
    """What :func:`look` found, by name.

    :raises TransferError: the answer makes no sense, as when a file was changed meanwhile
    """
    looks: dict[str, Look] = {}
    for name in names:
        line, _, answer = answer.partition(b"\n")
        word, *rest = line.decode("ascii", "replace").split(" ")
        try:
            found = Found(word)
            size = int(rest[0]) if rest else 0
        except ValueError as error:
            raise TransferError(f"{name}: changed while it was read") from error
        if found is Found.SMALL:
            content, answer = answer[:size], answer[size:]
            digest = Digest(size, rest[1] or None if len(rest) > 1 else None)
            looks[name] = Look(found, digest, content)
        else:
            looks[name] = Look(found, Digest(size, None) if found is Found.BIG else None)
    return looks


def digest(path: str) -> str:
    """Print a file's size, and its SHA-256 where the host can tell it."""
    file = place(path)
    return f"""{_SUM}[ -f {file} ] || exit {MISSING}
_s=$(_sum < {file})
echo $(($(wc -c < {file}))) ${{_s%% *}}
"""


def parse_digest(answer: str) -> Digest:
    """What :func:`digest` printed.

    :raises TransferError: the answer makes no sense
    """
    words = answer.split()
    if not words or not words[0].isdecimal() or (len(words) > 1 and len(words[1]) != 64):
        raise TransferError(f"an unreadable check sum: {answer[:100]!r}")
    return Digest(int(words[0]), words[1] if len(words) > 1 else None)


def listing(directory: str, depth: int | None) -> str:
    """Print the regular files below a directory, each ended by a NUL; links only if they stay inside.

    :param depth: levels to go down, None for all
    """
    most = f"-maxdepth {depth} " if depth is not None else ""
    return f"""cd -P {place(directory)} || exit {MISSING}
_b=${{PWD%/}}
export _b
exec find . {most}-name {quote(PART_PREFIX + "*")} -prune -o -name .airavata -prune -o -type f -print0 \\
  -o -type l -exec sh -c 'for l; do [ -f "$l" ] || continue
case $(readlink -f "$l") in "$_b"/*) printf "%s\\0" "$l" ;; esac; done' sh {{}} +
"""
