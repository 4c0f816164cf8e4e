from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from airavata_provider.jobs import rounds
from airavata_provider.jobs.admitter import Admitter
from airavata_provider.jobs.engine import WRITES
from airavata_provider.jobs.limits import Limits
from airavata_provider.jobs.rounds import Call, run_round
from airavata_provider.models.job import JobState
from tests.unit.jobs.admitter_contract import FAST, PLACE, AdmitterContract, Process, until
from tests.unit.jobs.factory import make_event


class TestPostgreSQL(AdmitterContract):
    @pytest.fixture
    def url(self, postgres_db: str) -> str:
        return postgres_db

    async def test_a_process_that_stops_in_its_round_stops_nobody_else(
        self, one: Process, two: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rounds, "SILENCE_MS", 3000)
        engine = one.store._engine.execution_options(**{WRITES: True})
        connection = await engine.connect()
        await connection.begin()
        await run_round(connection, Call("stopped", one.limits))
        assert (await asyncio.wait_for(two.submit("other"), 120)).native_id
        await connection.invalidate()
        await connection.close()

    async def test_one_round_follows_an_end_and_none_other_news(
        self, one: Process, two: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = 0
        round_ = Admitter._round

        async def counted(self: Admitter) -> None:
            nonlocal count
            count += 1
            await round_(self)

        patient = replace(FAST, tick=3600.0, least=0.5, sweep=3600.0)
        limits = Limits({PLACE: 1})
        rivals = [Process(each.store, limits, patient) for each in (one, two)]
        await rivals[0].submit("first")
        waiting = [asyncio.create_task(each.submit(f"w{n}")) for n, each in enumerate(rivals * 2)]
        await until(lambda: all(each.admitter.waiting == 2 for each in rivals))
        monkeypatch.setattr(Admitter, "_round", counted)
        # What came with them is done, and heard.
        await until(lambda: all(each.store._watcher._hears for each in rivals))
        quiet = -1
        while quiet != count:
            quiet = count
            await asyncio.sleep(1.5)
        count = 0
        for n, state in enumerate((JobState.QUEUED, JobState.ACTIVE)):
            await one.store.append(make_event(state, n, job="first"))
        await asyncio.sleep(1.0)
        assert count == 0
        # The second is late, and hears of the first one's round before its own.
        late = rivals[1].admitter
        late._next = asyncio.get_running_loop().time() + 3600
        await one.end("first")
        await until(lambda: any(each.done() for each in waiting) and not late._kick.is_set())
        assert count == 1
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
