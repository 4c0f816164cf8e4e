"""LSF's mail: the subject names the job and the event, the body says why a job ended.

``Job 2477: <name> started`` (``bsub -B``), ``Done``, ``Exited`` (``bsub -N``), also ``Job 2477: <name> in cluster
<c> Done``; of an array's element ``Job 2477[3]: <name[1-10]> …``. Body, after the job's script: ``Exited with exit
code N.`` or ``Exited by signal N.``, before it LSF's own reason (``TERM_RUNLIMIT: job killed after reaching LSF run
time limit.``; "bacct" in the reference lists them). Pure; no Airflow.
"""

from __future__ import annotations

import re

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.mail.message import Mail
from airavata_provider.monitors.mail.news import Decoder, MailNews
from airavata_provider.schedulers.lsf_states import TERMS

_SHAPE = re.compile(
    r"^Job (?P<id>\d+)(?:\[(?P<index>\d+)\])?: <(?P<name>.*?)>(?: in cluster <[^<>]*>)? "
    r"(?P<verb>started|done|exited)$",
    re.IGNORECASE,
)
_ELEMENTS = re.compile(r"\[[\d,:%-]+\]$")
_CODE = re.compile(r"^Exited with exit code (\d+)\.", re.MULTILINE)
_SIGNAL = re.compile(r"^Exited by signal (\d+)\.", re.MULTILINE)
_TERM = re.compile(r"^(TERM_[A-Z_]+)\b(.*)$", re.MULTILINE)

_REQUEUED = frozenset({"TERM_REQUEUE_OWNER", "TERM_REQUEUE_ADMIN", "TERM_REQUEUE_RC"})


def decode(mail: Mail) -> MailNews | None:
    """News from subject and body."""
    found = _SHAPE.match(mail.subject)
    if found is None:
        return None
    verb = found["verb"].lower()
    exit_code, number, reason, outcome = None, None, "", None
    if verb == "started":
        state = JobState.ACTIVE
    elif verb == "done":
        state, outcome, exit_code = JobState.COMPLETE, Outcome.COMPLETED, 0
    else:
        state, outcome, exit_code, number, reason = _exited(mail.body)
    # LSF counts from 1, elements from 0.
    index = int(found["index"]) - 1 if found["index"] else None
    return MailNews(
        native_id=found["id"],
        name=found["name"] if index is None else _ELEMENTS.sub("", found["name"]),
        state=state,
        at=mail.at,
        outcome=outcome,
        exit_code=exit_code,
        signal=number,
        reason=reason,
        index=index,
        other_ids=() if index is None else (f"{found['id']}[{found['index']}]",),
    )


def _exited(body: str) -> tuple[JobState, Outcome | None, int | None, int | None, str]:
    # The script comes first and may say anything: the last word is LSF's.
    words, codes, signals = (list(shape.finditer(body)) for shape in (_TERM, _CODE, _SIGNAL))
    term = words[-1] if words else None
    exit_code = int(codes[-1][1][:9]) if codes else None
    number = int(signals[-1][1][:9]) if signals else None
    reason = " ".join(term[0].split())[:300] if term else ""
    if term and term[1] in _REQUEUED:
        return JobState.QUEUED, None, None, None, reason
    default = Outcome.SIGNALED if number is not None else Outcome.FAILED
    outcome = TERMS.get(term[1], default) if term else default
    state = JobState.CANCELED if outcome is Outcome.CANCELED else JobState.FAILED
    return state, outcome, exit_code, number, reason


DECODER = Decoder(re.compile(r"^Job \d+(?:\[\d+\])?: <"), decode)
