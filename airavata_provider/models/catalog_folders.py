"""A catalog that follows its files: read again when one of them changed, looked at every few seconds.

For processes that live long. Safe to share between threads. Does no I/O but reading those folders; no Airflow.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from airavata_provider.errors import CatalogError
from airavata_provider.models.catalog import Catalog, catalog_files, load_catalog

_LOG = logging.getLogger(__name__)

LOOK_AGAIN_S = 5.0
"""How often the folders are looked at for a change."""


class CatalogFolders:
    """The catalog of some folders, as their files are now.

    :param folders: see ``load_catalog``
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._stamp: object = None
        self._good: Catalog | None = None
        self._fault: CatalogError | None = None

    def current(self) -> Catalog:
        """The catalog, for those who may refuse: a door, a validation.

        :raises CatalogError: its files have faults now
        """
        good, fault = self._look()
        if fault is not None or good is None:
            raise fault or AssertionError("a look finds one of the two")
        return good

    def last_good(self) -> Catalog:
        """The catalog, for work under way, which a broken edit must not stop.

        :raises CatalogError: its files have faults, and had some whenever this process looked
        """
        good, fault = self._look()
        if good is None:
            raise fault or AssertionError("a look finds one of the two")
        return good

    def _look(self) -> tuple[Catalog | None, CatalogError | None]:
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_AGAIN_S:
                stamp = [
                    (path, status.st_mtime_ns, status.st_size)
                    for path in catalog_files(self._folders)
                    for status in [path.stat()]
                ]
                if stamp != self._stamp:
                    self._load()
                    self._stamp = stamp
                self._looked = time.monotonic()
            return self._good, self._fault

    def _load(self) -> None:
        try:
            self._good, self._fault = load_catalog(self._folders), None
        except CatalogError as error:
            self._fault = error
            if self._good is not None:
                _LOG.warning("The catalog has faults; work under way goes on with the last good one. %s", error)
