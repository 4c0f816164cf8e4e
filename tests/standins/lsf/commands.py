"""``bsub``, ``bjobs``, ``bhist``, ``bkill`` and ``bqueues`` as LSF 10.1 has them, over the stand-ins' engine.

``Settings.extra`` may hold ``queues`` (the only ones there are) and ``minute_s`` (how long a minute of a run limit
takes here, 60). An ended job is in ``bjobs`` for ``keep_s``, LSF's ``CLEAN_PERIOD``, and in ``bhist`` after it.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.standins.engine import Cluster
from tests.standins.model import (
    CANCELLED,
    FOLDER,
    MEMORY,
    NODE,
    PREEMPTED,
    START,
    WALLTIME,
    Job,
    Spec,
    State,
)

NO = 255
"""The status of everything that LSF refuses or does not find."""

WITH_VALUE = frozenset(
    {
        "-J", "-o", "-oo", "-e", "-eo", "-q", "-n", "-R", "-M", "-v", "-gpu", "-W", "-We", "-P", "-sla", "-U", "-w",
        "-u", "-env", "-cwd", "-m", "-app", "-G", "-g", "-sp", "-E", "-Ep", "-wt", "-wa", "-b", "-t", "-C", "-c",
        "-Lp",
    }
)  # fmt: skip
ALONE = frozenset({"-x", "-B", "-N", "-Ne", "-H", "-r", "-rn"})

TERMS = {
    WALLTIME: "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
    CANCELLED: "TERM_OWNER: job killed by owner",
    MEMORY: "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit",
    PREEMPTED: "TERM_PREEMPT: job killed after preemption",
    NODE: "TERM_REMOVE_HUNG_JOB: job removed from the LSF system",
}

GRACE_S = 1.0
"""Between the run limit's SIGUSR2 and the kill: ten minutes on a real LSF."""


def _say(line: str = "") -> None:
    sys.stdout.write(f"{line}\n")


def _complain(line: str) -> int:
    sys.stderr.write(f"{line}\n")
    return NO


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


# --- bsub


def bsub(cluster: Cluster, arguments: list[str]) -> int:
    """Submit the script on standard input."""
    text = sys.stdin.read()
    try:
        given = _options(arguments)
        for line in text.split("\n"):
            if line.startswith("#BSUB "):
                # The command line's options win, but those that add up.
                given = _options(shlex.split(line[len("#BSUB ") :])) + given
        spec = _spec(cluster, given, text)
    except ValueError as fault:
        return _complain(f"{fault}. Job not submitted.")
    queues = cluster.settings.extra.get("queues")
    if queues and spec.queue and spec.queue not in queues:
        return _complain(f"{spec.queue}: No such queue. Job not submitted.")
    live = sum(job.state not in (State.ENDED, State.ARRAY) for job in cluster.jobs())
    if cluster.settings.max_jobs is not None and live + max(1, len(spec.elements)) > cluster.settings.max_jobs:
        return _complain(f"User <{_user()}>: Pending job threshold reached. Job not submitted.")
    number = cluster.submit(spec)
    queue = f"queue <{spec.queue}>" if spec.queue else "default queue <normal>"
    _say(f"Job <{number}> is submitted to {queue}.")
    return 0


def _options(words: Sequence[str]) -> list[tuple[str, str]]:
    found, rest = [], list(words)
    while rest:
        option = rest.pop(0)
        if option in ALONE:
            found.append((option, ""))
        elif option in WITH_VALUE and rest:
            found.append((option, rest.pop(0)))
        else:
            raise ValueError(f"bsub: illegal option -- {option}")
    return found


def _spec(cluster: Cluster, given: Sequence[tuple[str, str]], text: str) -> Spec:
    options = dict(given)
    sections = [name for option, value in given if option == "-R" for name in re.findall(r"(\w+)\[", value)]
    if doubled := next((name for name in sections if name in ("span", "select") and sections.count(name) > 1), None):
        raise ValueError(f'Error near "{doubled}" : duplicate section')
    match = re.fullmatch(r"([^\[\]]*)(?:\[([0-9,:-]+)\](?:%(\d+))?)?", options.get("-J", ""))
    if match is None:
        raise ValueError("Bad job name")
    indices = tuple(_indices(match[2])) if match[2] else ()
    if 0 in indices:
        raise ValueError("Bad job array index list")
    environment = _environment(options.get("-env", "all"))
    environment |= {
        "LSB_JOBID": "@NUMBER@", "LSB_JOBINDEX": "@INDEX@" if indices else "0", "LSB_JOBNAME": options.get("-J", ""),
        "LSB_BATCH_JID": "@NUMBER@[@INDEX@]" if indices else "@NUMBER@", "LSB_QUEUE": options.get("-q", "normal"),
    }  # fmt: skip
    minute = cluster.settings.extra.get("minute_s", 60.0)
    hours, _, minutes = f":{options['-W']}".rpartition(":") if "-W" in options else ("", "", "")
    limit = int(hours.strip(":") or 0) * 60 + int(minutes) if minutes else None
    output = options.get("-o", options.get("-oo", ""))
    return Spec(
        name=match[1] or "NONAME",
        command=["@SCRIPT@"],
        directory=str(Path.cwd()),
        environment=environment,
        script=text,
        stdout=str(Path.cwd() / output.replace("%J", "@NUMBER@").replace("%I", "@INDEX@")) if output else "",
        append="-oo" not in options,
        owner=_user(),
        queue=options.get("-q", ""),
        walltime_s=None if limit is None else limit * minute + GRACE_S,
        notice=None if limit is None else (int(signal.SIGUSR2), GRACE_S),
        hold="-H" in options,
        elements={each: {} for each in indices},
        throttle=int(match[3]) if match[3] else None,
        after=_after(options.get("-w", "")),
        attributes={"options": given},
    )


def _indices(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, rest = part.partition("-")
        last, _, step = rest.partition(":")
        yield from range(int(first), int(last or first) + 1, int(step or 1))


def _environment(wish: str) -> dict[str, str]:
    here = {name: value for name, value in os.environ.items() if name != FOLDER}
    names = [name.strip() for name in wish.split(",")]
    if "all" in names:
        return here
    kept = {"HOME", "LOGNAME", "USER"} if names == ["none"] else {"HOME", "LOGNAME", "USER", *names}
    return {"PATH": "/usr/bin:/bin"} | {name: here[name] for name in kept if name in here}


def _after(text: str) -> list[tuple[str, str]]:
    kinds = {"done": "ok", "ended": "ended", "exit": "failed", "started": "started"}
    found = []
    for part in filter(None, text.split(" && ")):
        match = re.fullmatch(r"(done|ended|exit|started)\((\d+)(?:\[(\d+)\])?\)", part)
        if match is None:
            raise ValueError("Dependency condition syntax error")
        found.append((f"{match[2]}.{match[3]}" if match[3] else match[2], kinds[match[1]]))
    return found


# --- bjobs


def bjobs(cluster: Cluster, arguments: list[str]) -> int:
    """Jobs in columns of one's own choice."""
    options, words = _asked(arguments, {"-J", "-u", "-o"})
    match = re.fullmatch(r"([a-z_ ]+) delimiter='(.)'", options.get("-o", ""))
    if match is None or "-noheader" not in options:
        return _complain("bjobs: this stand-in has no columns of its own")
    jobs = cluster.queue()
    if "-a" not in options and not words:
        jobs = [job for job in jobs if job.state is not State.ENDED]
    found, missing = _chosen(jobs, options, words)
    for job in found:
        cells = _cells(cluster, job)
        _say(match[2].join(cells[name] or "-" for name in match[1].split()))
    for word in missing:
        _complain(f"Job <{word}> is not found")
    return NO if missing else 0


def _asked(arguments: Sequence[str], valued: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    options: dict[str, str] = {}
    words, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        if word in valued:
            options[word] = rest.pop(0)
        elif word.startswith("-"):
            options[word] = ""
        else:
            words.append(word)
    return options, words


def _chosen(jobs: Iterable[Job], options: Mapping[str, str], words: Sequence[str]) -> tuple[list[Job], list[str]]:
    """The jobs that are asked for, and the words for which there is none."""
    jobs = [job for job in jobs if job.state is not State.ARRAY]
    if "-u" in options and options["-u"] != "all":
        jobs = [job for job in jobs if job.spec.owner == options["-u"]]
    if "-J" in options:
        jobs = [job for job in jobs if job.spec.name == options["-J"]]
        return jobs, [] if jobs else [options["-J"]]
    found, missing = [], []
    for word in words:
        number, bracket, spans = word.rstrip("]").partition("[")
        mine = [job for job in jobs if str(job.number) == number]
        if bracket:
            mine = [job for job in mine if job.index in set(_indices(spans))]
        found += mine
        missing += [] if mine else [word]
    return found, missing


def _cells(cluster: Cluster, job: Job) -> dict[str, str]:
    code = _code(job)
    return {
        "jobid": str(job.number),
        "stat": _stat(job),
        "exit_code": str(code) if _stat(job) == "EXIT" and code else "",
        "job_name": job.spec.name if job.index is None else f"{job.spec.name}[{job.index}]",
        "exit_reason": TERMS.get(job.why, ""),
        "pend_reason": _pending(cluster, job) if job.state is State.WAITING else "",
    }


def _stat(job: Job) -> str:
    if job.state is State.ENDED:
        return "DONE" if job.exit_status == 0 and not job.why else "EXIT"
    return {
        State.WAITING: "PEND",
        State.HELD: "PSUSP",
        State.RUNNING: "RUN",
        State.SUSPENDED: "USUSP",
    }[job.state]


def _code(job: Job) -> int:
    return 128 + job.signal if job.signal is not None else job.exit_status or (127 if job.why == START else 0)


def _pending(cluster: Cluster, job: Job) -> str:
    if job.comment:
        return job.comment
    if job.spec.after:
        alive = [cluster.job(key) for key, _ in job.spec.after]
        over = all(each is None or each.state is State.ENDED for each in alive)
        return (
            "Dependency condition invalid or never satisfied;" if over else "Job dependency condition not satisfied;"
        )
    return "New job is waiting for scheduling;"


# --- bhist


def bhist(cluster: Cluster, arguments: list[str]) -> int:
    """What happened to jobs, in long lines that are broken."""
    options, words = _asked(arguments, {"-J", "-u", "-n"})
    found, _ = _chosen(cluster.history(), options, words)
    if not found:
        _say("No matching job found")
        return NO
    for job in found:
        _say()
        for line in _story(job):
            _wrapped(line)
        _say("-" * 78)
    return 0


def _story(job: Job) -> Iterator[str]:
    native = f"{job.number}" if job.index is None else f"{job.number}[{job.index}]"
    script = job.spec.script.replace("\n", ";")
    whose = f"Job Name <{job.spec.name}>, User <{job.spec.owner}>, Project <default>"
    yield f"Job <{native}>, {whose}, Command <{script}>"
    yield f"{_at(job.submitted)}: Submitted from host <login1>, to Queue <normal>, CWD <{job.spec.directory}>;"
    if job.started is not None:
        yield f"{_at(job.started)}: Dispatched 1 Task(s) on Host(s) <n1>, Allocated 1 Slot(s) on Host(s) <n1>;"
        yield f"{_at(job.started)}: Starting (Pid {job.leader});"
    if job.state is State.SUSPENDED:
        yield f"{_at(time.time())}: Suspended by the user or administrator;"
    if job.ended is None:
        return
    at = _at(job.ended)
    if _stat(job) == "DONE":
        yield f"{at}: Done successfully. The CPU time used is 0.1 seconds;"
        yield f"{at}: Post job process done successfully;"
        return
    if job.why == CANCELLED:
        yield f"{at}: Signal <KILL> requested by user or administrator <{job.spec.owner}>;"
    if job.started is None:
        yield f"{at}: Exited; {TERMS.get(job.why, 'Unknown')};"
    else:
        how = f"Exited by signal {job.signal}" if job.signal is not None else f"Exited with exit code {_code(job)}"
        yield f"{at}: {how}. The CPU time used is 0.1 seconds;"
        yield f"{at}: Completed <exit>;" + (f" {TERMS[job.why]};" if job.why in TERMS else "")


def _at(when: float) -> str:
    return time.strftime("%a %b %e %H:%M:%S", time.localtime(when))


def _wrapped(line: str) -> None:
    _say(line[:79])
    for first in range(79, len(line), 58):
        _say(f"{' ' * 21}{line[first : first + 58]}")


# --- bqueues


def bqueues(cluster: Cluster, arguments: list[str]) -> int:
    """All queues, with everybody's tasks: here a job has one."""
    if arguments != ["-w"]:
        return _complain("bqueues: this stand-in shows all queues, wide")
    names = "QUEUE_NAME PRIO STATUS MAX JL/U JL/P JL/H NJOBS PEND RUN SUSP RSV PJOBS"
    form = "{:15} {:>5} {:12} {:>7} {:>4} {:>4} {:>4} {:>5} {:>5} {:>5} {:>5} {:>4} {:>5}"
    jobs = [job for job in cluster.queue() if job.state is not State.ARRAY]
    _say(form.format(*names.split()))
    for queue in cluster.settings.extra.get("queues", ["normal"]):
        states = [_stat(job) for job in jobs if (job.spec.queue or "normal") == queue]
        pending, running, stopped = states.count("PEND"), states.count("RUN"), states.count("USUSP")
        counts = (pending + running + stopped, pending, running, stopped, 0, pending)
        _say(form.format(queue, "30", "Open:Active", cluster.settings.slots, "-", "-", "-", *counts))
    return 0


# --- bkill


def bkill(cluster: Cluster, arguments: list[str]) -> int:
    """End jobs."""
    status = 0
    _, words = _asked(arguments, ())
    for word in words:
        found, missing = _chosen(cluster.queue(), {}, [word])
        if missing:
            status = _complain(f"Job <{word}>: No matching job found")
        for job in found:
            if cluster.cancel(job.key):
                _say(f"Job <{word}> is being terminated")
            else:
                status = _complain(f"Job <{word}>: Job has already finished")
    return status
