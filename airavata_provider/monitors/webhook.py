"""A job script's news, as a job event. Pure.

The clocks of compute nodes stray, and of two states the later one counts: so the script's own ``time`` is believed
where it can be true, which for a call is up to a minute before its arrival (it is tried again for 20 s). Else the
arrival counts. What an end means is ``schedulers.record``'s to say.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from airavata_provider.models.job import EventSource, JobEvent, JobState
from airavata_provider.models.outcome import Outcome
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


BELIEVED_S = 60.0
"""How old a call can be when it arrives."""


def event_of(
    job: str,
    call: WebhookCall,
    received_at: datetime,
    *,
    source: EventSource = EventSource.WEBHOOK,
    earliest: datetime | None = None,
) -> JobEvent:
    """The event that the call tells of.

    :param job: the job's name, from the call's path
    :param received_at: timezone-aware
    :param source: how it came
    :param earliest: when it can have happened at the earliest; default: :data:`BELIEVED_S` before its arrival
    """
    state, exit_code = JobState.ACTIVE, None
    if call.event == "end":
        exit_code = call.exit_code if call.exit_code is not None else 128 + (call.signal or 0)
        state = state_of_end(exit_code, call.signal, call.reason)
    return JobEvent(
        job=job,
        source=source,
        event_id=call.id,
        state=state,
        at=_moment(call.time, received_at, earliest or received_at - timedelta(seconds=BELIEVED_S)),
        exit_code=exit_code,
        signal=call.signal if call.event == "end" else None,
        reason=call.reason,
        native_id=call.native_id,
        outcome=_outcome(state, call),
    )


def _outcome(state: JobState, call: WebhookCall) -> Outcome | None:
    """What the script can know of the kind of its end; the scheduler may know better."""
    if state is JobState.COMPLETE:
        return Outcome.COMPLETED
    if state is JobState.FAILED:
        return Outcome.SIGNALED if call.signal is not None else Outcome.FAILED
    return None


def _moment(told: str | None, received_at: datetime, earliest: datetime) -> datetime:
    """The script's time, where it can be true; it is whole seconds, so what it tells was within the next one."""
    try:
        moment = datetime.strptime(told or "", "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) + timedelta(seconds=1)
    except ValueError:
        return received_at
    return min(moment, received_at) if moment >= earliest else received_at
