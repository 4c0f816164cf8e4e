"""``POST /jobs/{job}/events``: where job scripts tell their news. An array's element is ``{array}.{index}``,
and shows the array's token; the array itself has no news.

What always holds: nothing is read of a body before the token is checked; nothing at all changes on an answer of
4xx; a wrong token and a job that nobody knows get the same answer; the token is in no log.

| answer | when |
| --- | --- |
| 204 | stored |
| 401 | no token, a wrong one, no such job; or the job ended longer than ``[airavata] webhook_grace`` ago |
| 409 | this news came before; or it is about another id of the scheduler than the job's |
| 413 | more than 8 KiB |
| 422 | not the fields that ``monitors.webhook`` wants |
| 503 | the store does not answer: try again |
"""

from __future__ import annotations

import functools
import gc
import logging
from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from airavata_provider.errors import JobUnknown, StoreError
from airavata_provider.jobs.store import get_store
from airavata_provider.jobs.tokens import verify
from airavata_provider.models.job import Effect, Job
from airavata_provider.monitors.webhook import WebhookCall, event_of
from airavata_provider.settings import get_settings

log = logging.getLogger(__name__)
router = APIRouter()

BODY_LIMIT = 8 * 1024
"""Bytes of a call's body that are read at most."""

_NOT_AUTHORISED = "not authorised"


class _RefusedError(Exception):
    """The call is answered with that status and nothing is changed."""

    def __init__(self, status: int, why: str) -> None:
        self.status = status
        self.why = why
        super().__init__(why)


@router.post("/jobs/{job}/events", status_code=204)
async def receive(job: str, request: Request) -> Response:
    """Store a job script's news; see the module."""
    _settle()
    try:
        await _store(job, await _read(job, request))
    except _RefusedError as refused:
        # The name is the caller's: only a harmless form of it is logged.
        log.warning("Webhook call for job %s refused with %d: %s", ascii(job[:64]), refused.status, refused.why)
        return Response(refused.why, refused.status, media_type="text/plain")
    except StoreError as error:
        log.warning("News of job %s could not be stored: %s", job, error)
        return Response("try again", 503, {"Retry-After": "2"}, media_type="text/plain")
    return Response(status_code=204)


@functools.cache
def _settle() -> None:
    """Take what the API server loaded out of the collector's sight, once.

    Each call makes objects, which sets the collector off, and every full pass over Airflow's hundreds of thousands of
    lasting ones holds all callers up: that was a fifth of the server's time, and most of its slowest answers.
    """
    gc.collect()
    gc.freeze()


async def _read(job: str, request: Request) -> WebhookCall:
    if not verify(job, _bearer(request)):
        raise _RefusedError(401, _NOT_AUTHORISED)
    body = await _body(request)
    if body is None:
        raise _RefusedError(413, f"more than {BODY_LIMIT} bytes")
    try:
        return WebhookCall.model_validate_json(body)
    except ValidationError as error:
        faults = ", ".join(".".join(map(str, fault["loc"]))[:80] or "body" for fault in error.errors())
        raise _RefusedError(422, f"not a job's news: {faults[:300]!a}") from None


async def _store(job: str, call: WebhookCall) -> None:
    now = datetime.now(UTC)
    event = event_of(job, call, now)
    try:
        effect = await get_store().append(event, check=lambda stored: _still_good(stored, now))
    except JobUnknown:
        raise _RefusedError(401, _NOT_AUTHORISED) from None
    if effect is Effect.DUPLICATE:
        raise _RefusedError(409, "this came before")
    if effect is Effect.IMPOSSIBLE:
        raise _RefusedError(409, f"the job has another id than {call.native_id}")
    log.info("Job %s: %s is %s", job, event.state, effect)


def _still_good(job: Job, now: datetime) -> None:
    """A token ends with its job, and with the time in which its script's last words can be under way.

    :raises _RefusedError: that is over
    """
    grace = timedelta(seconds=get_settings().webhook_grace)
    if job.ended_at is not None and now - job.ended_at > grace:
        raise _RefusedError(401, _NOT_AUTHORISED)


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _body(request: Request) -> bytes | None:
    """The body, None when it is too long, whatever its headers say."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            return None
    return bytes(body)
