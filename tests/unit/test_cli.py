"""``cancel``, ``validate`` and ``mailboxes``: what they say, what they leave, how they exit."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airavata_provider import cli_commands, runs
from airavata_provider.errors import Fault
from airavata_provider.jobs.mail_folders import MailFolder
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.identity import birth
from airavata_provider.validation import validate_paths
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

__all__ = ["airflow", "deployment", "folder"]


def test_cancel_puts_the_jobs_end_on_record(airflow: Airflow, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill(store: JobStore) -> None:
        await store.intend(make_job())
        await store.submitted("ajob", "4711", NOW)

    in_store(fill)
    airflow.looks = [make_run("running")]
    assert call("cancel", "e1", "--no-wait") == 0
    assert airflow.failed == ["e1"]
    (job,) = in_store(lambda store: store.cancel_requests())
    assert job.cancel_requested_by
    assert call("cancel", "e1", "--timeout", "0.01") == 1
    assert "Not all have ended yet" in capsys.readouterr().err
    in_store(lambda store: store.canceled("ajob"))
    assert call("cancel", "e1") == 0


def test_who_dies_while_cancelling_leaves_no_job_that_nobody_ends(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> bool:
        raise OSError("Airflow's database is away")

    async def fill(store: JobStore) -> None:
        await store.intend(make_job())
        await store.submitted("ajob", "4711", NOW)

    in_store(fill)
    airflow.looks = [make_run("running")]
    monkeypatch.setattr(runs, "fail_run", die)
    with pytest.raises(OSError, match="is away"):
        call("cancel", "e1", "--no-wait")
    assert [job.name for job in in_store(lambda store: store.cancel_requests())] == ["ajob"]


def test_a_job_that_is_made_while_cancelling_ends_too(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit_meanwhile(*_: Any, **__: Any) -> bool:
        async def fill(store: JobStore) -> None:
            await store.intend(make_job(name="late", submitting_at=NOW))

        in_store(fill)
        return True

    airflow.looks = [make_run("running")]
    monkeypatch.setattr(runs, "fail_run", submit_meanwhile)
    assert call("cancel", "e1", "--no-wait") == 0
    assert [job.name for job in in_store(lambda store: store.cancel_requests())] == ["late"]


def test_an_experiment_in_two_runs_is_one(airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill(store: JobStore) -> None:
        await store.intend(make_job())
        await store.submitted("ajob", "4711", NOW)
        await store.handovers.wait("hpc_batch", "e1", birth(NOW), "submit", 1)

    async def started(store: JobStore) -> None:
        known = await store.handovers.of("hpc_batch", "e1", birth(NOW))
        assert known is not None
        await store.handovers.started(known)

    in_store(fill)
    first = make_run("success")
    airflow.looks = [first]
    assert call("status", "e1") == 0
    told = capsys.readouterr().out
    assert "e1 (hpc_batch): EXECUTING\n  second run: waits for the job's end\n" in told
    airflow.looks = [first]
    assert call("cancel", "e1", "--no-wait") == 0
    assert (airflow.failed, airflow.between) == (["e1"], True)
    # Waiting does not end with the first run, also when the second was made since that was looked at.
    in_store(started)
    second = make_run("running", second_dag_id="hpc_batch__after", first_state="success")
    airflow.looks = [first, second, replace(second, state="success", ended_at=NOW + timedelta(seconds=60))]
    assert call("submit", str(folder / "experiment.yaml"), "--id", "e1", "--wait") == 0
    assert "COMPLETED after 60.0 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dag_id", "state", "words"),
    [
        (None, "WAITING", "waits for the job's end"),
        ("x__after", "STARTED", "x__after"),
        (None, "DROPPED", "none"),
        (None, "STARTED", "was deleted"),
    ],
)
def test_where_the_second_run_is(dag_id: str | None, state: str, words: str) -> None:
    assert cli_commands.second_run({"second_run": {"dag_id": dag_id, "state": state}}) == words


def test_cancel_of_what_is_over(airflow: Airflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("cancel", "e1") == 0
    assert "over already: COMPLETED" in capsys.readouterr().out


def test_validate_the_deployment(capsys: pytest.CaptureFixture[str], airflow: Airflow) -> None:
    assert call("validate") == 0
    assert "0 faults" in capsys.readouterr().out


def test_validate_tells_every_fault_with_its_place(
    airflow: Airflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    (folder / "e.yaml").write_text("application: nope\ncompute_resource: mars\n")
    (folder / "p.yaml").write_text("name: p\ntasks:\n- {id: a, type: nope}\n")
    (folder / "x.yaml").write_text("what: ever\n")
    (folder / "y.yaml").write_text("a: [\n")
    assert call("validate", str(folder), str(folder / "none.yaml"), "-o", "json") == 1
    told = json.loads(capsys.readouterr().out)
    places = " ".join(fault["where"] for fault in told["faults"])
    for name in ("e.yaml: application", "e.yaml: compute_resource", "p.yaml:3", "x.yaml:1", "y.yaml:", "none.yaml"):
        assert name in places
    assert len(told["checked"]) == 4


def test_mailboxes(airflow: Airflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("mailboxes") == 0
    assert "No mailbox" in capsys.readouterr().out
    mark = MailFolder("box", "INBOX", 1, 9, waiting={8: 1}, counts={"other": 2, "news": 3, "foreign": 0})
    in_store(lambda store: store.mail_folders.write(mark))
    assert call("mailboxes") == 0
    assert capsys.readouterr().out.startswith("box, INBOX: 3 news, 2 other, 1 waiting; 2")
    assert call("mailboxes", "-o", "json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["mailbox"], told["folder"], told["waiting"], told["counts"]["news"]) == ("box", "INBOX", 1, 3)


def test_validate_good_files(folder: Path) -> None:
    (folder / "own" / "catalog.yaml").unlink()
    checked, faults = validate_paths([folder / "catalog.yaml", folder / "experiment.yaml"])
    assert faults == [] or all(isinstance(fault, Fault) for fault in faults)
    assert len(checked) == 2
