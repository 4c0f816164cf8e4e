"""Grid Engine's own mail, from a real 8.1.9 through a real Dovecot into the store: begin, and every kind of end. What
mail cannot tell is then looked up in Grid Engine's accounting."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import UTC, datetime

from airavata_provider.jobs.poller import Poller, Way
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import EventSource, Job, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.poll import Patience
from airavata_provider.monitors.rhythm import Rhythm
from airavata_provider.schedulers.sge import Sge
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Target
from tests.bed import Bed
from tests.mailboxes import Maildir, known_job, mailed, reading, told, until

S, O = JobState, Outcome  # noqa: E741
KILL, SEGV = int(signal.SIGKILL), int(signal.SIGSEGV)

Told = tuple[JobState, Outcome | None, int | None, int | None]
"""State, outcome, exit code, signal."""


@dataclass(frozen=True)
class Case:
    """A job, and what its mail tells.

    :param script: what it runs
    :param ends: what the mails after the first one say, in any order
    :param final: what the job is when all are read
    :param known: its outcome when accounting was asked, too
    :param options: of ``qsub``
    """

    script: str
    ends: tuple[Told, ...]
    final: Told
    known: Outcome
    options: str = ""


BEGUN: Told = (S.ACTIVE, None, None, None)
GOOD: Told = (S.COMPLETE, O.COMPLETED, 0, None)
BAD: Told = (S.FAILED, O.FAILED, 3, None)
CRASH: Told = (S.FAILED, O.SIGNALED, None, SEGV)
KILLED: Told = (S.FAILED, O.SIGNALED, None, KILL)
DELETED: Told = (S.CANCELED, O.CANCELED, None, None)

CASES = {
    "mail-good_1.x": Case("exit 0", (GOOD,), GOOD, O.COMPLETED),
    "mail-bad": Case("exit 3", (BAD,), BAD, O.FAILED),
    "mail-crash": Case("kill -SEGV $$", (CRASH,), CRASH, O.SIGNALED),
    # Grid Engine's message names three limits at once, so it tells of none.
    "mail-limit": Case("exec sleep 100", (KILLED,), KILLED, O.WALLTIME, "-l h_rt=00:00:01"),
    "mail-deleted": Case("exec sleep 100", (DELETED, KILLED), DELETED, O.CANCELED),
}


async def test_grid_engine_jobs_are_followed_by_mail_alone(
    bed: Bed, ssh_target: Target, bed_dir: str, box: Maildir, store: JobStore
) -> None:
    ids = {}
    async with reading(store, box.account, scheduler="sge"):
        for name, case in CASES.items():
            mail = f"-M {box.name}@cluster.test -m beas"
            place = f"-wd {bed_dir} -o /dev/null -j y -S /bin/sh"
            done = bed.run(f"echo '{case.script}' | qsub -terse -N {name} {mail} {place} {case.options}")
            ids[name] = done.stdout.strip()
            await known_job(store, name, ids[name])
        array = await an_array(bed, bed_dir, store, box)
        await until(lambda: told(store, "mail-deleted", 1))
        bed.run(f"qdel {ids['mail-deleted']}")
        for name, case in CASES.items():
            await until(lambda name=name, case=case: told(store, name, 1 + len(case.ends)))  # type: ignore[misc]
        for element in (0, 1):
            await until(lambda element=element: told(store, f"{array}.{element}", 2))  # type: ignore[misc]
            assert (await mailed(store, f"{array}.{element}"))[-1].exit_code == 10 + element
        # What was told is on record before its message counts as read.
        await until(lambda: all(b"\\Seen" in flags for flags in box.flags().values()))
    for name, case in CASES.items():
        events = [(each.state, each.outcome, each.exit_code, each.signal) for each in await mailed(store, name)]
        assert sorted(events, key=str) == sorted([BEGUN, *case.ends], key=str), name
        job = await store.job(name)
        assert job is not None
        assert (job.state, job.outcome, job.exit_code, job.signal) == case.final, name
        assert job.state_source == EventSource.MAIL
    deleted, limited = await store.job("mail-deleted"), await store.job("mail-limit")
    assert deleted is not None
    assert limited is not None
    assert " limit" in limited.reason
    assert deleted.reason.startswith(f"was killed by {bed.ssh_user}@")
    assert all(b"\\Seen" in flags for flags in box.flags().values())
    assert len(box.flags()) == 4 + sum(1 + len(case.ends) for case in CASES.values())
    pool = SSHPool()
    try:

        async def way(resource: str) -> Way:
            return Way(pool.host(ssh_target), Sge())

        await Poller(store, "cluster", Rhythm(base=0.0), Patience()).poll(way)
    finally:
        await pool.close()
    outcomes = {name: (await store.job(name)).outcome for name in CASES}  # type: ignore[union-attr]
    assert outcomes == {name: case.known for name, case in CASES.items()}


async def an_array(bed: Bed, bed_dir: str, store: JobStore, box: Maildir) -> str:
    """An array of two elements, in scheduler and store; its name. The element 0 ends with 10, 1 with 11."""
    name = "mail-array"
    options = f"-terse -t 1-2 -N {name} -M {box.name}@cluster.test -m bea -wd {bed_dir} -o /dev/null -j y -S /bin/sh"
    done = bed.run(f"echo 'exit $((9 + SGE_TASK_ID))' | qsub {options}")
    job = Job(name, "dag", "array", name, -1, 1, resource="cluster", directory="/s", created_at=datetime.now(UTC))
    await store.intend_array(job, [0, 1])
    await store.submitted(name, done.stdout.partition(".")[0].strip(), datetime.now(UTC), Sge().element_id)
    return name
