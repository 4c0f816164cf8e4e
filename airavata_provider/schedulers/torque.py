"""Torque: PBS's commands with directives, arrays and a memory for ended jobs of its own.

Read with the man pages and sources of Torque 7. ``qstat -x`` is XML here, so ended jobs are seen only while the
server keeps them (``keep_completed``, 300 s by its default); after that, the jobs' own records tell. A deleted job
has no word of its own: its exit status is 271, 256 and SIGTERM.

Pure; no Airflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.schedulers import frame
from airavata_provider.schedulers.base import CommandResult, JobRef, quote
from airavata_provider.schedulers.pbs import PBSFamily
from airavata_provider.schedulers.pbs_answers import only_denials, parse_text
from airavata_provider.schedulers.pbs_options import TORQUE_OPTIONS
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.request import JobRequest, Option

_QSTAT = 'airavata_qstat() { airavata_limit 60 qstat -f "$@"; }'

_FIND = """\
(airavata_ids=$(airavata_limit 60 qselect -u {user}) || exit
# One of them may be forgotten by the time it is asked for.
[ -z "$airavata_ids" ] || airavata_qstat $airavata_ids)"""


class Torque(PBSFamily):
    """Torque, with whatever scheduler it has."""

    name: ClassVar[str] = "torque"
    index_expression: ClassVar[str | None] = "${PBS_ARRAYID:-}"
    options: ClassVar[Sequence[Option]] = TORQUE_OPTIONS
    ours: ClassVar[str] = "NtIzCXx"

    def output(self, request: JobRequest, control: str) -> str:
        """Torque puts ``-index`` behind an element's."""
        return f"{control}/scheduler.log"

    def log_file(self, job: JobRef) -> str:
        """In the array's control directory."""
        path = f"{control_directory(job.directory, job.name)}/scheduler.log"
        return path if job.index is None else f"{path}-{job.index}"

    def ask(self, jobs: Sequence[JobRef]) -> str:
        """As text."""
        return _QSTAT

    def submit_command(self, script: str, request: JobRequest) -> str:
        """``qsub``; its ``-f`` means something else here."""
        return self.submission("qsub", script, request)

    def find_command(self, name: str, user: str | None, directory: str) -> str:
        """All of the user's jobs, in full: an array's elements have other names than it, and it may not be listed."""
        find = _FIND.format(user=quote(user) if user else '"$(id -un)"')
        return "\n".join((frame.SETUP, "unset PBS_QSTAT_NO_COMPLETE", _QSTAT, frame.frame("queue", find)))

    def parse_find(self, result: CommandResult, name: str) -> str | None:
        """The oldest id; an element's is its array's."""
        answer = frame.whole(result.stdout, "queue", stderr=result.stderr)
        found: dict[int, str] = {}
        for job in parse_text(answer.lines):
            number, bracket, rest = job["id"].partition("[")
            own = job.get("job_name", "")
            if own == name or (bracket and own.rpartition("-")[0] == name):
                native_id = f"{number}[]{rest.partition(']')[2]}" if bracket else job["id"]
                digits = number.partition(".")[0]
                if digits.isdecimal():
                    found.setdefault(int(digits), native_id)
        if found:
            return found[min(found)]
        if answer.status != 0 and not (answer.errors and only_denials(answer.errors)):
            raise AnswerUnreadable(f"qstat: {answer.errors[-500:] or f'status {answer.status}'}")
        return None
