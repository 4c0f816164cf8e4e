"""What HTCondor is asked: constraints, attributes, and the part of event logs that matters.

A constraint is a ClassAd expression; every text in one is a string of its own. Pure; no Airflow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from airavata_provider.schedulers.base import JobRef
from airavata_provider.schedulers.counting import COUNTED
from airavata_provider.schedulers.record import control_directory

MAX_CLUSTERS = 2000

AWK = (
    'FNR == 1 { print "LOG " FILENAME; keep = 0 } '
    "/^[0-9][0-9][0-9] \\(/ { keep = ($1 ~ /^(000|001|004|005|009|012|013)$/) ? 4 : 0 } "
    "keep > 0 { print; keep-- }"
)
"""Of each log the events that matter, with the three lines after them."""


JOBS = f'$1~/^[0-9]+$/&&$2~/^[0-9]+$/{{n++;w+=$1;r+=$2}}END{{if(n)print w+0, r+0 "\\n{COUNTED}"}}'
"""An awk program: of the access points' idle and running jobs the sums; nothing where there is no access point."""

CPUS = (
    "$1~/^(Claimed|Matched|Preempting)$/{b+=$2}$1~/^(Unclaimed|Backfill)$/{f+=$2}"
    f'END{{print b+0, f+0 "\\n{COUNTED}"}}'
)
"""Of slots' states and CPUs the sums: those that are taken, and those that are free. What is left of a partitionable
slot is a slot; one that its owner uses, or that is drained, is no slot for jobs.
"""


def counts_of(lines: Iterable[str]) -> tuple[int, int] | None:
    """The two numbers that :data:`JOBS` or :data:`CPUS` printed; None when nothing was counted."""
    rows = list(lines)
    match = re.fullmatch(r"(\d+) (\d+)", rows[0]) if rows[1:] == [COUNTED] else None
    return (int(match[1]), int(match[2])) if match else None


def string(text: str) -> str:
    """A ClassAd string."""
    return json.dumps(text, ensure_ascii=False)


def as_json(attributes: Sequence[str]) -> str:
    return f"-json -attributes {','.join(attributes)}"


def cluster_of(job: JobRef) -> str:
    return re.split(r"\D", job.native_id, maxsplit=1)[0]


def of_clusters(jobs: Sequence[JobRef]) -> str:
    """A constraint for all of them; too many for one command line are all jobs of ours."""
    clusters = sorted({int(number) for job in jobs if (number := cluster_of(job))})
    only = f" && member(ClusterId, {{{', '.join(map(str, clusters))}}})" if len(clusters) <= MAX_CLUSTERS else ""
    return f"AiravataJob =!= undefined{only}"


def exactly(jobs: Sequence[JobRef]) -> Iterator[str]:
    """Constraints that together are these jobs and no others."""
    elements: dict[tuple[str, str], list[str]] = {}
    for job in jobs:
        cluster = cluster_of(job) or "-1"
        name = f"ClusterId == {cluster} && AiravataJob == {string(job.name)}"
        if "[" in job.native_id:
            index = job.native_id.partition("[")[2].rstrip("]")
            elements.setdefault((cluster, name), []).append(index if index.isdecimal() else "-1")
        else:
            yield f"({name})"
    for (_, name), indices in elements.items():
        yield f"({name} && member(AiravataIndex, {{{', '.join(indices)}}}))"


def log_of(job: JobRef) -> str:
    """A job's or an element's event log."""
    log = f"{control_directory(job.directory, job.name)}/events"
    return log if job.index is None else f"{log}.{job.index}"


def by_log(lines: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith("LOG "):
            current = found.setdefault(line.removeprefix("LOG "), [])
        else:
            current.append(line)
    return found
