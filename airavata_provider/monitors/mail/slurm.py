"""SLURM's mail: the subject says it all.

``slurmctld`` writes the subject and its ``MailProg`` sends it, by itself with an empty body. Shapes as captured
from 22.05.8; ``Slurm Job_id=123 Name=any text Failed, Run time 00:00:05, FAILED, ExitCode 1``, with ``Array Task``
before ``Job_id`` for an array's element (``--mail-type=ARRAY_TASKS``) and ``Array Summary`` for all of them
together. A name may hold anything, so it ends at the last of the words that it can be followed by. Pure; no Airflow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.mail.message import Mail
from airavata_provider.monitors.mail.news import Decoder, MailNews
from airavata_provider.schedulers.slurm import QUEUE_STATES, neutral

_SHAPE = re.compile(
    r"^(?:\[[^\]]*\]\s*)?Slurm (?P<kind>Array Task )?Job_id=(?P<id>\d+)(?:_(?P<index>\d+))?(?: \(\d+\))? "
    r"Name=(?P<name>.*) "
    r"(?P<verb>Began|Ended|Failed|Requeued|Staged Out|Invalid dependency)(?P<rest>, .*)?$"
)
_END = re.compile(r", (?P<word>[A-Z][A-Z_]+)(?:, ExitCode (?P<code>\d+))?$")

OUTCOMES: Mapping[str, Outcome] = {
    "BOOT_FAIL": Outcome.NODE_FAILURE,
    "CANCELLED": Outcome.CANCELED,
    "COMPLETED": Outcome.COMPLETED,
    "DEADLINE": Outcome.WALLTIME,
    "LAUNCH_FAILED": Outcome.NODE_FAILURE,
    "NODE_FAIL": Outcome.NODE_FAILURE,
    "OUT_OF_MEMORY": Outcome.OUT_OF_MEMORY,
    "PREEMPTED": Outcome.PREEMPTED,
    "TIMEOUT": Outcome.WALLTIME,
}


def decode(mail: Mail) -> MailNews | None:
    """News from a subject. Warnings ("Reached 80% of time limit") and an array's summary are none."""
    found = _SHAPE.match(mail.subject)
    # The id of an element comes with its index, and only then.
    if found is None or (found["kind"] is None) != (found["index"] is None):
        return None
    verb, rest = found["verb"], found["rest"] or ""
    exit_code, outcome, reason = None, None, ""
    if verb in ("Began", "Staged Out"):
        state = JobState.ACTIVE
    elif verb == "Requeued":
        state = JobState.QUEUED
    elif verb == "Invalid dependency":
        state, outcome, reason = JobState.QUEUED, Outcome.NEVER_STARTS, "DependencyNeverSatisfied"
    else:
        end = _END.search(rest)
        if end is None:
            return None
        word, state = neutral(end["word"], QUEUE_STATES)
        code = int(end["code"]) if end["code"] else None
        # A job that timed out or was cancelled shows 0, which is nobody's exit code.
        exit_code = code or (0 if state is JobState.COMPLETE else None)
        # A payload that a signal ended has no ExitCode.
        outcome = OUTCOMES.get(word, Outcome.SIGNALED if end["code"] is None else Outcome.FAILED)
        outcome = outcome if state is not JobState.UNKNOWN else None
        reason = "" if word in ("COMPLETED", "FAILED") else word
    array, index = found["id"], int(found["index"]) if found["index"] else None
    return MailNews(
        native_id=array,
        name=found["name"],
        state=state,
        at=mail.at,
        outcome=outcome,
        exit_code=exit_code,
        reason=reason,
        index=index,
        other_ids=() if index is None else (f"{array}_{index}",),
    )


DECODER = Decoder(re.compile(r"\bSlurm (?:Array (?:Task|Summary) )?Job_id="), decode, needs_body=False)
