from __future__ import annotations

import gc
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airavata_provider.errors import StoreError
from airavata_provider.jobs import tokens
from airavata_provider.jobs.store import JobStore
from airavata_provider.models.job import JobEvent, JobState
from airavata_provider.monitors.webhook import WebhookCall
from airavata_provider.plugin import webhook
from airavata_provider.settings import get_settings
from tests.unit.jobs.factory import at, make_job

TOKENS = tokens.WebhookTokens("a secret")
START = {"event": "start", "id": "start-17-0", "exit_code": None, "signal": None, "reason": "", "native_id": "17"}
END = {"event": "end", "id": "end-17-0", "exit_code": 3, "signal": None, "reason": "", "native_id": "17"}


class Door:
    """The route, called as a job script calls it."""

    def __init__(self, client: httpx.AsyncClient, store: JobStore) -> None:
        self.client = client
        self.store = store

    async def call(
        self, body: dict[str, Any] | bytes | AsyncIterator[bytes], job: str = "a1", token: str | None = None
    ) -> int:
        headers = {"Authorization": f"Bearer {TOKENS.token(job) if token is None else token}"}
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        response = await self.client.post(f"/jobs/{job}/events", content=content, headers=headers)
        return response.status_code

    async def state(self, job: str = "a1") -> JobState | None:
        stored = await self.store.job(job)
        assert stored is not None
        return stored.state


@pytest_asyncio.fixture
async def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    store = JobStore(f"sqlite:///{tmp_path}/a.db")
    await store.create_tables()
    await store.intend(make_job())
    monkeypatch.setattr(webhook, "get_store", lambda: store)
    monkeypatch.setattr(webhook, "verify", TOKENS.verify)
    monkeypatch.setattr(gc, "freeze", lambda: None)  # for servers that stay
    app = FastAPI()
    app.include_router(webhook.router)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
        yield Door(client, store)
    await store.close()


async def test_a_jobs_life(door: Door) -> None:
    """Before its id is saved, too: a short job is faster than its submission."""
    assert await door.call(START) == 204
    assert await door.state() is JobState.ACTIVE
    await door.store.submitted("a1", "17", at(0))
    assert await door.call(END) == 204
    assert await door.state() is JobState.FAILED


async def test_what_the_server_loaded_is_set_aside_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))
    webhook._settle.cache_clear()
    assert [await door.call(START), await door.call(START)] == [204, 409]
    assert frozen == [1]


async def test_an_arrays_elements_speak_with_its_token(door: Door) -> None:
    await door.store.intend_array(make_job("a2"), range(3))
    await door.store.intend_array(make_job("a3"), range(3))
    token = TOKENS.token("a2")
    assert await door.call({**START, "native_id": "17_1"}, job="a2.1", token=token) == 204
    assert await door.state("a2.1") is JobState.ACTIVE
    assert await door.state("a2") is JobState.ACTIVE
    # Another array's element, no element, the array itself, a plain job.
    for job in ("a3.1", "a2.7", "a2.1.1", "a2.", "a2", "a1"):
        assert await door.call(END, job=job, token=token) == 401
    assert await door.state("a3") is None
    assert await door.state("a2.0") is None


async def test_a_token_ends_with_its_job(door: Door) -> None:
    """What a script says last can be under way for a while; long after the end its token is worth nothing."""
    now = datetime.now(UTC)
    grace = timedelta(seconds=get_settings().webhook_grace)
    for name, ago in (("a1", grace - timedelta(minutes=1)), ("a4", grace + timedelta(minutes=1))):
        await door.store.intend(make_job(name))
        await door.store.append(JobEvent(name, "poll", "end", JobState.FAILED, now - ago))
    assert await door.call(END, job="a1") == 204
    before = await door.store.events("a4")
    assert await door.call(END, job="a4") == 401
    assert await door.store.events("a4") == before


async def test_replayed(door: Door) -> None:
    await door.call(START)
    before = await door.store.job("a1")
    assert await door.call(START) == 409
    assert await door.store.job("a1") == before


async def test_another_id_of_the_scheduler(door: Door) -> None:
    await door.store.submitted("a1", "18", at(0))
    before = await door.store.job("a1")
    assert await door.call(END) == 409
    assert await door.store.job("a1") == before


async def test_wrong_token_and_unknown_job_get_one_answer(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bad = TOKENS.token("a2")
    texts = []
    for job, header in [
        ("a1", f"Bearer {bad}"),
        ("nobody", f"Bearer {bad}"),
        ("nobody", f"Bearer {TOKENS.token('nobody')}"),
        ("a1", ""),
        ("a1", f"Basic {TOKENS.token('a1')}"),
    ]:
        response = await door.client.post(f"/jobs/{job}/events", json=START, headers={"Authorization": header})
        texts.append((response.status_code, response.text, response.headers["content-type"]))
    assert set(texts) == {(401, "not authorised", "text/plain; charset=utf-8")}
    assert await door.store.events("a1") == []
    assert "refused with 401" in caplog.text
    assert bad.partition(".")[2] not in caplog.text


async def test_oversized(door: Door) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b" " * 1024

    assert await door.call(b" " * 8193) == 413
    assert await door.call(chunks()) == 413
    assert await door.call(json.dumps(START).encode().ljust(8192)) == 204


async def test_malformed(door: Door) -> None:
    for body in (b"", b"\xff\xfe", b"{", b"[1]", b'{"event": "start"}', b"1" * 8000, b"[" * 8000):
        assert await door.call(body) == 422
    assert await door.call({**END, "exit_code": "3"}) == 422
    assert await door.call({**END, "more": "x"}) == 422
    assert await door.store.events("a1") == []


@given(body=st.binary(max_size=300))
def test_no_body_is_an_error_of_ours(body: bytes) -> None:
    try:
        WebhookCall.model_validate_json(body)
    except ValidationError as error:
        assert error.errors()


async def test_the_store_does_not_answer(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(event: object, **_: object) -> None:
        raise StoreError("no answer")

    monkeypatch.setattr(door.store, "append", fail)
    assert await door.call(START) == 503


async def test_hostile_names(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    assert await door.call(START, job="a1%0Aforged", token="x") == 401
    assert "\nforged" not in caplog.text
