"""``airflow airavata drain``, ``resume`` and ``queues``, over Airflow's own command parser and a store in a file."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from airavata_provider.cli_queues import moment, report, told
from airavata_provider.errors import AiravataError
from airavata_provider.jobs.admission import Limits, full
from airavata_provider.jobs.placing import PlaceLoad
from airavata_provider.models.availability import Availability, AvailabilityState
from airavata_provider.models.job import SubmissionState
from tests.unit.cli_calls import airflow, call, deployment, folder, in_store
from tests.unit.jobs.factory import make_job

__all__ = ["airflow", "deployment", "folder"]

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
CATALOG = """\
compute_resources:
  cluster:
    connection: c
    scheduler: slurm
    scratch: /scratch
    default_queue: normal
    queues:
      normal: {max_jobs: 5}
      fast: {name: debug}
  here: {connection: c, scheduler: fork, scratch: /tmp}
"""

pytestmark = pytest.mark.usefixtures("airflow", "clusters")


@pytest.fixture
def clusters(deployment: object, folder: object, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "own" / "catalog.yaml").write_text(CATALOG)  # type: ignore[operator]


def said() -> list[Availability]:
    found: list[Availability] = in_store(lambda store: store.availabilities())
    return found


def test_a_resource_is_drained_and_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("drain", "cluster", "--reason", "new disks") == 0
    (one,) = said()
    assert (one.resource, one.queue, one.state, one.ends_at, one.reason) == (
        "cluster",
        "",
        AvailabilityState.DRAINING,
        None,
        "new disks",
    )
    assert one.by and one.holds(datetime.now(UTC))
    assert "cluster is draining (said by" in capsys.readouterr().out
    assert call("resume", "cluster") == 0
    assert said() == []
    assert "cluster: no more draining" in capsys.readouterr().out
    assert call("resume", "cluster") == 0
    assert "Nothing was said of cluster" in capsys.readouterr().out


def test_a_queue_is_known_by_both_its_names_and_down_for_a_window() -> None:
    assert call("drain", "cluster", "--queue", "fast", "--down", "--from", "2h", "--until", "1d") == 0
    assert call("drain", "cluster", "--queue", "debug") == 0
    first, second = sorted(said(), key=lambda each: each.starts_at, reverse=True)
    assert (first.queue, first.state, second.queue) == ("debug", AvailabilityState.DOWN, "debug")
    assert first.ends_at is not None and first.ends_at - first.starts_at == timedelta(hours=22)
    assert not first.holds(datetime.now(UTC)) and first.holds(datetime.now(UTC) + timedelta(hours=3))


def test_a_queues_resume_leaves_what_is_said_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("drain", "cluster") == 0
    assert call("drain", "cluster", "--queue", "normal") == 0
    assert call("resume", "cluster", "--queue", "normal") == 0
    assert [each.queue for each in said()] == [""]
    assert "But all of cluster is draining" in capsys.readouterr().out
    assert call("drain", "cluster", "--queue", "normal") == 0
    assert call("resume", "cluster") == 0
    assert said() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("drain", "clutser"), "did you mean 'cluster'?"),
        (("drain", "cluster", "--queue", "fsat"), "did you mean 'fast'?"),
        (("drain", "cluster", "--until", "tomorrow"), "no moment"),
        (("drain", "cluster", "--until", "2020-01-01"), "past"),
        (("drain", "cluster", "--from", "2h", "--until", "1h"), "not after"),
        (("resume", "nowhere"), "nowhere"),
        (("queues", "nowhere"), "nowhere"),
    ],
)
def test_what_makes_no_sense_is_told(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*words) == 1
    assert told in capsys.readouterr().err
    assert said() == []


def test_queues_shows_what_is_where(capsys: pytest.CaptureFixture[str]) -> None:
    async def fill(store: object) -> None:
        for n in range(3):
            job = make_job(f"r{n}", resource="cluster", queue="normal", native_id=str(n), admitted_at=NOW)
            await store.intend(job)  # type: ignore[attr-defined]
        waits = make_job("w", resource="cluster", queue="normal", waiter="somebody")
        assert waits.submission is SubmissionState.INTENDED
        await store.intend(waits)  # type: ignore[attr-defined]

    in_store(fill)
    assert call("drain", "here", "--reason", "moved") == 0
    capsys.readouterr()
    assert call("queues") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["resource", "queue", "jobs", "limit", "waiting"]
    assert lines[1] == ["cluster", "debug", "0", "-", "0"]
    assert lines[2] == ["cluster", "normal", "3", "5", "1"]
    assert lines[3][:6] == ["here", "-", "0", "-", "0", "draining"]
    assert call("queues", "here", "-o", "json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["resource"], row["said"][0]["state"], row["said"][0]["reason"]) == ("here", "draining", "moved")


def test_the_report_tells_what_a_scheduler_taught_and_places_that_no_catalog_has() -> None:
    place = ("cluster", "normal")
    taught = full(place, 3, "QOSMaxSubmitJobPerUserLimit", NOW, step_s=30)
    past = Availability("cluster", AvailabilityState.DOWN, NOW - timedelta(2), ends_at=NOW - timedelta(1))
    first, second = report([place], Limits({place: 5}), [PlaceLoad("gone", "", 1, 0)], [taught, past], NOW)
    assert (first["limit"], [each["state"] for each in first["said"]]) == (3, ["full"])
    assert (second["resource"], second["jobs"], second["limit"]) == ("gone", 1, None)


def test_moments_as_people_write_them() -> None:
    assert moment("90m", NOW) == NOW + timedelta(minutes=90)
    assert moment(" 2 d", NOW) == NOW + timedelta(days=2)
    assert moment("2030-01-31T08:00+01:00", NOW) == datetime(2030, 1, 31, 7, tzinfo=UTC)
    assert moment("2030-01-31T08:00", NOW) == datetime(2030, 1, 31, 8).astimezone(UTC)
    for text in ("", "soon", "5", "-1h", "9999999d"):
        with pytest.raises(AiravataError, match="no moment"):
            moment(text, NOW)


def test_a_window_to_come_is_told_with_its_moments() -> None:
    later = Availability("c", AvailabilityState.DOWN, NOW + timedelta(1), ends_at=NOW + timedelta(2), by="ann")
    assert told(later, NOW).startswith("down from 2030-01-02") and "until 2030-01-03" in told(later, NOW)
    assert told(later, NOW).endswith("(said by ann)")
    assert "from" not in told(later, NOW + timedelta(1.5))
