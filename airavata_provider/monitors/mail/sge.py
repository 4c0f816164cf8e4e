"""Grid Engine's mail: the subject names the job and the event, the body has the end's numbers.

Subjects, from the sources (``daemons/common/msg_daemons_common.h``, ``msg_qmaster.h``): ``Job 33 (name) Started``,
``Complete``, ``Aborted``, ``Killed``, ``Suspended``, ``Continued``, ``Rescheduled``, ``Migrates``, ``Set in error
state``; for an array's element ``Job-array task 33.2 (name) …``. A job that failed is ``Complete`` too: ``Exit
Status = N`` in the body tells. ``Aborted`` is each job that a signal ended, whoever sent it: one over its limit, one
that crashed, and one that was deleted, which a ``Killed`` (``was killed by root@host``) has told before: a failure by
a signal, which the cancel explains where there is one (:mod:`airavata_provider.jobs.state`). Bodies as captured from
8.1.9. Pure; no Airflow.
"""

from __future__ import annotations

import re
import signal

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.mail.message import Mail
from airavata_provider.monitors.mail.news import Decoder, MailNews
from airavata_provider.schedulers.sge_states import state_of

_SHAPE = re.compile(
    r"^Job(?:-array task)? (?P<id>\d+)(?:\.(?P<index>\d+))? \((?P<name>.*)\) "
    r"(?P<verb>Started|Complete|Aborted|Killed|Failed|Suspended|Continued|Migrates|Set in error state"
    r"|Rescheduled(?: due to application error)?)$"
)
_EXIT = re.compile(r"^\s*Exit Status\s*=\s*(\d+)", re.MULTILINE)
_SIGNAL = re.compile(r"^\s*Signal\s*=\s*(\w+)", re.MULTILINE)
_BECAUSE = re.compile(r"^failed .*? because:[ \t]*\n?(.+)|\bbecause[: ]+(.+)|\b(was killed by \S+)", re.MULTILINE)
_LIMIT = re.compile(r"^failed (.*? enforced .*? limit)\b", re.MULTILINE)
_TIME = re.compile(r"\b[hs]_(?:rt|cpu)\b")
_MEMORY = re.compile(r"\b[hs]_(?:vmem|rss|data)\b")

_GOES_ON = {
    "Started": JobState.ACTIVE,
    "Continued": JobState.ACTIVE,
    "Suspended": JobState.SUSPENDED,
    "Migrates": JobState.QUEUED,
    "Rescheduled": JobState.QUEUED,
    "Rescheduled due to application error": JobState.QUEUED,
}


def decode(mail: Mail) -> MailNews | None:
    """News from subject and body; None for a ``Complete`` whose body says no exit status."""
    found = _SHAPE.match(mail.subject)
    if found is None:
        return None
    verb = found["verb"]
    exit_code, number, reason = None, None, ""
    outcome: Outcome | None = None
    if verb in _GOES_ON:
        state = _GOES_ON[verb]
        if verb == "Suspended":
            outcome = Outcome.SUSPENDED
    elif verb == "Set in error state":
        # It stays in the queue, until someone clears or deletes it.
        state, outcome, reason = state_of("Eqw", reason=_because(mail.body) or verb)
    elif verb == "Complete":
        status = _EXIT.search(mail.body)
        if status is None:
            return None
        exit_code = int(status[1][:9])
        state = JobState.COMPLETE if exit_code == 0 else JobState.FAILED
        outcome = Outcome.COMPLETED if exit_code == 0 else Outcome.FAILED
        if exit_code > 128 and exit_code - 128 in {each.value for each in signal.Signals}:
            outcome, number = Outcome.SIGNALED, exit_code - 128
    elif verb == "Killed":
        state, outcome, reason = JobState.CANCELED, Outcome.CANCELED, _because(mail.body) or verb
    else:
        state, outcome, reason = JobState.FAILED, Outcome.FAILED, _because(mail.body) or verb
        number = _number(mail.body) if verb == "Aborted" else None
        if limit := _LIMIT.search(mail.body):
            outcome, reason = _limited(limit[1]), limit[1]
        elif number is not None or reason == "Aborted":
            outcome = Outcome.SIGNALED
    # Tasks count from 1, elements from 0.
    index = int(found["index"]) - 1 if found["index"] else None
    return MailNews(
        native_id=found["id"],
        name=found["name"],
        state=state,
        at=mail.at,
        outcome=outcome,
        exit_code=exit_code,
        signal=number,
        reason=reason,
        index=index,
        other_ids=() if index is None else (f"{found['id']}.{found['index']}",),
    )


def _limited(words: str) -> Outcome:
    """What the limit was about; a word that names several kinds of limits tells of none."""
    time, memory = _TIME.search(words), _MEMORY.search(words)
    if time and not memory:
        return Outcome.WALLTIME
    return Outcome.OUT_OF_MEMORY if memory and not time else Outcome.SIGNALED


def _because(body: str) -> str:
    found = _BECAUSE.search(body)
    return " ".join((found[1] or found[2] or found[3]).split())[:300] if found else ""


def _number(body: str) -> int | None:
    found = _SIGNAL.search(body)
    name = f"SIG{found[1]}" if found else ""
    return signal.Signals[name].value if name in signal.Signals.__members__ else None


DECODER = Decoder(re.compile(r"^Job(?:-array task)? \d+(?:\.\d+)? \("), decode)
