"""The catalog: every compute resource, storage resource, application and mailbox that a deployment knows, and what
gateways may use.

Several files in several folders are one catalog; a file is a mapping with ``compute_resources:``,
``storage_resources:``, ``applications:``, ``gateways:`` and ``mailboxes:``, each from name to entry. It is loaded
whole or not at all, and a catalog that loads fits together: what one entry names exists.

Imports no Airflow; reads the files in the folders it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from airavata_provider.errors import CatalogError, Fault, FaultyInput
from airavata_provider.models.application import Application
from airavata_provider.models.gateway import Gateway
from airavata_provider.models.mailbox import Mailbox
from airavata_provider.models.resource import ComputeResource, StorageResource
from airavata_provider.models.source import Document, faults_of, read_yaml
from airavata_provider.models.values import suggestion

Entry = ComputeResource | StorageResource | Application | Gateway | Mailbox
_T = TypeVar("_T", ComputeResource, StorageResource, Application)

_SECTIONS: Mapping[str, type[Entry]] = {
    "compute_resources": ComputeResource,
    "storage_resources": StorageResource,
    "applications": Application,
    "gateways": Gateway,
    "mailboxes": Mailbox,
}


@dataclass(frozen=True)
class Catalog:
    """Entries by name, in the order of folders, files and lines."""

    compute_resources: Mapping[str, ComputeResource] = field(default_factory=dict)
    storage_resources: Mapping[str, StorageResource] = field(default_factory=dict)
    applications: Mapping[str, Application] = field(default_factory=dict)
    gateways: Mapping[str, Gateway] = field(default_factory=dict)
    mailboxes: Mapping[str, Mailbox] = field(default_factory=dict)

    @property
    def words(self) -> frozenset[str]:
        """What a pin (``only_on``) may name: compute resources and their classes."""
        resources = self.compute_resources
        return frozenset({*resources, *(word for each in resources.values() for word in each.classes)})

    def application(self, name: str) -> Application:
        """:raises CatalogError: there is none of that name."""
        return _get(self.applications, name, "application")

    def compute_resource(self, name: str) -> ComputeResource:
        """:raises CatalogError: there is none of that name."""
        return _get(self.compute_resources, name, "compute resource")

    def storage_resource(self, name: str) -> StorageResource:
        """:raises CatalogError: there is none of that name."""
        return _get(self.storage_resources, name, "storage resource")

    def default_storage(self) -> StorageResource | None:
        """Where outputs go that no one sent elsewhere: the one marked as default, or the only one."""
        marked = [each for each in self.storage_resources.values() if each.default]
        candidates = marked or list(self.storage_resources.values())
        return candidates[0] if len(candidates) == 1 else None


def _get(entries: Mapping[str, _T], name: str, what: str) -> _T:
    if name not in entries:
        message = f"no {what} {name!r} in the catalog{suggestion(name, entries)}"
        raise CatalogError("the catalog does not have it", [Fault("", message)])
    return entries[name]


def catalog_files(folders: Sequence[Path]) -> list[Path]:
    """The catalog's files in the order they are read in: ``*.yaml`` and ``*.yml``, hidden ones left out."""
    return [
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".yaml", ".yml"}
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def load_catalog(folders: Sequence[Path]) -> Catalog:
    """Read every file of those folders, their subfolders too.

    :raises CatalogError: with every fault of every file
    """
    faults = [Fault(str(folder), "no such folder") for folder in folders if not folder.is_dir()]
    reader = _Reader()
    for path in catalog_files(folders):
        try:
            reader.read(read_yaml(path))
        except FaultyInput as error:
            faults.extend(error.faults)
    # What a broken file would have brought is missing, not unknown: look at references only when all was
    # read.
    faults.extend(reader.faults or ([] if faults else reader.dangling()))
    if faults:
        raise CatalogError("the catalog has faults", list(dict.fromkeys(faults)))
    return Catalog(**reader.entries)  # type: ignore[arg-type]  # the sections are Catalog's fields


class _Reader:
    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Entry]] = {section: {} for section in _SECTIONS}
        self.faults: list[Fault] = []
        self._documents: dict[tuple[str, str], Document] = {}

    def read(self, document: Document) -> None:
        if document.data is None:
            return
        if not isinstance(document.data, dict):
            self.faults.append(document.fault((), f"should be a mapping with {', '.join(_SECTIONS)}"))
            return
        for section, entries in document.data.items():
            if section not in _SECTIONS:
                self.faults.append(document.fault((section,), f"unknown section{suggestion(section, _SECTIONS)}"))
            elif entries is not None and not isinstance(entries, dict):
                self.faults.append(document.fault((section,), "should be a mapping from name to entry"))
            else:
                for name, entry in (entries or {}).items():
                    self._entry(document, section, name, entry)

    def _entry(self, document: Document, section: str, name: str, entry: object) -> None:
        place = (section, name)
        if first := self._documents.get(place):
            self.faults.append(document.fault(place, f"is at {first.place(place)} already"))
            return
        self._documents[place] = document
        if not isinstance(entry, dict):
            self.faults.append(document.fault(place, "should be a mapping"))
            return
        if entry.get("name", name) != name:
            self.faults.append(document.fault((*place, "name"), f"its name is its key, {name!r}; leave this out"))
        model = _SECTIONS[section]
        try:
            self.entries[section][name] = model.model_validate(
                {**entry, "name": name}, context={"folder": str(document.path.parent.absolute())}
            )
        except ValidationError as error:
            self.faults.extend(faults_of(error, model, document=document, prefix=place))

    def dangling(self) -> list[Fault]:
        """Names of things that no file has."""
        faults: list[Fault] = []
        resources = self.entries["compute_resources"]
        for name, application in self.entries["applications"].items():
            assert isinstance(application, Application)  # noqa: S101  # by the section
            place = ("applications", name)
            document = self._documents[place]
            for where, deployment in application.deployments.items():
                resource = resources.get(where)
                location = (*place, "deployments", where)
                if not isinstance(resource, ComputeResource):
                    faults.append(document.fault(location, f"no such compute resource{suggestion(where, resources)}"))
                elif deployment.queue is not None and deployment.queue not in resource.queues:
                    near = suggestion(deployment.queue, resource.queues)
                    message = f"{where} has no queue {deployment.queue!r}{near}"
                    faults.append(document.fault((*location, "queue"), message))
        for name, gateway in self.entries["gateways"].items():
            assert isinstance(gateway, Gateway)  # noqa: S101  # by the section
            for where in gateway.resources:
                if where not in resources:
                    place = ("gateways", name)
                    message = f"no such compute resource{suggestion(where, resources)}"
                    faults.append(self._documents[place].fault((*place, "resources", where), message))
        for name, mailbox in self.entries["mailboxes"].items():
            assert isinstance(mailbox, Mailbox)  # noqa: S101  # by the section
            for served in mailbox.resources:
                if served not in resources:
                    message = f"no such compute resource {served!r}{suggestion(served, resources)}"
                    faults.append(self._documents["mailboxes", name].fault(("mailboxes", name, "resources"), message))
        faults.extend(self._pins())
        defaults = [
            name
            for name, storage in self.entries["storage_resources"].items()
            if isinstance(storage, StorageResource) and storage.default
        ]
        for name in defaults[1:]:
            place = ("storage_resources", name)
            message = f"{defaults[0]} is the default already"
            faults.append(self._documents[place].fault((*place, "default"), message))
        return faults

    def _pins(self) -> Iterator[Fault]:
        """Pins on what is not there, and classes that are called as a resource is."""
        resources = self.entries["compute_resources"]
        words = set(resources)
        for name, resource in resources.items():
            assert isinstance(resource, ComputeResource)  # noqa: S101  # by the section
            words.update(resource.classes)
            for index, word in enumerate(resource.classes):
                if word in resources:
                    place = ("compute_resources", name)
                    message = f"{word!r} is a compute resource's name"
                    yield self._documents[place].fault((*place, "classes", index), message)
        for section in ("applications", "gateways"):
            for name, entry in self.entries[section].items():
                assert isinstance(entry, Application | Gateway)  # noqa: S101  # by the section
                for index, word in enumerate(entry.only_on):
                    if word not in words:
                        place = (section, name)
                        message = f"no such compute resource or class{suggestion(word, words)}"
                        yield self._documents[place].fault((*place, "only_on", index), message)
