"""Writes a job's script: the payload, and around it what makes its end known whatever happens.

What always holds in a script written here:

- The payload runs in the background and is waited for, so that signals are noticed while it runs. SIGTERM and
  SIGINT reach it as SIGTERM. SIGUSR1 (the walltime is near) reaches it as the signal that was asked for, and only
  when it has a handler for that: it would die of the notice and could yet finish. A launcher, which would pass it
  on to processes without one, gets it only when somebody asked for it.
- A trap writes the ``exit`` record, atomically, with the payload's own status: after its end, after
  ``exit`` in a pre command, after a signal. The script ends with that status, so that the scheduler shows
  the same.
- A run beside which the scheduler started the job again, having lost sight of it (a node that was cut off and came
  back), leaves no record, tells no end and touches nothing of the later one's; where the scheduler tells restarts.
- Post commands run whatever happened, before the ``end`` call, so that whoever is called finds their work
  done.
- Webhook calls never fail the job. ``start`` is sent in the background. The end waits for it for 2 s at
  most, then takes 3 tries of 5 s with pauses of 1 and 3 s: 21 s in all when nobody answers.
- Without a way out, each piece of news is a file of its own instead, whole or not at all.
- The webhook's token is in a file that only the user can read, and reaches the tools as a file: it is
  neither in the script nor in an environment nor on a command line.
- Each element of an array keeps its files in a control directory of its own and tells its own news; the credential
  is the array's.
- What the site set in ``PATH`` and ``LD_LIBRARY_PATH`` at the start is back for the tools at the end: modules
  often bring libraries that a system's ``curl`` does not run with.

POSIX shell. Pure; no Airflow.
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
        _BEGIN,
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
    parts += [*request.pre_commands, _payload(request), _WAIT]
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
    return "\n".join(cases) + _PAYLOAD.format(
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


FUNCTIONS = r"""
airavata_path=$PATH airavata_libraries=${LD_LIBRARY_PATH-} airavata_pid= airavata_told= airavata_near=
airavata_code= airavata_watchdog= airavata_alarm= airavata_at=
airavata_self=
read -r airavata_self airavata_rest 2>/dev/null </proc/self/stat || :
airavata_now() { date -u +%Y-%m-%dT%H:%M:%SZ; }

airavata_number() { # the signal in a shell's exit status, or null
  if [ "$1" -gt 128 ] && [ "$1" -le 192 ]; then echo $(($1 - 128)); else echo null; fi
}

airavata_record() { # STATUS REASON: one line of JSON
  printf '{"exit_code": %s, "signal": %s, "reason": "%s", "time": "%s", "native_id": "%s", "restart": %s}\n' \
    "$1" "$(airavata_number "$1")" "$2" "$(airavata_now)" "$airavata_native" "$airavata_restart"
}

airavata_send() { # FILE: the HTTP status of one call, nothing when no tool could make it
  if command -v curl >/dev/null 2>&1; then
    curl -s -o /dev/null -w '%{http_code}' --connect-timeout 3 --max-time 5 -K "$airavata_webhook" \
      -H 'Content-Type: application/json' --data-binary "@$1" --url "$airavata_url"
    # 2: curl itself does not start; above 125: it does not run here.
    case $? in 2|126|127) ;; *) return 0;; esac
  fi
  if wget --version 2>/dev/null | grep GNU >/dev/null; then
    (umask 077; sed 's/"//g' "$airavata_webhook" >"$airavata_control/wgetrc")
    wget --config="$airavata_control/wgetrc" -q -S -O /dev/null -t 1 --connect-timeout=3 -T 5 \
      --header='Content-Type: application/json' --post-file="$1" -- "$airavata_url" 2>&1 \
      | sed -n 's,^ *HTTP/[0-9.]* \([0-9][0-9][0-9]\).*,\1,p' | tail -n 1
    return 0
  fi
  for airavata_python in python3 python; do
    command -v $airavata_python >/dev/null 2>&1 || continue
    $airavata_python -c '
import sys, urllib.request, urllib.error
header = open(sys.argv[1]).read().split(chr(34))[1].split(": ", 1)
body = open(sys.argv[2], "rb").read()
request = urllib.request.Request(sys.argv[3], body, {"Content-Type": "application/json"})
request.add_unredirected_header(*header)
try:
    print(urllib.request.urlopen(request, timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code)
' "$airavata_webhook" "$1" "$airavata_url" && return 0
  done
}

airavata_leave() { # EVENT: there is no way out: its news waits, whole or not at all, where the poll collects it
  airavata_spool=${airavata_url#file://} airavata_who=${airavata_url##*/}
  airavata_spool=${airavata_spool%/*}-$(id -u)
  [ -d "$airavata_spool" ] || mkdir -m 700 "$airavata_spool" || [ -d "$airavata_spool" ]
  cat "$airavata_body" >"$airavata_spool/.$airavata_who:$1-$airavata_restart" \
    && mv -f "$airavata_spool/.$airavata_who:$1-$airavata_restart" \
      "$airavata_spool/$airavata_who:$1-$airavata_restart.json" || echo "relay: $1 could not be left"
  rm -f "$airavata_body"
  [ "$1" = end ] || rm -f "$airavata_control/telling"
}

airavata_tell() { # EVENT STATUS REASON; never fails, takes 19 s at most
  [ -n "$airavata_url" ] || return 0
  (
    trap '' USR1 INT HUP ALRM; trap 'exit 0' TERM
    PATH=$airavata_path LD_LIBRARY_PATH=$airavata_libraries
    [ -n "$LD_LIBRARY_PATH" ] || unset LD_LIBRARY_PATH
    unset LD_PRELOAD PYTHONPATH PYTHONHOME
    airavata_body=$airavata_control/event-$1
    airavata_fields='"exit_code": null, "signal": null, "reason": ""'
    if [ "$1" = end ]; then
      airavata_fields="\"exit_code\": $2, \"signal\": $(airavata_number "$2"), \"reason\": \"$3\""
    fi
    printf '{"event": "%s", "id": "%s-%s-%s", %s, "time": "%s", "native_id": "%s"}' \
      "$1" "$1" "$airavata_native" "$airavata_restart" "$airavata_fields" "$(airavata_now)" \
      "$airavata_native" >"$airavata_body"
    case $airavata_url in file://*) airavata_leave "$1"; exit 0;; esac
    for airavata_pause in 1 3 0; do
      # The job is over: its start is no news any more.
      if [ "$1" = start ] && [ -e "$airavata_control/ending" ]; then break; fi
      airavata_http=$(airavata_send "$airavata_body")
      case $airavata_http in
        2??|409) break;;
        4??) echo "webhook: $1 was refused with $airavata_http"; break;;
        *) echo "webhook: $1 did not get through (${airavata_http:-no answer})"; sleep "$airavata_pause";;
      esac
    done
    rm -f "$airavata_body"
    [ "$1" = end ] || rm -f "$airavata_control/telling"
  ) </dev/null >>"$airavata_control/webhook.log" 2>&1 || :
}

airavata_keep() { # STATUS REASON: the exit record, whole or not at all
  airavata_record "$1" "$2" >"$airavata_control/exit.new" \
    && mv -f "$airavata_control/exit.new" "$airavata_control/exit"
}

airavata_last() { # unless the job was started again beside this run, of which its scheduler had lost sight
  airavata_since= airavata_n=
  IFS=' ' read -r airavata_since airavata_n <"$airavata_control/started" || :
  ! { [ "$airavata_since" = "$airavata_native" ] && [ "$airavata_n" -gt "$airavata_restart" ]; }
} 2>/dev/null

airavata_end() { # STATUS: runs once, as the trap of the script's exit
  set +eu
  trap - EXIT
  # A subshell that bash has not yet freed of our traps when it is told to stop would end the job in our place.
  airavata_it=$airavata_self
  [ -z "$airavata_self" ] || read -r airavata_it airavata_rest 2>/dev/null </proc/self/stat
  [ "$airavata_it" = "$airavata_self" ] || exit "$1"
  # From here on the end is on its way; being told again changes nothing.
  trap '' TERM INT HUP USR1 ALRM
  PATH=$airavata_path:$PATH
  airavata_code=${airavata_code:-$1} airavata_reason=$airavata_told
  [ -z "$airavata_watchdog" ] || kill -s TERM "$airavata_watchdog" 2>/dev/null
  airavata_last || airavata_exit "$airavata_code"
  airavata_keep "$airavata_code" "$airavata_reason"
  # A shell that was just forked loses what it is told.
  [ -z "$airavata_watchdog" ] || kill -s TERM "$airavata_watchdog" 2>/dev/null
  # Not every scheduler reaches a process that left for a session of its own (SLURM's proctrack/linuxproc).
  [ -z "$airavata_told" ] || airavata_clear
  (airavata_post_commands) </dev/null
  airavata_keep "$airavata_code" "$airavata_reason"
  : >"$airavata_control/ending"
  airavata_n=0
  while [ -e "$airavata_control/telling" ] && [ $airavata_n -lt 20 ]; do
    sleep 0.1 2>/dev/null || sleep 1; airavata_n=$((airavata_n + 1))
  done
  airavata_tell end "$airavata_code" "$airavata_reason"
  airavata_exit "$airavata_code"
}

airavata_exit() { # STATUS, or 1 in the place of one that means something else to the scheduler
  case "$airavata_reserved" in *" $1 "*) exit 1;; esac
  exit "$1"
}

airavata_payload() { # the payload's process id into $airavata_at; nothing when it does not run
  airavata_at= airavata_n=0
  [ -n "$airavata_pid" ] || { airavata_missed=1; return 1; }
  # It writes its id itself, which is a moment after it was started.
  while [ ! -s "$airavata_control/pid.$airavata_restart" ] && kill -0 "$airavata_pid" && [ $airavata_n -lt 100 ]; do
    sleep 0.05 || sleep 1; airavata_n=$((airavata_n + 1))
  done
  read -r airavata_at <"$airavata_control/pid.$airavata_restart"
} 2>/dev/null

airavata_sweep() { # SIGNAL to the payload's descendants, which carry the job's mark wherever they went
  # This shell does not carry it: it was started without; nor do those who look. Tells whether there were any.
  airavata_found=1 airavata_mark=AIRAVATA_JOB=${AIRAVATA_JOB:-none}
  for airavata_p in $(unset AIRAVATA_JOB; grep -lszxF "$airavata_mark" /proc/[0-9]*/environ | tr -dc '0-9\n'); do
    [ "$airavata_p" = "$airavata_at" ] || { airavata_found=0; kill -s "$1" "$airavata_p"; }
  done
  return $airavata_found
} 2>/dev/null

airavata_clear() { # end all of them, for 2 s at most
  # Whoever is starting a program carries no mark for that moment, so nobody has to be found twice in a row.
  airavata_at= airavata_n=0 airavata_gone=0
  while [ "$airavata_gone" -lt 2 ] && [ $airavata_n -lt 20 ]; do
    if airavata_sweep KILL; then airavata_gone=0; else airavata_gone=$((airavata_gone + 1)); fi
    airavata_n=$((airavata_n + 1)); sleep 0.1 2>/dev/null || sleep 1
  done
}

airavata_stop() { # REASON: somebody wants the job to end
  # Whoever gave notice of the walltime and says stop when it is over, means the walltime.
  if [ -n "$airavata_near" ] && [ "$(date +%s)" -ge "$((airavata_near + airavata_before - 90))" ]; then
    set -- WALLTIME
  fi
  [ -n "$airavata_told" ] || airavata_told=$1
  if airavata_payload; then kill -s TERM "$airavata_at" 2>/dev/null; fi
}

airavata_expire() { # the walltime is over, and nobody but this script ends the job: kindly, then not
  [ -n "$airavata_told" ] || airavata_told=WALLTIME
  if [ -z "$airavata_alarm" ]; then airavata_alarm=TERM; else airavata_alarm=KILL; fi
  if airavata_payload; then kill -s $airavata_alarm "$airavata_at"; fi
  airavata_sweep $airavata_alarm
} 2>/dev/null

airavata_has() { # WHICH: whether the signal is among those of the payload (proc(5)); the first 16 are looked at
  airavata_mask=$(sed -n "s/^$1:.*\\(....\\)$/0x\\1/p" "/proc/$airavata_at/status")
  [ -n "$airavata_mask" ] && [ "$(($airavata_mask >> $airavata_bit & 1))" -eq 1 ]
}

airavata_notice() { # the walltime is near
  airavata_near=$(date +%s)
  if [ -z "$airavata_spared" ] && airavata_payload; then
    # What is caught is sent, and what stays blocked, as another of its threads may wait for it. It would die of any
    # other; and a shell blocks all for a moment whenever it starts a program.
    airavata_looks=0
    until airavata_has SigCgt || [ "$airavata_looks" -eq 3 ]; do
      airavata_has SigBlk || break
      sleep 1
      airavata_looks=$((airavata_looks + 1))
    done
    if airavata_has SigCgt || [ "$airavata_looks" -eq 3 ]; then
      kill -s "$airavata_signal" "$airavata_at"
      return 0
    fi
  fi 2>/dev/null
  [ -z "$airavata_asked" ] || echo "SIG$airavata_signal is not sent: no program runs that has a handler for it"
}"""
"""What is the same in every job's script."""

_BEGIN = r"""
# Two files are this run's own: an earlier one may go on where nobody sees it.
rm -f "$airavata_control/exit" "$airavata_control/ending" \
  "$airavata_control/pid.$airavata_restart" "$airavata_control/status.$airavata_restart"
trap 'airavata_end $?' EXIT
trap 'airavata_stop "SIGNAL TERM"' TERM
trap 'airavata_stop "SIGNAL INT"' INT
trap airavata_expire ALRM
trap airavata_notice USR1
echo "$airavata_native $airavata_restart" >"$airavata_control/started"
if [ -n "$airavata_url" ]; then
  : >"$airavata_control/telling"
  airavata_tell start &
fi"""

_PAYLOAD = """
# Modules and pre commands may have set options that would end this script early.
set +eu
airavata_missed=
# Told to stop before the payload began: there is nothing to begin any more.
[ -z "$airavata_told" ] || exit 143
(
  # This shell is only there to note how the payload ends; what is caught is not caught in the payload.
  trap : TERM USR1 ALRM HUP
  /bin/sh -c 'echo $$ >"$0"; exec "$@"' "$airavata_control/pid.$airavata_restart" \\
    {command} <{stdin} >{stdout} 2>{error}
  airavata_code=$?
  echo $airavata_code >"$airavata_control/status.$airavata_restart"
  exit $airavata_code
) &
airavata_pid=$!
# A signal that came between the fork and this line found nobody to be told.
if [ -n "$airavata_missed" ]; then
  [ -z "$airavata_told" ] || airavata_stop "$airavata_told"
  [ -z "$airavata_near" ] || airavata_notice
fi"""

_WAIT = r"""
# A wait that a trap interrupts has told nothing yet, and bash may then lose the status: hence the file.
while :; do
  wait "$airavata_pid"
  airavata_code=$?
  [ ! -s "$airavata_control/status.$airavata_restart" ] && kill -0 "$airavata_pid" 2>/dev/null || break
done
[ ! -s "$airavata_control/status.$airavata_restart" ] \
  || read -r airavata_code <"$airavata_control/status.$airavata_restart"
exit "$airavata_code" """.rstrip()
