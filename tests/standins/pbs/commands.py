"""``qsub``, ``qstat``, ``qselect`` and ``qdel`` as OpenPBS 23.06 and Torque 6 have them, over the stand-ins' engine.

:class:`Flavour` says which of the two. ``Settings.extra`` may hold ``queues`` (the only ones there are), ``history``
(False: ended jobs are forgotten, PBS), ``json`` (False: an old PBS) and ``told`` (False: no exit status for an
array's elements, as before OpenPBS 20).
"""

from __future__ import annotations

import getopt
import json
import os
import pwd
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.standins.engine import Cluster
from tests.standins.model import (
    CANCELLED,
    DEPENDENCY,
    MEMORY,
    NODE,
    PREEMPTED,
    START,
    WALLTIME,
    Job,
    Spec,
    State,
)

SERVER = "standin"
UNKNOWN, FINISHED, NO_HISTORY, BAD_STATE = 153, 35, 36, 170


@dataclass(frozen=True)
class Flavour:
    """One of the two."""

    torque: bool

    @property
    def submit_options(self) -> str:
        return "a:A:b:c:C:d:D:e:fhi:Ij:k:K:l:m:M:nN:o:p:P:q:r:S:t:T:u:v:Vw:W:xXz" if self.torque else (
            "a:A:c:C:e:fGhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:v:VW:Xz"
        )  # fmt: skip

    def refusal(self, words: str) -> str:
        return f"qsub: submit error ({words})" if self.torque else f"qsub: {words}"


OPENPBS = Flavour(torque=False)
TORQUE = Flavour(torque=True)


def native_id(job: Job) -> str:
    """``12.standin``, ``12[].standin``, ``12[3].standin``."""
    if job.state is State.ARRAY:
        return f"{job.number}[].{SERVER}"
    return f"{job.number}.{SERVER}" if job.index is None else f"{job.number}[{job.index}].{SERVER}"


def key(native: str) -> str:
    """The engine's key of an id."""
    match = re.match(r"(\d+)(?:\[(\d*)\])?", native)
    if match is None:
        return native
    return f"{match[1]}.{match[2]}" if match[2] else match[1]


def _say(line: str = "") -> None:
    sys.stdout.write(f"{line}\n")


# --- qsub


def qsub(cluster: Cluster, arguments: list[str], flavour: Flavour) -> int:
    """Submit a script."""
    try:
        given, rest = getopt.getopt(arguments, flavour.submit_options)
        text = Path(rest[0]).read_text() if rest else sys.stdin.read()
        for line in text.split("\n"):
            if line.startswith("#PBS "):
                given = getopt.getopt(_words(line[5:]), flavour.submit_options)[0] + given
            elif line and not line.startswith(("#", ":")):
                break
        spec = _spec(given, text, flavour)
    except (getopt.GetoptError, ValueError) as fault:
        sys.stderr.write(f"qsub: {fault}\nusage: qsub [-a date_time] [-A account_string]\n")
        return 2
    queues = cluster.settings.extra.get("queues")
    if queues and spec.queue not in queues:
        sys.stderr.write(
            flavour.refusal("Unknown queue" + (" MSG=cannot locate queue" if flavour.torque else "")) + "\n"
        )
        return 170
    live = sum(job.state not in (State.ENDED, State.ARRAY) for job in cluster.jobs())
    if cluster.settings.max_jobs is not None and live + max(1, len(spec.elements)) > cluster.settings.max_jobs:
        words = "would exceed complex's per-user limit of jobs in 'Q' state"
        if flavour.torque:
            words = "Maximum number of jobs already in queue for user MSG=total number of current user's jobs exceeds"
        sys.stderr.write(flavour.refusal(words) + "\n")
        return 38
    number = cluster.submit(spec)
    if not any(letter == "-z" for letter, _ in given):
        _say(f"{number}{'[]' if spec.elements else ''}.{SERVER}")
    return 0


def _words(line: str) -> list[str]:
    """A directive's words, as ``make_argv`` splits them."""
    words, word, quoted, seen = [], "", "", False
    characters = iter(line.strip() + " ")
    for character in characters:
        if quoted:
            if character == quoted:
                quoted = ""
            else:
                word += character
        elif character in "\"'":
            quoted, seen = character, True
        elif character == "\\":
            word += next(characters, "")
        elif character.isspace():
            if word or seen:
                words.append(word)
            word, seen = "", False
        else:
            word += character
    if quoted:
        raise ValueError(f"unmatched {quoted}")
    return words


def _spec(given: Sequence[tuple[str, str]], text: str, flavour: Flavour) -> Spec:
    options = dict(given)
    resources = _resources(value for letter, value in given if letter == "-l")
    name, directory = options.get("-N", "STDIN"), str(Path.cwd())
    user = pwd.getpwuid(os.getuid())
    request = options.get("-t" if flavour.torque else "-J", "")
    indices, throttle = _indices(request, flavour) if request else ((), None)
    index = "[@INDEX@]" if indices else ""
    output = options.get("-o", f"{directory}/{name}.o@NUMBER@")
    if indices:
        output = f"{output}-@INDEX@" if flavour.torque else output.replace("^array_index^", "@INDEX@")
    environment = dict(os.environ) if "-V" in options else {}
    for word in filter(None, options.get("-v", "").split(",")):
        variable, equals, value = word.partition("=")
        if equals or variable in os.environ:
            environment[variable] = value if equals else os.environ[variable]
    environment |= {
        "HOME": user.pw_dir, "LOGNAME": user.pw_name, "USER": user.pw_name, "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_JOBID": f"@NUMBER@{index}.{SERVER}", "PBS_JOBNAME": name,
        "PBS_O_WORKDIR": directory, "PBS_QUEUE": options.get("-q", "workq"),
    }  # fmt: skip
    if indices:
        environment["PBS_ARRAYID" if flavour.torque else "PBS_ARRAY_INDEX"] = "@INDEX@"
    after = []
    for letter, value in given:
        if letter == "-W" and value.startswith("depend="):
            for part in value.removeprefix("depend=").split(","):
                kind, *ids = part.split(":")
                words = {"afterok": "ok", "afternotok": "failed", "after": "started", "afterstart": "started"}
                after += [(key(each), words.get(kind.removesuffix("array"), "ended")) for each in ids]
    return Spec(
        name=name,
        # The shell is given the script's path and runs it, which honours its first line.
        command=[options.get("-S", "/bin/sh"), "-c", "@SCRIPT@"],
        directory=user.pw_dir if Path(user.pw_dir).is_dir() else "/",
        environment=environment,
        script=text,
        stdout=output,
        owner=user.pw_name,
        queue=options.get("-q", "workq"),
        walltime_s=_seconds(resources["walltime"]) if "walltime" in resources else None,
        hold="-h" in options,
        elements={each: {} for each in indices},
        throttle=throttle,
        after=after,
        attributes={"resources": resources, "options": options, "request": request},
    )


def _resources(values: Any) -> dict[str, str]:
    found = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals:
            raise ValueError("illegal -l value")
        found[name] = text
    return found


def _indices(text: str, flavour: Flavour) -> tuple[tuple[int, ...], int | None]:
    text, _, throttle = text.partition("%")
    limit = int(throttle) if throttle else None
    if flavour.torque:
        found: list[int] = []
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
        return tuple(found), limit
    match = re.fullmatch(r"(\d+)-(\d+)(?::([1-9]\d*))?", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError("illegal -J value")
    return tuple(range(int(match[1]), int(match[2]) + 1, int(match[3] or 1))), limit


def _seconds(text: str) -> int:
    total = 0
    for part in text.split(":"):
        total = total * 60 + int(part)
    return total


# --- qstat


def qstat(cluster: Cluster, arguments: list[str], flavour: Flavour) -> int:
    """Full status of jobs, as text or JSON."""
    if arguments == ["--version"]:
        version = "23.06.06" if cluster.settings.extra.get("json", True) else "PBSPro_13.1.0"
        _say("Version: 6.1.3\nCommit: none" if flavour.torque else f"pbs_version = {version}")
        return 0
    try:
        given, ids = getopt.getopt(arguments, "Qf1t" if flavour.torque else "QxftwF:")
        options = dict(given)
    except getopt.GetoptError as fault:
        sys.stderr.write(f"qstat: {fault}\nusage: qstat [-f] [job_identifier...]\n")
        return 2
    if "-Q" in options:
        return _queues(cluster, flavour)
    if "-F" in options and not cluster.settings.extra.get("json", True):
        sys.stderr.write("qstat: invalid option -- 'F'\nusage: qstat [-f] [job_identifier...]\n")
        return 2
    if "-x" in options and not cluster.settings.extra.get("history", True):
        sys.stderr.write("qstat: PBS is not configured to maintain job history\n")
        return NO_HISTORY
    history = {job.key: job for job in cluster.history()}
    seen = history if "-x" in options else {job.key: job for job in cluster.queue()}
    found, status = [], 0
    for native in ids:
        job = seen.get(key(native))
        if job is not None:
            found.append((native_id(job), attributes(cluster, job, flavour)))
        elif key(native) in history and not flavour.torque and cluster.settings.extra.get("history", True):
            words = "use -x or -H to obtain historical job information"
            sys.stderr.write(f"qstat: {native_id(history[key(native)])} Job has finished, {words}\n")
            status = FINISHED
        else:
            full = native if "." in native else f"{native}.{SERVER}"
            sys.stderr.write(f"qstat: Unknown Job Id{' Error' if flavour.torque else ''} {full}\n")
            status = UNKNOWN
    if options.get("-F") == "json":
        head = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": SERVER}
        _say(
            json.dumps(
                head | ({"Jobs": {native: _nested(each) for native, each in found}} if found else {}), indent=4
            )
        )
    else:
        for native, each in found:
            _say(f"Job Id: {native}")
            for name, value in each.items():
                _say(_wrapped(f"    {name} = {value}"))
            _say()
    return status


def _queues(cluster: Cluster, flavour: Flavour) -> int:
    """All queues in full. PBS counts an array that waits as one job, Torque its elements."""
    jobs = cluster.queue()
    shown = [job for job in jobs if (job.state is not State.ARRAY if flavour.torque else job.index is None)]
    for queue in cluster.settings.extra.get("queues", ["workq"]):
        letters = [_letter(cluster, job, flavour)[0] for job in shown if job.spec.queue == queue]
        words = {"Transit": "T", "Queued": "Q", "Held": "H", "Waiting": "W", "Running": "R", "Exiting": "E"}
        counts = " ".join(f"{word}:{letters.count(letter)}" for word, letter in words.items())
        last = f"Complete:{letters.count('C')}" if flavour.torque else f"Begun:{letters.count('B')}"
        _say(f"Queue: {queue}")
        _say("    queue_type = Execution")
        _say(f"    total_jobs = {len(letters)}")
        _say(_wrapped(f"    state_count = {counts} {last} "))
        _say("    enabled = True")
        _say("    started = True")
        _say()
    return 0


def attributes(cluster: Cluster, job: Job, flavour: Flavour) -> dict[str, str]:
    """A job's attributes, those that matter and a few around them, in PBS's order."""
    letter, hold = _letter(cluster, job, flavour)
    name = job.spec.name
    if flavour.torque and job.index is not None:
        name = f"{name}-{job.index}"
    found = {"Job_Name": name, "Job_Owner": f"{job.spec.owner}@login1"}
    if job.started is not None:
        found["resources_used.walltime"] = _clock((job.ended or time.time()) - job.started)
    found |= {"job_state": letter, "queue": job.spec.queue, "server": SERVER}
    if job.spec.after:
        found["depend"] = ",".join(f"after{kind}:{each}.{SERVER}" for each, kind in job.spec.after)
    found |= {"Hold_Types": hold, "Output_Path": f"login1:{job.spec.stdout}"}
    found |= {f"Resource_List.{resource}": value for resource, value in job.spec.attributes["resources"].items()}
    if not flavour.torque:
        ended = job.state is State.ENDED
        found["substate"] = str(_substate(job)) if ended else "42" if letter == "R" else "10"
    # A value with a newline that looks like an attribute, as somebody's environment may hold.
    variables = [f"PBS_O_HOME={job.spec.environment['HOME']}", "ODD=first\n    job_state = Q\n    substate = 1"]
    found["Variable_List"] = ",".join(variables)
    if comment := _comment(job):
        found["comment"] = comment
    code = _exit_status(job, flavour)
    if job.state is State.ENDED and code is not None and not (_untold(cluster, job)):
        found["exit_status" if flavour.torque else "Exit_status"] = str(code)
    return found


def _untold(cluster: Cluster, job: Job) -> bool:
    return job.index is not None and not cluster.settings.extra.get("told", True)


def _letter(cluster: Cluster, job: Job, flavour: Flavour) -> tuple[str, str]:
    if job.state is State.ARRAY:
        states = {each.state for each in cluster.elements(job.number)}
        if states == {State.ENDED}:
            return ("C" if flavour.torque else "F"), "n"
        return ("Q" if states <= {State.WAITING, State.HELD} else "R" if flavour.torque else "B"), "n"
    if job.state is State.WAITING and job.spec.after:
        return "H", "s"
    ended = "C" if flavour.torque else "F" if job.index is None else "X"
    letters = {State.WAITING: "Q", State.HELD: "H", State.RUNNING: "R", State.SUSPENDED: "S", State.ENDED: ended}
    return letters[job.state], "u" if job.state is State.HELD else "n"


def _substate(job: Job) -> int:
    if job.why in (CANCELLED, DEPENDENCY):
        return 91
    return 92 if job.exit_status == 0 else 93


def _comment(job: Job) -> str:
    if job.comment:
        return job.comment
    if job.started is None:
        return "Not Running: Insufficient amount of resource: ncpus"
    when = time.strftime("%a %b %d at %H:%M", time.localtime(job.started))
    text = f"Job run at {when} on (node1:ncpus=1)"
    if job.state is not State.ENDED:
        return text
    ends = {
        WALLTIME: "exceeded resource walltime",
        MEMORY: "exceeded resource mem",
        CANCELLED: f"terminated by {job.spec.owner}@login1",
        PREEMPTED: "preempted",
    }
    return f"{text} and {ends.get(job.why, 'finished' if job.exit_status == 0 else 'failed')}"


def _exit_status(job: Job, flavour: Flavour) -> int | None:
    own = job.exit_status if job.signal is None else 256 + job.signal
    if flavour.torque:
        # A job that never ran has the status of one that was deleted.
        return {NODE: -4, START: -1}.get(job.why, own if own is not None else 271)
    return {WALLTIME: -29, MEMORY: -27, NODE: -20, START: -1}.get(job.why, own)


def _nested(flat: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in flat.items():
        group, dot, rest = name.partition(".")
        typed: Any = int(value) if re.fullmatch(r"-?\d+", value) else value
        if dot:
            found.setdefault(group, {})[rest] = typed
        else:
            found[name] = typed
    return found


def _wrapped(line: str) -> str:
    """Lines of 78 characters, the next ones after a tab."""
    parts = [line[:78]]
    rest = line[78:]
    while rest:
        parts.append(f"\t{rest[:70]}")
        rest = rest[70:]
    return "\n".join(parts)


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


# --- qselect, qdel


def qselect(cluster: Cluster, arguments: list[str], flavour: Flavour) -> int:
    """Ids of a user's jobs."""
    given, _ = getopt.getopt(arguments, "u:N:" if flavour.torque else "xu:N:")
    options = dict(given)
    if "-x" in options and not cluster.settings.extra.get("history", True):
        sys.stderr.write("qselect: PBS is not configured to maintain job history\n")
        return NO_HISTORY
    for job in cluster.history() if "-x" in options else cluster.queue():
        hidden = job.state is State.ARRAY if flavour.torque else job.index is not None
        wanted = (options.get("-u", job.spec.owner), options.get("-N", job.spec.name))
        if not hidden and wanted == (job.spec.owner, job.spec.name):
            _say(native_id(job))
    return 0


def qdel(cluster: Cluster, arguments: list[str], flavour: Flavour) -> int:
    """End jobs."""
    status = 0
    for native in arguments:
        if native.startswith("-"):
            continue
        job = cluster.job(key(native))
        if job is None:
            sys.stderr.write(f"qdel: Unknown Job Id {native}\n")
            status = UNKNOWN
        elif not cluster.cancel(job.key):
            words = "Request invalid for state of job MSG=invalid state for job - COMPLETE"
            sys.stderr.write(f"qdel: {words if flavour.torque else 'Job has finished'} {native}\n")
            status = BAD_STATE if flavour.torque else FINISHED
    return status
