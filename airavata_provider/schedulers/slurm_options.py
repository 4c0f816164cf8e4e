"""What a request asks for, in SLURM's words: the table of ``sbatch`` options, and how a value stands in a directive.

Read with sbatch(1) of 22.05 and tried on 22.05.8. Pure; no Airflow.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from airavata_provider.errors import ConfigurationError
from airavata_provider.schedulers.notice import SIGNAL_FIELDS, before_end
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.request import DependencyKind, Inexpressible, JobRequest, Option, ranges

_DEPENDENCIES: Mapping[DependencyKind, str] = {
    DependencyKind.OK: "afterok",
    DependencyKind.ENDED: "afterany",
    DependencyKind.FAILED: "afternotok",
    DependencyKind.STARTED: "after",
}

_NOT_OURS = {
    "--array": "elements are asked for in the request",
    "--clusters": "the job would be another cluster's",
    "--test-only": "there would be no job",
    "--wait": "the submission would last as long as the job",
}
"""Options with which the job could not be followed, and why."""

SHORT: Mapping[str, str] = {
    "-A": "--account", "-a": "--array", "-B": "--extra-node-info", "-b": "--begin", "-C": "--constraint",
    "-c": "--cpus-per-task", "-D": "--chdir", "-d": "--dependency", "-e": "--error", "-F": "--nodefile",
    "-G": "--gpus", "-H": "--hold", "-I": "--immediate", "-i": "--input", "-J": "--job-name", "-k": "--no-kill",
    "-L": "--licenses", "-M": "--clusters", "-m": "--distribution", "-N": "--nodes", "-n": "--ntasks",
    "-O": "--overcommit", "-o": "--output", "-p": "--partition", "-Q": "--quiet", "-q": "--qos", "-S": "--core-spec",
    "-s": "--oversubscribe", "-t": "--time", "-W": "--wait", "-w": "--nodelist", "-x": "--exclude",
}  # fmt: skip
"""Long names of sbatch's short options."""


def word(option: str, value: str) -> str:
    """``option=value`` as ``sbatch`` reads it: double quotes, and a backslash before what means something.

    :raises ConfigurationError: the value holds what no line can (a newline, a control character)
    """
    if not value.isprintable():
        raise ConfigurationError(f"{option} cannot carry {value!r}")
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,=-]+", value):
        return f"{option}={value}"
    return f'{option}="' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def fixed(request: JobRequest) -> Sequence[str]:
    """Name, directory, the script's own log, comment."""
    control = control_directory(request.directory, request.name)
    # % starts a replacement in file names, and two of them are one.
    log = control.replace("%", "%%") + ("/%a/log" if request.array else "/log")
    lines = [
        word("--job-name", request.name),
        word("--chdir", request.directory),
        word("--output", log),
        word("--open-mode", "append"),
    ]
    if comment := _printable(request.comment):
        lines.append(word("--comment", comment))
    return lines


def key(line: str) -> str:
    """The long name of the option that a directive sets."""
    first = re.split(r"[=\s]", line.strip(), maxsplit=1)[0]
    return first if first.startswith("--") else SHORT.get(first[:2], first[:2])


def check_raw(line: str) -> None:
    """:raises ConfigurationError: with that directive, the job could not be followed."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ConfigurationError(f"directive {line!r}: {error}") from error
    for each in words:
        name = key(each) if each.startswith("-") else ""
        # sbatch takes every beginning of a long option's name that fits one option alone.
        for option, why in _NOT_OURS.items():
            if name and len(name) > 3 and option.startswith(name):
                raise ConfigurationError(f"directive {line!r}: the job could not be followed with {option}: {why}")


def _text(field: str, option: str) -> Option:
    def lines(request: JobRequest) -> Iterable[str]:
        value = getattr(request, field)
        return [word(option, str(value))] if value not in (None, "") else []

    return Option((field,), lines)


def _licenses(request: JobRequest) -> Iterable[str]:
    for each in request.licenses:
        if not re.fullmatch(r"[A-Za-z0-9_.@/-]+(:\d+)?", each):
            raise Inexpressible(f"{each!r} is not a licence, or licence:count")
    return [word("--licenses", ",".join(request.licenses))] if request.licenses else []


def _gpus(request: JobRequest) -> Iterable[str]:
    if request.gpus and request.gpu_type and not re.fullmatch(r"[A-Za-z0-9_.-]+", request.gpu_type):
        raise Inexpressible(f"{request.gpu_type!r} is not a type of a generic resource")
    kind = f"{request.gpu_type}:" if request.gpu_type else ""
    return [f"--gres=gpu:{kind}{request.gpus}"] if request.gpus else []


def _time(request: JobRequest) -> Iterable[str]:
    if request.walltime_s:
        minutes, seconds = divmod(request.walltime_s, 60)
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        yield f"--time={days}-{hours:02}:{minutes:02}:{seconds:02}"


def _array(request: JobRequest) -> Iterable[str]:
    if request.array is not None:
        parts = [str(a) if a == b else f"{a}-{b}" for a, b in ranges(request.array.indices)]
        throttle = f"%{request.array.throttle}" if request.array.throttle else ""
        yield f"--array={','.join(parts)}{throttle}"


def _after(request: JobRequest) -> Iterable[str]:
    for each in request.after:
        if not re.fullmatch(r"\d+(_\d+)?", each.native_id):
            raise Inexpressible(f"{each.native_id!r} is not a SLURM job's id")
    words = [f"{_DEPENDENCIES[each.kind]}:{each.native_id}" for each in request.after]
    return [f"--dependency={','.join(words)}"] if words else []


def _mail(request: JobRequest) -> Iterable[str]:
    if request.mail_events:
        yield f"--mail-type={','.join(sorted(event.upper() for event in request.mail_events))}"
        if request.mail_to:
            yield word("--mail-user", request.mail_to)


def _export(request: JobRequest) -> Iterable[str]:
    for name in request.export or ():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise Inexpressible(f"{name!r} is not a variable's name")
    if request.export is not None:
        yield f"--export={','.join(request.export) or 'NONE'}"


def _signal(request: JobRequest) -> Iterable[str]:
    """``B:`` tells the script alone. SLURM may be up to a minute early, so a short job's script does it itself."""
    before = before_end(request)
    if before and (request.walltime_s is None or request.walltime_s > before + 60):
        yield f"--signal=B:USR1@{before}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).strip()


OPTIONS: tuple[Option, ...] = (
    _text("queue", "--partition"),
    _text("nodes", "--nodes"),
    _text("tasks", "--ntasks"),
    _text("tasks_per_node", "--ntasks-per-node"),
    _text("cpus_per_task", "--cpus-per-task"),
    Option(("memory_mb",), lambda request: [f"--mem={request.memory_mb}M"] if request.memory_mb else []),
    Option(("gpus", "gpu_type"), _gpus),
    Option(("walltime_s",), _time),
    _text("account", "--account"),
    _text("qos", "--qos"),
    _text("reservation", "--reservation"),
    Option(("exclusive",), lambda request: ["--exclusive"] if request.exclusive else []),
    _text("constraint", "--constraint"),
    Option(("licenses",), _licenses),
    Option(("array",), _array),
    Option(("after",), _after),
    Option(("mail_to", "mail_events"), _mail),
    Option(("export",), _export),
    Option(SIGNAL_FIELDS, _signal),
)
"""The table. What a site forbids, SLURM refuses in its own words."""
