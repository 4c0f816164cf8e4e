"""What a request asks for, in the words of HTCondor's submit description.

A job here is one machine's (universe ``vanilla``) and shares its file system with the access point. ``$`` begins a
macro in a description; ``$(DOLLAR)`` is the sign itself. Pure; no Airflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from airavata_provider.errors import ConfigurationError
from airavata_provider.schedulers.request import Inexpressible, JobRequest, MailEvent, Option

KEPT_S = 600
"""How long an ended job stays in the queue, in seconds, so that the next poll sees its end there."""

HOPELESS = (3, 6, 7, 8, 9, 10, 12, 13, 14, 21, 22, 32, 33, 34, 45, 46, 47)
"""``HoldReasonCode`` of a job that HTCondor put on hold for what it did or lacks (no program, no directory, too much
memory, out of time): it would wait there for a person for ever, so its description has it removed. Holds by a person
(1, 15) and by the administrator's policy (26) stay.
"""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GPU = re.compile(r"[A-Za-z0-9_. -]+")
_GROUP = re.compile(r"[A-Za-z0-9_.-]+")
_LIMIT = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)(?::(\d+))?")
_ADDRESS = re.compile(r"[A-Za-z0-9_.%+@-]+")


def value(text: str) -> str:
    """A text as a command of the description takes it.

    :raises ConfigurationError: no description can carry it
    """
    if not text.isprintable() or text != text.strip() or text.endswith("\\") or "$$(" in text or not text:
        raise ConfigurationError(f"HTCondor's submit description cannot carry {text!r}")
    return text.replace("$", "$(DOLLAR)")


def _name(what: str, text: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(text):
        raise ConfigurationError(f"{what} cannot be {text!r}")
    return text


def _one_machine(request: JobRequest) -> Iterable[str]:
    if request.nodes != 1:
        raise Inexpressible("an HTCondor job runs on one machine")
    if request.tasks_per_node is not None and request.tasks_per_node < request.tasks:
        raise Inexpressible(
            f"{request.tasks} tasks, {request.tasks_per_node} on a machine, are more than one machine"
        )
    yield f"request_cpus = {request.tasks * request.cpus_per_task}"


def _gpus(request: JobRequest) -> Iterable[str]:
    if request.gpu_type and not request.gpus:
        raise Inexpressible("a kind of GPU without a number of them")
    if request.gpus:
        yield f"request_gpus = {request.gpus}"
    if request.gpu_type:
        kind = _name("a kind of GPU", request.gpu_type, _GPU)
        yield f'require_gpus = regexp("{kind}", DeviceName)'


def _limits(request: JobRequest) -> Iterable[str]:
    limits = []
    for licence in request.licenses:
        match = _LIMIT.fullmatch(licence)
        if match is None:
            raise ConfigurationError(f"{licence!r} is no licence, which is NAME or NAME:COUNT")
        limits.append(f"{match[1]}:{match[2]}" if match[2] else match[1])
    if limits:
        yield f"concurrency_limits = {', '.join(limits)}"


def _mail(request: JobRequest) -> Iterable[str]:
    odd = sorted(request.mail_events & {MailEvent.BEGIN, MailEvent.REQUEUE})
    if odd:
        raise Inexpressible(f"HTCondor writes no mail at {' or '.join(odd)}")
    if not request.mail_events:
        yield "notification = Never"
        return
    # Error: a signal, a hold. A status that is not 0 is none, so that a mail of failures needs every end's.
    yield "notification = Complete"
    if request.mail_to:
        yield f"notify_user = {_name('an address', request.mail_to, _ADDRESS)}"


def _export(request: JobRequest) -> Iterable[str]:
    if request.export is None:
        return
    if not request.export:
        yield "getenv = False"
    elif "ALL" in request.export:
        yield "getenv = True"
    else:
        yield f"getenv = {', '.join(_name('a variable', name, _VARIABLE) for name in request.export)}"


def _array(request: JobRequest) -> Iterable[str]:
    if request.array is not None and request.array.throttle:
        # What is not materialized is not in the queue: at most that many run at a time.
        yield f"max_materialize = {request.array.throttle}"


def _walltime(request: JobRequest) -> Iterable[str]:
    if request.walltime_s:
        # The script ends itself in time; this is for one that cannot. HTCondor 9.4; older ones ignore it.
        yield f"allowed_execute_duration = {request.walltime_s + 120}"


def _constraint(request: JobRequest) -> Iterable[str]:
    if request.constraint:
        yield f"requirements = {value(request.constraint)}"


OPTIONS = (
    Option(("nodes", "tasks", "tasks_per_node", "cpus_per_task"), _one_machine),
    Option(("memory_mb",), lambda r: [f"request_memory = {r.memory_mb}"] if r.memory_mb else []),
    Option(("gpus", "gpu_type"), _gpus),
    Option(("walltime_s",), _walltime),
    Option(
        ("account",),
        lambda r: [f"accounting_group = {_name('an accounting group', r.account, _GROUP)}"] if r.account else [],
    ),
    Option(("constraint",), _constraint),
    Option(("licenses",), _limits),
    Option(("array",), _array),
    Option(("mail_to", "mail_events"), _mail),
    Option(("export",), _export),
)
"""The table. HTCondor has no queues, partitions, reservations and dependencies (DAGMan has), and no exclusive
machines; it charges an accounting group, and a licence is a concurrency limit.
"""
