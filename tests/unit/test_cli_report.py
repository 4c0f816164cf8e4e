"""``airflow airavata monitor-report``, over Airflow's own command parser and a store in a file."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airavata_provider.cli_queues import moment
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import JobState
from tests.unit.cli_calls import airflow, call, deployment, folder, in_store
from tests.unit.jobs.factory import make_event, make_job

__all__ = ["airflow", "deployment", "folder"]

pytestmark = [pytest.mark.usefixtures("airflow", "deployment"), pytest.mark.slow]


def some_news() -> None:
    async def work(store: JobStore) -> None:
        await store.intend(make_job())
        await store.submitted("a1", "17", datetime.now(UTC))
        await store.append(make_event(JobState.COMPLETE, 1, source="webhook"))
        await store.append(make_event(JobState.COMPLETE, 1, source="mail"))

    in_store(work)


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    some_news()
    assert call("monitor-report") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:6] == ["3", "pieces", "of", "news", "of", "1"]
    assert any(line[:6] == ["END", "webhook", "1", "of", "1", "1"] for line in lines)
    assert any(line[:6] == ["END", "mail", "0", "of", "1", "1"] for line in lines)
    assert any(line[:5] == ["END", "mail", "webhook", "1", "0"] for line in lines)
    assert ["mail", "0", "1"] in [line[:3] for line in lines] or ["mail", "1", "0"] in [line[:3] for line in lines]


def test_json_and_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    some_news()
    assert call("monitor-report", "-o", "json", "--since", "2d", "--plots", str(tmp_path / "plots")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["jobs"] == 1
    assert {(each["source"], each["first"]) for each in found["sources"]} == {("webhook", 1), ("mail", 0)}
    by_source = {each["source"]: each for each in found["sources"]}
    assert by_source["webhook"]["after_first"]["median"] is None  # NaN is no JSON
    assert all(Path(file).stat().st_size for file in found["plots"])
    assert len(found["plots"]) == 3


def test_nothing_since_then(capsys: pytest.CaptureFixture[str]) -> None:
    some_news()
    assert call("monitor-report", "--since", "2100-01-01") == 0
    assert capsys.readouterr().out == "0 pieces of news of 0 jobs\n"


def test_a_wrong_moment(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("monitor-report", "--since", "yesterday") == 1
    assert "before now" in capsys.readouterr().err


def test_a_time_alone_is_before_now() -> None:
    now = datetime(2030, 1, 1, 12, tzinfo=UTC)
    assert moment("8h", now, past=True) == now - timedelta(hours=8)
    assert moment("2030-01-02", now, past=True) == moment("2030-01-02", now)
