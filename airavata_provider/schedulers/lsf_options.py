"""What a request asks for, in ``bsub``'s words.

Memory carries its unit (``4096MB``), whatever a site's ``LSF_UNIT_FOR_LIMITS`` is: LSF takes units since 10.1 Fix
Pack 2. An array's index begins at 1 in LSF: ours plus one. Pure; no Airflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from airavata_provider.errors import ConfigurationError
from airavata_provider.schedulers.request import (
    DependencyKind,
    Inexpressible,
    JobRequest,
    MailEvent,
    Option,
    ranges,
)

MAX_NAME = 4094
"""Characters that ``bsub`` takes for a job's name with its indices."""

_WORD = re.compile(r"[A-Za-z0-9_./:@%+,=~-][A-Za-z0-9_./:@%+,=~#-]*")
_ID = re.compile(r"\d+(?:\[\d+\])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LICENCE = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)(?::(\d+))?")

_CONDITIONS = {
    DependencyKind.OK: "done",
    DependencyKind.ENDED: "ended",
    DependencyKind.FAILED: "exit",
    DependencyKind.STARTED: "started",
}


def array_name(request: JobRequest) -> str:
    """The job's name as ``-J`` takes it: with the indices and how many run at a time.

    :raises Inexpressible: longer than ``bsub`` takes
    :raises ConfigurationError: not a name
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", request.name):
        raise ConfigurationError(f"{request.name!r} cannot be the name of an LSF job")
    if request.array is None:
        return request.name
    spans = [f"{a + 1}" if a == b else f"{a + 1}-{b + 1}" for a, b in ranges(request.array.indices)]
    throttle = f"%{request.array.throttle}" if request.array.throttle else ""
    name = f"{request.name}[{','.join(spans)}]{throttle}"
    if len(name) > MAX_NAME:
        raise Inexpressible(f"the list of the array's indices is longer than LSF takes ({MAX_NAME} characters)")
    return name


def _word(option: str, value: str) -> str:
    if not _WORD.fullmatch(value):
        raise ConfigurationError(f"{option} cannot carry {value!r}")
    return f"{option} {value}"


def _quoted(option: str, value: str) -> str:
    """An option whose value has blanks; ``bsub`` has no way to say a quote or a newline in it."""
    if not value.isprintable() or '"' in value or "\\" in value:
        raise ConfigurationError(f"{option} cannot carry {value!r}")
    return f'{option} "{value}"'


def _array(request: JobRequest) -> Iterable[str]:
    if request.array is not None:
        yield f'-J "{array_name(request)}"'


def _places(request: JobRequest) -> Iterable[str]:
    slots = request.tasks * request.cpus_per_task
    if request.tasks_per_node is not None:
        nodes = -(-request.tasks // request.tasks_per_node)
        if request.nodes not in (1, nodes):
            raise Inexpressible(
                f"{request.tasks} tasks, {request.tasks_per_node} on a node, are {nodes} nodes in LSF"
            )
        span = f"ptile={request.tasks_per_node * request.cpus_per_task}"
    elif request.nodes > slots:
        raise Inexpressible(f"LSF gives no more nodes ({request.nodes}) than slots ({slots})")
    elif request.nodes > 1:
        span = f"ptile={-(-request.tasks // request.nodes) * request.cpus_per_task}"
    else:
        span = "hosts=1"
    yield f"-n {slots}"
    yield f'-R "span[{span}]"'


def _memory(request: JobRequest) -> Iterable[str]:
    if request.memory_mb:
        yield f'-R "rusage[mem={request.memory_mb}MB]"'
        if request.nodes == 1 and request.tasks_per_node is None:
            # A limit may count the whole job, so that of several nodes would be too small.
            yield f"-M {request.memory_mb}MB"


def _gpus(request: JobRequest) -> Iterable[str]:
    if request.gpu_type and not request.gpus:
        raise Inexpressible("a kind of GPU without a number of them")
    if request.gpus:
        kind = f":gmodel={request.gpu_type}" if request.gpu_type else ""
        yield _quoted("-gpu", f"num={request.gpus}{kind}")


def _walltime(request: JobRequest) -> Iterable[str]:
    if request.walltime_s:
        yield f"-W {-(-request.walltime_s // 60)}"


def _constraint(request: JobRequest) -> Iterable[str]:
    if request.constraint:
        if "]" in request.constraint:
            raise ConfigurationError(f"-R cannot carry select[{request.constraint}]")
        yield _quoted("-R", f"select[{request.constraint}]")


def _licences(request: JobRequest) -> Iterable[str]:
    for licence in request.licenses:
        match = _LICENCE.fullmatch(licence)
        if match is None:
            raise ConfigurationError(f"{licence!r} is no licence, which is NAME or NAME:COUNT")
        yield f'-R "rusage[{match[1]}={match[2] or 1}]"'


def _after(request: JobRequest) -> Iterable[str]:
    if request.after:
        for each in request.after:
            if not _ID.fullmatch(each.native_id):
                raise ConfigurationError(f"{each.native_id!r} is no id of an LSF job")
        conditions = (f"{_CONDITIONS[each.kind]}({each.native_id})" for each in request.after)
        yield f'-w "{" && ".join(conditions)}"'


def _mail(request: JobRequest) -> Iterable[str]:
    if MailEvent.REQUEUE in request.mail_events:
        raise Inexpressible("LSF writes no mail when it requeues a job")
    if not request.mail_events:
        return
    if request.mail_to:
        yield _word("-u", request.mail_to)
    if MailEvent.BEGIN in request.mail_events:
        yield "-B"
    # Without it the report of the end goes to the output file alone. -Ne: only of a failed job.
    if MailEvent.END in request.mail_events:
        yield "-N"
    elif MailEvent.FAIL in request.mail_events:
        yield "-Ne"


def _export(request: JobRequest) -> Iterable[str]:
    if request.export is None:
        return
    if not request.export:
        yield '-env "none"'
        return
    names = ["all" if name == "ALL" else name for name in request.export]
    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise ConfigurationError(f"{name!r} cannot be the name of an environment variable")
    yield f'-env "{", ".join(names)}"'


OPTIONS = (
    Option(("array",), _array),
    Option(("queue",), lambda r: [_word("-q", r.queue)] if r.queue else []),
    Option(("nodes", "tasks", "tasks_per_node", "cpus_per_task"), _places),
    Option(("memory_mb",), _memory),
    Option(("gpus", "gpu_type"), _gpus),
    Option(("walltime_s",), _walltime),
    Option(("account",), lambda r: [_word("-P", r.account)] if r.account else []),
    Option(("qos",), lambda r: [_word("-sla", r.qos)] if r.qos else []),
    Option(("reservation",), lambda r: [_word("-U", r.reservation)] if r.reservation else []),
    Option(("exclusive",), lambda r: ["-x"] if r.exclusive else []),
    Option(("constraint",), _constraint),
    Option(("licenses",), _licences),
    Option(("after",), _after),
    Option(("mail_to", "mail_events"), _mail),
    Option(("export",), _export),
)
"""The table. LSF's quality of service is a service class (``-sla``), its reservation an advance one (``-U``)."""
