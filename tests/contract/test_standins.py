"""The stand-ins' batch system really runs jobs and keeps its state: what the contract over it rests on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.standins.engine import Cluster
from tests.standins.model import CANCELLED, DEPENDENCY, MEMORY, NODE, WALLTIME, Job, Settings, Spec, State

WAITS = 30.0


pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "state", Settings(kill_delay_s=0.5, keep_s=600))
    yield cluster
    cluster.close()


def submit(cluster: Cluster, shell: str, **fields: Any) -> str:
    command = ["/bin/sh", "-c", shell]
    given = {"directory": str(cluster.folder), "environment": {"PATH": "/usr/bin:/bin"}, **fields}
    return str(cluster.submit(Spec(name="a", command=command, **given)))


def until(cluster: Cluster, key: str, condition: Callable[[Job], bool]) -> Job:
    end = time.monotonic() + WAITS
    while True:
        job = next(job for job in cluster.jobs() if job.key == key)
        if condition(job):
            return job
        assert time.monotonic() < end, job
        time.sleep(0.02)


def ended(cluster: Cluster, key: str) -> Job:
    return until(cluster, key, lambda job: job.state is State.ENDED)


def started(cluster: Cluster, key: str) -> Job:
    return until(cluster, key, lambda job: job.leader is not None)


def test_status_signal_files_and_environment(cluster: Cluster, tmp_path: Path) -> None:
    out, script = tmp_path / "out", 'echo "$WHO"; pwd; echo err >&2; exit 3\n'
    number = cluster.submit(
        Spec("a", ["/bin/sh", "@SCRIPT@"], str(tmp_path), {"WHO": "job @NUMBER@"}, script=script, stdout=str(out))
    )
    job = ended(cluster, str(number))
    assert (job.exit_status, job.signal, job.why) == (3, None, "")
    assert out.read_text() == f"job {number}\n{tmp_path}\nerr\n"
    assert ended(cluster, submit(cluster, "kill -SEGV $$")).signal == 11


def test_walltime_and_cancel_reach_the_whole_session(cluster: Cluster) -> None:
    stubborn = "(trap '' TERM; exec sleep 98700) & trap '' TERM; touch up; wait; sleep 98700"
    assert ended(cluster, submit(cluster, stubborn, walltime_s=0.2)).why == WALLTIME
    up = cluster.folder / "up"
    up.unlink(missing_ok=True)
    key = submit(cluster, stubborn)
    until(cluster, key, lambda _: up.exists())
    assert cluster.cancel(key)
    assert (ended(cluster, key).why, ended(cluster, key).signal) == (CANCELLED, 9)
    assert not cluster.cancel(key)


def test_an_array_with_a_throttle_and_a_cancelled_element(cluster: Cluster) -> None:
    elements: dict[int, dict[str, str]] = {0: {"CODE": "0"}, 1: {"CODE": "5"}, 2: {"CODE": "7"}}
    key = submit(cluster, "exit @CODE@", elements=elements, throttle=1, hold=True)
    cluster.cancel(f"{key}.2")
    cluster.release(key)
    assert ended(cluster, f"{key}.0").exit_status == 0
    assert ended(cluster, f"{key}.1").exit_status == 5
    assert ended(cluster, f"{key}.2").why == CANCELLED
    first, second = (cluster.job(f"{key}.{index}") for index in (0, 1))
    assert first is not None and second is not None
    assert (second.started or 0) >= (first.ended or 0)


def test_dependencies(cluster: Cluster) -> None:
    good, bad = submit(cluster, "true"), submit(cluster, "false")
    assert ended(cluster, submit(cluster, "exit 4", after=[(good, "ok"), (bad, "failed")])).exit_status == 4
    assert ended(cluster, submit(cluster, "exit 4", after=[(bad, "ok")])).why == DEPENDENCY


def test_slots_hold_suspend_requeue_and_faults(cluster: Cluster) -> None:
    cluster.configure(slots=1)
    first, second = submit(cluster, "sleep 98700"), submit(cluster, "sleep 98700")
    pid = started(cluster, first).leader
    cluster.suspend(first)
    # A signal takes a moment to arrive.
    until(cluster, first, lambda _: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    cluster.resume(first)
    cluster.hold(second)
    cluster.requeue(first)
    assert until(cluster, first, lambda job: job.restarts == 1 and job.leader not in (None, pid)).restarts == 1
    cluster.release(second)
    assert until(cluster, second, lambda job: job.state is State.WAITING)
    cluster.lose_node(first)
    assert ended(cluster, first).why == NODE
    started(cluster, second)
    cluster.cancel(second, MEMORY)
    assert (ended(cluster, second).why, ended(cluster, second).signal) == (MEMORY, 9)


def test_ended_jobs_leave_the_queue_then_the_history(cluster: Cluster) -> None:
    key = submit(cluster, "true")
    ended(cluster, key)
    assert [job.key for job in cluster.queue()] == [key]
    cluster.configure(keep_s=0)
    assert (cluster.queue(), [job.key for job in cluster.history()]) == ([], [key])
    cluster.configure(history_s=0)
    assert (cluster.history(), cluster.job(key)) == ([], None)
