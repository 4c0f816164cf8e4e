"""What ``airflow airavata …`` does.

Works on Airflow's database and on the job store, as ``airflow dags trigger`` does; needs no API server. What
people read goes to standard output, with ``--output json`` only the JSON does. Exit codes: 0 well, 1 not, 2 wrong
usage, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import functools
import getpass
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.utils.cli import action_cli, suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from pydantic_core import to_jsonable_python

from airavata_provider import runs
from airavata_provider.deployment import get_deployment
from airavata_provider.errors import AiravataError, DeadlineExceeded
from airavata_provider.jobs.history import Explained, explain, last_words, summary
from airavata_provider.models.advice import told_of, words_on
from airavata_provider.models.experiment import Experiment, read_experiment
from airavata_provider.models.job import SKIPPED, Job, JobState, SubmissionState
from airavata_provider.models.outcome import Outcome
from airavata_provider.models.rules import LEFT, MADE_BY, made_by
from airavata_provider.models.split import HandoverState
from airavata_provider.models.values import clock
from airavata_provider.preview import previews
from airavata_provider.validation import validate_deployment, validate_paths

if TYPE_CHECKING:
    from airavata_provider.jobs.store import JobStore
    from airavata_provider.models.resolved import ResolvedExperiment

T = TypeVar("T")

LOOK_S = 1.0
"""Seconds between two looks while waiting."""


def command(work: Callable[[Namespace], int]) -> Callable[[Namespace], None]:
    """A command as Airflow calls it: our errors become one message and the exit code 1."""

    @functools.wraps(work)
    def run(args: Namespace) -> None:
        try:
            code = work(args)
        except AiravataError as error:
            say(str(error), error=True)
            code = 1
        if code:
            sys.exit(code)

    logged: Callable[..., Callable[[Namespace], None]] = action_cli  # Airflow's own has no types
    return logged(suppress_logs_and_warning(providers_configuration_loaded(run)))


@command
def submit(args: Namespace) -> int:
    """Check an experiment and start it."""
    run = runs.create_run(_wanted(args, id=args.id, pattern=args.pattern), via="cli", by=user_name())
    plain = args.output == "plain"
    say(f"Experiment {run.id} runs as {run.dag_id}.", error=not plain)
    if not args.wait:
        if not plain:
            say_json({"id": run.id, "dag_id": run.dag_id, "state": _state(run, [])})
        return 0
    try:
        report = with_store(lambda store: _follow(run, store, error=not plain))
    except KeyboardInterrupt:
        say(f"\nIt goes on; see: airflow airavata status {run.id} --pattern {run.dag_id}", error=True)
        return 130
    if plain:
        _say_end(report)
    else:
        say_json(report)
    return 0 if report["state"] == runs.ExperimentState.COMPLETED else 1


@command
def script(args: Namespace) -> int:
    """Print an experiment's job scripts."""
    for preview in previews(_wanted(args, compute_resource=args.resource, pattern=args.pattern)):
        for fault in preview.left_out:
            say(f"task {preview.task}: {fault.where} is left out: {fault.message}", error=True)
        say(preview.script.rstrip("\n"))
        for name, text in preview.files.items():
            say(f"\n# --- {name}, beside the script\n{text.rstrip()}")
    return 0


@command
def status(args: Namespace) -> int:
    """Show an experiment."""
    run = _find(args)
    report = with_store(lambda store: runs.experiment_report(run, store, now=datetime.now(UTC)))
    if args.output == "json":
        say_json(report)
        return 0
    say(f"{report['id']} ({report['dag_id']}): {report['state']}")
    if report["second_run"] is not None:
        say(f"  second run: {second_run(report)}")
    for reason in (report["placement"] or {}).get("reasons", ()):
        say(f"  where to run: {reason}")
    for line in progress({}, seen(report)):
        say(f"  {line}")
    for job in report["jobs"]:
        say(f"  job {job['name']} on {job['resource']}: {job['state'] or job['submission']}{_about(job)}")
        if job["advice"]:
            say(f"    advice: {job['advice']}")
        for event in job["events"]:
            say(f"    {_clock(event['at'])} {event['source']}: {event['state']} ({event['effect']})")
    _say_end(report)
    return 0


@command
def history(args: Namespace) -> int:
    """Show a job's history and explain it."""

    async def read(store: JobStore) -> tuple[Job, list[Explained]]:
        jobs = await store.jobs_called(args.job, args.resource)
        if len({job.resource for job in jobs}) > 1:
            advice = f"choose one with --resource: {', '.join(sorted({job.resource for job in jobs}))}"
            raise AiravataError(f"several resources have had a job {args.job}", advice=advice)
        if not jobs:
            raise AiravataError(f"no job {args.job!r}", advice="airflow airavata status ID shows what there is")
        return jobs[0], explain(jobs[0], await store.events(jobs[0].name))

    job, lines = with_store(read)
    if args.output == "json":
        events = [asdict(line) for line in lines]
        say_json({"job": asdict(job) | told_of(job), "events": events, "summary": summary(job, lines)})
        return 0
    say(f"{job.name}: {job.native_id or 'without an id'} on {job.resource}, in {job.directory}")
    if (made := made_by(job)) is not None:
        say(f"  attempt {job.attempt}: {_made(made)}; {_asked(job)}")
    for line in lines:
        say(f"  {told(line)}")
    say(summary(job, lines) + (f": {job.reason}" if job.reason and job.ended_at is not None else ""))
    if (outcome := outcome_line(job)) is not None:
        say(outcome)
    if job.state is JobState.UNKNOWN:
        say(f"Last words: {last_words(line.event for line in lines)}")
    return 0


@command
def cancel(args: Namespace) -> int:
    """End an experiment and its jobs."""
    run = _find(args)
    return with_store(lambda store: _cancel(run, store, wait_s=None if args.no_wait else args.timeout))


@command
def validate(args: Namespace) -> int:
    """Check patterns, catalogs and experiments."""
    checked, faults = validate_paths(args.paths) if args.paths else validate_deployment()
    if args.output == "json":
        told = [{"where": fault.where, "message": fault.message} for fault in faults]
        say_json({"checked": checked, "faults": told})
    else:
        for fault in faults:
            say(str(fault))
        say(f"{len(checked)} checked, {len(faults)} faults")
    return 1 if faults else 0


@command
def mailboxes(args: Namespace) -> int:
    """Show how far mailboxes were read."""
    marks = with_store(lambda store: store.mail_folders.all())
    if args.output == "json":
        shown = ("mailbox", "folder", "counts", "changed_at")
        say_json([{name: getattr(m, name) for name in shown} | {"waiting": len(m.waiting)} for m in marks])
        return 0
    for mark in marks:
        counts = [f"{number} {name}" for name, number in sorted(mark.counts.items()) if number]
        since = "" if mark.changed_at is None else f"; {mark.changed_at.astimezone():%Y-%m-%d %H:%M:%S}"
        say(f"{mark.mailbox}, {mark.folder}: {', '.join([*counts, f'{len(mark.waiting)} waiting'])}{since}")
    if not marks:
        say("No mailbox was read yet.")
    return 0


async def _cancel(run: runs.Run, store: JobStore, *, wait_s: float | None) -> int:
    over = run.over and not runs.between_runs(run, await store.handovers.of(run.dag_id, run.id, run.born))
    jobs = await runs.cancel_experiment(run, store, by=user_name() or "the command line")
    if over and not jobs:
        say(f"{run.id} is over already: {_state(run, await store.jobs_of(run.dag_id, run.id, run.born))}.")
        return 0
    if wait_s is None or not jobs:
        ending = f"; the end of {len(jobs)} jobs is on record" if jobs else ""
        say(f"{run.id} is marked as failed{ending}.")
        return 0
    say(f"{run.id} is marked as failed; waiting for the end of {len(jobs)} jobs.")
    try:
        async with asyncio.timeout(wait_s):
            ended = await asyncio.gather(*(store.wait(job.name, until=_gone) for job in jobs))
    except (TimeoutError, DeadlineExceeded):
        say("Not all have ended yet. It is repeated; see airflow airavata status.", error=True)
        return 1
    for job in ended:
        say(f"Job {job.name} ({job.native_id or 'never submitted'}): {job.state or job.submission}")
    return 0


def told(line: Explained) -> str:
    """One line of a history, for people. Pure."""
    event = line.event
    happened = event.at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    later = (line.received_at - event.at).total_seconds()
    with_ = [event.outcome.value] if event.outcome is not None and says_more(event.outcome, event.state) else []
    with_ += [f"exit code {event.exit_code}"] if event.exit_code is not None else []
    with_ += [f"signal {event.signal}"] if event.signal is not None else []
    with_ += [event.reason] if event.reason else []
    about = f" ({', '.join(dict.fromkeys(with_))})" if with_ else ""
    return f"{happened} +{later:.1f} s {event.source}: {event.state}{about}; {line.effect}: {line.why}"


def outcome_line(job: Job) -> str | None:
    """How a job ended without success, or why it does not go on, and what to do; None: nothing to tell. Pure."""
    told = told_of(job)
    if told["outcome"] in {None, Outcome.COMPLETED}:
        return None
    words = words_on(job) if job.ended_at is None else ""
    advice = f": {told['advice']}" if told["advice"] else ""
    return f"Outcome {told['outcome']}{f' ({words})' if words else ''}{advice}"


def says_more(outcome: str, state: str) -> bool:
    """Whether an outcome says more than the state that it stands beside."""
    return outcome != state and (outcome, state) != (Outcome.COMPLETED, JobState.COMPLETE)


def _wanted(args: Namespace, **instead: str | None) -> ResolvedExperiment:
    """The experiment in the command's file, with what its options say instead, as this deployment can run it."""
    deployment = get_deployment()
    conf = read_experiment(args.file, deployment.catalog).to_conf()
    conf |= {name: value for name, value in instead.items() if value is not None}
    return deployment.fit(Experiment.from_conf(conf, experiment_id=instead.get("id")))


def _gone(job: Job) -> bool:
    """Whether the scheduler has the job no more, or never had it."""
    return job.canceled_at is not None or runs.job_over(job)


async def _follow(run: runs.Run, store: JobStore, *, error: bool) -> dict[str, Any]:
    """Show what changes until the run is over; the last report."""
    before: Mapping[str, str] = {}
    while True:
        found = runs.read_run(run.dag_id, run.id)
        if found is None:
            raise AiravataError(f"the run {run.id} of {run.dag_id} was deleted")
        report = await runs.experiment_report(found, store, now=datetime.now(UTC))
        now = seen(report)
        for line in progress(before, now):
            say(line, error=error)
        before = now
        if report["over"]:
            return report
        await asyncio.sleep(LOOK_S)


def seen(report: Mapping[str, Any]) -> dict[str, str]:
    """A line's text for each task and job of a report, by what it is about. Pure.

    A step that has a record of its own is told from that; of the others, what Airflow says.
    """
    found: dict[str, str] = {}
    recorded = {(task["id"], task["map_index"]) for task in report["tasks"]}
    for task in report["tasks"]:
        state = "skipped" if task["result"].get(SKIPPED) is True else task["state"] + _seconds(task)
        found[_name(task)] = state + (f": {task['error']}" if task["error"] else "")
    for task in report["airflow_tasks"]:
        if (task["id"], task["map_index"]) not in recorded and task["state"] is not None:
            found[_name(task)] = str(task["state"])
    for job in report["jobs"]:
        native = f" {job['native_id']}" if job["native_id"] else ""
        found[f"job{native or ' ' + job['name']}"] = f"{job['state'] or job['submission']}{_about(job)}"
    return found


def progress(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """One line for each thing that changed. Pure but for the clock."""
    clock = _clock(datetime.now(UTC))
    width = max((len(name) for name in now), default=0)
    return [f"{clock} {name:<{width}}  {text}" for name, text in now.items() if before.get(name) != text]


def second_run(report: Mapping[str, Any]) -> str:
    """Where an experiment in two runs stands. Pure."""
    there, state = report["second_run"]["dag_id"], report["second_run"]["state"]
    if there is not None:
        return str(there)
    if state == HandoverState.WAITING:
        return "waits for the job's end"
    return "none" if state == HandoverState.DROPPED else "was deleted"


def _name(task: Mapping[str, Any]) -> str:
    return task["id"] if task["map_index"] < 0 else f"{task['id']}[{task['map_index']}]"


def _seconds(task: Mapping[str, Any]) -> str:
    if task["ended_at"] is None:
        return ""
    return f" in {(task['ended_at'] - task['started_at']).total_seconds():.1f} s"


def _about(job: Mapping[str, Any]) -> str:
    """How a job ended, or what it waits for, in brackets."""
    parts = []
    if (made := (job["request"] or {}).get(MADE_BY)) is not None:
        parts.append(f"attempt {job['attempt']}: {_made(made)}")
    if job["waiter"] and not (job["admitted_at"] or job["native_id"] or job["ended_at"]):
        parts.append("waits until it may go; see airflow airavata queues")
    if job["outcome"] and says_more(job["outcome"], job["state"] or job["submission"]):
        parts.append(job["outcome"])
    if job["exit_code"] is not None:
        parts.append(f"exit code {job['exit_code']}")
    if job["signal"] is not None:
        parts.append(f"signal {job['signal']}")
    if job["reason"] and (job["state"] or job["submission"]) not in {JobState.COMPLETE, SubmissionState.INTENDED}:
        parts.append(job["reason"])
    if job["cancel_requested_at"] and not job["canceled_at"]:
        parts.append("its end was asked for")
    return f" ({', '.join(dict.fromkeys(parts))})" if parts else ""


def _made(by: Mapping[str, Any]) -> str:
    """Which of a pattern's rules made an attempt, and why."""
    left = f", elsewhere than on {by[LEFT]}" if LEFT in by else ""
    return f"rule {by['rule']}, as attempt {by['of']} ended with {by['outcome']}{left}"


def _asked(job: Job) -> str:
    """What rules may change of what is asked for."""
    memory = (job.request or {}).get("memory_mb")
    asked = [f"memory {memory} MiB"] if memory is not None else []
    asked += [f"walltime {clock(job.walltime_s)}"] if job.walltime_s is not None else []
    return f"asked for {' and '.join(asked) or 'no memory and no walltime'}"


def _say_end(report: Mapping[str, Any]) -> None:
    if report["outputs"]:
        say("Outputs:")
    for name, address in report["outputs"].items():
        for each in address if isinstance(address, list) else [address]:
            say(f"  {name}: {each}")
    if report["started_at"] and report["ended_at"]:
        took = (report["ended_at"] - report["started_at"]).total_seconds()
        say(f"{report['state']} after {took:.1f} s")


def _find(args: Namespace) -> runs.Run:
    """The run that a command is about.

    :raises AiravataError: there is none, or several
    """
    dags = [args.pattern] if args.pattern else runs.dags_with_run(args.experiment_id)
    if len(dags) > 1:
        advice = f"choose one with --pattern: {', '.join(dags)}"
        raise AiravataError(f"several experiments are called {args.experiment_id!r}", advice=advice)
    found = runs.read_run(dags[0], args.experiment_id) if dags else None
    if found is None:
        raise AiravataError(f"no experiment {args.experiment_id!r}")
    return found


def _state(run: runs.Run, jobs: list[Job]) -> str:
    return runs.experiment_state(run, jobs, datetime.now(UTC)).value


def with_store(work: Callable[[JobStore], Coroutine[Any, Any, T]]) -> T:
    """Run something with the job store, and close it."""

    async def whole() -> T:
        from airavata_provider.jobs.store import get_store

        store = get_store()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(whole())


def user_name() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry in the password database
        return None


def _clock(moment: datetime) -> str:
    return moment.astimezone().strftime("%H:%M:%S")


def say(text: str, *, error: bool = False) -> None:
    stream = sys.stderr if error else sys.stdout
    stream.write(text + "\n")
    stream.flush()


def say_json(value: object) -> None:
    say(json.dumps(to_jsonable_python(value), indent=2))
