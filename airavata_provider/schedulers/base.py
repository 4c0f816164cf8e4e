"""What a batch scheduler's adaptor is: pairs of pure functions that build commands and read answers.

An adaptor does no I/O, holds no state and imports no Airflow. Whoever calls it runs its commands on the
resource's login node with a POSIX shell (``host.run``), standard output and standard error apart. Every
value that is put into a command goes through :func:`quote`. A native state that nobody knows becomes
``UNKNOWN``, never an exception; an answer that makes no sense raises
:class:`~airavata_provider.errors.AnswerUnreadable`.

What a request asks for is translated by a table, :attr:`Scheduler.options`: which fields of
:class:`JobRequest` an entry expresses, and the directive's text. A field that no entry has, or that its entry
cannot express with this value, is told by :meth:`Scheduler.unsupported`, never left out in silence.

A new scheduler is one subclass in one file and one entry point in the group ``airavata.schedulers``.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from airavata_provider.errors import ConfigurationError
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.request import Inexpressible, JobRequest, Option, asked


def quote(value: str) -> str:
    """Quote one value for a POSIX shell: the one function by which a value reaches a command line.

    :raises ValueError: the value holds a NUL, which no command line can carry
    """
    if "\0" in value:
        raise ValueError("a NUL character cannot be passed to a command")
    return shlex.quote(value)


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
    :param name: its name in the scheduler, which all elements of an array share
    :param directory: the working directory that holds its control directory
    :param index: of an array's element, whose ``native_id`` is :meth:`Scheduler.element_id`
    """

    native_id: str
    name: str
    directory: str
    index: int | None = None


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
    :param outcome: what kind of end, or of waiting, that is; None when nothing more is known than the state
    """

    native_id: str
    state: JobState
    native_state: str
    name: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    outcome: Outcome | None = None


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
    """Shell expression, valid in a running job's script, for the id that :meth:`parse_submit` returned; in an array's
    element for :meth:`element_id` of it.
    """

    index_expression: ClassVar[str | None] = None
    """Shell expression for the index of the array's element that runs; None: the scheduler has no arrays."""

    prefix: ClassVar[str] = ""
    """What a directive begins with in a script (``#SBATCH``)."""

    options: ClassVar[Sequence[Option]] = ()
    """The table from a request's fields to directives."""

    restart_expression: ClassVar[str] = "0"
    """Shell expression for how often the scheduler started this job again under the same id."""

    enforces_walltime: ClassVar[bool] = True
    """Whether the scheduler ends a job at its walltime; else the job's script does it itself."""

    def prologue(self, request: JobRequest, control: str) -> Sequence[str]:
        """Shell lines that a job's script runs before everything else.

        :param control: the job's control directory, absolute
        """
        return ()

    def fixed(self, request: JobRequest) -> Sequence[str]:
        """Directives, without the prefix, that no request changes: name, directory, where the script's own log
        goes.
        """
        return ()

    def check_raw(self, line: str) -> None:  # noqa: B027  # most have nothing to object to
        """Look at a raw directive of the site.

        :raises ConfigurationError: with it, the job could not be followed
        """

    def directives(self, request: JobRequest) -> Sequence[str]:
        """Lines of the script's head (``#SBATCH …``), without newlines: fixed ones, the table's, raw ones.

        What the scheduler cannot express is left out: whoever asks for it is told by :meth:`unsupported`.

        :raises ConfigurationError: a value that nobody may ask for; a raw directive that must not be
        """
        lines = list(self.fixed(request))
        for option in self.options:
            try:
                lines += option.lines(request)
            except Inexpressible:
                continue
        for raw in request.directives:
            text = raw.strip().removeprefix(self.prefix).strip()
            if "\n" in text or "\r" in text:
                raise ConfigurationError(f"a directive is one line: {raw!r}")
            self.check_raw(text)
            lines.append(text)
        return [f"{self.prefix} {line}" for line in lines]

    def unsupported(self, request: JobRequest) -> Mapping[str, str]:
        """What is asked for and cannot be expressed here: by field's name, why."""
        wanted = asked(request)
        known = {name for option in self.options for name in option.fields}
        found = dict.fromkeys(sorted(wanted - known), f"{self.name} has no words for it")
        for option in self.options:
            if wanted.intersection(option.fields):
                try:
                    tuple(option.lines(request))
                except Inexpressible as fault:
                    found |= dict.fromkeys(sorted(wanted.intersection(option.fields)), str(fault))
        return found

    def element_id(self, native_id: str, index: int) -> str:
        """The scheduler's id of one element of the array with that id.

        :raises NotImplementedError: no arrays here
        """
        raise NotImplementedError(f"{self.name} has no arrays")

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
        gone. The id of an array ends all its elements.
        """
