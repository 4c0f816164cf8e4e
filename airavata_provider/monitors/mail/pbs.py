"""PBS's and Torque's mail: the body says it all, by lines.

``PBS Job Id: 123.server``, ``Job Name:   name``, then the event: ``Begun execution``; ``Execution terminated`` with
``Exit_status=N``; ``Aborted by PBS Server`` with its reason in the next line, and sometimes an ``Exit_status`` too;
``job deleted``. What statuses mean says :mod:`airavata_provider.schedulers.pbs_answers`, for ``qstat`` and mail
alike; 271 is a SIGTERM: ``qdel``. Pure; no Airflow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.monitors.mail.message import Mail
from airavata_provider.monitors.mail.news import Decoder, MailNews
from airavata_provider.schedulers.pbs_answers import CODES, TORQUE_CODES, signal_of

_ID = re.compile(r"^\s*PBS Job Id:[ \t]*(\d+)(?:\[(\d*)\])?(?:\.([\w.-]+))?[ \t]*$", re.MULTILINE)
_NAME = re.compile(r"^\s*Job Name:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_EVENT = re.compile(
    r"^[ \t]*(Begun execution|Execution terminated|Aborted by PBS Server|job deleted)\b[^\n]*\n?((?:.*\n?){0,2})",
    re.MULTILINE | re.IGNORECASE,
)
_EXIT = re.compile(r"^\s*Exit_status=(-?\d+)", re.MULTILINE)
_WALLTIME = re.compile(r"walltime", re.IGNORECASE)
_MEMORY = re.compile(r"\b(?:p?v?mem)\b|memory", re.IGNORECASE)
_DELETED = 256 + 15


def decode(mail: Mail) -> MailNews | None:
    """News from a body."""
    return _news(mail, CODES)


def _news(mail: Mail, codes: Mapping[int, Outcome]) -> MailNews | None:
    job, name, event = _ID.search(mail.body), _NAME.search(mail.body), _EVENT.search(mail.body)
    if job is None or name is None or event is None or job[2] == "":
        return None  # 123[]: an array as a whole
    verb = event[1].lower()
    found = _EXIT.search(mail.body)
    status = int(found[1][:9]) if found else None
    exit_code, number, reason, outcome = None, None, "", None
    if verb == "begun execution":
        state = JobState.ACTIVE
    elif verb == "job deleted":
        state, outcome, reason = JobState.CANCELED, Outcome.CANCELED, event[1]
    elif verb == "aborted by pbs server":
        reason = _first_line(event[2]) or event[1]
        state, outcome = JobState.FAILED, _aborted(reason, codes.get(status or 0))
    elif status is None:
        return None
    else:
        state, outcome, exit_code, number = _ended(status, codes)
        reason = "" if state is JobState.COMPLETE or exit_code is not None else f"Exit_status={status}"
    number_, index, server = job[1], job[2], job[3] or ""
    suffix = f".{server}" if server else ""
    element = "" if index is None else f"[{index}]"
    return MailNews(
        native_id=f"{number_}{'[]' if index else ''}{suffix}",
        name=name[1],
        state=state,
        at=mail.at,
        outcome=outcome,
        exit_code=exit_code,
        signal=number,
        reason=reason,
        index=int(index) if index else None,
        # qsub may have shown the server's name, its short name, or none.
        other_ids=tuple(dict.fromkeys(f"{number_}{element}{tail}" for tail in _tails(server))),
    )


def _tails(server: str) -> list[str]:
    labels = server.split(".") if server else []
    return ["".join(f".{label}" for label in labels[:count]) for count in range(len(labels), -1, -1)]


def _ended(status: int, codes: Mapping[int, Outcome]) -> tuple[JobState, Outcome, int | None, int | None]:
    """State, outcome, exit code and signal of an ``Exit_status``."""
    if status == 0:
        return JobState.COMPLETE, Outcome.COMPLETED, 0, None
    if status == _DELETED:
        return JobState.CANCELED, Outcome.CANCELED, None, 15
    exit_code = status if 0 < status < 256 else None
    if number := signal_of(status):
        return JobState.FAILED, Outcome.SIGNALED, exit_code, number
    # Below zero is the server's word, no program's.
    return JobState.FAILED, codes.get(status, Outcome.FAILED), exit_code, None


def _aborted(reason: str, meant: Outcome | None) -> Outcome:
    """What the words are about; those that name several limits tell of none, and leave it to the status.

    :param meant: what the status tells
    """
    time, memory = _WALLTIME.search(reason), _MEMORY.search(reason)
    if time and not memory:
        return Outcome.WALLTIME
    if memory and not time:
        return Outcome.OUT_OF_MEMORY
    return meant or (Outcome.SIGNALED if time else Outcome.FAILED)


def _first_line(text: str) -> str:
    lines = (" ".join(line.split()) for line in text.splitlines())
    return next((line for line in lines if line and not _EXIT.match(line)), "")[:300]


DECODER = Decoder(re.compile(r"\bPBS JOB\b", re.IGNORECASE), decode)


def decode_torque(mail: Mail) -> MailNews | None:
    """The same with Torque's statuses; it puts ``-index`` behind the name of an array's element."""
    news = _news(mail, TORQUE_CODES)
    if news is None or news.index is None:
        return news
    return replace(news, name=news.name.removesuffix(f"-{news.index}"))


TORQUE = replace(DECODER, decode=decode_torque)
