"""Reads one folder of a mailbox for as long as it is let: each message once, its news into the store.

What always holds, whoever is killed when:

* A message is done with (marked, moved) after its news is stored, and is passed over for good (the folder's mark)
  after that. What is killed in between is done again, and the same message is the same event.
* Of a message, the header is looked at first, the rest only when the subject can be a scheduler's.
* New messages come first. What was there before a folder's first look is read in between, the latest first: however
  much it is, news does not wait for it.
* Mail that is about no job of ours changes nothing and stays as it is, unseen if it was. It is tried again for as
  long as the mailbox's ``wait``, since a job's id may be saved after the mail came; then it is counted and left
  alone.

The folder's mark in the store (:mod:`airavata_provider.jobs.mail_folders`) holds the counts (:class:`Count`).
Imports no Airflow.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from airavata_provider.errors import AiravataError, JobUnknown, MailLoginRefused
from airavata_provider.jobs.mail_folders import MailFolder
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.mailbox import Mailbox
from airavata_provider.monitors.mail.imap import Account, Fetched, Folder
from airavata_provider.monitors.mail.match import Told, event_of, ids_of, is_half_known, job_of, keys_of
from airavata_provider.monitors.mail.message import Mail, is_authentic, read, subject_of
from airavata_provider.monitors.mail.news import Decoder, MailNews, decoder
from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.registry import scheduler

_LOG = logging.getLogger(__name__)

BATCH = 400
"""Messages at a time: a command line with as many UIDs stays below the 8,000 bytes that every server takes."""


class Count(StrEnum):
    """What became of a message."""

    NEWS = "news"
    """Its event is stored."""

    OTHER = "other"
    """No scheduler's subject."""

    SILENT = "silent"
    """A scheduler's, and no job's state is told: a warning, an array's summary, text that cannot be read."""

    REFUSED = "refused"
    """A scheduler's by its subject, from a sender who may not tell news."""

    FOREIGN = "foreign"
    """News of a job that nobody here knows."""

    MISMATCHED = "mismatched"
    """Its id is a job's of ours and its name is not, or the other way round."""


@dataclass(frozen=True)
class Pace:
    """How often things are done, in seconds.

    :param first: pause after a failure; doubled with each further one
    :param at_most: the longest pause, and the one after a refused login, so that no account is locked
    :param retry: between two tries of mail whose job is not known, at first; later a quarter of its age
    :param retry_at_most: between two tries at the longest
    """

    first: float = 1.0
    at_most: float = 300.0
    retry: float = 1.0
    retry_at_most: float = 60.0


@dataclass
class _Waiting:
    """Mail whose job is not known yet."""

    mail: Mail
    told: list[Told]
    until: int
    tried_at: float
    pause: float


@dataclass(frozen=True)
class _Looked:
    """What a look at a message found: news, or what it counts as."""

    mail: Mail | None
    told: tuple[Told, ...] = ()
    count: Count | None = None


class FolderReader:
    """See the module.

    :param account: the way to the server, asked for at each connect: a password may have changed
    :param served: scheduler's word by name of the compute resources whose mail comes here
    """

    def __init__(
        self,
        mailbox: Mailbox,
        folder: str,
        *,
        store: JobStore,
        account: Callable[[], Awaitable[Account]],
        served: Mapping[str, str],
        pace: Pace | None = None,
    ) -> None:
        self._mailbox = mailbox
        self._name = folder
        self._store = store
        self._account = account
        self._pace = pace or Pace()
        self._served = dict(served)
        words = sorted(set(self._served.values()))
        self._decoders: dict[str, Decoder] = {word: found for word in words if (found := decoder(word)) is not None}
        self._adaptors: dict[str, Scheduler] = {word: scheduler(word) for word in self._decoders}
        self._mark = MailFolder(mailbox.name, folder, 0)
        self._waiting: dict[int, _Waiting] = {}
        self._failures = 0

    async def run(self) -> None:
        """Read until cancelled; whatever fails is tried again, later and later."""
        while True:
            try:
                await self._session()
            except MailLoginRefused as error:
                pause = self._pace.at_most
                _LOG.error("%s", error)
            except AiravataError as error:
                pause = self._next_pause()
                _LOG.warning("%s; again in %.0f s", error, pause)
            except Exception:
                pause = self._next_pause()
                _LOG.exception("Mailbox %s, %s: reading failed unexpectedly", self._mailbox.name, self._name)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311

    def _next_pause(self) -> float:
        self._failures += 1
        return min(self._pace.first * 2.0 ** min(self._failures - 1, 20), self._pace.at_most)

    async def _session(self) -> None:
        folder = Folder(await self._account(), self._mailbox, self._name)
        try:
            await self._begin(*await folder.open(), folder)
            old = await folder.uids(0, self._mark.old_uid)
            while True:
                for part in _batches(await folder.uids(self._mark.uid)):
                    await self._take(folder, part, replace(self._mark, uid=part[-1]))
                await self._retry(folder)
                self._failures = 0
                if old:
                    part = old[-BATCH:]
                    del old[-BATCH:]
                    await self._take(folder, part, replace(self._mark, old_uid=part[0] - 1))
                else:
                    await folder.wait(self._until_retry())
        finally:
            folder.close()

    async def _begin(self, uidvalidity: int, last: int, folder: Folder) -> None:
        """Go on where the store says that reading ended.

        :param last: the highest UID there is
        """
        mark = await self._store.mail_folders.read(self._mailbox.name, self._name)
        if mark is None:
            mark = MailFolder(self._mailbox.name, self._name, uidvalidity, uid=last, old_uid=last)
        elif mark.uidvalidity != uidvalidity:
            _LOG.warning(
                "Mailbox %s, %s: reading it from the beginning, as its UIDs mean something new (UIDVALIDITY)",
                self._mailbox.name,
                self._name,
            )
            mark = replace(mark, uidvalidity=uidvalidity, uid=last, old_uid=last, waiting={})
        self._mark, self._waiting = mark, {}
        for part in _batches(sorted(mark.waiting)):
            # A message that was removed meanwhile, or is read otherwise now, waits no more.
            for uid, looked in (await self._look(folder, part)).items():
                if looked.mail is not None and looked.told:
                    self._wait_for(uid, looked.mail, looked.told, mark.waiting[uid])

    # --- new mail

    async def _take(self, folder: Folder, uids: Sequence[int], passed: MailFolder) -> None:
        """Look at messages, store their news, pass over them.

        :param passed: the mark that says so
        """
        looked = await self._look(folder, uids)
        counts = Counter(each.count for each in looked.values() if each.count is not None)
        told = {uid: (each.mail, each.told) for uid, each in looked.items() if each.mail is not None and each.told}
        stored, unknown = await self._tell(told)
        await folder.finish(stored)
        counts[Count.NEWS] += len(stored)
        now = int(time.time())
        for uid, half in unknown.items():
            mail, news = told[uid]
            until = int(mail.received_at.timestamp() + self._mailbox.wait)
            if until > now:
                self._wait_for(uid, mail, news, until)
            else:
                counts[Count.MISMATCHED if half else Count.FOREIGN] += 1
        await self._save(counts, passed)

    async def _look(self, folder: Folder, uids: Sequence[int]) -> dict[int, _Looked]:
        headers = await folder.headers(uids)
        found = await folder.think(lambda: {uid: self._look_at_header(each) for uid, each in headers.items()})
        wanted = [uid for uid, each in found.items() if each is None]
        messages = await folder.messages(wanted)
        found |= await folder.think(lambda: {uid: self._look_at(each, whole=True) for uid, each in messages.items()})
        return {uid: each for uid, each in found.items() if each is not None}

    def _look_at_header(self, fetched: Fetched) -> _Looked | None:
        """What the header is enough for; None when the body has to be read."""
        subject = subject_of(fetched.raw)
        able = [each for each in self._decoders.values() if each.subject.search(subject)]
        if not able:
            return _Looked(None, count=Count.OTHER)
        if any(each.needs_body for each in able):
            return None
        return self._look_at(fetched, whole=False)

    def _look_at(self, fetched: Fetched, *, whole: bool) -> _Looked:
        mail = read(fetched.raw, fetched.received_at)
        trust = self._mailbox.trust
        if not self._mailbox.allows(mail.sender) or (trust is not None and not is_authentic(mail, trust)):
            _LOG.warning("Mailbox %s: news from %r does not count: %s", self._mailbox.name, mail.sender, mail.subject)
            return _Looked(mail, count=Count.REFUSED)
        told = tuple(
            (word, news)
            for word, each in self._decoders.items()
            if each.subject.search(mail.subject) and (whole or not each.needs_body)
            if (news := _decoded(each, mail)) is not None
        )
        return _Looked(mail, told, None if told else Count.SILENT)

    async def _tell(self, told: Mapping[int, tuple[Mail, Iterable[Told]]]) -> tuple[list[int], dict[int, bool]]:
        """Store the news of jobs that are known: UIDs of those; of the others, with whether they are half known."""
        if not told:
            return [], {}
        every = [(word, news) for _, each in told.values() for word, news in each]
        jobs = await self._store.jobs_told_of(
            {native for word, news in every for native in ids_of(news, self._adaptors.get(word))},
            {key for _, news in every for key in keys_of(news)},
        )
        by_name = {job.name: job for job in jobs}
        by_id: dict[str | None, list[str]] = {}
        for job in jobs:
            by_id.setdefault(job.native_id, []).append(job.name)
        matched, unknown = {}, {}
        for uid, (mail, each) in told.items():
            names = {key for _, news in each for key in keys_of(news)} & by_name.keys()
            natives = {native for word, news in each for native in ids_of(news, self._adaptors.get(word))}
            names |= {name for native in natives for name in by_id.get(native, ())}
            near = [by_name[name] for name in sorted(names)]
            found = job_of(each, near, self._served, self._adaptors)
            if found is None:
                unknown[uid] = is_half_known(each, near, self._adaptors)
            else:
                matched[uid] = event_of(*found, mail)
        results = await asyncio.gather(
            *(self._store.append(event) for event in matched.values()), return_exceptions=True
        )
        stored = []
        for uid, result in zip(matched, results, strict=True):
            if isinstance(result, JobUnknown):  # its record was deleted a moment ago
                unknown[uid] = False
            elif isinstance(result, BaseException):
                raise result
            else:
                stored.append(uid)
        return stored, unknown

    # --- mail that waits for its job

    def _wait_for(self, uid: int, mail: Mail, told: Iterable[Told], until: int) -> None:
        self._waiting[uid] = _Waiting(mail, list(told), until, time.monotonic(), self._retry_pause(mail))

    def _retry_pause(self, mail: Mail) -> float:
        age = time.time() - mail.received_at.timestamp()
        return min(max(self._pace.retry, age / 4), self._pace.retry_at_most)

    def _until_retry(self) -> float:
        dues = (each.tried_at + each.pause - time.monotonic() for each in self._waiting.values())
        return max(0.05, min((self._mailbox.poll_interval, *dues)))

    async def _retry(self, folder: Folder) -> None:
        clock, now = time.monotonic(), time.time()
        due = [uid for uid, each in self._waiting.items() if clock >= each.tried_at + each.pause]
        for part in _batches(due):
            told = {uid: (self._waiting[uid].mail, self._waiting[uid].told) for uid in part}
            stored, unknown = await self._tell(told)
            await folder.finish(stored)
            counts = Counter({Count.NEWS: len(stored)})
            for uid, half in unknown.items():
                each = self._waiting[uid]
                each.tried_at, each.pause = clock, self._retry_pause(each.mail)
                if each.until <= now:
                    counts[Count.MISMATCHED if half else Count.FOREIGN] += 1
                    del self._waiting[uid]
            for uid in stored:
                del self._waiting[uid]
            if counts.total():
                await self._save(counts, self._mark)

    async def _save(self, counts: Mapping[Count, int], mark: MailFolder) -> None:
        total = Counter(mark.counts) + Counter({str(count): number for count, number in counts.items()})
        waiting = {each: waiting.until for each, waiting in self._waiting.items()}
        self._mark = await self._store.mail_folders.write(replace(mark, waiting=waiting, counts=dict(total)))


def _batches(uids: Sequence[int]) -> list[Sequence[int]]:
    return [uids[start : start + BATCH] for start in range(0, len(uids), BATCH)]


def _decoded(by: Decoder, mail: Mail) -> MailNews | None:
    """What the decoder says; one that fails, a plug-in's perhaps, must not hold up all mail behind this message."""
    try:
        return by.decode(mail)
    except Exception:
        _LOG.exception("A mail decoder failed at: %s", mail.subject)
        return None
