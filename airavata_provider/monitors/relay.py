"""The relay: news that job scripts leave on the cluster, for clusters whose compute nodes have no way out. Pure.

A script that cannot call writes the very body of its call into a file of its own, whole or not at all, in one
directory per account below the resource's scratch, ``.airavata-relay-<uid>`` (mode 700). The poll's command prints
the new ones in the same round trip, and removes those of the round before, which are stored by then: news is lost by
nobody's death, and what comes twice is one event.

A file's name is ``<job>:<the news' id>.json``. Whoever can write there is the account itself, which is also whom the
scheduler believes; so a file is believed about jobs of that resource, and about no others.

Imports no Airflow and no store.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from airavata_provider.models.job import EventSource, Job, JobEvent
from airavata_provider.monitors.webhook import WebhookCall, event_of
from airavata_provider.schedulers import frame
from airavata_provider.schedulers.base import quote

LABEL = "relay"
MOST_FILES = 1000
"""Files that one round reads at most; the others have their turn in the next."""

KEPT_DAYS = 7
"""Files that nobody could use are removed after that."""


@dataclass(frozen=True)
class Left:
    """A file that a script left.

    :param file: its name
    :param job: the job that it is about
    :param call: the news; None when it is none
    """

    file: str
    job: str
    call: WebhookCall | None


def directory_url(scratch: str, job: str) -> str:
    """What a script is told as the address of its news: where the files go, and the job's name.

    :param scratch: the resource's scratch, absolute
    """
    return f"file://{scratch.rstrip('/')}/.airavata-relay/{job}"


def collect_command(scratch: str, done: Iterable[str] = (), after: str = "") -> str:
    """Shell lines that remove the files of those names and print the others, framed; status 0 in any case.

    Built-ins only for each file: no process is started, however many there are.

    :param after: the name of the last file that the round before read: where there are more than :data:`MOST_FILES`,
        those have their turn that come after it, then those up to it
    """
    names = " ".join(quote(f"./{name}") for name in done)
    lines = [
        f'cd {quote(scratch.rstrip("/") + "/.airavata-relay")}-"$(id -u)" 2>/dev/null || exit 0',
        f"rm -f {names}" if names else ":",
        f"find . -type f -mtime +{KEPT_DAYS} -exec rm -f {{}} +",
        # Names are sorted and compared alike.
        f"LC_ALL=C airavata_n=0 airavata_turn=after airavata_last={quote(after)}",
        "for airavata_f in ?*:*.json / ?*:*.json; do",
        '  if [ "$airavata_f" = / ]; then airavata_turn=upto; continue; fi',
        '  if [ "$airavata_f" \\> "$airavata_last" ]; then airavata_w=after; else airavata_w=upto; fi',
        '  [ $airavata_w = $airavata_turn ] && [ -f "$airavata_f" ] || continue',
        f"  airavata_n=$((airavata_n + 1)); [ $airavata_n -le {MOST_FILES} ] || break",
        '  airavata_l=; IFS= read -r airavata_l <"$airavata_f" || :',
        '  printf \'%s|%.9000s\\n\' "$airavata_f" "$airavata_l"',
        "done",
    ]
    return f"{frame.SETUP}\n{frame.frame(LABEL, chr(10).join(lines))}"


def parse_collected(stdout: str) -> tuple[list[Left], str]:
    """What the scripts left, and the rest of the answer, which is the scheduler's.

    :raises AnswerUnreadable: the answer was cut
    """
    answer, rest = frame.take(stdout, LABEL)
    left = [_left(line) for line in answer.lines] if answer is not None else []
    return [each for each in left if each is not None], rest


def _left(line: str) -> Left | None:
    file, separated, body = line.partition("|")
    job, named, _ = file.partition(":")
    if not (separated and named and job and "/" not in file):
        return None
    try:
        return Left(file, job, WebhookCall.model_validate_json(body))
    except ValidationError:
        return Left(file, job, None)


def event_left(job: Job, call: WebhookCall, now: datetime) -> JobEvent:
    """The event that such a file tells of, with the script's own time.

    Clocks of compute nodes stray: it was not before the job was submitted, nor after now.
    """
    return event_of(
        job.name,
        call,
        now,
        source=EventSource.RELAY,
        earliest=job.submitted_at or job.created_at or now,
    )
