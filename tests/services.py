"""Services for tests of tasks without Airflow: the test bed's host, a catalog in a folder, a store in a file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airavata_provider.jobs.poller import Way
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.catalog import Catalog, load_catalog
from airavata_provider.monitors.rhythm import Rhythm
from airavata_provider.schedulers.registry import scheduler
from airavata_provider.triggers.host import Segment, run_segment
from airavata_provider.triggers.hosted import HostedTask, Run
from airavata_provider.triggers.services import HostServices
from tests.bed import Bed

if TYPE_CHECKING:
    from airavata_provider.models.resource import ComputeResource
    from airavata_provider.ssh.host import Host
    from airavata_provider.ssh.target import Target
    from airavata_provider.storage.base import Storage

LOG = logging.getLogger("tests.task")

CATALOG = """\
compute_resources:
  cluster: &cluster
    connection: bed
    scheduler: slurm
    scratch: {scratch}
    queues:
      debug: {{max_walltime: 60, max_nodes: 1, max_cpus: 64, default_walltime: 5}}
  host:
    <<: *cluster
    scheduler: fork
    queues: {{}}
  small:
    <<: *cluster
    max_array_size: 4
  other:
    <<: *cluster
    scheduler: fork
    scratch: {scratch}/other
    queues: {{}}
storage_resources:
  files: {{type: local, root: {root}, default: true}}
  remote: {{type: sftp, connection: bed, root: {scratch}/storage}}
applications:
  upper:
    pattern: hpc_batch
    inputs:
      text: {{type: FILE, position: 1}}
      message: {{type: STRING, position: 2, default: hello}}
      fail: {{type: INTEGER, position: 3, default: 0}}
      seconds: {{type: INTEGER, position: 4, default: 0}}
    outputs:
      result: {{file: result.txt}}
    deployments:
      cluster: &upper
        executable: /bin/sh
        arguments:
          - -c
          - |
            echo "started $2" >&2
            tr '[:lower:]' '[:upper:]' < "$1" > result.tmp
            printf '%s\\n' "$2" >> result.tmp
            sleep "$4"
            [ "$3" = 0 ] && mv result.tmp result.txt
            exit "$3"
          - upper
          - "{{{{ inputs.text }}}}"
          - "{{{{ inputs.message }}}}"
          - "{{{{ inputs.fail }}}}"
          - "{{{{ inputs.seconds }}}}"
      host: *upper
  moving:
    pattern: hpc_batch
    inputs:
      text: {{type: FILE, position: 1}}
    outputs:
      result: {{file: result.txt}}
    deployments:
      cluster: {{executable: /bin/sh, arguments: [-c, exit 75]}}
      other:
        executable: /bin/sh
        arguments: [-c, 'tr a-z A-Z < "$1" > result.txt', upper, "{{{{ inputs.text }}}}"]
  each:
    pattern: hpc_array
    inputs:
      text: {{type: FILE, position: 1, each: true}}
      code: {{type: INTEGER, position: 2, each: true}}
      common: {{type: FILE, position: 3}}
    outputs:
      result: {{file: "result*.txt"}}
    deployments:
      cluster: &each
        executable: /bin/sh
        arguments:
          - -c
          - |
            cat "$1" "$3" > "result-$AIRAVATA_INDEX.txt"
            echo "try" >> tries
            [ "$(wc -l < tries)" -gt 1 ] && [ "$2" = 3 ] && exit 0
            exit "$2"
          - each
          - "{{{{ inputs.text }}}}"
          - "{{{{ inputs.code }}}}"
          - "{{{{ inputs.common }}}}"
      small: *each
      host: *each
"""


class BedServices(HostServices):
    """The test bed, as tasks see it."""

    def __init__(self, bed: Bed, target: Target, folder: Path, store: JobStore) -> None:
        self.store = store
        self.target = target
        self.root = folder / "storage"
        self.root.mkdir()
        (folder / "catalog").mkdir()
        (folder / "catalog" / "catalog.yaml").write_text(CATALOG.format(scratch=bed.scratch, root=self.root))
        self._catalog = load_catalog([folder / "catalog"])
        self.watched = 0

    def catalog(self) -> Catalog:
        return self._catalog

    async def host(self, resource: ComputeResource) -> Host:
        from airavata_provider.ssh.pool import get_pool

        return get_pool().host(self.target)

    async def storage(self, name: str) -> Storage:
        from airavata_provider.storage.base import open_storage, storage_type

        resource = self._catalog.storage_resource(name)
        host = None
        if storage_type(resource.type).needs_host:
            from airavata_provider.ssh.pool import get_pool

            host = get_pool().host(self.target)
        return open_storage(resource, host)

    async def way(self, resource: str) -> Way:
        found = self._catalog.compute_resource(resource)
        return Way(await self.host(found), scheduler(found.scheduler))

    def webhook_url(self, resource: ComputeResource, job: str) -> str | None:
        return None

    def webhook_token(self, job: str) -> str:
        return f"token-of-{job}"

    async def watch(self) -> None:
        from airavata_provider.jobs.reconcile import Pace, ensure_reconciler

        self.watched += 1
        ensure_reconciler(self.store, self.way, pace=Pace(rhythm=Rhythm(base=1.0), show=0.2))

    async def run(
        self, experiment: str, conf: Mapping[str, Any] | None, *tasks: HostedTask, try_number: int = 1
    ) -> dict[str, Mapping[str, Any]]:
        """Run tasks as a segment of a pattern's DAG, or one by one where there is no experiment."""
        run = Run("pattern", experiment, -1, try_number, conf)
        return await run_segment(Segment(tasks, run, self, LOG))
