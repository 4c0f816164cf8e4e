"""How the time of one new experiment grows beside many that wait for their jobs: in one run, and in two.

Who waits is real: experiments of the same pattern, each with a job of its own that SLURM holds (``sbatch --hold``),
made through Airflow's REST as all others. So everything that they cost is there: the scheduler's passes over their
runs, the triggerer's tasks, the polls. For each pattern a fresh Airflow on PostgreSQL is filled up step by step, and
at each step lone experiments are timed and the components' work is measured while nothing happens.

Nothing that waits ever ends: when a pattern is done, its Airflow is stopped and then its jobs are cancelled.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from airavata_provider.models.split import second_dag
from benchmarks.measure import difference
from benchmarks.setup import EXPERIMENT, HELD, bench_airflow
from tests.airflow_instance import AirflowInstance
from tests.bed import Bed

PATTERNS: Mapping[str, str] = {"one run": "hpc_batch_fast", "two runs": "hpc_batch_waiting"}
QUIET_S = 20.0
"""How long the components' work is measured while nothing happens."""
_CLIENTS = 8
_CANCEL_AT_ONCE = 500


def measure(bed: Bed, work: Path, counts: Sequence[int], lone: int, *, say: Callable[[str], None]) -> dict[str, Any]:
    """By pattern, by how many wait: seconds of lone experiments, and the components' work meanwhile."""
    found: dict[str, Any] = {"counts": sorted(set(counts)), "patterns": {}, "failed": 0}
    for name, pattern in PATTERNS.items():
        held: list[str] = []
        try:
            with bench_airflow(bed, work) as (airflow, airavata_url):
                place = _Place(airflow, airavata_url, pattern)
                place.ready()
                steps = found["patterns"][name] = {}
                try:
                    for count in found["counts"]:
                        say(f"waiting: {pattern}, {count} wait")
                        steps[str(count)] = step = place.step(count, lone)
                        found["failed"] += step["failed"]
                finally:
                    held = place.held()
        finally:
            _cancel(bed, held)
    return found


class _Place:
    """One Airflow that fills up with experiments of one pattern."""

    def __init__(self, airflow: AirflowInstance, airavata_url: str, pattern: str) -> None:
        self._airflow = airflow
        self._airavata_url = airavata_url
        self._pattern = pattern
        self._waiting = 0
        self._last = pattern

    def ready(self) -> None:
        """Wait for the DAGs, and let one experiment load what is loaded once."""
        self._airflow.wait_for_dag(self._pattern)
        self._airflow.api("GET", "/version")  # logs in before the clients share the connection
        if self._airflow.client.get(f"/api/v2/dags/{second_dag(self._pattern)}/details").is_success:
            self._last = second_dag(self._pattern)
        self._one("warm")

    def step(self, count: int, lone: int) -> dict[str, Any]:
        """Figures beside that many."""
        began = time.monotonic()
        self._fill(count)
        filled = time.monotonic() - began
        before, began = self._airflow.cpu_seconds(), time.monotonic()
        time.sleep(QUIET_S)
        quiet = time.monotonic() - began
        used = difference(before, self._airflow.cpu_seconds())
        ends = [self._one(f"lone-{count}-{number}") for number in range(lone)]
        return {
            "filled_s": filled,
            "seconds": [seconds for seconds, _ in ends],
            "median_s": statistics.median(seconds for seconds, _ in ends),
            "failed": sum(state != "success" for _, state in ends),
            "cores": {part: seconds / quiet for part, seconds in used.items()},
        }

    def _fill(self, count: int) -> None:
        conf = {**EXPERIMENT, "application": HELD, "pattern": self._pattern}
        ids = [f"wait-{number}" for number in range(self._waiting, count)]
        with ThreadPoolExecutor(_CLIENTS) as clients:
            list(clients.map(lambda i: self._airflow.trigger(self._pattern, conf, run_id=i), ids))
        self._waiting = max(count, self._waiting)
        self._airflow.wait(f"{count} wait", lambda: self._settled(count), timeout=300 + count, every=1)

    def _settled(self, count: int) -> bool:
        """Whether all jobs are in SLURM and Airflow has done what it does until they end."""
        if len(self.held()) < count:
            return False
        if self._last != self._pattern:
            return self._number("running") == self._number("queued") == 0
        deferred = self._airflow.api(
            "GET", f"/dags/{self._pattern}/dagRuns/~/taskInstances", params={"state": "deferred", "limit": 1}
        )
        monitors: int = deferred["total_entries"]
        return monitors >= count

    def _number(self, state: str) -> int:
        answer = self._airflow.api("GET", f"/dags/{self._pattern}/dagRuns", params={"state": state, "limit": 1})
        total: int = answer["total_entries"]
        return total

    def held(self) -> list[str]:
        """SLURM's ids of the jobs of those that wait."""
        query = (
            "SELECT native_id FROM airavata_job WHERE experiment_id LIKE 'wait-%' AND native_id IS NOT NULL"
            " AND ended_at IS NULL"
        )
        with psycopg.connect(self._airavata_url) as database:
            return [str(row[0]) for row in database.execute(query)]

    def _one(self, run_id: str) -> tuple[float, str]:
        """Seconds from an experiment's request to its end, and its end."""
        asked = time.time()
        self._airflow.trigger(self._pattern, {**EXPERIMENT, "pattern": self._pattern}, run_id=run_id)
        if self._last != self._pattern:
            state = self._airflow.wait_run(self._pattern, run_id, timeout=600)
            if state != "success":
                return time.time() - asked, state
            there = f"/api/v2/dags/{self._last}/dagRuns/{run_id}"
            self._airflow.wait("the second run", lambda: self._airflow.client.get(there).is_success, timeout=300)
        state = self._airflow.wait_run(self._last, run_id, timeout=600)
        ended: str = self._airflow.run(self._last, run_id)["end_date"]
        return datetime.fromisoformat(ended).timestamp() - asked, state


def _cancel(bed: Bed, ids: Sequence[str]) -> None:
    for start in range(0, len(ids), _CANCEL_AT_ONCE):
        bed.run(f"scancel {' '.join(ids[start : start + _CANCEL_AT_ONCE])}")


def faults(figures: Mapping[str, Any]) -> list[str]:
    """What is not as it should be."""
    return [f"{figures['failed']} lone experiments failed"] if figures["failed"] else []


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    patterns = figures["patterns"]
    lines = [
        "waiting: seconds of one experiment beside many that wait (median), and cores that Airflow uses meanwhile",
        f"{'':>9}" + "".join(f"{name:>14}{'scheduler':>11}{'triggerer':>11}{'API':>7}" for name in patterns),
    ]
    for count in figures["counts"]:
        row = f"{count:9}"
        for steps in patterns.values():
            step = steps[str(count)]
            cores = step["cores"]
            triggerers = sum(value for part, value in cores.items() if part.startswith("triggerer"))
            row += f"{step['median_s']:14.1f}{cores['scheduler']:11.2f}{triggerers:11.2f}{cores['api-server']:7.2f}"
        lines.append(row)
    return "\n".join(lines)
