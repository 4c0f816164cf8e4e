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

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from airavata_provider.errors import ConfigurationError, SubmissionRefused, SubmissionUncertain
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.load import QueueLoad
from airavata_provider.schedulers.notice import BY_SCRIPT, SIGNAL_FIELDS
from airavata_provider.schedulers.request import Inexpressible, JobRequest, Option, asked

_NOTHING = re.compile(r"(?!)")
_WORDS = 1000
"""Characters of a refusal that are told: its end."""

SHORTER = (
    "lower the resource's max_array_size, so that it is split into arrays that fit, and clear the task; or ask for"
    " fewer elements"
)
"""What helps against the refusal of an array that is too long."""


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
    :param name: its name in the scheduler, which all elements of an array share; "" for another's job whose name is
        not known: its id alone counts
    :param directory: the working directory that holds its control directory
    :param index: of an array's element, whose ``native_id`` is :meth:`Scheduler.element_id`
    """

    native_id: str
    name: str
    directory: str
    index: int | None = None

    def called(self, name: str) -> bool:
        """Whether a job of that name and of this id is this one: ids begin anew when a controller is reset."""
        return not self.name or self.name == name


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


@dataclass(frozen=True)
class SubmitWords:
    """What a submit command prints, as patterns: :meth:`Scheduler.parse_submit` reads its answers by them.

    :param command: its name (``sbatch``)
    :param missing: what a person looks at where it cannot be run
    :param said: an id, the first group, in a sentence that nothing else prints: counts with every status
    :param bare: an id, the first group, alone on a line: counts with status 0, and nobody can tell with another
    :param uncertain: after these words the job may have been accepted, whatever else is said
    :param later: words of a refusal that time cures: too many jobs there, or a queue that is closed
    :param refused: words of the other certain refusals
    :param too_long: words of a certain refusal of an array that is longer than the cluster takes
    :param later_statuses: exit statuses that say what ``later`` does
    :param statuses: the command's own exit statuses, and not those of what ended it
    """

    command: str
    missing: str
    uncertain: re.Pattern[str]
    refused: re.Pattern[str]
    later: re.Pattern[str] = _NOTHING
    said: re.Pattern[str] = _NOTHING
    bare: re.Pattern[str] = _NOTHING
    too_long: re.Pattern[str] = _NOTHING
    later_statuses: Container[int] = ()
    statuses: Container[int] = (*range(1, 124), 255)


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

    submit_words: ClassVar[SubmitWords | None] = None
    """How the submit command's answer is read; None: :meth:`parse_submit` is the adaptor's own."""

    restart_expression: ClassVar[str] = "0"
    """Shell expression for how often the scheduler started this job again under the same id."""

    enforces_walltime: ClassVar[bool] = True
    """Whether the scheduler ends a job at its walltime; else the job's script does it itself."""

    reserved_exits: ClassVar[Sequence[int]] = ()
    """Exit statuses of a job that mean something else to the scheduler than an end (run it again); a script ends with
    1 instead, and its own record has the payload's.
    """

    def prologue(self, request: JobRequest, control: str) -> Sequence[str]:
        """Shell lines that a job's script runs before everything else.

        :param control: the job's control directory, absolute
        """
        return ()

    def side_files(self, request: JobRequest, control: str) -> Mapping[str, str]:
        """Files of its own that the scheduler's submit command reads, by name: they are written into the control
        directory beside the script. For a scheduler that takes no directives from a script.

        :param control: the job's control directory, absolute
        :raises ConfigurationError: as :meth:`directives`
        """
        return {}

    def fixed(self, request: JobRequest) -> Sequence[str]:
        """Directives, without the prefix, that no request changes: name, directory, where the script's own log
        goes.
        """
        return ()

    def check_raw(self, line: str) -> None:  # noqa: B027  # most have nothing to object to
        """Look at a raw directive of the site.

        :raises ConfigurationError: with it, the job could not be followed
        """

    def directive_key(self, line: str) -> str:
        """Which option a directive (without the prefix) sets: two with the same key say the same thing twice.

        What stands before the first ``=``, else the first word: ``--mem``, ``-l walltime``, ``-q``.
        """
        name, equals, _ = line.strip().partition("=")
        words = name.split()
        return " ".join(words) if equals and not (words and words[0].startswith("--")) else (words or [""])[0]

    def merge_directives(self, *layers: Sequence[str]) -> tuple[str, ...]:
        """Raw directives of several places: one takes the place of those of the same option in the places before.

        ``!OPTION`` takes that option's directives out of the places before; it stays in the result, where
        :meth:`directives` takes out the table's own.
        """
        merged: list[str] = []
        for layer in layers:
            lines = [self._bare(line) for line in layer]
            keys = {self.directive_key(line.removeprefix("!")) for line in lines}
            merged = [line for line in merged if self.directive_key(line.removeprefix("!")) not in keys] + lines
        return tuple(merged)

    def _bare(self, raw: str) -> str:
        """A raw directive without the prefix, which people may write."""
        removes = raw.strip().startswith("!")
        text = raw.strip().removeprefix("!").strip()
        return "!" * removes + (text.removeprefix(self.prefix).strip() if self.prefix else text)

    def directives(self, request: JobRequest) -> Sequence[str]:
        """Lines of the script's head (``#SBATCH …``), without newlines: fixed ones, the table's, raw ones.

        A raw one takes the place of the table's for the same option, and ``!OPTION`` leaves the table's out. What the
        scheduler cannot express is left out: whoever asks for it is told by :meth:`unsupported`.

        :raises ConfigurationError: a value that nobody may ask for; a raw directive that must not be
        """
        raw = [self._bare(line) for line in request.directives]
        for line in raw:
            if len(line.splitlines()) > 1:
                raise ConfigurationError(f"a directive is one line: {line!r}")
            self.check_raw(line.removeprefix("!"))
        replaced = {self.directive_key(line.removeprefix("!")) for line in raw}
        table: list[str] = []
        for option in self.options:
            try:
                table += option.lines(request)
            except Inexpressible:
                continue
        table = [line for line in table if self.directive_key(line) not in replaced]
        lines = [*self.fixed(request), *table, *(line for line in raw if not line.startswith("!"))]
        return [f"{self.prefix} {line}".strip() for line in lines]

    @property
    def entries(self) -> Sequence[Option]:
        """The whole table: :attr:`options`, and the signal before the walltime, which the job's script sends where
        they have no words for it.
        """
        said = {name for option in self.options for name in option.fields}
        return self.options if said.intersection(SIGNAL_FIELDS) else (*self.options, BY_SCRIPT)

    def gives_notice(self, request: JobRequest) -> bool:
        """Whether a directive asks the scheduler to send the script SIGUSR1 before the walltime is over; else the
        script does it itself.
        """
        for option in self.options:
            if "signal_before_end_s" in option.fields:
                try:
                    return any(option.lines(request))
                except Inexpressible:
                    return False
        return False

    def unsupported(self, request: JobRequest) -> Mapping[str, str]:
        """What is asked for and cannot be expressed here: by field's name, why."""
        wanted = asked(request)
        known = {name for option in self.entries for name in option.fields}
        found = dict.fromkeys(sorted(wanted - known), f"{self.name} has no words for it")
        for option in self.entries:
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
        """Command that submits the script at that path (absolute); run in the working directory.

        A single line that is ``exec`` and one program with its words and redirections gets no shell around it.
        """

    def parse_submit(self, result: CommandResult) -> str:
        """The scheduler's id from :meth:`submit_command`'s answer, by :attr:`submit_words`.

        Certain is a refusal only with a status and in words that are the command's own; everything else, silence too,
        may have been accepted.

        :raises SubmissionRefused: the scheduler certainly did not accept the job; carries its words, and is
            ``transient`` where time cures it
        :raises SubmissionUncertain: it may have (time-out, lost answer)
        """
        say = self.submit_words
        if say is None:
            raise NotImplementedError(f"{self.name} has neither submit_words nor a parse_submit of its own")
        if (native_id := self.accepted(result)) is not None:
            return native_id
        text = " ".join(f"{result.stderr} {result.stdout}".split())
        words = text[-_WORDS:]
        if result.exit_status in (126, 127):
            raise SubmissionRefused(f"{say.command} cannot be run: {words}", advice=say.missing)
        certain = result.exit_status in say.statuses and not say.bare.search(_lines(result.stdout))
        if certain and not say.uncertain.search(text):
            later = result.exit_status in say.later_statuses or say.later.search(text) is not None
            if later or say.refused.search(text):
                refusal = SubmissionRefused(words, advice=SHORTER if say.too_long.search(text) else None)
                refusal.transient = later
                raise refusal
        raise SubmissionUncertain(f"{say.command} ended with status {result.exit_status}: {words or 'no words'}")

    def accepted(self, result: CommandResult) -> str | None:
        """The id in a submit command's answer, the last where there are several: wrappers and sites print more before
        it. None: there is none.
        """
        if (say := self.submit_words) is None:
            return None
        found = say.said.findall(result.stdout) or say.said.findall(result.stderr)
        if not found and result.exit_status == 0:
            found = say.bare.findall(_lines(result.stdout))
        return str(found[-1]) if found else None

    @abstractmethod
    def find_command(self, name: str, user: str | None, directory: str) -> str:
        """Command that looks a job up by name: queue first, then history."""

    @abstractmethod
    def parse_find(self, result: CommandResult, name: str) -> str | None:
        """The id of the job with that name, None when the scheduler certainly has none.

        :raises AnswerUnreadable: could not tell
        """

    def parse_find_within(self, result: CommandResult, name: str, age_s: float) -> str | None:
        """:meth:`parse_find` for a job that cannot be older than ``age_s`` seconds.

        Ids and names may begin anew after a controller's reset, or with a job store that was lost: a job of that
        name that was submitted before we meant to is not ours. Here: :meth:`parse_find` alone, for a scheduler
        whose answer has no time of submission. An age, by the cluster's own clock, because clocks differ.

        :raises AnswerUnreadable: could not tell
        """
        return self.parse_find(result, name)

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

    def load_command(self, queues: Sequence[str]) -> str | None:
        """Command that asks how full those queues are, by everybody's jobs; None: the scheduler cannot be asked.

        It has to be cheap for the scheduler and its answer short, however many jobs there are.

        :param queues: the scheduler's names for them; "" for where a job goes that names none
        """
        return None

    def parse_load(self, result: CommandResult, queues: Sequence[str]) -> Mapping[str, QueueLoad]:
        """How full they are; a queue that is not in the mapping is not known there.

        :raises AnswerUnreadable: the answer as a whole cannot be trusted
        """
        raise NotImplementedError(f"{self.name} does not tell how full its queues are")


def _lines(text: str) -> str:
    return text.replace("\r", "")
