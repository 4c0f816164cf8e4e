"""What the monitors' bench decides, without its servers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import MutableMapping
from typing import Any

import pytest

from airavata_provider.jobs.rows import StoredEvent
from airavata_provider.models.job import Effect, JobState
from benchmarks.monitor import Fate, _sensor, _wrong, fates, faults
from benchmarks.monitor_parts import losing, lost
from tests.unit.jobs.factory import at, make_event, make_job


def test_five_per_cent_meet_each_misfortune() -> None:
    found = Counter(fates(2000))
    assert found == {Fate.GOOD: 1700, Fate.FAILING: 100, Fate.OVER: 100, Fate.KILLED: 50, Fate.CANCELED: 50}
    assert sum(Counter(fates(20)).values()) == 20


def test_an_end_is_right_when_sacct_says_the_same() -> None:
    jobs = [
        make_job("a1", native_id="1", state=JobState.COMPLETE),
        make_job("a2", native_id="2", state=JobState.COMPLETE),
        make_job("a3", native_id="3", state=JobState.FAILED),
        make_job("a4", native_id="4", state=JobState.CANCELED),
    ]
    truth = {"1": "COMPLETED", "2": "TIMEOUT", "3": "NODE_FAIL"}
    assert [each.split()[0] for each in _wrong(jobs, truth)] == ["2", "4"]


def test_the_sensor_is_timed_where_a_webhook_told_the_end_first() -> None:
    def kept(job: str, source: str, effect: Effect = Effect.APPLIED) -> StoredEvent:
        return StoredEvent(make_event(JobState.COMPLETE, 1, source=source, job=job), at(2), effect)

    news = [kept("a1", "webhook"), kept("a2", "poll"), kept("a2", "webhook", Effect.CONFIRMED), kept("a3", "webhook")]
    assert _sensor(news, {"a1": at(2.5), "a2": at(9)}) == [0.5]


@pytest.mark.parametrize(
    ("sensor", "silent", "wrong", "number"),
    [(0.9, 12.0, [], 0), (1.1, 12.0, [], 1), (0.9, 12.1, [], 1), (float("nan"), float("nan"), ["x"], 3)],
)
def test_faults(sensor: float, silent: float, wrong: list[str], number: int) -> None:
    found = {"wrong": wrong, "sensor": {"p95_s": sensor}, "silent": {"most_s": silent}, "interval_s": 10.0}
    assert len(faults(found)) == number


def test_a_tenth_of_the_news_is_lost_whoever_repeats_it() -> None:
    names = [f"/airavata/jobs/c{number:06}/events" for number in range(2000)]
    assert 150 < sum(lost(name, "end", 0.1) for name in names) < 250
    assert not any(lost(name, "end", 0) for name in names)
    assert all(lost(name, "end", 1) for name in names)


@pytest.mark.parametrize(("share", "passed"), [(0.0, True), (1.0, False)])
async def test_the_proxy_passes_calls_on_whole_or_not_at_all(share: float, passed: bool) -> None:
    body = json.dumps({"event": "end"}).encode()
    parts: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": body[:5], "more_body": True},
        {"type": "http.request", "body": body[5:]},
    ]
    seen: list[Any] = []
    sent: list[MutableMapping[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())

    async def receive() -> MutableMapping[str, Any]:
        return parts.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await losing(app, share)({"type": "http", "path": "/airavata/jobs/x/events"}, receive, send)
    assert [each["body"] for each in seen] == ([body] if passed else [])
    assert [each.get("status") for each in sent] == ([] if passed else [502, None])
