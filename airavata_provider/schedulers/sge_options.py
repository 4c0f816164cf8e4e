"""What a request asks for, in Grid Engine's words: the table of ``qsub`` options.

Much that other schedulers define is the site's to define here: parallel environments, and most resources. Their names
are a request's ``site_words``, :data:`SITE_WORDS`.

Nodes are not asked for: the parallel environment's allocation rule decides over them. Read with qsub(1) of 8.1.9 and
tried on it. Pure; no Airflow.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from airavata_provider.errors import ConfigurationError
from airavata_provider.schedulers.request import DependencyKind, Inexpressible, JobRequest, MailEvent, Option

PREFIX = "#$"
_PLAIN = re.compile(r"[A-Za-z0-9_./@:%+=*?!|&,~-]+")
_PATH = re.compile(r"/[A-Za-z0-9_./@%+=-]*")

SITE_WORDS: Mapping[str, str | None] = {
    "parallel_environment": None,
    "memory": "h_vmem",
    "gpus": None,
    "gpu_type": None,
    "exclusive": None,
}
"""What a site names, and the name that Grid Engine itself has for it: where a job gets more than one slot (``qconf
-spl``), the resource for memory (``qconf -sc``), which is counted per slot, the one that counts GPUs, the one that
holds a GPU's type, and the boolean one of exclusive hosts.
"""

_NOT_OURS: Mapping[str, str] = {
    "-@": "what is in that file cannot be seen from here",
    "-C": "the script's directives would not be read",
    "-N": "the job is found by its name",
    "-b": "the script is not a command",
    "-help": "there would be no job",
    "-now": "a job that cannot start at once would be thrown away",
    "-sync": "the submission would last as long as the job",
    "-t": "elements are asked for in the request",
    "-tc": "elements are asked for in the request",
    "-terse": "the adaptor says it",
    "-verify": "there would be no job",
}
"""Options with which the job could not be followed, and why."""

_MAIL: Mapping[MailEvent, str] = {
    MailEvent.BEGIN: "b",
    MailEvent.END: "e",
    # "a" tells of jobs that are aborted only; a program that fails has simply ended.
    MailEvent.FAIL: "ae",
    MailEvent.REQUEUE: "a",
}


def check_raw(line: str) -> None:
    """:raises ConfigurationError: with that directive, the job could not be followed."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ConfigurationError(f"directive {line!r}: {error}") from error
    for each in words:
        if each in _NOT_OURS:
            raise ConfigurationError(
                f"directive {line!r}: the job could not be followed with {each}: {_NOT_OURS[each]}"
            )


def fixed(request: JobRequest) -> Sequence[str]:
    """Directory and shell. The script opens its own log and changes into its directory itself.

    Grid Engine expands ``$HOME`` and the like in paths and knows no way to quote them, so a directory with such
    characters is left to the script alone.
    """
    shell = shlex.split(request.shell)[0]
    if not _PATH.fullmatch(shell):
        raise ConfigurationError(f"shell {shell!r}: Grid Engine takes a plain path")
    directory = request.directory if _PATH.fullmatch(request.directory) else "/"
    return [f"-wd {directory}", "-j y", "-o /dev/null", f"-S {shell}"]


def plain(what: str, value: str) -> str:
    """A value that needs no quotes: Grid Engine has none that could be relied on.

    :raises Inexpressible: it would need them
    """
    if not _PLAIN.fullmatch(value) or value.startswith("-"):
        raise Inexpressible(f"{what} {value!r}: Grid Engine takes no such characters")
    return value


def _text(field: str, option: str) -> Option:
    def lines(request: JobRequest) -> Iterable[str]:
        value = getattr(request, field)
        return [f"{option} {plain(field, value)}"] if value else []

    return Option((field,), lines)


def _word(request: JobRequest, name: str, asked: str) -> str:
    found = request.site_words.get(name, SITE_WORDS[name])
    if not found:
        raise Inexpressible(f"{asked}: the site's name for it is not known; give the queue's site_words a {name!r}")
    return plain(name, found)


def slots(request: JobRequest) -> int:
    """Grid Engine's slots: processors, in all."""
    return max(1, request.tasks) * max(1, request.cpus_per_task)


def _parallel(request: JobRequest) -> Iterable[str]:
    count = slots(request)
    if count == 1 or any(shlex.split(raw.removeprefix(PREFIX))[:1] == ["-pe"] for raw in request.directives):
        return []
    return [f"-pe {_word(request, 'parallel_environment', 'more than one slot')} {count}"]


def _memory(request: JobRequest) -> Iterable[str]:
    """Grid Engine multiplies what is asked for by the job's slots."""
    if not request.memory_mb:
        return []
    each = -(-request.memory_mb * max(1, request.nodes) // slots(request))
    return [f"-l {_word(request, 'memory', 'memory')}={each}M"]


def _gpus(request: JobRequest) -> Iterable[str]:
    if not request.gpus:
        return []
    lines = [f"-l {_word(request, 'gpus', 'GPUs')}={request.gpus}"]
    if request.gpu_type:
        lines.append(f"-l {_word(request, 'gpu_type', 'a type of GPU')}={plain('gpu_type', request.gpu_type)}")
    return lines


def _exclusive(request: JobRequest) -> Iterable[str]:
    return [f"-l {_word(request, 'exclusive', 'exclusive nodes')}=true"] if request.exclusive else []


def _reservation(request: JobRequest) -> Iterable[str]:
    if request.reservation and not re.fullmatch(r"[0-9]+", request.reservation):
        raise Inexpressible(f"{request.reservation!r}: Grid Engine's advance reservations have numbers")
    return [f"-ar {plain('reservation', request.reservation)}"] if request.reservation else []


def _licenses(request: JobRequest) -> Iterable[str]:
    for each in request.licenses:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)(?::(\d+))?", each)
        if match is None or each.startswith("-"):
            raise Inexpressible(f"{each!r} is not a licence, or licence:count")
        yield f"-l {match[1]}={match[2] or 1}"


def _array(request: JobRequest) -> Iterable[str]:
    """Tasks have numbers from 1: index i is task i + 1. An array is one range with one step."""
    if request.array is None:
        return
    indices = sorted(request.array.indices)
    steps = {after - before for before, after in pairwise(indices)}
    if len(steps) > 1:
        raise Inexpressible("an array is one range with one step, and these indices have gaps: submit one per range")
    step = f":{steps.pop()}" if steps and steps != {1} else ""
    yield f"-t {indices[0] + 1}-{indices[-1] + 1}{step}"
    if request.array.throttle:
        yield f"-tc {request.array.throttle}"


def _after(request: JobRequest) -> Iterable[str]:
    for each in request.after:
        if each.kind is not DependencyKind.ENDED:
            raise Inexpressible(f"a job of Grid Engine can wait for another's end, not for {each.kind.value!r}")
        if not re.fullmatch(r"[0-9]+", each.native_id):
            raise Inexpressible(f"{each.native_id!r} is not a whole job's id")
    return [f"-hold_jid {','.join(each.native_id for each in request.after)}"] if request.after else []


def _mail(request: JobRequest) -> Iterable[str]:
    if request.mail_events:
        yield f"-m {''.join(sorted(set(''.join(_MAIL[event] for event in request.mail_events))))}"
        if request.mail_to:
            yield f"-M {plain('mail_to', request.mail_to)}"


def _export(request: JobRequest) -> Iterable[str]:
    if request.export == ("ALL",):
        return ["-V"]
    for name in request.export or ():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise Inexpressible(f"{name!r} is not a variable's name")
    return [f"-v {','.join(request.export)}"] if request.export else []


OPTIONS: tuple[Option, ...] = (
    _text("queue", "-q"),
    Option(("tasks", "cpus_per_task"), _parallel),
    Option(("memory_mb",), _memory),
    Option(("gpus", "gpu_type"), _gpus),
    Option(("walltime_s",), lambda request: [f"-l h_rt={request.walltime_s}"] if request.walltime_s else []),
    _text("account", "-P"),
    Option(("reservation",), _reservation),
    Option(("exclusive",), _exclusive),
    _text("constraint", "-l"),
    Option(("licenses",), _licenses),
    Option(("array",), _array),
    Option(("after",), _after),
    Option(("mail_to", "mail_events"), _mail),
    Option(("export",), _export),
)
"""The table. Quality of service, nodes and tasks per node have no words in Grid Engine."""
