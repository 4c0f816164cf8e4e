"""The bench: experiments an hour and seconds for one, beside a plain Airflow DAG and the limit of the host; how
a queue's limit holds under a burst; what the monitors know of real jobs, and how soon; and how one experiment fares
beside many that wait.

Everything is measured in one run, on the test bed (real sshd, SLURM, PostgreSQL) and one Airflow instance
with one set of settings. Prints a table, writes ``build/bench.json``; the exit status is 1 when a run failed.

The plain DAG's rate does not depend on how many runs wait (its eight workers are busy from the first second
to the last), so its burst is shorter than the patterns', to keep the bench under a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import admission, monitor, waiting
from benchmarks.limit import submissions_per_hour
from benchmarks.measure import ConnectionCounter, difference, tree_cpu_seconds
from benchmarks.setup import EXPERIMENT, bench_airflow
from benchmarks.webhook import measure_webhook, webhook_table
from tests.airflow_instance import AirflowInstance
from tests.bed import PROJECT, Bed, start_bed

WEBHOOK = "webhook"
DAGS = {"plain": "plain", "task": "hpc_batch", "segment": "hpc_batch_fast"}
ADMISSION = "admission"
"""A burst for a small queue, without Airflow."""
MONITOR = "monitor"
"""Real jobs and all sources of news, without Airflow."""
WAITING = "waiting"
"""One experiment beside many that wait, an Airflow for each way to wait."""
TARGETS = {"task": 8.0, "segment": 15.0}
"""Times the plain DAG's throughput."""


def say(text: str) -> None:
    print(f"bench: {text}", flush=True)


class Bench:
    """One Airflow instance under measurement."""

    def __init__(self, airflow: AirflowInstance, airavata_url: str, bed: Bed) -> None:
        self.airflow = airflow
        self.airavata_url = airavata_url
        self.bed = bed
        self.failed = 0
        room = bed.sshd_pid_file.parent.parent
        self._servers = {
            "postgres": room / "postgres" / "data" / "postmaster.pid",
            "sshd": bed.sshd_pid_file,
            "slurmctld": bed.slurmctld_pid_file,
            "slurmd": room / "run" / "slurmd.pid",
        }

    def cpu(self) -> dict[str, float]:
        return self.airflow.cpu_seconds() | {n: tree_cpu_seconds(file) for n, file in self._servers.items()}

    def conf(self, mode: str) -> Mapping[str, Any]:
        return {} if mode == "plain" else {**EXPERIMENT, "pattern": DAGS[mode]}

    def lone(self, mode: str, count: int) -> dict[str, Any]:
        """Runs one after the other, nothing beside them; the median of the seconds from request to end."""
        seconds, run_ids = [], []
        for number in range(count):
            asked = time.time()
            run_id = self.airflow.trigger(DAGS[mode], self.conf(mode), run_id=f"lone-{mode}-{number}")
            self._count(self.airflow.wait_run(DAGS[mode], run_id, timeout=300))
            seconds.append(_moment(self.airflow.run(DAGS[mode], run_id)["end_date"]) - asked)
            run_ids.append(run_id)
        return {
            "seconds": seconds,
            "median_s": statistics.median(seconds),
            "inside_tasks_s": self.inside_tasks(mode, run_ids),
        }

    def burst(self, mode: str, count: int) -> dict[str, Any]:
        """Many requests at once; from the first one sent to the last run's end."""
        run_ids = [f"burst-{mode}-{number}" for number in range(count)]
        self.airflow.api("GET", "/version")  # logs in before the clients share the connection
        before = self.cpu()
        with ConnectionCounter(self.bed.ssh_port, self.bed.sshd_log) as connections:
            asked = time.time()
            with ThreadPoolExecutor(8) as clients:
                list(clients.map(lambda i: self.airflow.trigger(DAGS[mode], self.conf(mode), run_id=i), run_ids))
            accepted = time.time() - asked
            self.airflow.wait(
                f"burst of {count}, {mode}", lambda: self._open(mode) == 0, timeout=300 + 10 * count, every=1
            )
        used = difference(before, self.cpu())
        runs = self._runs(mode, f"burst-{mode}-")
        for run in runs:
            self._count(run["state"])
        seconds = max(_moment(run["end_date"]) for run in runs) - asked
        return {
            "runs": count,
            "failed": sum(run["state"] != "success" for run in runs),
            "seconds": seconds,
            "accepted_s": accepted,
            "per_hour": count / seconds * 3600,
            "connections_peak": connections.peak,
            "connections_opened": connections.opened,
            "cpu_s_per_run": {name: value / count for name, value in used.items()},
            "inside_tasks_s": self.inside_tasks(mode, run_ids),
        }

    def inside_tasks(self, mode: str, run_ids: list[str]) -> dict[str, float]:
        """Seconds that one run spent inside each task (mean): by the provider's own records, or Airflow's."""
        spent: dict[str, list[float]] = {}
        if mode == "plain":
            for run_id in run_ids[:20]:
                for ti in self.airflow.task_instances(DAGS[mode], run_id):
                    spent.setdefault(ti["task_id"], []).append(ti["duration"] or 0.0)
        else:
            with psycopg.connect(self.airavata_url) as database:
                rows = database.execute(
                    "SELECT task_id, extract(epoch FROM ended_at - started_at)::float FROM airavata_task"
                    " WHERE dag_id = %s AND experiment_id = ANY(%s) AND ended_at IS NOT NULL",
                    (DAGS[mode], run_ids),
                )
                for task_id, seconds in rows:
                    spent.setdefault(task_id, []).append(seconds)
        return {task_id: statistics.fmean(values) for task_id, values in spent.items()}

    def _open(self, mode: str) -> int:
        answer = self.airflow.api(
            "GET", f"/dags/{DAGS[mode]}/dagRuns", params={"state": ["queued", "running"], "limit": 1}
        )
        total: int = answer["total_entries"]
        return total

    def _runs(self, mode: str, prefix: str) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = []
        while True:
            page = self.airflow.api("GET", f"/dags/{DAGS[mode]}/dagRuns", params={"limit": 100, "offset": len(runs)})
            runs += page["dag_runs"]
            if not page["dag_runs"] or len(runs) >= page["total_entries"]:
                return [run for run in runs if run["dag_run_id"].startswith(prefix)]

    def _count(self, state: str) -> None:
        self.failed += state != "success"


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def measure(bed: Bed, work: Path, options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Everything, in order; the result for ``bench.json`` and how many runs failed."""
    say("the limit: sbatch over one open SSH connection")
    limit = submissions_per_hour(bed)
    say("starting Airflow on PostgreSQL")
    with bench_airflow(bed, work) as (airflow, airavata_url):
        bench = Bench(airflow, airavata_url, bed)
        modes: list[str] = options.modes
        for mode in modes:
            airflow.wait_for_dag(DAGS[mode])
        for mode in modes:  # what is loaded once is loaded now
            run_id = airflow.trigger(DAGS[mode], bench.conf(mode), run_id=f"warm-{mode}")
            bench._count(airflow.wait_run(DAGS[mode], run_id, timeout=300))
        lone, burst = {}, {}
        for mode in modes:
            say(f"{mode}: {options.lone} lone runs")
            lone[mode] = bench.lone(mode, options.lone)
        for mode in modes:
            count = options.plain if mode == "plain" else options.runs
            say(f"{mode}: burst of {count}")
            burst[mode] = bench.burst(mode, count)
        ours = [burst[mode] for mode in modes if mode != "plain"]
        result = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "cpus": os.cpu_count(),
            "throughput": {f"{mode}_per_hour": burst[mode]["per_hour"] for mode in modes} | {"limit_per_hour": limit},
            "latency": {f"lone_{mode}_s": lone[mode]["median_s"] for mode in modes},
            "ssh": {
                "connections_peak": max((b["connections_peak"] for b in ours), default=0),
                "connections_opened": {mode: burst[mode]["connections_opened"] for mode in modes},
            },
            "lone": lone,
            "burst": burst,
            "failed": bench.failed,
        }
        return result, bench.failed


def everything(bed: Bed, work: Path, options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """What :func:`measure` measures, and the webhook, as far as the modes ask for them."""
    dags = [mode for mode in options.modes if mode in DAGS]
    options.modes, webhook = dags, WEBHOOK in options.modes
    result, failed = measure(bed, work, options) if dags else ({}, 0)
    if webhook:
        say("webhook: an API server under calls at a fixed rate")
        result[WEBHOOK] = figures = measure_webhook(bed, work.with_name("bench-webhook"))
        failed += sum(count for answer, count in figures["answers"].items() if answer != "204")
    return result, failed


def table(result: Mapping[str, Any]) -> str:
    """The result for people: figures, and each as a multiple of the plain DAG's."""
    if WEBHOOK in result:
        rest = {name: value for name, value in result.items() if name != WEBHOOK}
        return "\n\n".join([*([table(rest)] if rest else []), webhook_table(result[WEBHOOK])])
    throughput, latency, burst = result["throughput"], result["latency"], result["burst"]
    plain_rate, plain_lone = throughput.get("plain_per_hour"), latency.get("lone_plain_s")
    lines = [f"{'':10}{'runs/h':>9}{'x plain':>9}{'target':>8}{'lone s':>8}{'/ plain':>9}{'peak conn':>11}"]
    for mode, figures in burst.items():
        rate, alone = figures["per_hour"], latency[f"lone_{mode}_s"]
        times = f"{rate / plain_rate:.1f}" if plain_rate else "-"
        slower = f"{alone / plain_lone:.2f}" if plain_lone else "-"
        target = f"{TARGETS[mode]:.0f}" if mode in TARGETS else ""
        peak = figures["connections_peak"]
        lines.append(f"{mode:10}{rate:9.0f}{times:>9}{target:>8}{alone:8.1f}{slower:>9}{peak:11}")
    lines.append(f"{'limit':10}{throughput['limit_per_hour']:9.0f}   (sbatch alone over one open connection)")
    names = list(dict.fromkeys(name for figures in burst.values() for name in figures["cpu_s_per_run"]))
    lines += ["", "CPU seconds per run" + "".join(f"{mode:>10}" for mode in burst)]
    for name in names:
        row = "".join(f"{figures['cpu_s_per_run'].get(name, 0):10.3f}" for figures in burst.values())
        lines.append(f"  {name:17}{row}")
    for mode, figures in result["lone"].items():
        inside = ", ".join(f"{task} {seconds:.2f}" for task, seconds in figures["inside_tasks_s"].items())
        lines += ["", f"inside the tasks of a lone {mode} run, s: {inside}"]
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="runs in a pattern's burst")
    parser.add_argument("--plain", type=int, default=60, help="runs in the plain DAG's burst")
    parser.add_argument("--lone", type=int, default=5, help="lone runs of each")
    modes = [*DAGS, WEBHOOK, ADMISSION, MONITOR]
    # Half an hour and more: only when it is asked for.
    parser.add_argument("--modes", nargs="+", choices=[*modes, WAITING], default=modes)
    parser.add_argument("--waiting", type=int, nargs="+", default=[0, 100, 1000, 5000], help="how many wait")
    parser.add_argument("--requests", type=int, default=2000, help="requests for the small queue")
    parser.add_argument("--queue", type=int, default=50, help="jobs that the small queue takes")
    parser.add_argument("--job-seconds", type=float, default=8.0, help="seconds of a job in the small queue")
    parser.add_argument("--jobs", type=int, default=2000, help="SLURM jobs that the monitors follow")
    parser.add_argument("--drop", type=float, default=0.1, help="share of their scripts' calls that is lost")
    parser.add_argument("--late", type=float, default=180.0, help="seconds by which their mail is late at most")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between polls of them")
    parser.add_argument("--output", type=Path, default=PROJECT / "build" / "bench.json")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the bench; the exit status."""
    options = parse(arguments)
    started = time.monotonic()
    bed = start_bed()
    crowd: dict[str, Any] = {}
    if ADMISSION in options.modes:
        say(f"admission: {options.requests} requests for a queue of {options.queue}, a pretended scheduler")
        crowd = admission.burst(bed, options.requests, options.queue, options.job_seconds)
        options.modes.remove(ADMISSION)
    heard: dict[str, Any] = {}
    if MONITOR in options.modes:
        say(f"monitor: {options.jobs} SLURM jobs")
        heard = monitor.measure(
            bed,
            PROJECT / "build" / "bench-monitor",
            options.jobs,
            drop=options.drop,
            late_s=options.late,
            interval=options.interval,
            say=say,
        )
        options.modes.remove(MONITOR)
    beside: dict[str, Any] = {}
    if WAITING in options.modes:
        beside = waiting.measure(bed, PROJECT / "build" / "bench-waiting", options.waiting, options.lone, say=say)
        options.modes.remove(WAITING)
    result: dict[str, Any] = {}
    failed = 0
    if options.modes:
        result, failed = everything(bed, PROJECT / "build" / "bench", options)
    faults = [f"admission: {fault}" for fault in admission.faults(crowd)] if crowd else []
    faults += [f"monitor: {fault}" for fault in monitor.faults(heard)] if heard else []
    faults += [f"waiting: {fault}" for fault in waiting.faults(beside)] if beside else []
    if crowd:
        result = {**result, ADMISSION: crowd}
    if heard:
        result = {**result, MONITOR: heard}
    if beside:
        result = {**result, WAITING: beside}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    if options.modes:
        print(table(result))
    if crowd:
        print(admission.table(crowd))
    if heard:
        print(monitor.table(heard))
    if beside:
        print(waiting.table(beside))
    say(f"{time.monotonic() - started:.0f} s in all; {options.output}")
    if failed:
        say(f"{failed} runs or calls FAILED")
    for fault in faults:
        say(fault)
    return 1 if failed or faults else 0


if __name__ == "__main__":
    sys.exit(main())
