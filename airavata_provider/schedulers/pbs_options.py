"""Tables from a request to directives of PBS Pro/OpenPBS and of Torque.

``qsub`` splits a directive into words at blanks; quotes of both kinds keep a word together and cannot be escaped
within (OpenPBS, ``make_argv``). Lists in ``-l`` and ``-W`` have more characters of their own, so what goes into them
must be plain.

Pure; no Airflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from airavata_provider.errors import ConfigurationError
from airavata_provider.schedulers.request import (
    DependencyKind,
    Inexpressible,
    JobRequest,
    MailEvent,
    Option,
    ranges,
)

_PATH = re.compile(r"/[A-Za-z0-9_./+@,=-]*(?:\^array_index\^/[A-Za-z0-9_.-]+)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KINDS = {
    DependencyKind.OK: "afterok",
    DependencyKind.ENDED: "afterany",
    DependencyKind.FAILED: "afternotok",
    DependencyKind.STARTED: "after",
}
_MAIL = {MailEvent.BEGIN: "b", MailEvent.END: "e", MailEvent.FAIL: "a"}


def plain_path(path: str) -> bool:
    """Whether PBS takes a path as it stands: no blank, colon (a host's), variable or list."""
    return _PATH.fullmatch(path) is not None


def _word(key: str, value: str) -> str:
    """A value as one word of a directive."""
    if not value.isprintable() or not value:
        raise ConfigurationError(f"{key} cannot carry {value!r}")
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,=\[\]-]+", value):
        return value
    for mark in "\"'":
        if mark not in value and "\\" not in value:
            return f"{mark}{value}{mark}"
    raise ConfigurationError(f"{key} cannot carry {value!r}")


def _plain(key: str, value: str, more: str = "") -> str:
    """A value within a list."""
    if not re.fullmatch(rf"[A-Za-z0-9_.@{more}-]+", value):
        raise ConfigurationError(f"{key} cannot carry {value!r}")
    return value


def _layout(request: JobRequest) -> list[tuple[int, int]]:
    """Nodes and tasks on each of them, most first: ``[(1, 3), (1, 2)]`` for five tasks on two nodes."""
    tasks, nodes = request.tasks, request.nodes
    if request.tasks_per_node is not None and tasks == 1:
        tasks = nodes * request.tasks_per_node
    each, more = divmod(max(tasks, nodes), nodes)
    if request.tasks_per_node is not None and each + (more > 0) > request.tasks_per_node:
        raise Inexpressible(f"{tasks} tasks do not fit on {nodes} nodes with {request.tasks_per_node} on each")
    return [(count, size) for count, size in ((more, each + 1), (nodes - more, each)) if count]


def _hours(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest:02}"


def _one(field: str, letter: str) -> Option:
    """An option whose value is the field's text."""

    def lines(request: JobRequest) -> Iterable[str]:
        value = getattr(request, field)
        return [f"{letter} {_word(field, value)}"] if value else []

    return Option((field,), lines)


def _never(field: str, why: str) -> Option:
    def lines(request: JobRequest) -> Iterable[str]:
        if getattr(request, field):
            raise Inexpressible(why)
        return []

    return Option((field,), lines)


def _walltime(request: JobRequest) -> Iterable[str]:
    return [f"-l walltime={_hours(request.walltime_s)}"] if request.walltime_s else []


def _mail(request: JobRequest) -> Iterable[str]:
    letters = "".join(letter for event, letter in _MAIL.items() if event in request.mail_events)
    if not letters:
        # PBS's own habit is a mail when a job is aborted.
        yield "-m n"
    elif request.mail_to:
        yield f"-m {letters}"
        yield f"-M {_plain('mail_to', request.mail_to, '+')}"
    else:
        yield f"-m {letters}"


def _no_requeue(request: JobRequest) -> Iterable[str]:
    if MailEvent.REQUEUE in request.mail_events:
        raise Inexpressible("PBS writes no mail when a job is queued again")
    return []


def _export(request: JobRequest) -> Iterable[str]:
    names = request.export
    if not names:
        return []
    if "ALL" in names:
        return ["-V"]
    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise ConfigurationError(f"export cannot carry {name!r}")
    return [f"-v {','.join(names)}"]


def _after(request: JobRequest) -> Iterable[str]:
    wanted: dict[str, list[str]] = {}
    for each in request.after:
        wanted.setdefault(_KINDS[each.kind], []).append(_plain("after", each.native_id, r"\[\]"))
    text = ",".join(f"{kind}:{':'.join(ids)}" for kind, ids in wanted.items())
    return [f"-W depend={text}"] if text else []


COMMON: Sequence[Option] = (
    Option(("walltime_s",), _walltime),
    _one("account", "-A"),
    Option(("mail_to", "mail_events"), _mail),
    Option(("mail_events",), _no_requeue),
    Option(("export",), _export),
    _never("gpu_type", "every site names its kinds of GPU in its own way: write them into constraint"),
)
"""What both say alike."""


# --- PBS Pro, OpenPBS


def _select(request: JobRequest) -> Iterable[str]:
    chunks = []
    for count, size in _layout(request):
        chunk = f"{count}:ncpus={size * request.cpus_per_task}:mpiprocs={size}:ompthreads={request.cpus_per_task}"
        if request.memory_mb:
            chunk += f":mem={request.memory_mb}mb"
        if request.gpus:
            chunk += f":ngpus={request.gpus}"
        if request.constraint:
            chunk += f":{_plain('constraint', request.constraint, ':=')}"
        chunks.append(chunk)
    return [f"-l select={'+'.join(chunks)}"]


def _place(request: JobRequest) -> Iterable[str]:
    words = [*(["scatter"] if request.nodes > 1 else []), *(["excl"] if request.exclusive else [])]
    return [f"-l place={':'.join(words)}"] if words else []


def _queue(request: JobRequest) -> Iterable[str]:
    """A reservation is a queue of its own name, which the server makes."""
    queue = request.reservation or request.queue
    return [f"-q {_word('queue', queue)}"] if queue else []


def _custom(request: JobRequest) -> Iterable[str]:
    for each in request.licenses:
        name, _, count = each.partition(":")
        if count and not count.isdecimal():
            raise ConfigurationError(f"licenses cannot carry {each!r}")
        yield f"-l {_plain('licenses', name)}={count or 1}"


def _array(request: JobRequest) -> Iterable[str]:
    """``-J first-last[:step][%throttle]``: one range; for a lone element, the step leaves its end out."""
    if request.array is None:
        return []
    indices = sorted(set(request.array.indices))
    first, last = indices[0], indices[-1]
    throttle = f"%{request.array.throttle}" if request.array.throttle else ""
    if first == last:
        return [f"-J {first}-{first + 1}:2{throttle}"]
    step = indices[1] - first
    if indices != list(range(first, last + 1, step)):
        raise Inexpressible("PBS numbers an array's elements by one range with one step")
    return [f"-J {first}-{last}{f':{step}' if step > 1 else ''}{throttle}"]


PBS_OPTIONS: Sequence[Option] = (
    Option(("queue", "reservation"), _queue),
    Option(("nodes", "tasks", "tasks_per_node", "cpus_per_task", "memory_mb", "gpus", "constraint"), _select),
    Option(("exclusive",), _place),
    Option(("licenses",), _custom),
    Option(("array",), _array),
    Option(("after",), _after),
    _never("qos", "PBS has no quality of service: a site's queues are its classes"),
    *COMMON,
)
"""PBS Pro and OpenPBS."""


# --- Torque


def _nodes(request: JobRequest) -> Iterable[str]:
    parts = []
    for count, size in _layout(request):
        part = f"{count}:ppn={size * request.cpus_per_task}"
        if request.gpus:
            part += f":gpus={request.gpus}"
        if request.constraint:
            part += f":{_plain('constraint', request.constraint, ':')}"
        parts.append(part)
    return [f"-l nodes={'+'.join(parts)}"]


def _memory(request: JobRequest) -> Iterable[str]:
    """``mem`` is the whole job's."""
    return [f"-l mem={request.memory_mb * request.nodes}mb"] if request.memory_mb else []


def _exclusive(request: JobRequest) -> Iterable[str]:
    return ["-n"] if request.exclusive else []


def _listed(request: JobRequest) -> Iterable[str]:
    """``-t 1-5,7%2``."""
    if request.array is None:
        return []
    parts = [f"{a}-{b}" if a != b else f"{a}" for a, b in ranges(request.array.indices)]
    throttle = f"%{request.array.throttle}" if request.array.throttle else ""
    return [f"-t {','.join(parts)}{throttle}"]


def _after_arrays(request: JobRequest) -> Iterable[str]:
    """An array has words of its own: ``afterokarray:12[]``."""
    parts: dict[str, list[str]] = {}
    for each in request.after:
        native_id = _plain("after", each.native_id, r"\[\]")
        kind = _KINDS[each.kind] + ("array" if "[]" in native_id else "")
        if kind == "afterarray":
            kind = "afterstartarray"
        parts.setdefault(kind, []).append(native_id)
    text = ",".join(f"{kind}:{':'.join(ids)}" for kind, ids in parts.items())
    return [f"-W depend={text}"] if text else []


def _qos(request: JobRequest) -> Iterable[str]:
    return [f"-l qos={_plain('qos', request.qos)}"] if request.qos else []


def _advance(request: JobRequest) -> Iterable[str]:
    return [f"-l advres={_plain('reservation', request.reservation)}"] if request.reservation else []


def _generic(request: JobRequest) -> Iterable[str]:
    words = []
    for each in request.licenses:
        name, _, count = each.partition(":")
        if count and not count.isdecimal():
            raise ConfigurationError(f"licenses cannot carry {each!r}")
        words.append(f"{_plain('licenses', name)}:{count or 1}")
    return [f"-l gres={'+'.join(words)}"] if words else []


TORQUE_OPTIONS: Sequence[Option] = (
    _one("queue", "-q"),
    Option(("nodes", "tasks", "tasks_per_node", "cpus_per_task", "gpus", "constraint"), _nodes),
    Option(("memory_mb",), _memory),
    Option(("exclusive",), _exclusive),
    Option(("array",), _listed),
    Option(("after",), _after_arrays),
    # Torque hands these three to its scheduler, Moab or Maui.
    Option(("qos",), _qos),
    Option(("reservation",), _advance),
    Option(("licenses",), _generic),
    *COMMON,
)
"""Torque, with Moab or Maui."""
