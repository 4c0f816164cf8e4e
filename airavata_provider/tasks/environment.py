"""``environment_setup``: makes the experiment's directory on the resource.

Imports no Airflow.
"""

from __future__ import annotations

from typing import ClassVar

from airavata_provider.errors import CommandFailed
from airavata_provider.schedulers.base import quote
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult

# Only the leaf is made private: what lies above it belongs to the site.
_SCRIPT = """\
set -eu
mkdir -p -- {directory}
chmod 700 -- {directory}
test -w {directory}
"""


class EnvironmentSetupParameters(Parameters):
    """Nothing to set: the directory follows from the experiment and the resource's scratch directory."""


class EnvironmentSetup(Task[EnvironmentSetupParameters]):
    """Makes the directory, with mode 700; finds it again when it is there."""

    name: ClassVar[str] = "environment_setup"
    Parameters: ClassVar[type[Parameters]] = EnvironmentSetupParameters

    async def run(self, context: TaskContext[EnvironmentSetupParameters]) -> TaskResult:
        """:raises CommandFailed: the directory cannot be made or written to"""
        host = await context.services.host(context.resource)
        result = await host.run(_SCRIPT.format(directory=quote(context.directory)))
        if result.exit_status != 0:
            raise CommandFailed(
                f"cannot make the directory {context.directory}: {result.stderr.strip() or 'no reason given'}",
                exit_status=result.exit_status,
                stderr=result.stderr,
                where=context.resource.name,
                advice="check the resource's scratch directory, its permissions and the user's quota",
            )
        context.log.info("Directory %s on %s", context.directory, context.resource.name)
        return TaskResult({"directory": context.directory})
