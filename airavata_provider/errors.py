"""Every error this package raises.

::

    AiravataError
     ├─ ConfigurationError          the deployment is set up wrongly
     │   ├─ CatalogError            a catalog file: unreadable, or entries that do not fit together
     │   ├─ PatternError            an execution pattern that cannot become a DAG
     │   ├─ SettingsError           `[airavata]` in Airflow's configuration (`settings`)
     │   └─ TemplateError           a template in a pattern (`models.template`)
     ├─ FaultyInput                 every fault at once, each with its place: of the two above, and
     │   └─ ExperimentRefused       a request that cannot be run
     ├─ ExperimentExists            one of that id is there already (`runs`)
     ├─ SSHError
     │   ├─ ConnectFailed *         no connection: refused, timed out, dropped
     │   ├─ CircuitOpen *           the host failed often of late; not tried again yet
     │   ├─ AuthenticationFailed    the host does not accept our credentials
     │   ├─ HostKeyRejected         the host is not the one that we know
     │   ├─ CommandTimedOut *       a remote command gave no answer in time
     │   └─ CommandFailed           a remote command ended with a status that is not 0
     ├─ TransferError *             a file did not arrive whole
     │   └─ FileMissing             a file that should be there is not
     ├─ SchedulerError
     │   ├─ SubmissionRefused       the scheduler said no, in its own words
     │   ├─ SubmissionUncertain *   nobody can tell yet whether the job was accepted
     │   └─ AnswerUnreadable *      a scheduler's answer that makes no sense
     ├─ JobFailed                   the job ended without success
     ├─ JobCanceled                 the job was cancelled
     ├─ JobUnknown                  the store has no job of that name
     ├─ StoreError *                the job store did not answer
     ├─ MailError *                 a mail server did not answer, or not as it should
     │   └─ MailLoginRefused *      it does not accept our credentials
     ├─ ContainerFailed             a parser's container ended with a status that is not 0
     ├─ EngineUnreachable *         the Docker Engine went away, or did not do what it should
     └─ DeadlineExceeded            a task took longer than its pattern allows

``*`` marks those that are transient: the same step, tried later, may go well. Foreign errors become one of
these at the boundary of the library that raises them, with the cause kept.

Imports nothing of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class AiravataError(Exception):
    """Base of all errors here.

    :param message: what happened, with the values that made it happen
    :param where: the place: a file and line, a host, a job id
    :param advice: what a person can do about it
    """

    transient: bool = False

    def __init__(self, message: str, *, where: str | None = None, advice: str | None = None) -> None:
        self.message = message
        self.where = where
        self.advice = advice
        super().__init__(message)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.advice})" if self.advice else text


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong with a request, a catalog or a pattern.

    :param where: the field's path (``inputs.structure``), with file and line before it where there is a file
    :param message: what is wrong with it
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class FaultyInput(AiravataError):
    """Input that was refused whole; carries every fault that was found.

    :param title: what was refused, for the first line
    :param faults: at least one fault
    """

    def __init__(self, title: str, faults: Sequence[Fault]) -> None:
        self.title = title
        self.faults = tuple(faults)
        super().__init__(title + "".join(f"\n  {fault}" for fault in self.faults))


class ConfigurationError(AiravataError):
    """The deployment is set up wrongly."""


class CatalogError(FaultyInput, ConfigurationError):
    """A catalog that cannot be read, or whose entries do not fit together."""


class PatternError(FaultyInput, ConfigurationError):
    """An execution pattern that cannot become a DAG."""


class ExperimentRefused(FaultyInput):
    """An experiment that cannot be run as it was asked for."""


class SSHError(AiravataError):
    """Something between us and a host.

    ``started`` tells whether the command that was asked for may have run: False is certain, True is "nobody knows".
    """

    started: bool = False


class ConnectFailed(SSHError):
    """No connection: refused, timed out, or dropped."""

    transient = True


class CircuitOpen(SSHError):
    """The host failed often of late and is left alone for a while."""

    transient = True


class AuthenticationFailed(SSHError):
    """The host does not accept our credentials."""


class HostKeyRejected(SSHError):
    """The host showed a key that is not the one we know."""


class CommandTimedOut(SSHError):
    """A remote command gave no answer in time. Whether it ran is not known."""

    transient = True
    started = True


class CommandFailed(SSHError):
    """A remote command ended with a status that is not 0.

    :param exit_status: the command's status, negative for a signal
    :param stderr: the end of what it wrote there
    """

    started = True

    def __init__(
        self,
        message: str,
        *,
        exit_status: int,
        stderr: str = "",
        where: str | None = None,
        advice: str | None = None,
    ) -> None:
        self.exit_status = exit_status
        self.stderr = stderr
        super().__init__(message, where=where, advice=advice)


class TransferError(AiravataError):
    """A file did not arrive whole."""

    transient = True


class FileMissing(TransferError):
    """A file that should be there is not."""

    transient = False


class SchedulerError(AiravataError):
    """Something between us and a batch scheduler."""


class SubmissionRefused(SchedulerError):
    """The scheduler refused a job, in its own words."""


class SubmissionUncertain(SchedulerError):
    """Nobody can tell yet whether the scheduler accepted the job. Never answered with a second submit."""

    transient = True


class AnswerUnreadable(SchedulerError):
    """A scheduler's answer that makes no sense; neither "finished" nor "absent"."""

    transient = True


class JobFailed(AiravataError):
    """The job ended without success."""


class JobCanceled(AiravataError):
    """The job was cancelled."""


class JobUnknown(AiravataError):
    """The store has no job of that name."""


class StoreError(AiravataError):
    """The job store did not answer."""

    transient = True


class MailError(AiravataError):
    """A mail server did not answer, or not as it should."""

    transient = True


class MailLoginRefused(MailError):
    """A mail server does not accept our credentials."""


class ContainerFailed(AiravataError):
    """A parser's container ended with a status that is not 0."""


class EngineUnreachable(AiravataError):
    """The Docker Engine went away, or did not do what it should."""

    transient = True


class DeadlineExceeded(AiravataError):
    """A task took longer than its pattern allows."""
