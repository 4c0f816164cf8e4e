"""Mailboxes in the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from airavata_provider.errors import CatalogError
from airavata_provider.models.catalog import load_catalog
from airavata_provider.models.mailbox import Mailbox

RESOURCE = "compute_resources:\n  cluster: {connection: c, scheduler: fork, scratch: /s}\n"


def mailbox(**values: Any) -> Mailbox:
    return Mailbox.model_validate({"name": "box", "connection": "imap", **values})


def test_defaults() -> None:
    found = mailbox()
    assert (found.folders, found.done, found.done_folder) == (("INBOX",), "seen", None)
    assert found.allows("anyone@anywhere.test")
    assert found.allows("")


def test_one_word_is_a_list() -> None:
    found = mailbox(folders="Jobs", senders="Slurm@Cluster.test")
    assert (found.folders, found.senders) == (("Jobs",), ("slurm@cluster.test",))


def test_moving() -> None:
    assert mailbox(done="move:Jobs/Done").done_folder == "Jobs/Done"


@pytest.mark.parametrize(
    ("sender", "allowed"),
    [
        ("slurm@cluster.test", True),
        ("anyone@site.test", True),
        ("other@cluster.test", False),
        ("x@sub.site.test", False),
        ("x@evilsite.test", False),
        ("site.test", False),
        ("", False),
    ],
)
def test_senders(sender: str, allowed: bool) -> None:
    assert mailbox(senders=["slurm@cluster.test", "@site.test"]).allows(sender) is allowed


@pytest.mark.parametrize(
    "values",
    [
        {"done": "delete"},
        {"done": "move:"},
        {"done": "move:INBOX"},
        {"folders": []},
        {"folders": ["a", "a"]},
        {"senders": ["cluster"]},
        {"poll_interval": 0},
        {"password": "secret"},
    ],
)
def test_faults(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        mailbox(**values)


def test_in_the_catalog(tmp_path: Path) -> None:
    text = RESOURCE + "mailboxes:\n  box: {connection: imap, resources: [cluster], wait: '00:10:00'}\n"
    (tmp_path / "site.yaml").write_text(text)
    found = load_catalog([tmp_path]).mailboxes["box"]
    assert (found.name, found.resources, found.wait) == ("box", ("cluster",), 600)


def test_resources_exist(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(RESOURCE + "mailboxes:\n  box: {connection: imap, resources: [clustre]}\n")
    with pytest.raises(CatalogError, match="clustre"):
        load_catalog([tmp_path])
