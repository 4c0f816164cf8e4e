"""A job's own exit record beside its scheduler's word: how both are asked for and joined, and how starts are counted.

The scheduler knows why a job was ended; the record knows the payload's own status. A record of another job's id is
nobody's. Pure; imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from airavata_provider.models.job import JobState
from airavata_provider.models.outcome import Outcome
from airavata_provider.schedulers.base import JobRef, JobStatus, quote
from airavata_provider.schedulers.record import ExitRecord, control_directory, outcome_of_end, parse_exit_record

FUNCTION = """\
airavata_ended() { # ID FILE: one line "ID|record" when there is an exit record
  if [ -s "$2" ] && IFS= read -r airavata_line <"$2"; then printf '%s|%s\\n' "$1" "$airavata_line"; fi
}"""
"""What :func:`ask` calls, for a script's head."""

COUNT_STARTS = (
    "airavata_starts=0",
    'if [ -s "$airavata_control/started" ]; then',
    '  read -r airavata_before airavata_starts airavata_rest <"$airavata_control/started"',
    '  if [ "$airavata_before" = "{native}" ]; then airavata_starts=$((${{airavata_starts:-0}} + 1))',
    "  else airavata_starts=0; fi",
    "fi",
)
"""Shell lines, ``{native}`` to be filled in, for a scheduler that does not count how often it started a job: the last
start's ``started`` file does.
"""


def count_starts(native_id_expression: str) -> Sequence[str]:
    """Lines for a prologue; ``$airavata_starts`` is then how often the job was started before, under this id."""
    return [line.format(native=native_id_expression) if "{" in line else line for line in COUNT_STARTS]


def control(job: JobRef) -> str:
    """The job's or the element's own control directory."""
    return control_directory(job.directory, job.name, job.index)


def ask(jobs: Sequence[JobRef]) -> str:
    """Shell lines that print the jobs' exit records; one process for all."""
    return "\n".join(f"airavata_ended {quote(job.native_id)} {quote(f'{control(job)}/exit')}" for job in jobs) or ":"


def records(lines: Iterable[str], jobs: Sequence[JobRef]) -> Mapping[str, ExitRecord]:
    """The records that are these jobs' own, by native id."""
    known = {job.native_id for job in jobs}
    found: dict[str, ExitRecord] = {}
    for line in lines:
        native_id, _, text = line.partition("|")
        record = parse_exit_record(text)
        if native_id in known and record is not None and record.native_id == native_id:
            found[native_id] = record
    return found


def alone(record: ExitRecord, job: JobRef) -> JobStatus:
    """The end of a job of which the scheduler says nothing."""
    own = outcome_of_end(record.exit_code, record.signal, record.reason)
    state = JobState.COMPLETE if own is Outcome.COMPLETED else JobState.FAILED
    return JobStatus(
        job.native_id, state, "EXIT RECORD", job.name, record.exit_code, record.signal, record.reason, own
    )


def joined(end: JobStatus | None, record: ExitRecord | None, job: JobRef) -> JobStatus | None:
    """One end from both; the record alone, for a job that left the queue, is final: nothing starts it again."""
    if record is None:
        return end
    if end is None:
        return alone(record, job)
    if not end.state.terminal or end.state is JobState.COMPLETE:
        return end
    own = outcome_of_end(record.exit_code, record.signal, record.reason)
    mine = end.outcome in (None, Outcome.FAILED, Outcome.SIGNALED)
    return replace(
        end,
        exit_code=record.exit_code,
        signal=record.signal,
        reason=end.reason or record.reason,
        outcome=own if mine and own is not Outcome.COMPLETED else end.outcome,
    )


def code_and_signal(status: int) -> tuple[int, int | None]:
    """A shell's exit status, and the signal that it tells of, if any."""
    return status, status - 128 if 128 < status <= 192 else None
