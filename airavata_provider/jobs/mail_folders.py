"""How far each folder of each mailbox was read: the high-water mark, what waits beyond it, what was counted.

What always holds: a mark is written over the very mark that its writer read, or not at all
(:class:`~airavata_provider.errors.StoreError`): a reader that lost its lease without knowing cannot undo what the
next one did, and each message is counted once.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, Select, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from airavata_provider.errors import StoreError
from airavata_provider.jobs.engine import WRITES, translated
from airavata_provider.jobs.tables import mail_folder
from airavata_provider.jobs.unbroken import Unbroken


@dataclass(frozen=True)
class MailFolder:
    """A folder's mark.

    :param uidvalidity: the server's word for "UIDs mean what they meant"; another one, and all is read anew
    :param uid: every message up to here was looked at, but for
    :param old_uid: those up to here: what was there before the first look is read after what is new
    :param waiting: messages up to there whose job is not known yet: UID, and the second (since 1970) at which it is
        given up
    :param counts: messages by what became of them
    :param version: one more with each change; 0: not stored yet
    :param changed_at: of the last change
    """

    mailbox: str
    folder: str
    uidvalidity: int
    uid: int = 0
    old_uid: int = 0
    waiting: Mapping[int, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    version: int = 0
    changed_at: datetime | None = None


class MailFolders:
    """The table of marks.

    :param engine: the store's
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writes = engine.execution_options(**{WRITES: True})
        self._unbroken = Unbroken()

    async def all(self) -> list[MailFolder]:
        """Every folder's mark, by mailbox and folder."""
        column = mail_folder.c
        return await self._read(select(mail_folder).order_by(column.mailbox, column.folder))

    async def read(self, mailbox: str, folder: str) -> MailFolder | None:
        """A folder's mark, None when it was never read."""
        column = mail_folder.c
        found = await self._read(select(mail_folder).where(column.mailbox == mailbox, column.folder == folder))
        return found[0] if found else None

    async def write(self, mark: MailFolder) -> MailFolder:
        """Put the mark in place of the one of its version; the mark as it is stored now.

        :raises StoreError: somebody else wrote meanwhile; or the database failed, and the mark may be stored or not
        """
        new = replace(mark, version=mark.version + 1, changed_at=datetime.now(UTC))
        values = {
            "mailbox": new.mailbox,
            "folder": new.folder,
            "uidvalidity": new.uidvalidity,
            "uid": new.uid,
            "old_uid": new.old_uid,
            "waiting": {str(uid): until for uid, until in new.waiting.items()},
            "counts": dict(new.counts),
            "version": new.version,
            "changed_at": new.changed_at,
        }
        column = mail_folder.c

        async def do() -> MailFolder:
            with translated("saving how far a mailbox was read"):
                async with self._writes.begin() as connection:
                    if mark.version == 0:
                        await connection.execute(insert(mail_folder).values(values))
                        return new
                    done = await connection.execute(
                        update(mail_folder)
                        .where(column.mailbox == mark.mailbox, column.folder == mark.folder)
                        .where(column.version == mark.version)
                        .values(values)
                    )
                    if done.rowcount != 1:
                        raise StoreError(f"mailbox {mark.mailbox}, {mark.folder}: somebody else reads it, too")
            return new

        return await self._unbroken.run(do())

    async def _read(self, query: Select[Any]) -> list[MailFolder]:
        async def do() -> list[MailFolder]:
            with translated("reading how far a mailbox was read"):
                async with self._engine.connect() as connection:
                    return [_mark(row) for row in (await connection.execute(query)).mappings()]

        return await self._unbroken.run(do())

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._unbroken.close()


def _mark(row: RowMapping) -> MailFolder:
    waiting = {int(uid): int(until) for uid, until in row["waiting"].items()}
    return MailFolder(**{**row, "waiting": waiting})
