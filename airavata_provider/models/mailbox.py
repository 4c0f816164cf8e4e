"""Mailboxes that schedulers write to, and how they are read.

Read from catalog files. Credentials are never here: ``connection`` names an Airflow Connection of type ``imap``.
Pure; no Airflow.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from airavata_provider.models.values import Duration, Model, Name, Text

_SENDER = re.compile(r"[^@\s]*@[^@\s]+")
_MOVE = "move:"


def _texts(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


_Texts = Annotated[tuple[Text, ...], BeforeValidator(_texts)]


class Mailbox(Model):
    """A mailbox on an IMAP server.

    :param connection: id of an Airflow Connection of type ``imap``
    :param folders: what is read there
    :param done: what becomes of a message whose news is stored: ``seen`` or ``flag`` marks it, ``move:FOLDER``
        moves it
    :param resources: compute resources whose schedulers write here; none: all of the catalog
    :param senders: addresses, or ``@domain``, that may send news; none: anyone
    :param trust: name by which the receiving mail server signs its ``Authentication-Results`` (authserv-id); news
        counts only where that server found the sender's address genuine
    :param wait: seconds for which a message about an unknown job is tried again
    :param poll_interval: seconds between two looks at a server without IDLE
    :param idle: use IDLE where the server has it
    """

    name: Name
    description: str = ""
    connection: Text
    folders: Annotated[_Texts, Field(min_length=1)] = ("INBOX",)
    done: Text = "seen"
    resources: tuple[Name, ...] = ()
    senders: _Texts = ()
    trust: Text | None = None
    wait: Duration = 3600.0
    poll_interval: Annotated[Duration, Field(ge=1)] = 30.0
    idle: bool = True

    @field_validator("done")
    @classmethod
    def _known(cls, done: str) -> str:
        if done not in ("seen", "flag") and not (done.startswith(_MOVE) and done.removeprefix(_MOVE).strip()):
            raise ValueError(f"should be seen, flag or move:FOLDER, not {done!r}")
        return done

    @field_validator("senders")
    @classmethod
    def _addresses(cls, senders: tuple[str, ...]) -> tuple[str, ...]:
        for sender in senders:
            if not _SENDER.fullmatch(sender):
                raise ValueError(f"should be an address or @domain, not {sender!r}")
        return tuple(sender.lower() for sender in senders)

    @model_validator(mode="after")
    def _moves_away(self) -> Mailbox:
        if self.done_folder in self.folders:
            raise ValueError(f"done: {self.done_folder!r} is one of the folders that are read")
        if len(set(self.folders)) < len(self.folders):
            raise ValueError("folders: one is named twice")
        return self

    @property
    def done_folder(self) -> str | None:
        """Where messages go whose news is stored; None when they stay."""
        return self.done.removeprefix(_MOVE).strip() if self.done.startswith(_MOVE) else None

    def allows(self, sender: str) -> bool:
        """Whether news from that address counts; an address without its domain never does."""
        if not self.senders:
            return True
        return "@" in sender and (sender in self.senders or f"@{sender.rpartition('@')[2]}" in self.senders)
