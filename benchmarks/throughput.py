"""Experiments an hour and seconds for one, beside a plain Airflow DAG and the limit of the host.

One Airflow instance with one set of settings for all of them. The plain DAG's rate does not depend on how many runs
wait (its eight workers are busy from the first second to the last), so its burst is shorter than the patterns'.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.limit import submissions_per_hour
from benchmarks.measure import ConnectionCounter, connections_on, difference, machine_cpu_seconds, tree_cpu_seconds
from benchmarks.setup import EXPERIMENT, bench_airflow
from tests.airflow_instance import AirflowInstance
from tests.bed import Bed

DAGS = {
    "plain": "plain",
    "task": "hpc_batch",
    "segment": "hpc_batch_fast",
    "empty_six": "empty_six",
    "empty_one": "empty_one",
}
PATTERNS = ("task", "segment")
"""The modes that are ours; the others know no experiment."""
TARGETS = {"task": 8.0, "segment": 15.0}
"""Times the plain DAG's throughput."""
CONNECTIONS = 2
"""On the host at a time, of ours."""


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
        servers = {name: tree_cpu_seconds(file) for name, file in self._servers.items()}
        return self.airflow.cpu_seconds() | servers | {"machine": machine_cpu_seconds()}

    def conf(self, mode: str) -> Mapping[str, Any]:
        return {} if mode not in PATTERNS else {**EXPERIMENT, "pattern": DAGS[mode]}

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
        # A connection that the runs before opened and closed is not these runs'.
        port = self.bed.ssh_port
        self.airflow.wait("the connections of others end", lambda: connections_on(port) <= CONNECTIONS, timeout=60)
        before = self.cpu()
        with ConnectionCounter(port, self.bed.sshd_log) as connections:
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
        if mode not in PATTERNS:
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


def measure(
    bed: Bed, work: Path, modes: Sequence[str], *, runs: int, plain: int, lone_runs: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Lone runs and bursts of each mode, in order.

    :param modes: of :data:`DAGS`
    :param runs: runs in a pattern's burst
    :param plain: runs in the plain DAG's
    :param lone_runs: lone runs of each
    """
    say("the limit: sbatch over one open SSH connection")
    limit = submissions_per_hour(bed)
    say("starting Airflow on PostgreSQL")
    with bench_airflow(bed, work) as (airflow, airavata_url):
        bench = Bench(airflow, airavata_url, bed)
        for mode in modes:
            airflow.wait_for_dag(DAGS[mode])
        for mode in modes:  # what is loaded once is loaded now
            run_id = airflow.trigger(DAGS[mode], bench.conf(mode), run_id=f"warm-{mode}")
            bench._count(airflow.wait_run(DAGS[mode], run_id, timeout=300))
        lone, burst = {}, {}
        for mode in modes:
            say(f"{mode}: {lone_runs} lone runs")
            lone[mode] = bench.lone(mode, lone_runs)
        for mode in modes:
            count = plain if mode == "plain" else runs
            say(f"{mode}: burst of {count}")
            burst[mode] = bench.burst(mode, count)
        ours = [burst[mode] for mode in modes if mode in PATTERNS]
        return {
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


def faults(result: Mapping[str, Any]) -> list[str]:
    """What must not be."""
    found = [f"{result['failed']} runs failed"] if result["failed"] else []
    if (peak := result["ssh"]["connections_peak"]) > CONNECTIONS:
        found.append(f"{peak} connections at a time, more than {CONNECTIONS}")
    throughput, latency = result["throughput"], result["latency"]
    if (plain := throughput.get("plain_per_hour")) is not None:
        found += [
            f"{mode}: {throughput[f'{mode}_per_hour'] / plain:.1f} times the plain DAG's throughput, not {target:g}"
            for mode, target in TARGETS.items()
            if f"{mode}_per_hour" in throughput and throughput[f"{mode}_per_hour"] < target * plain
        ]
        if latency.get("lone_segment_s", 0) > latency["lone_plain_s"]:
            found.append(f"a lone segment takes {latency['lone_segment_s']:.1f} s, longer than the plain DAG")
    return found


def table(result: Mapping[str, Any]) -> str:
    """The result for people: figures, and each as a multiple of the plain DAG's."""
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
