"""How long a mailbox with many old messages keeps the mail reader, and whether new mail has to wait meanwhile.

Without Airflow: the provider's own reader in this process, on the test bed's Dovecot, with a store on PostgreSQL. The
old messages lie in the maildir as people's mail programs left them: half of them letters, the others a scheduler's
about jobs that nobody knows, a few about jobs of the store. News of other jobs comes in while they are read. Then the
reader is started again: it must fetch nothing but what is new.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import psutil
from imapclient import IMAPClient

from airavata_provider.jobs.figures import percentile
from airavata_provider.jobs.store import JobStore
from benchmarks.setup import fresh_database
from tests.bed import Bed
from tests.mailboxes import Maildir, counts, known_job, maildir, message, reading, told, until

START_S = 10.0
"""What "starts in seconds" means: from the reader's start to the first news."""

KNOWN_EVERY = 500
"""Of so many old messages, one is about a job of the store."""

NEWS_EVERY_S = 0.5
_ENDED = "Slurm Job_id={id} Name={name} Ended, Run time 00:00:05, COMPLETED, ExitCode 0"


def subject(number: int) -> tuple[str, str]:
    """An old message's subject, and what its reader counts it as."""
    if number % KNOWN_EVERY == 0:
        return _ENDED.format(id=1_000_000 + number, name=f"old-{number}"), "news"
    if number % 2:
        return _ENDED.format(id=5_000_000 + number, name=f"stranger-{number}"), "foreign"
    return f"Letter {number}", "other"


def fill(box: Maildir, count: int) -> Counter[str]:
    """Put old messages where those lie that were looked at; what they count as."""
    expected: Counter[str] = Counter()
    folder, owner, old = box.path / "cur", box.path.stat(), time.time() - 86_400
    for number in range(count):
        text, kind = subject(number)
        expected[kind] += 1
        file = folder / f"{int(old)}.M{number}.test:2,S"
        file.write_bytes(message(text))
        os.chown(file, owner.st_uid, owner.st_gid)
        os.utime(file, (old, old))
    return expected


@contextmanager
def fetched() -> Iterator[Counter[tuple[int, str]]]:
    """How often each message's header, and each whole message, is asked for: by UID and part."""
    found: Counter[tuple[int, str]] = Counter()
    fetch = IMAPClient.fetch

    def counting(client: IMAPClient, uids: Sequence[int], what: Sequence[str]) -> Any:
        found.update((uid, "header" if "HEADER" in what[1] else "whole") for uid in uids)
        return fetch(client, uids, what)

    with patch.object(IMAPClient, "fetch", counting):
        yield found


class Bench:
    """One mailbox under measurement."""

    def __init__(self, store: JobStore, box: Maildir, old: Counter[str]) -> None:
        self.store, self.box, self.old = store, box, old
        self.waits: list[float] = []

    async def news(self, name: str) -> float:
        """Deliver news of a new job; the seconds until it is stored."""
        native_id = str(9_000_000 + len(self.waits))
        await known_job(self.store, name, native_id)
        begun = time.monotonic()
        self.box.deliver(_ENDED.format(id=native_id, name=name))
        await until(lambda: told(self.store, name, 1), 600)
        self.waits.append(time.monotonic() - begun)
        return self.waits[-1]

    async def rest(self) -> int:
        """Old messages that are still to be looked at."""
        return self.old.total() + len(self.waits) - sum((await counts(self.store)).values())

    async def first(self) -> dict[str, Any]:
        """All of it for the first time."""
        me = psutil.Process()
        before, cpu, begun = me.memory_info().rss, sum(me.cpu_times()[:2]), time.monotonic()
        async with reading(self.store, self.box.account):
            start_s = await self.news("new-0")
            while await self.rest() > 0:
                await self.news(f"new-{len(self.waits)}")
                await asyncio.sleep(NEWS_EVERY_S)
        return {
            "start_s": start_s,
            "all_s": time.monotonic() - begun,
            "cpu_s": sum(me.cpu_times()[:2]) - cpu,
            "memory_mb": (me.memory_info().rss - before) / 1e6,
            "news": len(self.waits),
            "news_p50_s": percentile(sorted(self.waits[1:] or self.waits), 0.5),
            "news_most_s": max(self.waits[1:] or self.waits),
        }

    async def again(self) -> float:
        """Seconds from another reader's start to its first news."""
        async with reading(self.store, self.box.account):
            return await self.news("again")


async def _measure(url: str, box: Maildir, old: Counter[str]) -> dict[str, Any]:
    store = JobStore(url, watch_interval=0.05)
    try:
        await store.create_tables()
        for number in range(0, old.total(), KNOWN_EVERY):
            await known_job(store, f"old-{number}", str(1_000_000 + number))
        bench = Bench(store, box, old)
        with fetched() as asked:
            found = await bench.first()
            before = asked.copy()
            again_s = await bench.again()
        old_names = [f"old-{number}" for number in range(0, old.total(), KNOWN_EVERY)]
        untold = [name for name in old_names if not await told(store, name, 1)]
        return {
            **found,
            "again_s": again_s,
            "fetched_again": (asked - before).total(),
            "fetched": asked.total(),
            "fetched_twice": sum(number > 1 for number in asked.values()),
            "counts": await counts(store),
            "expected": dict(old + Counter(news=len(bench.waits))),
            "untold": len(untold),
        }
    finally:
        await store.close()


def measure(bed: Bed, messages: int) -> dict[str, Any]:
    """See the module; what :func:`faults` and :func:`table` take."""
    with fresh_database(bed, "mailbox") as url, maildir(bed) as box:
        old = fill(box, messages)
        return {"messages": messages, **asyncio.run(_measure(url, box, old))}


def faults(found: Mapping[str, Any]) -> list[str]:
    """What is not as it has to be."""
    wrong = []
    if found["counts"] != found["expected"]:
        wrong.append(f"messages were taken for {found['counts']}, not {found['expected']}")
    if found["untold"]:
        wrong.append(f"{found['untold']} old messages about known jobs are no events")
    if found["fetched_twice"]:
        wrong.append(f"{found['fetched_twice']} messages were fetched twice")
    if found["fetched_again"] != 1:
        wrong.append(f"the second start fetched {found['fetched_again']} messages for one that was new")
    for words, key in (("first", "start_s"), ("second", "again_s")):
        if not found[key] <= START_S:
            wrong.append(f"the {words} start took {found[key]:.1f} s to its first news, more than {START_S:g} s")
    return wrong


def table(found: Mapping[str, Any]) -> str:
    """The figures for people."""
    return "\n".join(
        (
            f"mailbox: {found['messages']} old messages, looked at in {found['all_s']:.1f} s;"
            f" {found['cpu_s']:.1f} s of a processor, {found['memory_mb']:.0f} MB",
            f"  fetched {found['fetched']} times, {found['fetched_twice']} of them again",
            f"  from a start to its first news, s: first {found['start_s']:.2f}, second {found['again_s']:.2f}"
            f" (target {START_S:g})",
            f"  from a message to its event meanwhile, s: p50 {found['news_p50_s']:.2f},"
            f" most {found['news_most_s']:.2f} of {found['news']}",
        )
    )
