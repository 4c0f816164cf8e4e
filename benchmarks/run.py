"""The bench, in parts: how many experiments an hour, beside a plain Airflow DAG and the limit of the host; how a
queue's limit holds under a burst; what a submission costs beside bare ``sbatch``; what an API server takes of the
scripts' calls; what the monitors know of real jobs, and how soon; a mailbox that is full; what waiting costs; and,
only when it is asked for, how one experiment fares beside many that wait.

Each part is measured in one run, on the test bed (real sshd, SLURM, PostgreSQL, Dovecot). Prints tables, writes
``build/bench.json``; the exit status is 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import admission, mailbox, monitor, submit, throughput, waiters, waiting, webhook
from tests.bed import PROJECT, Bed, start_bed

Options = argparse.Namespace
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One part of the bench.

    :param about: what begins now, for who watches
    :param measure: does it; the figures, which are JSON
    :param faults: what must not be, a line each
    :param table: the figures for people
    :param asked_for: measured only when it is asked for: it takes half an hour and more
    """

    about: Callable[[Options], str]
    measure: Callable[[Bed, Options], dict[str, Any]]
    faults: Callable[[Figures], list[str]]
    table: Callable[[Figures], str]
    asked_for: bool = False


def say(text: str) -> None:
    print(f"bench: {text}", flush=True)


def _work(name: str) -> Path:
    return PROJECT / "build" / f"bench-{name}"


PARTS: Mapping[str, Part] = {
    "admission": Part(
        lambda options: f"{options.requests} requests for a queue of {options.queue}, a pretended scheduler",
        lambda bed, options: admission.burst(bed, options.requests, options.queue, options.job_seconds),
        admission.faults,
        admission.table,
    ),
    "submit": Part(
        lambda options: f"{options.submissions} at once, and as many sbatch commands, {submit.ROUNDS} times in turn",
        lambda bed, options: submit.measure(bed, options.submissions),
        submit.faults,
        submit.table,
    ),
    "monitor": Part(
        lambda options: f"{options.jobs} SLURM jobs",
        lambda bed, options: monitor.measure(
            bed,
            _work("monitor"),
            options.jobs,
            drop=options.drop,
            late_s=options.late,
            interval=options.interval,
            say=say,
        ),
        monitor.faults,
        monitor.table,
    ),
    "mailbox": Part(
        lambda options: f"{options.messages} old messages",
        lambda bed, options: mailbox.measure(bed, options.messages),
        mailbox.faults,
        mailbox.table,
    ),
    "waiters": Part(
        lambda options: f"{options.waiters} tasks that wait in one process, on PostgreSQL and on SQLite",
        lambda bed, options: waiters.measure(bed, options.waiters),
        waiters.faults,
        waiters.table,
    ),
    "webhook": Part(
        lambda options: "an API server under calls at a fixed rate",
        lambda bed, options: webhook.measure(bed, _work("webhook")),
        webhook.faults,
        webhook.table,
    ),
    "waiting": Part(
        lambda options: (
            f"one experiment beside {', '.join(map(str, options.waiting))} that wait, in one run and in two"
        ),
        lambda bed, options: waiting.measure(bed, _work("waiting"), options.waiting, options.lone, say=say),
        waiting.faults,
        waiting.table,
        asked_for=True,
    ),
}
"""The parts beside the throughput, whose modes are :data:`benchmarks.throughput.DAGS`."""


def parse(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="runs in a pattern's burst")
    parser.add_argument("--plain", type=int, default=60, help="runs in the plain DAG's burst")
    parser.add_argument("--lone", type=int, default=5, help="lone runs of each")
    modes = [*throughput.DAGS, *PARTS]
    usual = [mode for mode in modes if mode not in PARTS or not PARTS[mode].asked_for]
    parser.add_argument("--modes", nargs="+", choices=modes, default=usual)
    parser.add_argument("--requests", type=int, default=2000, help="requests for the small queue")
    parser.add_argument("--queue", type=int, default=50, help="jobs that the small queue takes")
    parser.add_argument("--job-seconds", type=float, default=16.0, help="seconds of a job in the small queue")
    parser.add_argument("--submissions", type=int, default=300, help="submissions at once, and bare sbatch commands")
    parser.add_argument("--jobs", type=int, default=2000, help="SLURM jobs that the monitors follow")
    parser.add_argument("--drop", type=float, default=0.1, help="share of their scripts' calls that is lost")
    parser.add_argument("--late", type=float, default=180.0, help="seconds by which their mail is late at most")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between polls of them")
    parser.add_argument("--messages", type=int, default=50_000, help="old messages in a mailbox")
    parser.add_argument("--waiters", type=int, default=5000, help="tasks that wait in one process")
    parser.add_argument(
        "--waiting", type=int, nargs="+", default=[0, 100, 1000, 5000], help="how many wait beside one"
    )
    parser.add_argument("--output", type=Path, default=PROJECT / "build" / "bench.json")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the bench; the exit status."""
    options = parse(arguments)
    # Whoever ends it early leaves nothing running, either.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    started = time.monotonic()
    bed = start_bed()
    result: dict[str, Any] = {}
    tables, faults = [], []
    for name, part in PARTS.items():
        if name in options.modes:
            say(f"{name}: {part.about(options)}")
            result[name] = figures = part.measure(bed, options)
            faults += [f"{name}: {fault}" for fault in part.faults(figures)]
            tables.append(part.table(figures))
    if modes := [mode for mode in options.modes if mode in throughput.DAGS]:
        figures = throughput.measure(
            bed,
            PROJECT / "build" / "bench",
            modes,
            runs=options.runs,
            plain=options.plain,
            lone_runs=options.lone,
            say=say,
        )
        result = {**figures, **result}
        faults += throughput.faults(figures)
        tables.insert(0, throughput.table(figures))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print("\n\n".join(tables))
    say(f"{time.monotonic() - started:.0f} s in all; {options.output}")
    for fault in faults:
        say(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
