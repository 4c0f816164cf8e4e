"""Writes a job's script: the payload, and around it what makes its end known whatever happens.

What is the same in every script, and what always holds there, is in :mod:`~airavata_provider.schedulers.shell`. Here
is what differs from job to job: directives, names, files, environment, the words of the payload's command.

Pure; no Airflow.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from airavata_provider.errors import ConfigurationError
from airavata_provider.models.identity import CONTROL_DIRECTORY
from airavata_provider.schedulers import notice
from airavata_provider.schedulers.base import Scheduler, quote
from airavata_provider.schedulers.request import Array, Container, Element, JobRequest
from airavata_provider.schedulers.shell import BEGIN, FUNCTIONS, PAYLOAD, WAIT

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")


@dataclass(frozen=True)
class Webhook:
    """Where a job's script sends its news.

    :param url: where events of this job are posted; ``file://…/<job>``: its news is left in a directory of the
        cluster, see ``monitors.relay``
    :param token: the secret that lets it speak for this job alone; not in the script, see :func:`credential`
    """

    url: str
    token: str = field(repr=False)

    @property
    def calls(self) -> bool:
        """Whether the script calls somebody, and so needs the token."""
        return not self.url.startswith("file://")


def credential(webhook: Webhook) -> str:
    """Content of the control directory's file ``webhook``: a configuration file of ``curl -K``.

    :raises ValueError: the token has other characters than RFC 6750 allows
    """
    if not _TOKEN.fullmatch(webhook.token):
        raise ValueError("a webhook token has only letters, digits and . _ ~ + / = -")
    return f'header = "Authorization: Bearer {webhook.token}"\n'


def write_script(scheduler: Scheduler, request: JobRequest, webhook: Webhook | None, control: str) -> str:
    """The job script's text.

    :param webhook: where to send ``start`` and ``end``; None sends nothing
    :param control: the job's control directory, absolute
    :raises ConfigurationError: a name of a variable or of an executable that no shell takes, a newline in a
        directive, an array where the scheduler has none
    :raises ValueError: a NUL in a value
    """
    parts: list[str] = [f"#!{_line(request.shell)}", *scheduler.directives(request), ""]
    parts += [
        f"airavata_control={quote(control)} airavata_webhook={quote(f'{control}/webhook')}",
        *(_index(scheduler, control) if request.array else ()),
        f"airavata_url={_url(request, webhook)}",
        f"airavata_reserved={quote(' '.join(['', *map(str, scheduler.reserved_exits), '']))}",
        *scheduler.prologue(request, control),
        f'airavata_native="{scheduler.native_id_expression}"',
        f'airavata_restart="{scheduler.restart_expression}"',
        notice.variables(request),
        FUNCTIONS,
        "airavata_post_commands() {",
        ":",
        *request.post_commands,
        "}",
        BEGIN,
    ]
    notice_s = None if scheduler.gives_notice(request) else notice.in_script(request)
    if not scheduler.enforces_walltime and request.walltime_s:
        parts.append(notice.watchdog(request.walltime_s, notice_s))
    elif notice_s is not None:
        parts.append(notice.alarm(notice_s))
    if request.array is None:
        parts += [f"cd {quote(request.directory)} || exit 1", f"export AIRAVATA_JOB={quote(request.name)}"]
        parts += _exports(request.environment)
    else:
        mark = f'{quote(f"{request.name}.")}"$airavata_index"'
        parts += [f"export AIRAVATA_JOB={mark}", *_exports(request.environment)]
        parts += _cases(request.array, _surroundings)
    parts += request.module_init
    parts += [f"module load {quote(module)} || exit $?" for module in request.modules]
    parts += [*request.pre_commands, _payload(request), WAIT]
    return "\n".join(parts) + "\n"


def _index(scheduler: Scheduler, control: str) -> Iterable[str]:
    """Which element this is, and its own control directory."""
    if scheduler.index_expression is None:
        raise ConfigurationError(f"{scheduler.name} has no arrays")
    yield f'airavata_index="{scheduler.index_expression}"'
    yield "case $airavata_index in ''|*[!0-9]*) echo \"not an element: '$airavata_index'\" >&2; exit 64;; esac"
    yield f"airavata_control={quote(control)}/$airavata_index"
    yield '(umask 077; mkdir -p "$airavata_control") || exit 1'


def _url(request: JobRequest, webhook: Webhook | None) -> str:
    """Where this job, or this element, tells its news, as a word of the shell."""
    if webhook is None:
        return "''"
    if request.array is None:
        return quote(webhook.url)
    before, found, after = webhook.url.rpartition(f"/{request.name}")
    if not found or not (after == "" or after.startswith("/")):
        raise ConfigurationError(f"the webhook's address {webhook.url!r} does not name the job")
    return f'{quote(f"{before}{found}.")}"$airavata_index"{quote(after) if after else ""}'


def _cases(array: Array, lines: Callable[[Element], Iterable[str]]) -> Iterable[str]:
    """Something else for each element."""
    yield "case $airavata_index in"
    for element in array.elements:
        yield f"{element.index}) {'; '.join(lines(element))};;"
    yield '*) echo "this array has no element $airavata_index" >&2; exit 64;;'
    yield "esac"


def _surroundings(element: Element) -> Iterable[str]:
    yield f"cd {quote(element.directory)} || exit 1"
    yield f"export AIRAVATA_INDEX={element.index if element.place is None else element.place}"
    yield from _exports(element.environment)


def _input(element: Element) -> Iterable[str]:
    yield f"airavata_stdin={quote(element.stdin or '/dev/null')}"
    yield " ".join(("set --", *(quote(argument) for argument in element.arguments)))


def _exports(environment: Mapping[str, str]) -> Iterable[str]:
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name) or name.lower().startswith("airavata_"):
            raise ConfigurationError(f"{name!r} cannot be the name of an environment variable here")
        yield f"export {name}={quote(value)}"


def _payload(request: JobRequest) -> str:
    container = request.container
    for word in (*request.launcher[:1], *((container.image,) if container else ()), request.executable):
        if word.startswith("-") or not word:
            raise ConfigurationError(f"{word!r} cannot be run", advice="write ./ before a name with a dash")
    for name in (request.stdin, request.stdout, request.stderr):
        if name == CONTROL_DIRECTORY:
            raise ConfigurationError(f"{name!r} is our own directory and no file of the job's")
    words = [quote(word) for word in request.launcher]
    words += _container(container, request) if container else ()
    words.append(quote(request.executable))
    cases: Iterable[str] = ()
    if request.array is None:
        words += [quote(argument) for argument in request.arguments]
        stdin = quote(request.stdin) if request.stdin else "/dev/null"
    else:
        cases = _cases(request.array, _input)
        words.append('"$@"')
        stdin = '"$airavata_stdin"'
    error = "&1" if request.stderr == request.stdout else quote(request.stderr)
    return "\n".join(cases) + PAYLOAD.format(
        command=" ".join(words),
        stdin=stdin,
        stdout=quote(request.stdout),
        error=error,
    )


def _container(container: Container, request: JobRequest) -> Iterable[str]:
    """Words before the executable. The payload finds its working directory where it is on the host."""
    directories = [each.directory for each in request.array.elements] if request.array else [request.directory]
    for path in directories:
        if ":" in path or "," in path:
            raise ConfigurationError(f"{path!r} cannot be seen in a container: its name has a ':' or a ','")
    yield from (container.runtime, "exec", "--bind", '"$PWD"', "--pwd", '"$PWD"')
    if container.gpus:
        yield "--nv"
    for bind in container.binds:
        yield from ("--bind", quote(bind))
    yield from (quote(word) for word in (*container.options, container.image))


def _line(text: str) -> str:
    if "\n" in text or not shlex.split(text):
        raise ConfigurationError(f"not a shell for a script: {text!r}")
    return text
