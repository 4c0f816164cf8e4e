from __future__ import annotations

import pytest
from pydantic import ValidationError

from airavata_provider.models.job import JobState
from airavata_provider.monitors.webhook import WebhookCall, event_of
from tests.unit.jobs.factory import at

S = JobState


@pytest.mark.parametrize(
    ("body", "state", "exit_code", "signal"),
    [
        ('{"event": "start", "id": "start-17-0", "native_id": "17", "exit_code": null}', S.ACTIVE, None, None),
        ('{"event": "end", "id": "end-17-0", "exit_code": 0, "signal": null}', S.COMPLETE, 0, None),
        ('{"event": "end", "id": "end-17-0", "exit_code": 3}', S.FAILED, 3, None),
        ('{"event": "end", "id": "e", "exit_code": 139, "signal": 11}', S.FAILED, 139, 11),
        # Told to stop from outside: only the scheduler knows whether that is the end.
        ('{"event": "end", "id": "e", "exit_code": 143, "signal": 15}', S.NON_CRITICAL_FAIL, 143, 15),
        ('{"event": "end", "id": "e", "exit_code": 0, "reason": "SIGNAL TERM"}', S.NON_CRITICAL_FAIL, 0, None),
        ('{"event": "end", "id": "e", "signal": 11}', S.FAILED, 139, 11),
    ],
)
def test_what_a_call_says(body: str, state: JobState, exit_code: int | None, signal: int | None) -> None:
    event = event_of("a1", WebhookCall.model_validate_json(body), at(5))
    assert (event.state, event.exit_code, event.signal, event.at) == (state, exit_code, signal, at(5))
    assert (event.job, event.source) == ("a1", "webhook")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "null",
        '{"event": "end", "id": "e"}',
        '{"event": "pause", "id": "e"}',
        '{"event": "start"}',
        '{"event": "start", "id": ""}',
        '{"event": "start", "id": "a b"}',
        '{"event": "start", "id": "' + "x" * 201 + '"}',
        '{"event": "start", "id": "e", "more": 1}',
        '{"event": "end", "id": "e", "exit_code": "0"}',
        '{"event": "end", "id": "e", "exit_code": true}',
        '{"event": "end", "id": "e", "exit_code": 4711}',
        '{"event": "end", "id": "e", "exit_code": 0, "native_id": "1\\u0000"}',
    ],
)
def test_everything_else_is_refused(body: str) -> None:
    with pytest.raises(ValidationError):
        WebhookCall.model_validate_json(body)
