"""Mail on its whole way, real SLURM to a real Dovecot, killed at times: each message becomes its job's event once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from airflow.sdk import Connection
from imapclient import IMAPClient

from airavata_provider.jobs.store import JobStore
from airavata_provider.models.catalog import load_catalog
from airavata_provider.models.job import Effect, EventSource, JobState
from airavata_provider.models.mailbox import Mailbox
from airavata_provider.monitors.base import MonitorContext
from airavata_provider.monitors.mail.monitor import MailMonitor
from airavata_provider.monitors.mail.reader import BATCH
from tests.bed import Bed
from tests.databases import database_away
from tests.mailboxes import BOX, Maildir, counts, known_job, maildir, mailed, message, reading, told, until


def slurm(name: str, native_id: str, what: str = "Ended, Run time 00:00:05, COMPLETED, ExitCode 0") -> str:
    return f"Slurm Job_id={native_id} Name={name} {what}"


async def test_slurm_jobs_are_followed_by_mail_alone(bed: Bed, bed_dir: str, box: Maildir, store: JobStore) -> None:
    options = f"-D {bed_dir} -o /dev/null --mail-type=ALL --mail-user={box.name}@cluster.test --parsable"
    jobs = {"mailgood": ("exit 0", JobState.COMPLETE, 0), "mailbad": ("exit 3", JobState.FAILED, 3)}
    async with reading(store, box.account):
        for name, (payload, _, _) in jobs.items():
            native_id = bed.run(f"sbatch {options} -J {name} --wrap '{payload}'").stdout.strip()
            await known_job(store, name, native_id)
        for name, (_, state, exit_code) in jobs.items():
            job = await store.wait(name, 250)
            assert (job.state, job.exit_code, job.state_source) == (state, exit_code, EventSource.MAIL)
            await until(lambda name=name: told(store, name, 2))  # type: ignore[misc]
            assert {each.state for each in await mailed(store, name)} == {JobState.ACTIVE, state}


@pytest.mark.parametrize(("done", "flag"), [("seen", b"\\Seen"), ("flag", b"\\Flagged"), ("move:Done", None)])
async def test_only_what_is_stored_is_done_with(box: Maildir, store: JobStore, done: str, flag: bytes | None) -> None:
    mailbox = Mailbox.model_validate({**BOX, "done": done, "senders": ["@cluster.test"], "wait": 0})
    await known_job(store, "ours", "11")
    mine = slurm("ours", "11")
    others = {
        "other": "Minutes of our meeting",
        "silent": slurm("ours", "11", "Reached 80% of time limit, Run time 00:00:05"),
        "foreign": slurm("theirs", "12"),
        "mismatched": slurm("theirs", "11"),
    }
    forged = slurm("ours", "11", "Failed, Run time 00:00:05, FAILED, ExitCode 1")
    box.deliver(forged, sender="mallory@elsewhere.test")
    for subject in others.values():
        box.deliver(subject)
    box.deliver(mine)
    async with reading(store, box.account, mailbox):
        expected = {**dict.fromkeys(others, 1), "refused": 1, "news": 1}
        await until(lambda: same(store, expected))
        await store.wait("ours", 120)
    assert [each.event.state for each in await store.events("ours")] == [JobState.SUBMITTED, JobState.COMPLETE]
    inbox = box.flags()
    left: dict[str, set[bytes]] = {subject: set() for subject in (*others.values(), forged)}
    assert inbox == (left if flag is None else {**left, mine: {flag}})
    if flag is None:
        assert set(box.flags("Done")) == {mine}


async def same(store: JobStore, expected: dict[str, int]) -> bool:
    return await counts(store) == expected


async def test_mail_that_beats_the_store_waits_for_it_also_over_a_restart(box: Maildir, store: JobStore) -> None:
    box.deliver(slurm("early", "21"))
    box.deliver(slurm("nobody", "22"))

    async def waits() -> bool:
        mark = await store.mail_folders.read("box", "INBOX")
        return mark is not None and len(mark.waiting) == 2

    async with reading(store, box.account):
        await until(waits)
    await known_job(store, "early", None)
    async with reading(store, box.account):
        await asyncio.sleep(0.3)
        assert await told(store, "early", 0)
        assert not await told(store, "early", 1)
        await store.submitted("early", "21", (await store.job("early")).created_at)  # type: ignore[union-attr, arg-type]
        assert (await store.wait("early", 120)).state is JobState.COMPLETE
        await until(lambda: same(store, {"news": 1}))
    mark = await store.mail_folders.read("box", "INBOX")
    assert mark is not None
    assert len(mark.waiting) == 1
    async with reading(store, box.account, Mailbox.model_validate({**BOX, "wait": 1})):
        pass  # the waiting one keeps its time


async def test_a_folder_whose_uids_begin_anew_is_read_again_and_nothing_happens_twice(
    box: Maildir, store: JobStore
) -> None:
    mailbox = Mailbox.model_validate({**BOX, "folders": ["Jobs"]})
    with box.client() as client:
        for attempt in range(2):
            client.create_folder("Jobs")
            await known_job(store, "again", "31")
            client.append("Jobs", _AGAIN)
            async with reading(store, box.account, mailbox):
                await store.wait("again", 120)
                await until(lambda number=attempt: newer(store, number + 1))  # type: ignore[misc]
            client.delete_folder("Jobs")
    events = [each for each in await store.events("again") if each.event.source == EventSource.MAIL]
    assert [each.effect for each in events] == [Effect.APPLIED]


_AGAIN = message(slurm("again", "31"))


async def newer(store: JobStore, number: int) -> bool:
    return (await counts(store, "Jobs")).get("news", 0) == number


_CATALOG = """
compute_resources:
  alpha: {connection: c, scheduler: slurm, scratch: /scratch}
  beta: {connection: c, scheduler: slurm, scratch: /scratch}
mailboxes:
  polled: {connection: first, idle: false, poll_interval: 1, resources: [alpha], wait: 0}
  told: {connection: second, folders: [INBOX, Jobs], resources: [beta]}
"""


@pytest.mark.usefixtures("certificate_known")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_several_mailboxes_and_folders_with_and_without_idle(
    bed: Bed, box: Maildir, store: JobStore, tmp_path: Path, tls: bool
) -> None:
    (tmp_path / "catalog.yaml").write_text(_CATALOG)
    catalog = load_catalog([tmp_path])
    with maildir(bed) as other:
        boxes = {"first": box, "second": other}

        async def connection(name: str) -> Connection:
            account = boxes[name].over_tls if tls else boxes[name].account
            return Connection(
                conn_id=name,
                conn_type="imap",
                host=account.host,
                port=account.port,
                login=account.user,
                password=account.password,
                extra=None if tls else '{"use_ssl": false}',
            )

        with other.client() as client:
            client.create_folder("Jobs")
        listeners = MailMonitor().listeners(MonitorContext(store, lambda: catalog, connection))
        tasks = [asyncio.create_task(listener.run()) for listener in listeners.values()]
        try:
            for number, resource in enumerate(["alpha", "beta", "beta"]):
                await known_job(store, f"job{number}", str(number), resource)
            box.deliver(slurm("job1", "1"))  # another cluster's
            box.deliver(slurm("job0", "0"))
            other.deliver(slurm("job1", "1"))
            with other.client() as client:
                client.append("Jobs", message(slurm("job2", "2")))
            for name in ("job0", "job1", "job2"):
                assert (await store.wait(name, 120)).state is JobState.COMPLETE
            await until(lambda: counted(store, {"polled": {"mismatched": 1, "news": 1}, "told": {"news": 2}}))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def counted(store: JobStore, expected: dict[str, dict[str, int]]) -> bool:
    found: dict[str, Counter[str]] = {}
    for mark in await store.mail_folders.all():
        found.setdefault(mark.mailbox, Counter()).update(mark.counts)
    return {name: dict(+each) for name, each in found.items()} == expected


async def test_old_mail_is_fetched_once_in_few_commands_and_holds_nobody_up(
    box: Maildir, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = 3 * BATCH
    await known_job(store, "old", "41")
    await known_job(store, "new", "42")
    for number in range(many):
        subject = slurm(f"job{number}", str(100_000 + number)) if number % 2 else f"Letter {number}"
        box.deliver_raw(message(subject if number != many // 2 else slurm("old", "41")), age_s=86_400)
    asked: list[list[int]] = []
    fetch = IMAPClient.fetch

    def counting(client: IMAPClient, uids: Sequence[int], what: Sequence[str]) -> object:
        assert "HEADER" in what[1], "SLURM's mail is told by its header"
        if not asked:
            box.deliver(slurm("new", "42"))
            with box.client() as other:
                other.select_folder("INBOX")  # Dovecot looks for new files once a second, and at each SELECT
        asked.append(list(uids))
        return fetch(client, uids, what)

    monkeypatch.setattr(IMAPClient, "fetch", counting)
    expected = {"other": many // 2 - 1, "foreign": many // 2, "news": 2}
    async with reading(store, box.account):
        await until(lambda: same(store, expected), 60)
    assert [len(uids) for uids in asked] == [BATCH, 1, BATCH, BATCH]
    assert sorted(uid for uids in asked for uid in uids) == list(range(1, many + 2))
    assert asked[0][-1] == many, "the latest first"
    async with reading(store, box.account):
        box.deliver("One more letter")
        await until(lambda: same(store, {**expected, "other": many // 2}))
    assert asked[4:] == [[many + 2]]
    assert (await store.job("old")).state is JobState.COMPLETE  # type: ignore[union-attr]


# --- killed at any moment


@contextlib.contextmanager
def own_dovecot(bed: Bed) -> Iterator[tuple[int, Callable[[], None], Callable[[], None]]]:
    """A Dovecot of this test's own over the bed's maildirs: its port, what kills all of it, what starts it again."""
    with tempfile.TemporaryDirectory(prefix="airavata-dovecot-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        text = bed.dovecot_conf.read_text()
        for line in text.splitlines():
            key, _, value = (part.strip() for part in line.partition("="))
            new = {"base_dir": f"{root}/run", "state_dir": f"{root}/state", "log_path": f"{root}/log"}.get(key)
            if key == "port" and value == str(bed.imap_port):
                new = str(port)
            elif key == "port":
                new = "0"
            if new is not None:
                text = text.replace(line, line.replace(value, new))
        config = root / "dovecot.conf"
        config.write_text(text)
        pid_file = root / "run" / "master.pid"

        def processes() -> list[psutil.Process]:
            with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
                master = psutil.Process(int(pid_file.read_text()))
                return [master, *master.children(recursive=True)]
            return []

        def kill() -> None:
            found = processes()
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(found, timeout=10)

        def start() -> None:
            pid_file.unlink(missing_ok=True)
            # A pipe would stay open for as long as the server runs.
            with (root / "start.log").open("ab") as log:
                command = ["/usr/sbin/dovecot", "-c", str(config)]
                # A worker that was forked while the others were killed keeps the socket for a moment.
                for left in reversed(range(30)):
                    if subprocess.run(command, check=False, stdout=log, stderr=log, timeout=60).returncode == 0:
                        break
                    assert left, "Dovecot does not start"
                    time.sleep(1)

        start()
        try:
            yield port, kill, start
        finally:
            kill()


_READER = """
import asyncio, sys
from airavata_provider.jobs.store import JobStore
from tests.mailboxes import reading
from airavata_provider.monitors.mail.imap import Account
from airavata_provider.monitors.base import MonitorContext
from airavata_provider.monitors.mail.monitor import MailMonitor
from airavata_provider.monitors.mail.reader import BATCH

async def main(url, port, user, password):
    store = JobStore(url)
    async with reading(store, Account("127.0.0.1", int(port), user, password, use_ssl=False)):
        print("reads", flush=True)
        await asyncio.sleep(300)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_each_message_is_one_event_whoever_is_killed(bed: Bed, box: Maildir, postgres_db: str) -> None:
    """Reader, server and database go away at random moments while jobs' mail comes in, and come back."""
    chance = random.Random(7)
    store = JobStore(postgres_db, watch_interval=0.05)
    await store.create_tables()
    number = 80
    names = [f"job{each}" for each in range(number)]
    for each, name in enumerate(names):
        await known_job(store, name, str(1000 + each))

    with own_dovecot(bed) as (port, kill_dovecot, start_dovecot):
        arguments = [postgres_db, str(port), box.name, box.account.password]

        def start_reader() -> subprocess.Popen[bytes]:
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
            return subprocess.Popen([sys.executable, "-c", _READER, *arguments], env=environment)

        async def deliver() -> None:
            for each, name in enumerate(names):
                box.deliver(slurm(name, str(1000 + each), "Began, Queued time 00:00:01"))
                box.deliver(slurm(name, str(1000 + each)))
                await asyncio.sleep(0.06)

        reader = start_reader()
        delivering = asyncio.create_task(deliver())
        try:
            for _ in range(2):
                await asyncio.sleep(chance.uniform(0.2, 1.0))
                kill_dovecot()
                await asyncio.sleep(chance.uniform(0.0, 0.3))
                start_dovecot()
                await asyncio.sleep(chance.uniform(0.5, 1.0))
                with database_away(bed, postgres_db):
                    await asyncio.sleep(chance.uniform(0.2, 0.6))
                await asyncio.sleep(chance.uniform(1.0, 1.5))
                reader.kill()
                reader.wait()
                reader = start_reader()
            await delivering
            await until(lambda: over(store, names), 250)
            await until(lambda: all_seen(box))
        finally:
            delivering.cancel()
            reader.kill()
            reader.wait()
    for name in names:
        states = sorted(each.state for each in await mailed(store, name))
        assert states == [JobState.ACTIVE, JobState.COMPLETE], name
    await store.close()


async def over(store: JobStore, names: list[str]) -> bool:
    return all(job.state is JobState.COMPLETE for job in await store.jobs_named(names)) and all(
        [await told(store, name, 2) for name in names]
    )


def all_seen(box: Maildir) -> bool:
    return all(b"\\Seen" in flags for flags in box.flags().values())


def test_the_bed_mailer_delivers(bed: Bed, box: Maildir) -> None:
    """As a scheduler calls it."""
    subprocess.run([bed.mailer, "-s", "Größe", f"{box.name}@x.test"], input=b"a body\n", check=True, timeout=20)
    with box.client() as client:
        client.select_folder("INBOX")
        (found,) = client.fetch(client.search(), ["BODY.PEEK[]"]).values()
    assert b"a body" in found[b"BODY[]"]
    assert f"To: <{box.name}@x.test>".encode() in found[b"BODY[]"]
