"""The command line: what it says, what it leaves, how it exits; over Airflow's own command parser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.cli.cli_config import DefaultHelpParser
from airflow.cli.cli_parser import AirflowHelpFormatter, _add_command

from airavata_provider import cli_commands, runs
from airavata_provider.cli import get_airavata_cli_commands
from airavata_provider.deployment import Deployment, get_deployment
from airavata_provider.errors import Fault
from airavata_provider.jobs.mail_folders import MailFolder
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.identity import birth
from airavata_provider.models.job import EventSource, Job, JobEvent, JobState, TaskRecord, TaskState
from airavata_provider.models.placement import Placement
from airavata_provider.settings import get_settings
from airavata_provider.validation import validate_paths

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)

CATALOG = """\
compute_resources:
  here: {connection: c, scheduler: fork, scratch: /tmp}
storage_resources:
  files: {type: local, root: /data}
applications:
  echo:
    pattern: hpc_batch
    inputs: {message: {type: STRING, required: true}}
    deployments:
      here: {executable: echo}
"""
EXPERIMENT = "application: echo\ninputs: {message: hi}\n"


def make_run(state: str = "running", **kwargs: Any) -> runs.Run:
    values: dict[str, Any] = {
        "dag_id": "hpc_batch",
        "id": "e1",
        "state": state,
        "conf": {"application": "echo"},
        "note": "",
        "run_after": NOW,
        "queued_at": NOW,
        "started_at": NOW,
        "ended_at": NOW + timedelta(seconds=8) if state in runs.FINISHED else None,
        "tasks": (runs.AirflowTask("submit", -1, state, 1, NOW, None),),
    }
    return runs.Run(**(values | kwargs))


def make_job(**kwargs: Any) -> Job:
    values: dict[str, Any] = {
        "name": "ajob",
        "born": birth(NOW),
        "dag_id": "hpc_batch",
        "experiment_id": "e1",
        "task_id": "submit",
        "map_index": -1,
        "attempt": 1,
        "resource": "here",
        "directory": "/tmp/e1",
    }
    return Job(**(values | kwargs))


class Airflow:
    """Airflow's database, played by a list of what a run looks like at each look."""

    def __init__(self) -> None:
        self.looks: list[runs.Run] = [make_run("success")]
        self.created: list[Any] = []
        self.failed: list[str] = []
        self.between = False

    def create_run(self, resolved: Any, *, via: str, by: str | None) -> runs.Run:
        if self.created and self.created[-1].experiment.id == resolved.experiment.id:
            raise runs.ExperimentExists("is there already")
        self.created.append(resolved)
        return make_run("queued", id=resolved.experiment.id or "made")

    def read_run(self, dag_id: str, experiment_id: str) -> runs.Run | None:
        if experiment_id == "nobody":
            return None
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def fail_run(self, dag_id: str, experiment_id: str, *, by: str, between: bool = False) -> bool:
        self.failed.append(experiment_id)
        self.between = between
        return True


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    fake = Airflow()
    for name in ("create_run", "read_run", "fail_run"):
        monkeypatch.setattr(runs, name, getattr(fake, name))
    monkeypatch.setattr(runs, "dags_with_run", lambda experiment_id: ["hpc_batch"])
    monkeypatch.setattr(cli_commands, "LOOK_S", 0.0)
    # The commands' entries in Airflow's audit log need its database.
    monkeypatch.setattr("airflow.utils.cli_action_loggers.on_pre_execution", lambda **_: None)
    monkeypatch.setattr("airflow.utils.cli_action_loggers.on_post_execution", lambda **_: None)
    monkeypatch.setattr("airflow.utils.db.check_and_run_migrations", lambda: None)
    monkeypatch.setattr("airflow.utils.db.synchronize_log_template", lambda: None)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    return tmp_path


@pytest.fixture(autouse=True)
def deployment(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """A deployment of the test's own, its job store in the test's folder."""
    own = folder / "own"
    own.mkdir()
    (own / "catalog.yaml").write_text(CATALOG)
    monkeypatch.setenv("AIRFLOW__AIRAVATA__CATALOG_FOLDERS", str(own))
    monkeypatch.setenv("AIRFLOW__AIRAVATA__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/jobs.db")
    get_settings.cache_clear()
    get_deployment.cache_clear()
    in_store(lambda store: store.create_tables())
    yield get_deployment()
    get_settings.cache_clear()
    get_deployment.cache_clear()


def in_store(work: Any) -> Any:
    async def whole() -> Any:
        store = JobStore(get_settings().sql_alchemy_conn)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(whole())


def call(*words: str) -> int:
    """Run a command as Airflow's parser does; its exit code."""
    parser = DefaultHelpParser(prog="airflow", formatter_class=AirflowHelpFormatter)
    subparsers = parser.add_subparsers(dest="subcommand")
    for command in get_airavata_cli_commands():
        _add_command(subparsers, command)
    args = parser.parse_args(["airavata", *words])
    try:
        args.func(args)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def test_submit_starts_a_run(airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("submit", str(folder / "experiment.yaml"), "--id", "e7") == 0
    assert airflow.created[0].experiment.id == "e7"
    assert airflow.created[0].pattern == "hpc_batch"
    assert "e7" in capsys.readouterr().out


def test_submit_takes_another_pattern(airflow: Airflow, folder: Path) -> None:
    assert call("submit", str(folder / "experiment.yaml"), "--pattern", "hpc_analysis") == 0
    assert airflow.created[0].pattern == "hpc_analysis"


@pytest.mark.parametrize("words", [("--pattern", "nope"), ("--id", "a b")])
def test_submit_refuses(
    airflow: Airflow, folder: Path, words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("submit", str(folder / "experiment.yaml"), *words) == 1
    assert words[1] in capsys.readouterr().err
    assert airflow.created == []


def test_submit_refuses_a_second_of_the_same_id(airflow: Airflow, folder: Path) -> None:
    assert call("submit", str(folder / "experiment.yaml"), "--id", "e1") == 0
    assert call("submit", str(folder / "experiment.yaml"), "--id", "e1") == 1


def test_script_prints_what_would_be_submitted(
    airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("script", str(folder / "experiment.yaml")) == 0
    out, error = capsys.readouterr()
    assert out.startswith("#!/bin/bash\n")
    assert "    echo </dev/null >stdout.txt" in out
    assert error == ""
    assert airflow.created == []


def test_script_takes_another_pattern_or_resource(
    airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "experiment.yaml")
    scripts = []
    for more in ([], ["--resource", "here"], ["--pattern", "hpc_analysis"]):
        assert call("script", path, *more) == 0
        scripts.append(capsys.readouterr().out)
    # Job and directory are named after the pattern.
    assert scripts[0] == scripts[1] != scripts[2]
    for words in (("--resource", "nowhere"), ("--pattern", "nope")):
        assert call("script", path, *words) == 1
        out, error = capsys.readouterr()
        assert words[1] in error
        assert out == ""


def test_script_says_what_it_leaves_out(airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "experiment.yaml").write_text(EXPERIMENT + "qos: high\n")
    assert call("script", str(folder / "experiment.yaml")) == 1
    assert "qos: here cannot be asked for it" in capsys.readouterr().err
    text = CATALOG.replace("scheduler: fork", "scheduler: fork, unsupported_options: warn")
    (folder / "own" / "catalog.yaml").write_text(text)
    get_deployment.cache_clear()
    assert call("script", str(folder / "experiment.yaml")) == 0
    out, error = capsys.readouterr()
    assert "task submit: qos is left out: here cannot be asked for it" in error
    assert out.startswith("#!")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("application: ech\n", "did you mean 'echo'"),
        (EXPERIMENT + "mail_to: nobody\n", "experiment.yaml:3: mail_to: should be one mail address"),
        (EXPERIMENT + "walltime: soon\n", "experiment.yaml:3: walltime"),
        ("- a list\n", "should be a mapping"),
        ("application: [\n", "experiment.yaml"),
    ],
)
def test_script_refuses_bad_input(
    airflow: Airflow, folder: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "experiment.yaml").write_text(text)
    assert call("script", str(folder / "experiment.yaml")) == 1
    out, error = capsys.readouterr()
    assert says in error
    assert out == ""


def test_script_without_a_file_there(airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("script", str(folder / "nothing.yaml")) == 1
    assert "nothing.yaml" in capsys.readouterr().err


def test_waiting_shows_each_change_once_and_the_outputs(
    airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = TaskRecord(
        dag_id="hpc_batch",
        experiment_id="e1",
        task_id="stage_out",
        born=birth(NOW),
        map_index=-1,
        try_number=1,
        state=TaskState.COMPLETED,
        started_at=NOW,
        ended_at=NOW + timedelta(seconds=2),
        result={"outputs": {"report": "storage://files/r.txt", "parts": ["storage://files/p1"]}},
    )
    in_store(lambda store: store.record_task(record))
    airflow.looks = [make_run("queued", tasks=()), make_run("running"), make_run("running"), make_run("success")]
    assert call("submit", str(folder / "experiment.yaml"), "--id", "e1", "--wait") == 0
    out = capsys.readouterr().out
    assert out.count("stage_out") == 1
    assert "COMPLETED in 2.0 s" in out
    assert out.count("running") == 1
    assert "  report: storage://files/r.txt" in out
    assert "  parts: storage://files/p1" in out
    assert out.strip().endswith("COMPLETED after 8.0 s")


def test_waiting_for_a_failure_exits_with_1(airflow: Airflow, folder: Path) -> None:
    airflow.looks = [make_run("failed")]
    assert call("submit", str(folder / "experiment.yaml"), "--wait") == 1


def test_ctrl_c_ends_the_waiting_only(
    airflow: Airflow, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_commands, "progress", interrupted)
    assert call("submit", str(folder / "experiment.yaml"), "--id", "e1", "--wait") == 130
    assert "airflow airavata status e1 --pattern hpc_batch" in capsys.readouterr().err
    assert airflow.failed == []


def test_json_alone_on_standard_output(airflow: Airflow, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("submit", str(folder / "experiment.yaml"), "--wait", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "COMPLETED"


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


def test_attempts_that_a_rule_made_say_so(airflow: Airflow, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill(store: JobStore) -> None:
        await store.intend(make_job())
        made = {"rule": 2, "of": 1, "outcome": "OUT_OF_MEMORY"}
        request = {"memory_mb": 2000, "made_by": made}
        await store.intend(make_job(name="bjob", attempt=2, request=request, walltime_s=600))
        await store.submitted("bjob", "18", NOW)

    in_store(fill)
    airflow.looks = [make_run("running")]
    assert call("status", "e1") == 0
    out = capsys.readouterr().out
    assert "job bjob on " in out
    assert "SUBMITTED (attempt 2: rule 2, as attempt 1 ended with OUT_OF_MEMORY)" in out
    assert call("history", "18") == 0
    asked = "asked for memory 2000 MiB and walltime 00:10:00"
    told = capsys.readouterr().out.splitlines()[1].strip()
    assert told == f"attempt 2: rule 2, as attempt 1 ended with OUT_OF_MEMORY; {asked}"


def test_history_explains_every_piece_of_news(capsys: pytest.CaptureFixture[str], airflow: Airflow) -> None:
    async def fill(store: JobStore) -> None:
        for name, resource in (("ajob", "here"), ("bjob", "there")):
            await store.intend(make_job(name=name, resource=resource, experiment_id=name))
            await store.submitted(name, "17", NOW)
        webhook = JobEvent("ajob", EventSource.WEBHOOK, "end", JobState.COMPLETE, NOW, exit_code=0)
        await store.append(webhook)
        poll = JobEvent("ajob", EventSource.POLL, "p", JobState.FAILED, NOW, reason="OUT_OF_MEMORY", native_id="17")
        await store.append(poll)

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
    assert [line.partition(" s ")[2] for line in lines[1:-1]] == [
        "submission: SUBMITTED; applied: the first that was heard of the job",
        "webhook: COMPLETE (exit code 0); applied: the job ended",
        "poll: FAILED (OUT_OF_MEMORY); contradicted: an end without success stands over a success",
    ]
    assert lines[-1] == "FAILED, told by poll; against webhook: COMPLETE: OUT_OF_MEMORY"
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
    *_, summary, words = capsys.readouterr().out.splitlines()
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
