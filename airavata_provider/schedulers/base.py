"""What a batch scheduler's adaptor is: pairs of pure functions that build commands and read answers.

An adaptor does no I/O, holds no state and imports no Airflow. Whoever calls it runs its commands on the
resource's login node with a POSIX shell (``host.run``), standard output and standard error apart. Every
value that is put into a command goes through :func:`quote`. A native state that nobody knows becomes
``UNKNOWN``, never an exception; an answer that makes no sense raises
:class:`~airavata_provider.errors.AnswerUnreadable`.

A new scheduler is one subclass in one file and one entry point in the group ``airavata.schedulers``.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from airavata_provider.models.job import JobState


def quote(value: str) -> str:
    """Quote one value for a POSIX shell: the one function by which a value reaches a command line.

    :raises ValueError: the value holds a NUL, which no command line can carry
    """
    if "\0" in value:
        raise ValueError("a NUL character cannot be passed to a command")
    return shlex.quote(value)


@dataclass(frozen=True)
class JobRequest:
    """Everything a job script is written from. Values are raw text; the script's writer quotes them.

    :param name: the job's name (``models.identity.job_name``)
    :param directory: working directory, absolute, on the resource
    :param executable: path or command, one word
    :param arguments: one entry each, passed as they are
    :param environment: exported before the modules are loaded
    :param module_init: shell lines that make ``module`` known, run before the modules are loaded (trusted
        text)
    :param modules: names for ``module load``
    :param pre_commands: shell lines of the site's administrator, run before the executable (trusted text)
    :param post_commands: the same, after it, whatever its exit status
    :param launcher: words put before the executable (``("srun",)``); () runs it directly
    :param stdin: file in the working directory, or None
    :param stdout: file name in the working directory for the payload's standard output
    :param stderr: the same for standard error
    :param queue: queue or partition
    :param nodes: number of nodes
    :param tasks: processes in all
    :param cpus_per_task: cores for each process
    :param memory_mb: memory per node, MiB
    :param gpus: GPUs per node
    :param walltime_s: seconds
    :param account: allocation to charge
    :param qos: quality of service
    :param reservation: reservation to run in
    :param comment: free text shown by the scheduler's tools
    :param signal_before_end_s: ask for a signal that many seconds before the walltime, where the scheduler
        can
    :param directives: raw scheduler options of the site (trusted text), one line each, without the prefix
    :param shell: interpreter of the script, with its options
    """

    name: str
    directory: str
    executable: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    module_init: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    pre_commands: tuple[str, ...] = ()
    post_commands: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    stdin: str | None = None
    stdout: str = "stdout.txt"
    stderr: str = "stderr.txt"
    queue: str | None = None
    nodes: int = 1
    tasks: int = 1
    cpus_per_task: int = 1
    memory_mb: int | None = None
    gpus: int = 0
    walltime_s: int | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    comment: str = ""
    signal_before_end_s: int = 60
    directives: tuple[str, ...] = ()
    shell: str = "/bin/bash"


@dataclass(frozen=True)
class CommandResult:
    """What a remote command left: its exit status (negative for a signal) and its two streams."""

    exit_status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class JobRef:
    """A job as a status query needs it.

    :param native_id: the scheduler's id
    :param name: our name for it
    :param directory: its working directory
    """

    native_id: str
    name: str
    directory: str


@dataclass(frozen=True)
class JobStatus:
    """One job in a scheduler's answer.

    :param native_id: the scheduler's id
    :param state: neutral state
    :param native_state: the scheduler's word for it
    :param name: the job's name, where the answer has it
    :param exit_code: the payload's, where the answer has it
    :param signal: the signal that ended the payload, where the answer has it
    :param reason: why it waits or why it ended, in the scheduler's words
    """

    native_id: str
    state: JobState
    native_state: str
    name: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""


class Scheduler(ABC):
    """One batch scheduler. Every method is pure.

    Absent is not unreadable: a parse method that returns without a job says "the scheduler does not know it";
    an answer that cannot be trusted (a status that is not 0, a time-out's words, noise) raises
    ``AnswerUnreadable``.
    """

    name: ClassVar[str]
    """The word in a compute resource's ``scheduler:``."""

    has_history: ClassVar[bool] = True
    """Whether :meth:`history_command` can tell about jobs that left the queue."""

    native_id_expression: ClassVar[str]
    """Shell expression, valid in a running job's script, for the id that :meth:`parse_submit` returned."""

    restart_expression: ClassVar[str] = "0"
    """Shell expression for how often the scheduler started this job again under the same id."""

    enforces_walltime: ClassVar[bool] = True
    """Whether the scheduler ends a job at its walltime; else the job's script does it itself."""

    def prologue(self, request: JobRequest, control: str) -> Sequence[str]:
        """Shell lines that a job's script runs before everything else.

        :param control: the job's control directory, absolute
        """
        return ()

    @abstractmethod
    def directives(self, request: JobRequest) -> Sequence[str]:
        """Lines of the script's head (``#SBATCH …``), without newlines."""

    @abstractmethod
    def submit_command(self, script: str, request: JobRequest) -> str:
        """Command that submits the script at that path (absolute); run in the working directory."""

    @abstractmethod
    def parse_submit(self, result: CommandResult) -> str:
        """The scheduler's id from :meth:`submit_command`'s answer.

        :raises SubmissionRefused: the scheduler certainly did not accept the job; carries its words
        :raises SubmissionUncertain: it may have (time-out, lost answer)
        """

    @abstractmethod
    def find_command(self, name: str, user: str | None, directory: str) -> str:
        """Command that looks a job up by name: queue first, then history."""

    @abstractmethod
    def parse_find(self, result: CommandResult, name: str) -> str | None:
        """The id of the job with that name, None when the scheduler certainly has none.

        :raises AnswerUnreadable: could not tell
        """

    @abstractmethod
    def status_command(self, jobs: Sequence[JobRef]) -> str:
        """One command for the state of all those jobs."""

    @abstractmethod
    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """States by native id; a job that is not in the mapping is not in the queue (which is not
        "finished").

        :raises AnswerUnreadable: the answer as a whole cannot be trusted
        """

    @abstractmethod
    def history_command(self, jobs: Sequence[JobRef]) -> str:
        """One command for what became of jobs that the queue no longer knows."""

    @abstractmethod
    def parse_history(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """Ends by native id; a job that is not in the mapping left no record.

        :raises AnswerUnreadable: the answer as a whole cannot be trusted
        """

    @abstractmethod
    def cancel_command(self, jobs: Sequence[JobRef]) -> str:
        """Command that ends those jobs; harmless for jobs that ended already. Asked again until they are
        gone.
        """
