"""What a scheduler's mail says about a job, and who can tell: one decoder per scheduler.

A decoder is found by its scheduler's word, in the entry points ``airavata.mail_decoders``: which one reads a
message is decided by the resources that a mailbox serves, never by who seems to have sent it. Pure; no Airflow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import entry_points

from airavata_provider.errors import ConfigurationError
from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.mail.message import Mail

GROUP = "airavata.mail_decoders"


@dataclass(frozen=True)
class MailNews:
    """News of one job, before anyone knows whose it is.

    :param native_id: the scheduler's id; of an array's element the array's
    :param name: the job's name in the scheduler; an array's elements share it
    :param state: what the message says that the job does now
    :param at: when
    :param outcome: how it ended, where the message tells more than the state
    :param exit_code: the payload's, where the message has it
    :param signal: the signal that ended it, where the message has it
    :param reason: the scheduler's own words
    :param index: of an array's element, as ``Scheduler.element_id`` counts: from 0, whatever the scheduler's way is
    :param other_ids: other ways in which this scheduler may have written the same id when the job was submitted
    """

    native_id: str
    name: str
    state: JobState
    at: datetime
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    index: int | None = None
    other_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decoder:
    """How one scheduler's mail is read.

    :param subject: found in the subjects of all its messages; others are not fetched
    :param decode: the news in a message; None when it tells of no job's state. Pure, raises nothing
    :param needs_body: False: the subject says it all
    """

    subject: re.Pattern[str]
    decode: Callable[[Mail], MailNews | None]
    needs_body: bool = True


@cache
def decoder(scheduler: str) -> Decoder | None:
    """The decoder of that scheduler's mail; None when there is none.

    :raises ConfigurationError: it does not load
    """
    for entry in entry_points(group=GROUP, name=scheduler):
        try:
            loaded = entry.load()
        except Exception as error:
            raise ConfigurationError(f"mail decoder {scheduler!r} ({entry.value}) does not load: {error}") from error
        if not isinstance(loaded, Decoder):
            raise ConfigurationError(f"mail decoder {scheduler!r} ({entry.value}) is not a Decoder")
        return loaded
    return None
