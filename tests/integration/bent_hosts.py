"""Hosts that a test bends: their commands see a folder of shims first, and look-ups are given up early."""

from __future__ import annotations

from airavata_provider.errors import ConnectFailed
from airavata_provider.jobs.submission import Patience
from airavata_provider.schedulers.base import CommandResult
from airavata_provider.schedulers.frame import ShareableText
from airavata_provider.ssh.host import Host

PATIENCE = Patience(grace_s=60, pauses_s=(0.3,))
"""Looks again soon, and waits long for a job that is nowhere: longer than these controllers ever take to show one."""


def hasty(command: str) -> str:
    """With look-ups that are given up after six seconds instead of thirty."""
    return command.replace("airavata_limit 30 ", "airavata_limit 6 ")


class Bent:
    """A host whose commands see a folder of shims first."""

    def __init__(self, host: Host, before: str = "") -> None:
        self.host, self.before = host, before

    @property
    def name(self) -> str:
        return self.host.name

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        return await self.host.run(self.before + hasty(command), timeout=timeout)


class BentShared:
    """The same, whose sessions are shared, as a task's are.

    :ivar cut: of each connection that broke: whether a command may have run in it
    """

    def __init__(self, host: Host, before: str) -> None:
        self.host, self.before = host, before
        self.cut: list[bool] = []

    @property
    def name(self) -> str:
        return self.host.name

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        assert isinstance(command, ShareableText)
        common, own = self.before + command.common, hasty(command.own)
        bent = ShareableText(common, command.first, own, command.limit_s)
        try:
            return await self.host.shared.run(bent, timeout=timeout)
        except ConnectFailed as error:
            self.cut.append(error.started)
            raise
