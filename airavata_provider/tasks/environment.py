"""``environment_setup``: makes the experiment's directory on the resource.

Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from airavata_provider.errors import CommandFailed
from airavata_provider.schedulers.base import quote
from airavata_provider.tasks.arrays import SHARED
from airavata_provider.tasks.base import Parameters, Task, TaskContext, TaskResult

if TYPE_CHECKING:
    from airavata_provider.models.resolved import ResolvedExperiment

# Only the leaf is made private: what lies above it belongs to the site.
_SCRIPT = """\
set -eu
mkdir -p -- {directory}
chmod 700 -- {directory}
test -w {directory}
"""
_ELEMENTS = """\
cd -- {directory}
mkdir -p {shared}
n=0
while [ $n -lt {elements} ]; do mkdir -p $n; n=$((n + 1)); done
"""


class EnvironmentSetupParameters(Parameters):
    """The directory itself follows from the experiment and the resource's scratch directory."""

    elements: int = Field(default=0, ge=0, description="Elements of an array, each of which gets a directory in it")


class EnvironmentSetup(Task[EnvironmentSetupParameters]):
    """Makes the directory, with mode 700; finds it again when it is there."""

    name: ClassVar[str] = "environment_setup"
    Parameters: ClassVar[type[Parameters]] = EnvironmentSetupParameters

    def defaults(self, experiment: ResolvedExperiment) -> Mapping[str, Any]:
        """A directory for each element, where the job is an array."""
        return {"elements": len(experiment.elements)}

    async def run(self, context: TaskContext[EnvironmentSetupParameters]) -> TaskResult:
        """:raises CommandFailed: the directory cannot be made or written to"""
        host = await context.services.host(context.resource)
        script = _SCRIPT.format(directory=quote(context.directory))
        if elements := context.parameters.elements:
            script += _ELEMENTS.format(directory=quote(context.directory), shared=SHARED, elements=elements)
        result = await host.run(script, timeout=60 + elements / 20)
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
