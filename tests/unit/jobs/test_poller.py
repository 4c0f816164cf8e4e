from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from airavata_provider.errors import CommandTimedOut, ConnectFailed
from airavata_provider.jobs.canceller import Canceller
from airavata_provider.jobs.poller import Poller, Way
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import Effect, Job, JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.output import outputs
from airavata_provider.monitors.poll import Patience
from airavata_provider.monitors.relay import MOST_FILES
from airavata_provider.monitors.rhythm import Rhythm
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus
from tests.unit.jobs.cluster import PaperCluster, PaperScheduler, TailCluster
from tests.unit.jobs.factory import make_event, make_job

pytestmark = pytest.mark.slow

S = JobState
NOW = Rhythm(base=0.000001, floor=0.000001, ceiling=0.000001)
END = '{"event": "end", "id": "end-id-a1-0", "exit_code": 3, "native_id": "id-a1"}'


class RelayCluster(PaperCluster):
    """One whose scripts leave news: files by name, which a collecting command prints and then removes."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, str] = {}
        self.collects = 0

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        collect, separated, rest = command.rpartition("\n[")
        if "relay" not in collect and "relay" not in command:
            return await super().run(command, timeout=timeout)
        self.collects += 1
        self.files = {name: text for name, text in self.files.items() if f"./{name}" not in command}
        lines = "".join(f"{name}|{text}\n" for name, text in self.files.items())
        frame = f"AIRAVATA-BEGIN relay\n{lines}\nAIRAVATA-END relay 0 \n"
        if not separated:
            return CommandResult(0, frame, "")
        answer = await super().run("[" + rest, timeout=timeout)
        return replace(answer, stdout=frame + answer.stdout)


class ShellCluster(PaperCluster):
    """One with a relay's directory of files, which a real shell collects."""

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        collect, _, rest = command.rpartition("\n[")
        done = await asyncio.to_thread(
            subprocess.run, ["/bin/sh", "-c", collect], capture_output=True, text=True, check=True
        )
        answer = await super().run("[" + rest, timeout=timeout)
        return replace(answer, stdout=done.stdout + answer.stdout)


class Site:
    """A store, a cluster, and the poller of it."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.cluster = RelayCluster()
        self.relay: str | None = None
        self.poller = Poller(store, "cluster", NOW, Patience())
        self.unreachable = False

    async def connect(self, resource: str) -> Way:
        assert resource == "cluster"
        if self.unreachable:
            raise ConnectFailed("no route to host")
        return Way(self.cluster, PaperScheduler(), self.relay)

    async def poll(self, rhythm: Rhythm | None = None) -> float:
        self.poller.rhythm = rhythm or NOW
        return await self.poller.poll(self.connect)

    async def submitted(self, name: str = "a1", **values: object) -> Job:
        await self.store.intend(make_job(name, **values))
        return await self.store.submitted(name, f"id-{name}", datetime.now(UTC))

    async def job(self, name: str = "a1") -> Job:
        job = await self.store.job(name)
        assert job is not None
        return job


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    store = JobStore(f"sqlite:///{tmp_path}/a.db", watch_interval=0.02)
    await store.create_tables()
    yield Site(store)
    await store.close()


async def test_nobody_is_asked_before_anybodys_turn(site: Site) -> None:
    await site.submitted()
    usual = Rhythm(base=30, floor=10)
    assert 0 < await site.poll(usual) <= 10
    assert site.cluster.calls == []
    site.poller.asked["a1"] = datetime.now(UTC) - timedelta(seconds=30)
    await site.store.append(make_event(S.QUEUED, 0, job="a1"))
    assert await site.poll(usual) > 0
    assert site.cluster.calls == []


async def test_the_scripts_success_is_looked_up_and_a_failure_stands(site: Site) -> None:
    await site.submitted()
    await site.store.append(make_event(S.COMPLETE, 0, source="webhook", exit_code=0))
    site.cluster.queue["id-a1"] = ("FAILED", None)
    site.cluster.history["id-a1"] = ("FAILED", 0)
    await site.poll()
    job = await site.job()
    assert (job.state, job.state_source) == (S.FAILED, "poll")
    assert [each.effect for each in await site.store.events("a1")][-2:] == [Effect.APPLIED, Effect.CONTRADICTED]
    site.cluster.calls.clear()
    await site.poll()
    assert site.cluster.calls == []


async def test_the_scripts_success_is_backed_once_without_the_history(site: Site) -> None:
    await site.submitted()
    await site.store.append(make_event(S.COMPLETE, 0, source="webhook", exit_code=0))
    site.cluster.queue["id-a1"] = ("COMPLETE", None)
    await site.poll()
    await site.poll()
    assert site.cluster.calls == [("status", ["id-a1"])]
    assert (await site.job()).state_source == "poll"


async def test_mail_of_a_signal_is_looked_up_once(site: Site) -> None:
    await site.submitted()
    await site.store.append(make_event(S.FAILED, 0, source="mail", outcome=Outcome.SIGNALED, signal=9))
    site.cluster.queue["id-a1"] = ("FAILED", None)
    site.cluster.history["id-a1"] = ("FAILED", 0)
    await site.poll()
    job = await site.job()
    assert (job.state, job.signal, job.state_source) == (S.FAILED, 9, "poll")
    site.cluster.calls.clear()
    await site.poll()
    assert site.cluster.calls == []


class WaitingLine(PaperScheduler):
    """One that says why its jobs wait.

    :ivar waits: outcome and words, by native id
    """

    def __init__(self) -> None:
        self.waits: dict[str, tuple[Outcome | None, str]] = {}

    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        found = super().parse_status(result, jobs)
        return {
            each: replace(status, outcome=self.waits[each][0], reason=self.waits[each][1])
            for each, status in found.items()
        }


@pytest_asyncio.fixture
async def line(site: Site) -> WaitingLine:
    """The site's scheduler, with a job that waits."""
    line = WaitingLine()

    async def connect(resource: str) -> Way:
        return Way(site.cluster, line)

    site.connect = connect  # type: ignore[method-assign]
    await site.submitted()
    site.cluster.queue["id-a1"] = ("QUEUED", None)
    return line


async def test_a_held_job_is_held_until_it_is_released(site: Site, line: WaitingLine) -> None:
    for wait in [(None, "Priority"), (Outcome.HELD, "JobHeldUser"), (None, "Resources")]:
        line.waits["id-a1"] = wait
        for _ in range(2):
            await site.poll()
            job = await site.job()
            assert (job.state, job.outcome, job.reason) == (S.QUEUED, *wait)
    line.waits["id-a1"] = (None, "Priority")
    await site.poll()
    effects = [each.effect for each in await site.store.events("a1")]
    assert effects == [Effect.APPLIED, Effect.APPLIED, Effect.CONFIRMED, Effect.CONFIRMED]


@pytest.mark.parametrize("first", ["mail", "poll"])
async def test_a_job_that_never_starts_is_known_from_mail_and_poll(site: Site, line: WaitingLine, first: str) -> None:
    line.waits["id-a1"] = (None, "Dependency")
    await site.poll()
    never = (Outcome.NEVER_STARTS, "DependencyNeverSatisfied")
    if first == "mail":
        news = make_event(S.QUEUED, source="mail", outcome=never[0], reason=never[1])
        await site.store.append(replace(news, at=datetime.now(UTC)))
        job = await site.job()
        assert (job.state, job.outcome, job.reason) == (S.QUEUED, *never)
    line.waits["id-a1"] = never
    for _ in range(2):
        await site.poll()
        job = await site.job()
        assert (job.state, job.outcome, job.reason, job.ended_at) == (S.QUEUED, *never, None)
    events = [(each.event.source, each.effect) for each in await site.store.events("a1")]
    assert events[2:] == [(first, Effect.CONFIRMED)]


async def test_an_end_is_not_revived_by_a_scheduler_that_is_slow_to_see_it(site: Site) -> None:
    await site.submitted()
    await site.store.append(make_event(S.COMPLETE, 0, source="webhook", exit_code=0))
    site.cluster.queue["id-a1"] = ("ACTIVE", None)
    await site.poll()
    site.cluster.queue.clear()
    await site.poll()
    assert (await site.job()).state is S.COMPLETE
    assert len(await site.store.events("a1")) == 2


async def test_given_up_with_every_sources_last_word(site: Site) -> None:
    # Its walltime is long over, whatever the year.
    site.poller.patience = Patience(missing_s=0, over_s=-1e9, walltime_s=0)
    await site.submitted()
    await site.store.append(make_event(S.ACTIVE, 0, source="webhook", reason="began"))
    await site.poll()
    job = await site.job()
    assert (job.state, job.ended_at is not None) == (S.UNKNOWN, True)
    assert "neither the queue nor the history" in job.reason
    assert "webhook at 2031-05-06 12:00:00: ACTIVE (began)" in job.reason
    assert "submission at " in job.reason


@pytest.mark.parametrize("how", ["unreachable", "queue", "history"])
async def test_a_silent_cluster_gives_nobody_up_before_a_long_time(site: Site, how: str) -> None:
    await site.submitted(walltime_s=10)
    site.unreachable = how == "unreachable"
    site.cluster.unreadable = {"queue": {"status"}, "history": {"history"}}.get(how, set())
    site.poller.patience = Patience(missing_s=0, over_s=0, unreachable_s=3600)
    await poll_anyhow(site)
    assert (await site.job()).state is S.SUBMITTED
    site.poller.patience = Patience(missing_s=0, over_s=0, unreachable_s=-3600)
    await poll_anyhow(site)
    job = await site.job()
    assert (job.state, job.ended_at is not None) == (S.UNKNOWN, True)
    assert "nobody could ask about it since" in job.reason
    assert "Last words: submission at" in job.reason


async def poll_anyhow(site: Site) -> None:
    try:
        await site.poll()
    except Exception as error:
        assert "no sense" in str(error) or "no route" in str(error)


async def test_the_relays_news_comes_with_the_status_in_one_command(site: Site) -> None:
    site.relay = "/scratch"
    await site.submitted()
    site.cluster.queue["id-a1"] = ("ACTIVE", None)
    site.cluster.files = {"a1:end-0.json": END, "nobody:end-0.json": END, "a1:odd.json": "{"}
    await site.poll()
    job = await site.job()
    assert (job.state, job.exit_code, job.state_source) == (S.FAILED, 3, "relay")
    assert site.poller.done == ["a1:end-0.json"]
    assert (site.cluster.collects, site.cluster.count("status")) == (1, 1)
    await site.submitted("a2")
    await site.poll()
    assert sorted(site.cluster.files) == ["a1:odd.json", "nobody:end-0.json"]


async def test_the_relay_of_one_resource_is_not_believed_about_another(site: Site) -> None:
    site.relay = "/scratch"
    await site.submitted()
    await site.submitted("a2", resource="other")
    site.cluster.files = {"a2:end-0.json": END.replace("a1", "a2")}
    await site.poll()
    assert (await site.job("a2")).state is S.SUBMITTED
    assert "a2:end-0.json" in site.cluster.files


async def test_files_that_stay_hide_no_later_news(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / f".airavata-relay-{os.getuid()}"
    folder.mkdir()
    for number in range(MOST_FILES):
        (folder / f"Nobody{number}:end-0.json").write_text(END)
    cluster = ShellCluster()
    cluster.queue = {"id-a1": ("ACTIVE", None), "id-a2": ("ACTIVE", None)}

    async def connect(resource: str) -> Way:
        return Way(cluster, PaperScheduler(), str(tmp_path))

    site.connect = connect  # type: ignore[method-assign]
    for name in ("a1", "a2"):
        await site.submitted(name)
        (folder / f"{name}:end-0.json").write_text(END.replace("a1", name))
        for _ in range(2):
            await site.poll()
        job = await site.job(name)
        assert (job.state, job.state_source) == (S.FAILED, "relay")


async def test_the_relay_is_collected_each_interval_also_when_nobody_is_asked_about(site: Site) -> None:
    site.relay = "/scratch"
    await site.submitted()
    site.cluster.queue["id-a1"] = ("ACTIVE", None)
    await site.poll()
    site.cluster.calls.clear()
    usual = Rhythm(base=30, floor=10)
    site.poller.collected_at = datetime.now(UTC) - timedelta(seconds=25)
    site.poller.asked["a1"] = datetime.now(UTC)
    assert 0 < await site.poll(usual) <= 5
    site.poller.collected_at = datetime.now(UTC) - timedelta(seconds=30)
    site.cluster.files = {"a1:end-0.json": END}
    await site.poll(usual)
    assert (await site.job()).state is S.FAILED
    assert site.cluster.calls == []


async def test_where_no_job_is_open_the_relay_makes_no_look_sooner(site: Site) -> None:
    site.relay = "/scratch"
    await site.submitted()
    site.cluster.queue["id-a1"] = ("ACTIVE", None)
    await site.poll()
    site.poller.collected_at = datetime.now(UTC) - timedelta(seconds=3600)
    await site.store.append(make_event(S.COMPLETE, 0, source="webhook", exit_code=0))
    site.poller.asked["a1"] = datetime.now(UTC) + timedelta(seconds=1)
    assert await site.poll(Rhythm(base=30, floor=10)) > 8


async def test_a_clock_that_is_set_back_is_not_waited_for(site: Site) -> None:
    await site.submitted()
    later = datetime.now(UTC) + timedelta(hours=1)
    site.poller.asked_at = later
    assert site.poller.rest_s(datetime.now(UTC)) == 0.0
    canceller = Canceller(site.poller, 3.0, 240.0, 600.0, {"a1": (5, later)})
    assert [job.name for job in canceller.due([await site.job()], datetime.now(UTC))] == ["a1"]


async def test_who_asks_beside_a_poll_that_takes_long_knows_that_the_cluster_answers(site: Site) -> None:
    await site.submitted()
    site.cluster.queue["id-a1"] = ("ACTIVE", None)
    await site.poll()
    since = site.poller.answers_since
    assert since is not None
    meanwhile: list[datetime | None] = []
    connect = site.connect

    async def slow(resource: str) -> Way:
        meanwhile.append(site.poller.answers_since)
        return await connect(resource)

    site.connect = slow  # type: ignore[method-assign]
    site.poller.asked.clear()
    await site.poll()
    assert meanwhile == [since]
    site.unreachable = True
    site.poller.asked.clear()
    with pytest.raises(ConnectFailed):
        await site.poll()
    assert site.poller.answers_since is None


@pytest_asyncio.fixture
async def writing(site: Site) -> AsyncIterator[tuple[Site, TailCluster, list[str]]]:
    """A job that runs and writes, and what is shown of it."""
    cluster, shown = TailCluster(), list[str]()
    cluster.queue["id-a1"] = ("ACTIVE", None)
    cluster.files["/a1/out"] = b"one\n"
    await site.submitted()

    async def connect(resource: str) -> Way:
        return Way(cluster, PaperScheduler())

    site.connect = connect  # type: ignore[method-assign]
    site.poller.show_s = 15.0
    with outputs().followed("cluster", "/a1/out", shown.extend):
        yield site, cluster, shown


async def test_one_command_brings_states_and_what_was_written(
    writing: tuple[Site, TailCluster, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, cluster, shown = writing
    await site.poll()
    assert (await site.job()).state is S.ACTIVE
    assert (shown, len(cluster.commands)) == (["one"], 1)
    # The jobs' turn comes again, and what they write was looked at just now.
    await site.poll()
    assert ["airavata_tail" in command for command in cluster.commands] == [True, False]
    # Time for what they write, and nobody's turn.
    monkeypatch.setattr("airavata_provider.monitors.rhythm.NEW_S", 0.0)
    site.poller.shown_at = datetime.now(UTC) - timedelta(seconds=15)
    cluster.files["/a1/out"] += b"two\n"
    await site.poll(Rhythm(base=300, floor=0.1))
    assert (shown, len(cluster.commands)) == (["one", "two"], 3)
    assert cluster.calls == [("status", ["id-a1"])] * 2


async def test_status_calls_are_no_closer_for_what_is_written(
    writing: tuple[Site, TailCluster, list[str]],
) -> None:
    site, cluster, shown = writing
    site.poller.show_s = 0.000001
    often = Rhythm(base=30, floor=10)
    site.poller.asked["a1"] = datetime.now(UTC) - timedelta(seconds=60)
    for calls in (1, 1, 2):
        cluster.files["/a1/out"] += b"more\n"
        await site.poll(often)
        assert cluster.count("status") == calls
        assert "airavata_tail" in cluster.commands[-1]
        if len(cluster.commands) == 2 and site.poller.asked_at is not None:
            site.poller.asked_at -= timedelta(seconds=10)
    assert shown == ["one", "more", "more", "more"]


async def test_a_stuck_file_system_does_not_hide_states(writing: tuple[Site, TailCluster, list[str]]) -> None:
    site, cluster, shown = writing
    cluster.stuck = True
    with pytest.raises(CommandTimedOut):
        await site.poll()
    await site.poll()
    assert (await site.job()).state is S.ACTIVE
    for failures in (2, 3):
        site.poller.shown_at = datetime.now(UTC) - timedelta(seconds=16 * 2 ** (failures - 1))
        await site.poll()
        assert site.poller.show_failures == failures
    assert 60 < site.poller._show_in(datetime.now(UTC)) < 15 * 2**3
    cluster.stuck = False
    site.poller.shown_at = datetime.now(UTC) - timedelta(seconds=120)
    await site.poll()
    assert (shown, site.poller.show_failures) == (["one"], 0)


async def test_nobody_looks_where_it_is_off(writing: tuple[Site, TailCluster, list[str]]) -> None:
    site, cluster, shown = writing
    site.poller.show_s = 0
    await site.poll()
    assert (shown, "airavata_tail" in cluster.commands[0]) == ([], False)


async def test_who_does_not_lead_brings_no_states(writing: tuple[Site, TailCluster, list[str]]) -> None:
    site, cluster, shown = writing
    site.poller.rhythm = Rhythm(base=30, floor=30)
    assert 0 < await site.poller.poll(site.connect, leads=False) <= 15
    assert (shown, cluster.calls) == (["one"], [])


async def test_a_record_is_read_once_per_version(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    named = site.store.jobs_named

    async def noted(names: Collection[str]) -> list[Job]:
        read.extend(names)
        return await named(names)

    monkeypatch.setattr(site.store, "jobs_named", noted)
    for name in ("a1", "a2"):
        await site.submitted(name)
    quiet = Rhythm(base=300, floor=300)
    await site.poll(quiet)
    await site.poll(quiet)
    assert read == ["a1", "a2"]
    await site.store.append(make_event(S.ACTIVE, 0, job="a1"))
    await site.store.append(make_event(S.COMPLETE, 0, job="a2"))
    await site.poll(quiet)
    assert read == ["a1", "a2", "a1"]
    assert [(name, job.state) for name, job in site.poller.known.items()] == [("a1", S.ACTIVE)]
