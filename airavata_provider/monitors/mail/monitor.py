"""The monitor of mailboxes: one listener per mailbox of the catalog, which reads all its folders. Imports no
Airflow."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from airavata_provider.models.mailbox import Mailbox
from airavata_provider.monitors.base import Listener, Monitor, MonitorContext
from airavata_provider.monitors.mail.imap import Account
from airavata_provider.monitors.mail.reader import FolderReader


@dataclass(frozen=True)
class MailboxListener:
    """Reads one mailbox.

    :param served: compute resources whose schedulers write there, with their schedulers' words
    """

    mailbox: Mailbox
    served: tuple[tuple[str, str], ...]
    context: MonitorContext = field(compare=False, repr=False)

    async def run(self) -> None:
        """Read every folder until cancelled."""
        async with asyncio.TaskGroup() as group:
            for folder in self.mailbox.folders:
                reader = FolderReader(
                    self.mailbox,
                    folder,
                    store=self.context.store,
                    account=self._account,
                    served=dict(self.served),
                )
                group.create_task(reader.run(), name=f"airavata mailbox {self.mailbox.name}, {folder}")

    async def _account(self) -> Account:
        return Account.of(await self.context.connection(self.mailbox.connection))


class MailMonitor(Monitor):
    """Mail that schedulers send."""

    def listeners(self, context: MonitorContext) -> Mapping[str, Listener]:
        """One per mailbox in the catalog."""
        catalog = context.catalog()
        return {
            name: MailboxListener(
                mailbox,
                tuple(
                    (resource.name, resource.scheduler)
                    for resource in catalog.compute_resources.values()
                    if not mailbox.resources or resource.name in mailbox.resources
                ),
                context,
            )
            for name, mailbox in catalog.mailboxes.items()
        }
