"""What real SLURM makes of a request's options, of arrays, and of jobs that can never start."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from airavata_provider.errors import SubmissionRefused
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import JobRef, JobStatus, quote
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.request import (
    BY_SCHEDULER,
    Array,
    Dependency,
    DependencyKind,
    Element,
    JobRequest,
    MailEvent,
    Signal,
)
from airavata_provider.schedulers.script import write_script
from airavata_provider.schedulers.slurm import Slurm
from airavata_provider.ssh.host import Host
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Target
from tests.contract.hosts import MemoryStore, job

slurm = Slurm()


@pytest.fixture
async def host(ssh_target: Target) -> AsyncIterator[Host]:
    pool = SSHPool()
    yield pool.host(ssh_target)
    await pool.close()


def request(directory: str, **fields: Any) -> JobRequest:
    given = {"executable": "true", "walltime_s": 300, **fields}
    return JobRequest(f"a{os.urandom(7).hex()}", directory, **given)


async def submitted(host: Host, wanted: JobRequest) -> str:
    from airavata_provider.jobs.submission import submit

    return await submit(host, slurm, wanted, store=MemoryStore(), job=job(wanted.name, wanted.directory), first=True)


ACCEPTED: Mapping[str, Any] = {
    "queue": "debug",
    "nodes": 1,
    "tasks": 3,
    "tasks_per_node": 4,
    "cpus_per_task": 2,
    "memory_mb": 100,
    "walltime_s": 90,
    "account": "nobody's \"account\" with $(id) \\ and 'quotes' #",
    "qos": "normal",
    "exclusive": True,
    "array": Array(tuple(Element(index, "/tmp") for index in (0, 1, 2, 3, 7)), throttle=2),
    "after": tuple(Dependency("1", kind) for kind in DependencyKind),
    "mail_to": "nobody@localhost",
    "mail_events": frozenset(MailEvent),
    "export": ("HOME", "LANG"),
    "signal_before_end_s": 120,
    "signal": Signal.TERM,
}
REFUSED: Mapping[str, tuple[Any, str]] = {
    "gpus": (1, "Invalid generic resource"),
    "gpu_type": ("a100", "Invalid generic resource"),
    "reservation": ("not there", "Requested reservation is invalid"),
    "constraint": ("fast&(ib|opa)", "Invalid feature specification"),
    "licenses": (("abaqus:2", "matlab"), "Invalid license specification"),
}
"""What this cluster does not have; that it says so shows that it read the directive."""


async def test_slurm_takes_every_directive(host: Host, bed_dir: str) -> None:
    assert ACCEPTED.keys() | REFUSED.keys() == BY_SCHEDULER
    scripts = {}
    for field, value in {**ACCEPTED, **{field: value for field, (value, _) in REFUSED.items()}}.items():
        more = (
            {"gpus": 1} if field == "gpu_type" else {"mail_events": frozenset(MailEvent)} if "mail" in field else {}
        )
        wanted = request(bed_dir, **{**more, field: value})
        scripts[field] = write_script(slurm, wanted, None, control_directory(bed_dir, wanted.name))
    # One session: a marker before each answer.
    commands = [
        f"echo FIELD {field}; printf %s {quote(text)} >{bed_dir}/script;"
        f" sbatch --test-only {bed_dir}/script 2>&1; echo STATUS $?"
        for field, text in scripts.items()
    ]
    answers = (await host.run("\n".join(commands))).stdout.split("FIELD ")[1:]
    said = {answer.split("\n", 1)[0]: answer.split("\n", 1)[1] for answer in answers}
    for field in ACCEPTED:
        assert said[field].endswith("STATUS 0\n"), f"{field}: {said[field]}"
    for field, (_, words) in REFUSED.items():
        assert words in said[field], f"{field}: {said[field]}"


async def test_values_arrive_as_they_are(host: Host, bed_dir: str, bed_run: Callable[..., Any]) -> None:
    wanted = request(
        bed_dir, comment="say \"hi\" $(id) \\ 'x' #end", mail_to="a@b.c", mail_events=frozenset({MailEvent.FAIL}),
        tasks=2, tasks_per_node=2, cpus_per_task=3, memory_mb=77, directives=("--hold",), export=("HOME",),
    )  # fmt: skip
    native_id = await submitted(host, wanted)
    shown = bed_run(f"scontrol -o show job {native_id}").stdout
    for words in (
        "Comment=say \"hi\" $(id) \\ 'x' #end ", "MailUser=a@b.c", "MailType=FAIL", "NumTasks=2", "CPUs/Task=3",
        "MinMemoryNode=77M", "Reason=JobHeldUser", "TimeLimit=00:05:00",
    ):  # fmt: skip
        assert words in shown
    ref = JobRef(native_id, wanted.name, bed_dir)
    status = slurm.parse_status(await host.run(slurm.status_command([ref])), [ref])[native_id]
    assert (status.state, status.outcome) == (JobState.QUEUED, Outcome.HELD)
    await host.run(slurm.cancel_command([ref]))
    assert (await end(host, ref)).outcome is Outcome.CANCELED


async def end(host: Host, ref: JobRef, within_s: float = 60) -> JobStatus:
    """The end as SLURM itself tells it, which may be after the job's own record."""
    limit = time.monotonic() + within_s
    while True:
        found = slurm.parse_history(await host.run(slurm.history_command([ref])), [ref]).get(ref.native_id)
        if found is not None and found.native_state != "EXIT RECORD":
            return found
        assert time.monotonic() < limit
        await asyncio.sleep(0.5)


async def test_an_array_from_one_submission_to_an_end_for_each_element(host: Host, bed_dir: str) -> None:
    indices = (0, 1, 2, 5, 8)
    directories = {index: f"{bed_dir}/e {index}" for index in indices}
    await host.run(
        " && ".join(f"mkdir {quote(path)} && echo in{i} >{quote(path)}/in" for i, path in directories.items())
    )
    payload = 'cat; echo "$1 $WHO $AIRAVATA_INDEX $AIRAVATA_JOB"; [ "$1" != 8 ] || exec sleep 300; exit "$1"'
    elements = [
        Element(index, directories[index], ("-c", payload, "sh", str(index)), {"WHO": f"it's {index}"}, "in")
        for index in indices
    ]
    wanted = request(bed_dir, executable="/bin/sh", array=Array(tuple(elements)))
    native_id = await submitted(host, wanted)
    find = slurm.find_command(wanted.name, None, bed_dir)
    answer = await host.run(find)
    assert slurm.parse_find_within(answer, wanted.name, 60) == native_id
    assert slurm.parse_find_within(answer, wanted.name, -60) is None, "it was submitted before that"
    refs = [JobRef(slurm.element_id(native_id, index), wanted.name, bed_dir, index) for index in indices]
    last = refs[-1]
    limit = time.monotonic() + 60
    while True:
        states = dict(slurm.parse_status(await host.run(slurm.status_command(refs)), refs))
        assert states.keys() == {ref.native_id for ref in refs}
        running = states.pop(last.native_id).state
        printed = await host.run(f"test -s {quote(directories[8])}/stdout.txt")
        over = all(status.state.terminal for status in states.values())
        if running is JobState.ACTIVE and over and printed.exit_status == 0:
            break
        assert time.monotonic() < limit
        await asyncio.sleep(0.5)
    await host.run(slurm.cancel_command([last]))
    ends = {ref.index: await end(host, ref) for ref in refs}
    assert {index: (status.state, status.exit_code) for index, status in ends.items()} == {
        0: (JobState.COMPLETE, 0),
        1: (JobState.FAILED, 1),
        2: (JobState.FAILED, 2),
        5: (JobState.FAILED, 5),
        8: (JobState.CANCELED, 143),
    }
    assert ends[8].outcome is Outcome.CANCELED
    for index, path in directories.items():
        text = (await host.run(f"cat {quote(path)}/stdout.txt")).stdout
        assert text == f"in{index}\n{index} it's {index} {index} {wanted.name}.{index}\n"
        record = (await host.run(f"cat {control_directory(bed_dir, wanted.name, index)}/exit")).stdout
        assert f'"native_id": "{native_id}_{index}"' in record


async def test_elements_that_wait_are_cancelled_one_by_one(host: Host, bed_dir: str) -> None:
    wanted = request(
        bed_dir, directives=("--hold",), array=Array(tuple(Element(index, bed_dir) for index in range(4)))
    )
    native_id = await submitted(host, wanted)
    refs = [JobRef(slurm.element_id(native_id, index), wanted.name, bed_dir, index) for index in range(4)]
    await host.run(slurm.cancel_command(refs[1:2]))
    states = slurm.parse_status(await host.run(slurm.status_command(refs)), refs)
    waiting = {i for i, status in states.items() if status.state is JobState.QUEUED}
    assert waiting == {refs[0].native_id, refs[2].native_id, refs[3].native_id}
    assert (await end(host, refs[1])).outcome is Outcome.CANCELED
    assert not slurm.parse_history(await host.run(slurm.history_command(refs[2:])), refs[2:])
    # The whole array by its own id.
    await host.run(slurm.cancel_command([JobRef(native_id, wanted.name, bed_dir)]))
    for ref in refs:
        assert (await end(host, ref)).state is JobState.CANCELED


async def test_slurm_tells_the_script_in_time_and_the_script_its_program(host: Host, bed_dir: str) -> None:
    shell = "trap 'echo noticed; exit 4' TERM; while :; do sleep 0.1; done"
    wanted = request(
        bed_dir, executable="/bin/sh", arguments=("-c", shell), walltime_s=180, signal_before_end_s=119,
        signal=Signal.TERM,
    )  # fmt: skip
    assert slurm.gives_notice(wanted)
    ref = JobRef(await submitted(host, wanted), wanted.name, bed_dir)
    status = await end(host, ref, within_s=170)
    assert (status.state, status.exit_code, status.outcome) == (JobState.FAILED, 4, Outcome.FAILED)
    assert (await host.run(f"cat {quote(bed_dir)}/stdout.txt")).stdout == "noticed\n"


async def test_an_array_that_is_too_long_names_the_setting_that_splits_it(host: Host, bed_dir: str) -> None:
    elements = (Element(0, bed_dir), Element(4_000_000, bed_dir))
    with pytest.raises(SubmissionRefused, match="Invalid job array specification") as refused:
        await submitted(host, request(bed_dir, array=Array(elements)))
    assert not refused.value.transient
    assert "max_array_size" in str(refused.value)


async def test_why_a_job_never_starts(host: Host, bed_dir: str) -> None:
    asked = {
        "PartitionTimeLimit": request(bed_dir, walltime_s=3 * 3600, queue="debug"),
        "PartitionConfig": request(bed_dir, tasks=10000),
        "DependencyNeverSatisfied": request(bed_dir, after=(Dependency(await failed(host, bed_dir)),)),
    }
    refs = {reason: JobRef(await submitted(host, each), each.name, bed_dir) for reason, each in asked.items()}
    jobs = list(refs.values())
    limit = time.monotonic() + 60
    try:
        while True:
            states = slurm.parse_status(await host.run(slurm.status_command(jobs)), jobs)
            if all(states[ref.native_id].outcome is Outcome.NEVER_STARTS for ref in jobs):
                break
            assert time.monotonic() < limit, states
            await asyncio.sleep(0.5)
        assert {reason: states[ref.native_id].reason for reason, ref in refs.items()} == {r: r for r in refs}
    finally:
        await host.run(slurm.cancel_command(jobs))


async def failed(host: Host, bed_dir: str) -> str:
    wanted = request(bed_dir, executable="false")
    ref = JobRef(await submitted(host, wanted), wanted.name, bed_dir)
    await end(host, ref)
    return ref.native_id
