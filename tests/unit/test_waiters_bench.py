"""What the waiters' bench decides and pretends, without its servers."""

from __future__ import annotations

from typing import Any

import pytest

from airavata_provider.models.job import JobState
from airavata_provider.monitors.output import tail_command
from airavata_provider.monitors.poll import look
from airavata_provider.schedulers.registry import scheduler
from benchmarks.waiters import _Cluster, _names, faults, table
from tests.unit.jobs.factory import make_job


def figures(**values: Any) -> dict[str, Any]:
    good = {
        "cpu_share": 0.02,
        "cpu_share_of_nothing": 0.01,
        "cpu_share_on_top": 0.01,
        "bytes_per_waiter": 20480.0,
        "bytes_per_nothing": 2048.0,
        "started_s": 3.0,
        "failed": 0,
        "commands": 2,
        "worst_block_s": 0.01,
        "ended": 10,
        "ends_cpu_s": 0.1,
        "delivered": 10,
        "p50_s": 0.01,
        "p95_s": 0.02,
        "p99_s": 0.03,
        "worst_s": 0.04,
    }
    return {"count": 10, "idle_s": 30.0, "ends_s": 60.0, "postgresql": good, "sqlite": {**good, **values}}


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({}, []),
        ({"failed": 2, "delivered": 8}, ["2 waiters failed", "8 of 10 ends"]),
        ({"cpu_share_on_top": 0.06}, ["waiting takes 6.0% of a core"]),
        ({"p99_s": 0.6}, ["heard of the end after more than 0.60 s"]),
    ],
)
def test_what_is_not_as_it_should_be(values: dict[str, Any], found: list[str]) -> None:
    told = faults(figures(**values))
    assert len(told) == len(found)
    assert all(each.startswith("sqlite: ") and words in each for each, words in zip(told, found, strict=True))


def test_the_table_shows_both_databases() -> None:
    assert "postgresql: 2.0% of a core, 1.0% on top" in table(figures())
    assert "sqlite: 2.0% of a core" in table(figures())


async def test_the_pretended_cluster_says_that_all_run() -> None:
    names = _names(3)
    jobs = [make_job(name, native_id=str(number)) for name, number in names.items()]
    seen = await look(_Cluster(names), scheduler("slurm"), jobs[:2], tail=tail_command([("/out", 0)]))
    assert {native_id: status.state for native_id, status in seen.known.items()} == {
        "0": JobState.ACTIVE,
        "1": JobState.ACTIVE,
    }
    assert seen.tails == {}
