"""LSF's words for what a job is doing, how it ended and why it waits, as neutral states and outcomes.

Read with the 10.1 reference: ``bjobs`` ("Output: STAT"), ``lsbatch.h`` (``TERM_*``) and the pending reasons that the
commands print. A word that nobody knows is UNKNOWN, never an exception. Pure; no Airflow.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import JobRef, JobStatus
from airavata_provider.schedulers.ends import code_and_signal
from airavata_provider.schedulers.load import QueueLoad, together

log = logging.getLogger(__name__)

STATES: Mapping[str, JobState] = {
    "DONE": JobState.COMPLETE,
    "EXIT": JobState.FAILED,
    "FWD_PEND": JobState.QUEUED,
    "PDONE": JobState.COMPLETE,
    "PEND": JobState.QUEUED,
    "PERR": JobState.COMPLETE,
    "POST_DONE": JobState.COMPLETE,
    "POST_ERR": JobState.COMPLETE,
    "PROV": JobState.QUEUED,
    "PSUSP": JobState.QUEUED,
    "RUN": JobState.ACTIVE,
    "SSUSP": JobState.SUSPENDED,
    "UNKWN": JobState.UNKNOWN,
    "USUSP": JobState.SUSPENDED,
    "WAIT": JobState.QUEUED,
    "ZOMBI": JobState.UNKNOWN,
}
"""``PERR`` and ``POST_ERR`` tell of the site's own post-processing; the job itself was done before it."""

_REASONS: Mapping[str, str] = {
    "PSUSP": "suspended while it waited",
    "SSUSP": "suspended by LSF: its host is overloaded, or the queue's run window closed",
    "USUSP": "suspended by its owner or an administrator",
    "UNKWN": "LSF lost contact with the host that runs it",
    "ZOMBI": "killed while LSF had lost contact with its host",
    "PERR": "the site's post-processing failed",
    "POST_ERR": "the site's post-processing failed",
}

_OUTCOMES: Mapping[str, Outcome] = {
    "DONE": Outcome.COMPLETED,
    "PDONE": Outcome.COMPLETED,
    "PERR": Outcome.COMPLETED,
    "POST_DONE": Outcome.COMPLETED,
    "POST_ERR": Outcome.COMPLETED,
    "PSUSP": Outcome.HELD,
    "SSUSP": Outcome.SUSPENDED,
    "USUSP": Outcome.SUSPENDED,
}

TERMS: Mapping[str, Outcome] = {
    "TERM_ADMIN": Outcome.CANCELED,
    "TERM_BUCKET_KILL": Outcome.CANCELED,
    "TERM_CHKPNT": Outcome.CANCELED,
    "TERM_CPULIMIT": Outcome.WALLTIME,
    "TERM_CSM_ALLOC": Outcome.NODE_FAILURE,
    "TERM_CSM_JOBD": Outcome.NODE_FAILURE,
    "TERM_DEADLINE": Outcome.WALLTIME,
    "TERM_EXTERNAL_SIGNAL": Outcome.SIGNALED,
    "TERM_FORCE_ADMIN": Outcome.CANCELED,
    "TERM_FORCE_OWNER": Outcome.CANCELED,
    "TERM_LOAD": Outcome.PREEMPTED,
    "TERM_MEMLIMIT": Outcome.OUT_OF_MEMORY,
    "TERM_ORPHAN_SYSTEM": Outcome.NEVER_STARTS,
    "TERM_OWNER": Outcome.CANCELED,
    "TERM_PREEMPT": Outcome.PREEMPTED,
    "TERM_RC_RECLAIM": Outcome.PREEMPTED,
    "TERM_REMOVE_HUNG_JOB": Outcome.NODE_FAILURE,
    "TERM_REQUEUE_ADMIN": Outcome.CANCELED,
    "TERM_REQUEUE_OWNER": Outcome.CANCELED,
    "TERM_RMS": Outcome.NODE_FAILURE,
    "TERM_RUNLIMIT": Outcome.WALLTIME,
    "TERM_SWAP": Outcome.OUT_OF_MEMORY,
    "TERM_WINDOW": Outcome.PREEMPTED,
    "TERM_ZOMBIE": Outcome.NODE_FAILURE,
}
"""Why LSF ended a job. Those of the program's own (``TERM_PROCESSLIMIT``, ``TERM_CWD_NOTEXIST``) and those that
say nothing (``TERM_UNKNOWN``, ``TERM_OTHER``) leave it with its exit status.
"""

_NEVER = re.compile(
    r"Dependency condition invalid or never satisfied"
    r"|no longer satisfies (?:the )?queue'?s? (?:PROCLIMIT|TASKLIMIT)"
    r"|Bad host name, host group name or cluster name"
    r"|Host or host group is not used by the queue"
    r"|The user has no permission to run the job"
    r"|There is no such user account"
    r"|Can't run jobs submitted by root"
    r"|Unable to (?:access job file|determine user account)"
    r"|Checkpoint directory is invalid"
    r"|(?:queue|application profile) (?:does not|no longer) exists?",
    re.IGNORECASE,
)
"""Pending reasons that no wait cures. Those about hosts and slots may be a moment's, whatever they count."""

_TERM = re.compile(r"\bTERM_[A-Z_]+")


def status(
    job: JobRef, word: str, *, code: int | None = None, ended: str = "", waits: str = "", signal: int | None = None
) -> JobStatus:
    """One job's status from LSF's words.

    :param word: STAT
    :param code: ``EXIT_CODE``
    :param ended: ``EXIT_REASON``, or what ``bhist`` says of the end
    :param waits: ``PEND_REASON``
    :param signal: that ended it, where LSF says so
    """
    word = word.strip().upper()
    state = STATES.get(word)
    if state is None:
        _warn(word)
        state = JobState.UNKNOWN
    if state is JobState.COMPLETE:
        outcome = _OUTCOMES[word]
        return JobStatus(job.native_id, state, word, job.name, code or 0, None, _REASONS.get(word, ""), outcome)
    if word == "EXIT":
        return _exit(job, code, signal, ended)
    reason = waits if state is JobState.QUEUED and waits else _REASONS.get(word, "")
    known = _OUTCOMES.get(word)
    if word == "PEND" and _NEVER.search(waits):
        known = Outcome.NEVER_STARTS
    return JobStatus(job.native_id, state, word, job.name, reason=reason, outcome=known)


def _exit(job: JobRef, code: int | None, signal: int | None, ended: str) -> JobStatus:
    term = _TERM.search(ended)
    outcome = TERMS.get(term[0]) if term else None
    if code is not None and signal is None:
        code, signal = code_and_signal(code)
    if outcome is None:
        outcome = Outcome.SIGNALED if signal is not None else Outcome.FAILED
    state = JobState.CANCELED if outcome is Outcome.CANCELED else JobState.FAILED
    if code == 0:
        # A job that was ended shows 0, which is nobody's exit code.
        code = None
    return JobStatus(job.native_id, state, "EXIT", job.name, code, signal, ended.strip(" ;."), outcome)


@cache
def _warn(word: str) -> None:
    log.warning("LSF's job state %r is not known here; taken as UNKNOWN", word)


def loads_of(lines: Iterable[str]) -> Mapping[str, QueueLoad]:
    """How full queues are, by ``bqueues -w``; "" is all of them together.

    LSF counts tasks, which are slots; only ``PJOBS``, where it is there, are jobs. ``MAX`` is how many slots the
    queue may have, a dash where it has no limit of its own. Only one that is ``Open:Active``
    takes jobs and starts them.
    """
    names: list[str] = []
    found: dict[str, QueueLoad] = {}
    for line in lines:
        words = line.split()
        if words[:1] == ["QUEUE_NAME"]:
            names = words
        elif names and len(words) == len(names):
            told = dict(zip(names, words, strict=True))
            row = {name: int(word) for name, word in told.items() if word.isdecimal()}
            if "PEND" in row and "RUN" in row:
                closed = told.get("STATUS", "Open:Active") != "Open:Active"
                found[words[0]] = QueueLoad(row.get("PJOBS", row["PEND"]), None, row.get("MAX"), row["RUN"], closed)
    if (every := together(found.values())) is not None:
        # Queues share the cluster's slots: the sum of what each may have is more than there are.
        found[""] = replace(every, cpus=None)
    return found
