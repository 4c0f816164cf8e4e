"""The DAG bundle that serves execution patterns: one small archive per pattern, in versions that stay.

A version is named by a hash of everything in it, so that a running experiment keeps the patterns that it
started with, whatever happens to the folders meanwhile. To configure it, beside the bundles that there are::

    [dag_processor]
    dag_bundle_config_list = [
        {"name": "airavata", "classpath": "dag_factories.bundle.PatternBundle", "kwargs": {}}]

What always holds:

- A version's directory is complete from the moment that it exists, and is never changed afterwards.
- A fault in one pattern's file is an import error of its own and nobody else's. Where the pattern was good
  before, that last good state is served on beside the error: Airflow schedules no running experiment of a DAG
  whose file does not parse. (Nor of one whose file is gone: remove a pattern when its experiments are over.)
- Any number of processes may do anything here at the same time.

A worker that is given a version finds it on its own disk, else makes it from the archive, else from the
patterns folders if they still are what they were then. Airflow hands a bundle nothing but the version's name,
so the archive (below ``AIRFLOW_HOME``) has to be shared between machines for experiments to outlive a change
of their pattern; for those that meet no change, the same folders everywhere are enough.

The DAG processor, which has no version, is given each pattern's DAG file in a zip archive of its own; who has a
version finds the same path, with a directory where the archive was. After each success of a task that ends in the
triggerer Airflow sends the DAG processor a callback, and once Airflow 3.3 took one of a run with a version for a
plain file, it parses that file again in every loop, for ever (apache/airflow#73432). What is in an archive is not
what it parses by the clock; and a callback, which comes with its run's version, has a file to read.

A new or changed file is a DAG after ``refresh_interval``, plus ``[dag_processor]
bundle_refresh_check_interval`` (5 s), plus the parse. Leave ``[dag_processor] file_parsing_sort_mode`` at
``modified_time``: other modes parse a changed file only ``min_file_process_interval`` after its last parse.

Loads neither asyncssh nor SQLAlchemy's tables; the factory only to try a pattern that is new.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import runpy
import shutil
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion

from airavata_provider.errors import ConfigurationError, PatternError
from airavata_provider.models.pattern_folders import PatternFile, builtin_patterns, pattern_files
from airavata_provider.settings import get_settings

__all__ = ["PatternBundle", "builtin_patterns"]

log = logging.getLogger(__name__)

_FORMAT = 3
"""Part of every version's hash: one more when the stubs' text or place changes."""

_OLD_S = 86_400
"""After that long, archives of a version that is not in force are removed."""

_KEEPER = "airavata_reconciler"
"""The service DAG that every version brings along (``dag_factories.keeper``); no pattern may be called that."""

_KEEPER_STUB = '''"""The Airflow DAG that keeps the reconciler alive. Made by dag_factories.bundle."""

from dag_factories.keeper import keeper_dag

dag = keeper_dag()
'''

Manifest = dict[str, Any]
"""``{"format": 3, "patterns": {stem: entry}}``, an entry being ``{"shown_as": …, "text": …, "good": …}``, or
``{"shown_as": …, "fault": …}`` where there is no text that could be tried."""


class PatternBundle(BaseDagBundle):
    """Execution patterns as DAG files; see the module.

    :param folders: patterns folders instead of ``[airavata] patterns_folders``
    :param builtin: serve the patterns of the package, too
    :param archive: directory that keeps every version that was ever served, one JSON file each; default
        ``airavata/pattern_versions`` in ``AIRFLOW_HOME``
    :param refresh_interval: seconds between two looks at the folders
    """

    supports_versioning = True

    def __init__(
        self,
        *,
        folders: Sequence[str] | None = None,
        builtin: bool = True,
        archive: str | None = None,
        refresh_interval: int = 15,
        **kwargs: Any,
    ) -> None:
        super().__init__(refresh_interval=refresh_interval, **kwargs)
        self._folders = folders
        self._builtin = builtin
        self._archive = (Path(archive) if archive else _default_archive()) / self.name
        self._current: str | None = None
        self._good: dict[str, str] | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """The patterns folders, the package's own first."""
        own = (builtin_patterns(),) if self._builtin else ()
        if self._folders is not None:
            return own + tuple(Path(folder).expanduser() for folder in self._folders)
        return own + get_settings().patterns_folders

    @property
    def path(self) -> Path:
        """Directory of this bundle's version; before :meth:`initialize` a name that may not exist yet."""
        return self.versions_dir / self.version if self.version else self._packed(self._current or "none")

    def _packed(self, version: str) -> Path:
        return self.base_dir / "packed" / version

    def get_current_version(self) -> BundleVersion | None:
        """The version that :attr:`path` holds."""
        version = self.version or self._current
        return BundleVersion(version) if version else None

    def initialize(self) -> None:
        """Make sure that the files are on this machine's disk.

        :raises ConfigurationError: a version that neither the archive nor the folders can give back
        """
        if self.version is None:
            self.refresh()
        elif not self.path.is_dir():
            _materialise(self._recall(self.version), self.path, packed=False)
        super().initialize()

    def refresh(self) -> None:
        """Look at the folders and move to the version that they make up now.

        :raises OSError: a folder cannot be listed; what was served before is served on
        """
        if self.version is not None:
            return
        if self._good is None:
            self._good = self._last_good()
        manifest = _manifest(pattern_files(self.folders), self._good)
        version = _version(manifest)
        target = self._packed(version)
        if version == self._current and target.is_dir():
            return
        self._remember(version, manifest)
        _materialise(manifest, target, packed=True)
        if self._current is not None:
            _mark_changes(self._packed(self._current), target)
        self._current = version
        _forget_old(target)

    def _remember(self, version: str, manifest: Manifest) -> None:
        """Put a version into the archive; without one, only machines with the same folders can run it."""
        file = self._archive / f"{version}.json"
        try:
            if file.exists():
                file.touch()  # the newest is the one in force
                return
            self._archive.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self._archive, prefix=".", suffix=".tmp", delete=False
            ) as temporary:
                temporary.write(_canonical(manifest))
            Path(temporary.name).chmod(0o644)
            Path(temporary.name).replace(file)
        except OSError as error:
            log.warning("Version %s of the patterns is not kept in %s: %s", version, self._archive, error)

    def _last_good(self) -> dict[str, str]:
        """The good patterns of the version that was in force last, before this process."""
        try:
            newest = max(self._archive.glob("*.json"), key=lambda file: file.stat().st_mtime_ns, default=None)
            manifest = json.loads(newest.read_text(encoding="utf-8")) if newest else {"patterns": {}}
        except (OSError, ValueError) as error:
            log.warning("The last version of the patterns cannot be read from %s: %s", self._archive, error)
            return {}
        return {entry["shown_as"]: entry["text"] for entry in manifest["patterns"].values() if entry.get("good")}

    def _recall(self, version: str) -> Manifest:
        file = self._archive / f"{version}.json"
        try:
            manifest: Manifest = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            manifest = _manifest(pattern_files(self.folders), {})
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot be read: {error}", where=str(file)) from error
        if _version(manifest) != version:
            raise ConfigurationError(
                f"version {version} of the patterns is neither in {self._archive} nor what the patterns "
                "folders hold now",
                where=f"bundle {self.name}",
                advice="let all machines share AIRFLOW_HOME, or name a shared directory as the archive",
            )
        return manifest


def _default_archive() -> Path:
    from airflow.configuration import AIRFLOW_HOME

    return Path(AIRFLOW_HOME) / "airavata" / "pattern_versions"


def _manifest(files: Sequence[PatternFile], good: dict[str, str]) -> Manifest:
    """What a version is made of.

    The first file of a name has it; a later one becomes an import error that names both.

    :param good: last good text by ``shown_as``; brought up to date
    """
    patterns: dict[str, dict[str, Any]] = {}
    first = {_KEEPER: "this package"}
    for file in files:
        entry: dict[str, Any] = {"shown_as": file.shown_as}
        if file.content is None:
            entry["fault"] = f"cannot be read: {file.fault}"
        elif file.name in first:
            entry["fault"] = f"the pattern {file.name!r} is already there, from {first[file.name]}"
        else:
            first[file.name] = file.shown_as
            # Bytes that are no UTF-8 survive the way through JSON, for the factory to complain about.
            entry["text"] = text = file.content.decode("utf-8", "surrogateescape")
            entry["good"] = _is_good(file.content, file.shown_as)
            if entry["good"]:
                good[file.shown_as] = text
            elif file.shown_as in good:
                patterns[_free_stem(f"{file.path.stem}__new", patterns)] = entry
                entry = {"shown_as": file.shown_as, "text": good[file.shown_as], "good": True}
        patterns[_free_stem(file.path.stem, patterns)] = entry
    return {"format": _FORMAT, "patterns": patterns}


@functools.lru_cache(maxsize=4096)
def _is_good(content: bytes, shown_as: str) -> bool:
    """Whether the factory can make a DAG of it."""
    from dag_factories.factory import dags_from_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pattern.yaml"
        path.write_bytes(content)
        try:
            dags_from_file(path, shown_as=shown_as)
        except Exception:  # whatever it is, the stub meets it again and Airflow shows it
            return False
    return True


def _free_stem(stem: str, taken: Mapping[str, object]) -> str:
    """A file name for Python and for every file system, not used yet."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", stem) or "pattern"
    number, candidate = 1, safe
    while candidate.lower() in {_KEEPER, *(other.lower() for other in taken)}:
        number += 1
        candidate = f"{safe}__{number}"
    return candidate


def _canonical(manifest: Manifest) -> str:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"))


def _version(manifest: Manifest) -> str:
    return hashlib.sha256(_canonical(manifest).encode()).hexdigest()[:32]


def _materialise(manifest: Manifest, target: Path, *, packed: bool) -> None:
    """Write a version's directory, whole or not at all; harmless when it is there already.

    :param packed: with archives
    """
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=target.parent))
    try:
        for stem, entry in manifest["patterns"].items():
            if "text" in entry:
                content = entry["text"].encode("utf-8", "surrogateescape")
                (temporary / f"{stem}.yaml").write_bytes(content)
                stub = _stub(f"{stem}.yaml", entry["shown_as"], content)
            else:
                stub = _faulty_stub(entry["shown_as"], entry["fault"])
            _place(temporary / f"{stem}.zip", stub, packed=packed)
        (temporary / f"{_KEEPER}.py").write_text(_KEEPER_STUB, encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(target)
    except OSError:
        # Another process was faster, with the same content.
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _place(archive: Path, stub: str, *, packed: bool) -> None:
    """Write a DAG file into its archive, the same bytes for the same text; or into a directory of that name.

    Airflow imports it by its name, which must be no other module's.
    """
    name = f"airavata_pattern_{archive.stem}.py"
    if packed:
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(zipfile.ZipInfo(name), stub)
    else:
        archive.mkdir()
        (archive / name).write_text(stub, encoding="utf-8")


def _forget_old(current: Path) -> None:
    """Archives of versions that no DAG processor looks at any more; Airflow itself sees to those of runs."""
    for folder in current.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # somebody else did
            if folder != current and time.time() - folder.stat().st_mtime > _OLD_S:
                shutil.rmtree(folder, ignore_errors=True)


def _stub(yaml_file: str, shown_as: str, content: bytes) -> str:
    """A pattern's DAG file. Names the content's hash, so that it changes whenever the pattern does."""
    return f'''"""The Airflow DAG of one execution pattern, and of its second run. Made by dag_factories.bundle."""

from pathlib import Path

from dag_factories.factory import dags_from_file

# sha256 {hashlib.sha256(content).hexdigest()}
dag, second = dags_from_file(Path(__file__).parent.with_name({yaml_file!r}), shown_as={shown_as!a})
'''


def dag_of(folder: Path, dag_id: str) -> Any:
    """The DAG of that id in the directory of a bundle with a version, as its file makes it; None where none does."""
    for stub in sorted(folder.glob("*.zip/*.py")):
        try:
            made = runpy.run_path(str(stub))
        except PatternError:  # a pattern that was no good then
            continue
        for dag in (made.get("dag"), made.get("second")):
            if dag is not None and dag.dag_id == dag_id:
                dag.fileloc, dag.relative_fileloc = str(stub), str(stub.relative_to(folder))
                return dag
    return None


def _faulty_stub(shown_as: str, fault: str) -> str:
    """A file in place of an Airflow DAG that cannot be: its import error tells why."""
    return f'''"""No Airflow DAG: the execution pattern cannot be one. Made by dag_factories.bundle."""

from airavata_provider.errors import Fault, PatternError

raise PatternError("the pattern cannot become a DAG", [Fault({shown_as!a}, {fault!a})])
'''


def _mark_changes(old: Path, new: Path) -> None:
    """Let Airflow parse at once what changed, and only that: it goes by the files' modification times."""
    for file in (*new.glob("*.zip"), *new.glob("*.py")):
        before = old / file.name
        try:
            same = before.read_bytes() == file.read_bytes()
            time = before.stat().st_mtime if same else None
        except FileNotFoundError:
            time = None
        os.utime(file, None if time is None else (time, time))
