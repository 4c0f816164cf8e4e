"""``condor_submit``, ``condor_q``, ``condor_history``, ``condor_rm``, ``condor_status`` as in HTCondor 23.0, over the
stand-ins' engine.

An ended job stays in the queue for ``keep_s`` when its description says ``leave_in_queue``, and is in the history
after that. With ``max_materialize`` an element is in the queue when it is its turn, and before that nowhere but in
``condor_q -factory``. Event logs are written by whichever command comes next. ``Settings.extra`` may hold ``history``
(False: none is kept).
"""

from __future__ import annotations

import itertools
import json
import os
import pwd
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.standins.engine import Cluster
from tests.standins.htcondor.classads import holds
from tests.standins.model import CANCELLED, FOLDER, MEMORY, NODE, START, Job, Spec, State

_HOST = "<10.0.0.1:9618?addrs=10.0.0.1-9618&alias=ap1&noUDP&sock=schedd_1_1>"
_KNOWN = frozenset(
    {
        "universe", "executable", "transfer_executable", "should_transfer_files", "initialdir", "log", "output",
        "error", "environment", "batch_name", "periodic_remove", "leave_in_queue", "request_cpus", "request_memory",
        "request_gpus", "request_disk", "require_gpus", "allowed_execute_duration", "accounting_group",
        "requirements", "concurrency_limits", "max_materialize", "notification", "notify_user", "getenv",
    }
)  # fmt: skip


def _say(line: str = "") -> None:
    sys.stdout.write(f"{line}\n")


def _complain(*lines: str) -> int:
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    return 1


# --- condor_submit


def condor_submit(cluster: Cluster, arguments: list[str]) -> int:
    """Submit a description."""
    terse = "-terse" in arguments
    files = [word for word in arguments if not word.startswith("-")]
    try:
        commands, variable, items = _description(Path(files[0]).read_text())
    except (OSError, ValueError, IndexError) as fault:
        return _complain("", f"ERROR: Failed to parse command file: {fault}")
    for odd in sorted(set(commands) - _KNOWN):
        if not odd.startswith("+"):
            _complain(f"WARNING: the line '{odd} = {commands[odd]}' was unused by condor_submit. Is it a typo?")
    executable = Path(_expanded(commands["executable"], {}))
    if not os.access(executable, os.X_OK):
        return _complain("", f"ERROR: Executable file {executable} does not exist or is not executable")
    live = sum(job.state not in (State.ENDED, State.ARRAY) for job in cluster.jobs())
    if cluster.settings.max_jobs is not None and live + max(1, len(items)) > cluster.settings.max_jobs:
        return _complain(
            "Number of submitted jobs would exceed MAX_JOBS_PER_OWNER", "", "ERROR: Failed to create cluster"
        )
    number = cluster.submit(_spec(commands, variable, items))
    _logged(cluster)
    count = max(1, len(items))
    if terse:
        _say(f"{number}.0 - {number}.{count - 1}")
    else:
        _say("Submitting job(s)" + "." * count)
        _say(f"{count} job(s) submitted to cluster {number}.")
    return 0


def _description(text: str) -> tuple[dict[str, str], str, list[str]]:
    """Its commands with small letters, the variable of its ``queue`` and the items."""
    commands: dict[str, str] = {}
    queues = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.endswith("\\"):
            raise ValueError("a line goes on")
        if re.match(r"\s*queue\b", line, re.IGNORECASE):
            queues.append(line)
            continue
        name, equals, text = line.partition("=")
        if not equals:
            raise ValueError(f"no command: {line}")
        commands[name.strip().lower()] = text.strip()
    if len(queues) != 1:
        raise ValueError(f"{len(queues)} queue statements")
    if queues[0].strip() == "queue":
        return commands, "", []
    match = re.fullmatch(r"queue (\w+) in \(([0-9, ]+)\)", queues[0].strip())
    if match is None:
        raise ValueError(f"invalid queue statement: {queues[0]}")
    return commands, match[1], [item.strip() for item in match[2].split(",")]


def _expanded(text: str, macros: Mapping[str, str]) -> str:
    known = {name.lower(): value for name, value in macros.items()} | {"dollar": "$"}
    return re.sub(r"\$\((\w+)\)", lambda match: known.get(match[1].lower(), ""), text)


def _spec(commands: Mapping[str, str], variable: str, items: list[str]) -> Spec:
    """The engine's words. An element's index is its process number, as HTCondor counts them."""
    macros = {"Cluster": "@NUMBER@", "ClusterId": "@NUMBER@"}
    macros |= {"Process": "@INDEX@", variable: "@ITEM@"} if items else {"Process": "0"}
    text = {name: _expanded(value, macros) for name, value in commands.items()}
    user = pwd.getpwuid(os.getuid()).pw_name
    directory = text["initialdir"]
    return Spec(
        name=text.get("batch_name", ""),
        command=[text["executable"]],
        directory=directory,
        environment=_environment(text),
        stdout=os.path.join(directory, text.get("output", "")),  # noqa: PTH118
        stderr=os.path.join(directory, text.get("error", "")),  # noqa: PTH118
        owner=user,
        elements={process: {"ITEM": item} for process, item in enumerate(items)},
        throttle=int(text["max_materialize"]) if "max_materialize" in text else None,
        attributes={
            "own": {name.removeprefix("+"): value for name, value in text.items() if name.startswith("+")},
            "leaves": "leave_in_queue" not in text,
            "log": text["log"],
        },
    )


def _environment(text: Mapping[str, str]) -> dict[str, str]:
    """No more than what is asked for, not even a PATH."""
    getenv = text.get("getenv", "False")
    here = {name: value for name, value in os.environ.items() if name != FOLDER}
    if getenv == "True":
        found = here
    else:
        found = {name.strip(): here[name.strip()] for name in getenv.split(",") if name.strip() in here}
    words = text.get("environment", '""')
    if not (words.startswith('"') and words.endswith('"')):
        raise ValueError("an environment of the old kind")
    for word in words[1:-1].split():
        name, _, value = word.partition("=")
        found[name] = value
    return found | {"BATCH_SYSTEM": "HTCondor", "_CONDOR_SLOT": "slot1_1"}


# --- what is where


def _turn(cluster: Cluster, number: int, throttle: int) -> int:
    """The first process of an array that is not in the queue yet."""
    over = sum(job.state is State.ENDED for job in cluster.elements(number))
    return min(over + throttle, len(cluster.elements(number)))


def _materialized(cluster: Cluster, job: Job) -> bool:
    if job.index is None or job.spec.throttle is None or job.started is not None or job.state is State.ENDED:
        return True
    return job.index < _turn(cluster, job.number, job.spec.throttle)


def _queue(cluster: Cluster) -> list[Job]:
    found = []
    for job in cluster.queue():
        gone = job.state is State.ENDED and job.spec.attributes["leaves"]
        if job.state is not State.ARRAY and not gone and _materialized(cluster, job):
            found.append(job)
    return found


def _ad(job: Job) -> dict[str, Any]:
    index = job.index or 0
    found: dict[str, Any] = {
        "ClusterId": job.number,
        "ProcId": index,
        "Owner": job.spec.owner,
        "JobStatus": _status(job),
        "NumJobStarts": job.restarts + (job.started is not None),
        "EnteredCurrentStatus": int(job.ended or job.started or job.submitted),
        "ExitBySignal": False,
    }
    for name, value in job.spec.attributes["own"].items():
        item = job.spec.elements.get(index, {}).get("ITEM", "")
        text = value.replace("@ITEM@", item).replace("@NUMBER@", str(job.number))
        proper = {
            "airavatajob": "AiravataJob",
            "airavataindex": "AiravataIndex",
            "airavataindices": "AiravataIndices",
        }
        found[proper.get(name, name)] = json.loads(text)
    if found["JobStatus"] == 4:
        if job.signal is not None:
            found |= {"ExitBySignal": True, "ExitSignal": job.signal}
        else:
            found["ExitCode"] = job.exit_status
    if found["JobStatus"] == 3:
        found["RemoveReason"] = _removed(job)
    if found["JobStatus"] == 5:
        found |= {
            "HoldReasonCode": 1,
            "HoldReasonSubCode": 0,
            "HoldReason": f"via condor_hold (by user {job.spec.owner})",
        }
    return found


def _status(job: Job) -> int:
    if job.state is State.ENDED:
        return 3 if job.why in (CANCELLED, MEMORY, START, NODE) else 4
    return {State.WAITING: 1, State.RUNNING: 2, State.HELD: 5, State.SUSPENDED: 7}[job.state]


def _removed(job: Job) -> str:
    if job.why == CANCELLED:
        return f"via condor_rm (by user {job.spec.owner})"
    return f"The job attribute PeriodicRemove expression evaluated to TRUE; {job.comment or job.why}"


def _logged(cluster: Cluster) -> None:
    """Write what event logs lack."""
    (cluster.folder / "logged").mkdir(exist_ok=True)
    for job in cluster.jobs():
        if job.state is State.ARRAY:
            continue
        item = job.spec.elements.get(job.index or 0, {}).get("ITEM", "")
        log = Path(job.spec.attributes["log"].replace("@ITEM@", item).replace("@NUMBER@", str(job.number)))
        events = {"000": ("Job submitted from host: " + _HOST, job.submitted)}
        if job.started is not None:
            events[f"001 {job.restarts}"] = (
                "Job executing on host: <10.0.0.7:9618>\n\tSlotName: slot1_1@n7",
                job.started,
            )
        if job.ended is not None:
            events["005" if _status(job) == 4 else "009"] = (_last(job), job.ended)
        for event, (words, at) in events.items():
            mark = cluster.folder / "logged" / f"{job.key} {event}"
            if _materialized(cluster, job) and not mark.exists() and log.parent.is_dir():
                mark.touch()
                when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
                with log.open("a") as file:
                    file.write(f"{event[:3]} ({job.number:03}.{job.index or 0:03}.000) {when} {words}\n...\n")


def _last(job: Job) -> str:
    if _status(job) == 3:
        return f"Job was aborted.\n\t{_removed(job)}"
    if job.signal is not None:
        return f"Job terminated.\n\t(0) Abnormal termination (signal {job.signal})\n\t(0) No core file"
    return f"Job terminated.\n\t(1) Normal termination (return value {job.exit_status})"


# --- condor_q, condor_history, condor_rm


def condor_q(cluster: Cluster, arguments: list[str]) -> int:
    """Ads of the queue's jobs; with ``-factory`` those of clusters that are not wholly in it."""
    _logged(cluster)
    if "-factory" not in arguments:
        return _printed((_ad(job) for job in _queue(cluster)), arguments)
    factories = []
    for job in cluster.queue():
        if job.state is State.ARRAY and job.spec.throttle is not None:
            following = _turn(cluster, job.number, job.spec.throttle)
            if following < len(job.spec.elements):
                first = replace(job, index=0, state=State.WAITING)
                factories.append(_ad(first) | {"JobMaterializeNextProcId": following})
    return _printed(factories, arguments)


def condor_history(cluster: Cluster, arguments: list[str]) -> int:
    """Ads of jobs that left the queue, the last one first."""
    _logged(cluster)
    if not cluster.settings.extra.get("history", True):
        return _complain("condor_history: Error: No history file is defined")
    there = {job.key for job in _queue(cluster)}
    gone = [job for job in cluster.history() if job.state is State.ENDED and job.key not in there]
    return _printed((_ad(job) for job in reversed(gone)), arguments)


def _printed(found: Iterable[Mapping[str, Any]], arguments: list[str]) -> int:
    values = dict(itertools.pairwise(arguments))
    try:
        chosen = [ad for ad in found if holds(values["-constraint"], ad)]
        if "-since" in values:
            chosen = [ad for ad in chosen if not holds(values["-since"], ad)]
    except ValueError as fault:
        return _complain(f"Error: {fault}")
    chosen = chosen[: int(values.get("-limit", len(chosen)))]
    names = values["-attributes"].split(",")
    if "-json" in arguments and chosen:
        shown = [{name: ad[name] for name in sorted(ad) if name in names} for ad in chosen]
        _say("[\n" + "\n,\n".join(json.dumps(ad, indent=2) for ad in shown) + "\n]")
    return 0


def condor_rm(cluster: Cluster, arguments: list[str]) -> int:
    """Remove what fits a constraint."""
    constraint = arguments[arguments.index("-constraint") + 1]
    try:
        chosen = [job for job in _queue(cluster) if holds(constraint, _ad(job))]
    except ValueError as fault:
        return _complain(f"Error: {fault}")
    if not [job for job in chosen if cluster.cancel(job.key)]:
        return _complain(f"Couldn't find/remove all jobs matching constraint ({constraint})")
    _say(f"Jobs matching constraint ({constraint}) have been marked for removal (via condor_rm)")
    return 0


def condor_status(cluster: Cluster, arguments: list[str]) -> int:
    """What the collector knows: one access point, or one machine whose slot is divided."""
    jobs = _queue(cluster)
    running = sum(_status(job) in (2, 7) for job in jobs)
    if arguments == ["-schedd", "-af", "TotalIdleJobs", "TotalRunningJobs"]:
        _say(f"{sum(_status(job) == 1 for job in jobs)} {running}")
    elif arguments == ["-af", "State", "Cpus"]:
        _say(f"Unclaimed {max(0, cluster.settings.slots - running)}")
        for _ in range(running):
            _say("Claimed 1")
    else:
        return _complain("condor_status: this stand-in shows no more than that")
    return 0
