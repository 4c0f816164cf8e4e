"""A job script's news, as a job event. Pure.

The script's own clock (``time``) only informs: an event is dated by its arrival, because the clocks of compute nodes
stray, and of two states the later one counts. What an end means is ``schedulers.record``'s to say.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from airavata_provider.models.job import EventSource, JobEvent, JobState
from airavata_provider.schedulers.record import state_of_end

_Id = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


class WebhookCall(BaseModel):
    """The body of a job script's call; anything else is refused.

    :param event: ``start``: the script began; ``end``: it is about to end
    :param id: of this piece of news; a repeated call has the same
    :param exit_code: with ``end``: the payload's exit status
    :param signal: the signal that ended it
    :param reason: why it ends, when the end came from outside
    :param time: the script's own time, ISO 8601
    :param native_id: the scheduler's id of the job
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    event: Literal["start", "end"]
    id: _Id
    exit_code: Annotated[int, Field(ge=-255, le=255)] | None = None
    signal: Annotated[int, Field(ge=1, le=255)] | None = None
    reason: Annotated[str, Field(max_length=1000)] = ""
    time: Annotated[str, Field(max_length=40)] | None = None
    native_id: _Id | None = None

    @model_validator(mode="after")
    def _end_has_a_status(self) -> WebhookCall:
        if self.event == "end" and self.exit_code is None and self.signal is None:
            raise ValueError("an end needs an exit_code or a signal")
        return self


def event_of(job: str, call: WebhookCall, received_at: datetime) -> JobEvent:
    """The event that the call tells of.

    :param job: the job's name, from the call's path
    :param received_at: timezone-aware
    """
    state, exit_code = JobState.ACTIVE, None
    if call.event == "end":
        exit_code = call.exit_code if call.exit_code is not None else 128 + (call.signal or 0)
        state = state_of_end(exit_code, call.signal, call.reason)
    return JobEvent(
        job=job,
        source=EventSource.WEBHOOK,
        event_id=call.id,
        state=state,
        at=received_at,
        exit_code=exit_code,
        signal=call.signal if call.event == "end" else None,
        reason=call.reason,
        native_id=call.native_id,
    )
