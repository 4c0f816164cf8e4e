"""Where execution patterns lie: the folder that comes with the package, and the deployment's own.

Finds and reads the files and says which pattern each one holds; what a pattern means is ``models.pattern``'s.
Imports no Airflow; does no I/O but reading those folders.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatternFile:
    """One file of a patterns folder.

    :param path: the file
    :param shown_as: how people are told about it; the same on every machine for those of the package
    :param name: the pattern's name; the file's, without its ending, while it cannot be read
    :param content: its bytes, None when it could not be read
    :param fault: why it could not
    """

    path: Path
    shown_as: str
    name: str
    content: bytes | None
    fault: str | None = None


def builtin_patterns() -> Path:
    """The folder of the patterns that come with the package.

    In a wheel they lie inside ``dag_factories``, in a source tree beside it.
    """
    root = Path(__file__).resolve().parents[2]
    installed = root / "dag_factories" / "patterns"
    return installed if installed.is_dir() else root / "patterns"


def pattern_files(folders: Sequence[Path]) -> tuple[PatternFile, ...]:
    """Every ``*.yaml`` and ``*.yml`` directly in the folders: in their order, in each by file name.

    Hidden files are left out. A folder that is not there is empty, with a warning in the log.

    :raises OSError: a folder that is there cannot be listed
    """
    found: list[PatternFile] = []
    for folder in dict.fromkeys(folders):
        try:
            paths = sorted(_yaml_files(folder))
        except FileNotFoundError:
            log.warning("The patterns folder %s does not exist.", folder)
            continue
        shown_below = "patterns" if folder == builtin_patterns() else str(folder)
        for path in paths:
            file = _read(path, f"{shown_below}/{path.name}")
            if file is not None:
                found.append(file)
    return tuple(found)


def _yaml_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix in {".yaml", ".yml"} and not path.name.startswith(".") and not path.is_dir():
            yield path


def _read(path: Path, shown_as: str) -> PatternFile | None:
    """The file, None when it went away since its folder was listed."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        return PatternFile(path, shown_as, path.stem, None, "a link to a file that does not exist")
    except OSError as error:
        return PatternFile(path, shown_as, path.stem, None, error.strerror or str(error))
    return PatternFile(path, shown_as, _name_in(content) or path.stem, content)


@functools.lru_cache(maxsize=4096)
def _name_in(content: bytes) -> str | None:
    """The ``name`` that a pattern's YAML gives itself; kept, since folders are read every few seconds."""
    try:
        data = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    name = data.get("name") if isinstance(data, dict) else None
    return name if isinstance(name, str) and name else None
