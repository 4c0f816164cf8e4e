"""``status`` and ``history``: what is told of an experiment and of a job."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from airavata_provider import runs
from airavata_provider.cli_commands import outcome_line
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import EventSource, Job, JobEvent, JobState
from airavata_provider.models.outcome import ADVICE, STANDSTILLS, Outcome
from airavata_provider.models.placement import Placement
from tests.unit.cli_calls import (
    NOW,
    Airflow,
    airflow,
    call,
    deployment,
    folder,
    in_store,
    make_job,
    make_run,
)
from tests.unit.docs_pages import PROJECT

__all__ = ["airflow", "deployment", "folder"]


def test_status_tells_jobs_and_their_histories(airflow: Airflow, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill(store: JobStore) -> None:
        await store.intend(make_job())
        await store.submitted("ajob", "4711", NOW)
        news = JobEvent("ajob", EventSource.WEBHOOK, "1", JobState.FAILED, NOW, exit_code=3, reason="oom")
        await store.append(news)

    in_store(fill)
    airflow.looks = [make_run("failed")]
    assert call("status", "e1") == 0
    out = capsys.readouterr().out
    assert "FAILED (exit code 3, oom)" in out
    assert "webhook: FAILED (applied)" in out
    assert call("status", "e1", "-o", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["jobs"][0]["native_id"] == "4711"
    assert [event["source"] for event in report["jobs"][0]["events"]] == ["submission", "webhook"]


def test_every_outcome_is_told_with_its_advice(airflow: Airflow, capsys: pytest.CaptureFixture[str]) -> None:
    states = {
        Outcome.CANCELED: JobState.CANCELED,
        Outcome.HELD: JobState.QUEUED,
        Outcome.NEVER_STARTS: JobState.QUEUED,
        Outcome.SUSPENDED: JobState.SUSPENDED,
        Outcome.UNKNOWN: JobState.UNKNOWN,
    }

    async def fill(store: JobStore) -> None:
        for outcome in ADVICE:
            await store.intend(make_job(name=outcome.lower(), task_id=outcome.value))
            if outcome is Outcome.REFUSED:
                await store.refused(outcome.lower(), "its own words")
                continue
            state = states.get(outcome, JobState.FAILED)
            given_up = state is JobState.UNKNOWN
            await store.append(
                JobEvent(
                    outcome.lower(),
                    EventSource.POLL,
                    "1",
                    state,
                    NOW,
                    reason="its own words",
                    outcome=outcome,
                    given_up=given_up,
                )
            )

    in_store(fill)
    airflow.looks = [make_run("running")]
    assert call("status", "e1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert call("status", "e1", "-o", "json") == 0
    jobs = {job["name"]: job for job in json.loads(capsys.readouterr().out)["jobs"]}
    for outcome, advice in ADVICE.items():
        (place,) = (n for n, line in enumerate(lines) if line.startswith(f"  job {outcome.lower()} on here: "))
        assert outcome in lines[place]
        assert "its own words" in lines[place]
        assert lines[place + 1] == f"    advice: {advice}"
        told = jobs[outcome.lower()]
        assert (told["outcome"], told["reason"], told["advice"]) == (outcome, "its own words", advice)
        assert call("history", outcome.lower()) == 0
        words = " (its own words)" if outcome in STANDSTILLS else ""
        assert f"\nOutcome {outcome}{words}: {advice}\n" in capsys.readouterr().out
        assert call("history", outcome.lower(), "-o", "json") == 0
        told = json.loads(capsys.readouterr().out)["job"]
        assert (told["outcome"], told["advice"]) == (outcome, advice)


def test_the_documented_history_ends_as_a_history_does() -> None:
    job = make_job(state=JobState.FAILED, outcome=Outcome.OUT_OF_MEMORY, ended_at=NOW)
    assert f"\n{outcome_line(job)}\n```" in (PROJECT / "docs" / "jobs.md").read_text()
    assert outcome_line(make_job(state=JobState.COMPLETE, outcome=Outcome.COMPLETED, ended_at=NOW)) is None
    assert outcome_line(make_job(state=JobState.QUEUED)) is None


def test_attempts_that_a_rule_made_say_so(airflow: Airflow, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill(store: JobStore) -> None:
        await store.intend(make_job())
        made = {"rule": 2, "of": 1, "outcome": "OUT_OF_MEMORY", "left": "alpha"}
        request = {"memory_mb": 2000, "made_by": made}
        await store.intend(make_job(name="bjob", attempt=2, request=request, walltime_s=600))
        await store.submitted("bjob", "18", NOW)

    in_store(fill)
    airflow.looks = [make_run("running")]
    assert call("status", "e1") == 0
    out = capsys.readouterr().out
    assert "job bjob on " in out
    assert "SUBMITTED (attempt 2: rule 2, as attempt 1 ended with OUT_OF_MEMORY, elsewhere than on alpha)" in out
    assert call("history", "18") == 0
    asked = "asked for memory 2000 MiB and walltime 00:10:00"
    told = capsys.readouterr().out.splitlines()[1].strip()
    assert told == f"attempt 2: rule 2, as attempt 1 ended with OUT_OF_MEMORY, elsewhere than on alpha; {asked}"


def test_history_explains_every_piece_of_news(capsys: pytest.CaptureFixture[str], airflow: Airflow) -> None:
    async def fill(store: JobStore) -> None:
        for name, resource in (("ajob", "here"), ("bjob", "there")):
            await store.intend(make_job(name=name, resource=resource, experiment_id=name))
            await store.submitted(name, "17", NOW)
        webhook = JobEvent("ajob", EventSource.WEBHOOK, "end", JobState.COMPLETE, NOW, exit_code=0)
        await store.append(webhook)
        end: dict[str, Any] = {"exit_code": 0, "reason": "OUT_OF_MEMORY", "outcome": Outcome.OUT_OF_MEMORY}
        await store.append(JobEvent("ajob", EventSource.POLL, "p", JobState.FAILED, NOW, native_id="17", **end))

    in_store(fill)
    assert call("history", "17") == 1
    assert "--resource: here, there" in capsys.readouterr().err
    assert call("history", "nobody") == 1
    capsys.readouterr()
    assert call("history", "17", "--resource", "here") == 0
    by_id = capsys.readouterr().out
    assert call("history", "ajob") == 0
    assert capsys.readouterr().out == by_id
    lines = by_id.splitlines()
    assert lines[0] == "ajob: 17 on here, in /tmp/e1"
    assert [line.partition(" s ")[2] for line in lines[1:-2]] == [
        "submission: SUBMITTED; applied: the first that was heard of the job",
        "webhook: COMPLETE (exit code 0); applied: the job ended",
        "poll: FAILED (OUT_OF_MEMORY, exit code 0); contradicted: an end without success stands over a success",
    ]
    assert lines[-2] == "FAILED, told by poll; against webhook: COMPLETE: OUT_OF_MEMORY"
    assert call("history", "ajob", "--output", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [event["effect"] for event in told["events"]] == ["applied", "applied", "contradicted"]
    assert told["job"]["state"] == "FAILED"


def test_history_of_what_nobody_can_tell_has_every_last_word(
    capsys: pytest.CaptureFixture[str], airflow: Airflow
) -> None:
    async def fill(store: JobStore) -> None:
        await store.intend(make_job())
        await store.append(JobEvent("ajob", EventSource.WEBHOOK, "start", JobState.ACTIVE, NOW))
        lost = JobEvent("ajob", EventSource.POLL, "p", JobState.UNKNOWN, NOW, reason="nowhere", given_up=True)
        await store.append(lost)

    in_store(fill)
    assert call("history", "ajob") == 0
    *_, summary, outcome, words = capsys.readouterr().out.splitlines()
    assert outcome == f"Outcome UNKNOWN: {ADVICE[Outcome.UNKNOWN]}"
    assert summary.startswith("UNKNOWN, told by poll")
    assert "webhook at" in words
    assert ": ACTIVE; poll at" in words


def test_status_tells_of_a_job_that_waits_with_us(airflow: Airflow, capsys: pytest.CaptureFixture[str]) -> None:
    in_store(lambda store: store.intend(make_job(waiter="somebody")))
    assert call("status", "e1") == 0
    assert "INTENDED (waits until it may go" in capsys.readouterr().out
    in_store(lambda store: store.readmit("ajob", NOW, "", ""))
    assert call("status", "e1") == 0
    assert "waits until" not in capsys.readouterr().out


def test_status_tells_where_it_runs_and_why(airflow: Airflow, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("running")
    airflow.looks = [run]
    assert call("status", "e1", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["placement"] is None
    reasons = ("here: chosen; 0 jobs there", "there: there is draining")
    placement = Placement(run.dag_id, run.id, run.born, "here", "debug", NOW, reasons=reasons)
    in_store(lambda store: store.place(placement))
    assert call("status", "e1") == 0
    assert "  where to run: here: chosen; 0 jobs there\n  where to run: there: there is draining\n" in (
        capsys.readouterr().out
    )
    assert call("status", "e1", "-o", "json") == 0
    told = json.loads(capsys.readouterr().out)["placement"]
    assert (told["resource"], told["queue"], tuple(told["reasons"])) == ("here", "debug", reasons)


def test_an_id_that_nobody_or_that_several_have(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("status", "nobody") == 1
    monkeypatch.setattr(runs, "dags_with_run", lambda experiment_id: ["a", "b"])
    assert call("status", "e1") == 1
    assert "--pattern: a, b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("run", "jobs", "expected"),
    [
        (make_run("queued", run_after=NOW + timedelta(hours=1)), [], "SCHEDULED"),
        (make_run("queued"), [], "LAUNCHED"),
        (make_run("running"), [make_job()], "EXECUTING"),
        (make_run("running"), [make_job(cancel_requested_at=NOW)], "CANCELING"),
        (make_run("failed"), [make_job(cancel_requested_at=NOW)], "CANCELING"),
        (make_run("failed"), [make_job(cancel_requested_at=NOW, canceled_at=NOW)], "CANCELED"),
        (make_run("failed", note="Cancelled by me"), [], "CANCELED"),
        (make_run("failed"), [make_job()], "FAILED"),
        (make_run("success"), [make_job(cancel_requested_at=NOW)], "COMPLETED"),
    ],
)
def test_the_experiments_state(run: runs.Run, jobs: list[Job], expected: str) -> None:
    assert runs.experiment_state(run, jobs, NOW).value == expected
