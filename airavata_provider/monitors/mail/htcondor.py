"""HTCondor's mail: the subject has the id, the body the executable and the end.

``[Condor] Condor Job 123.0``; body ``Your Condor job 123.0``, the command line, ``has exited normally with status 0``
(or ``exited with status``, ``was killed by signal 9``, ``was removed``). No message tells of a start. None names
the job: its name is in the path of the script that was submitted, which lies in the job's control directory
(``…/.airavata/<name>/…``). A message about anything else tells of no job of ours. Pure; no Airflow.
"""

from __future__ import annotations

import re

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.mail.message import Mail
from airavata_provider.monitors.mail.news import Decoder, MailNews

_SUBJECT = re.compile(r"\[(?:HT)?Condor\].*?\bJob (?P<cluster>\d+)\.(?P<process>\d+)\b", re.IGNORECASE)
_NAME = re.compile(r"/\.airavata/([^/\s]+)/")
_EXITED = re.compile(r"\bexited\s+(?:normally\s+)?with\s+(?:exit\s+)?status\s+(-?\d+)", re.IGNORECASE)
_SIGNALLED = re.compile(
    r"\b(?:killed by|exited (?:abnormally )?(?:with|by|due to|on)|died on)\s+signal\s+(\d+)", re.IGNORECASE
)
_REMOVED = re.compile(r"\b(?:is being|was|has been) removed\b", re.IGNORECASE)
_HELD = re.compile(r"\b(?:is being|was|has been) (?:put on hold|held)\b", re.IGNORECASE)


def decode(mail: Mail) -> MailNews | None:
    """News from subject and body."""
    job = _SUBJECT.search(mail.subject)
    name = _NAME.search(mail.body)
    # Further processes are an array's elements, and no message says which: HTCondor counts them without their gaps.
    if job is None or name is None or int(job["process"]) > 0:
        return None
    exit_code, number, reason = None, None, ""
    if exited := _EXITED.search(mail.body):
        exit_code = int(exited[1][:9])
        state = JobState.COMPLETE if exit_code == 0 else JobState.FAILED
        outcome = Outcome.COMPLETED if exit_code == 0 else Outcome.FAILED
    elif signalled := _SIGNALLED.search(mail.body):
        number = int(signalled[1][:9])
        state, outcome = JobState.FAILED, Outcome.SIGNALED
    elif removed := _REMOVED.search(mail.body):
        state, outcome, reason = JobState.CANCELED, Outcome.CANCELED, removed[0]
    elif held := _HELD.search(mail.body):
        state, outcome, reason = JobState.QUEUED, Outcome.HELD, held[0]
    else:
        return None
    return MailNews(
        native_id=job["cluster"],
        name=name[1],
        state=state,
        at=mail.at,
        outcome=outcome,
        exit_code=exit_code,
        signal=number,
        reason=reason,
        other_ids=(f"{job['cluster']}.0",),
    )


DECODER = Decoder(_SUBJECT, decode)
