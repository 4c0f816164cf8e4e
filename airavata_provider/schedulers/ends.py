"""A job's own exit record beside its scheduler's word: how both are asked for and joined, and how starts are counted.

The scheduler knows why a job was ended; the record knows the payload's own status. A record of another job's id is
nobody's. Pure; imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


def records(
    lines: Iterable[str], jobs: Sequence[JobRef], same: Callable[[str], str] = str
) -> Mapping[str, ExitRecord]:
    """The records that are these jobs' own, by native id.

    :param same: what of an id counts, where a scheduler writes one in several ways
    """
    known = {job.native_id for job in jobs}
    found: dict[str, ExitRecord] = {}
    for line in lines:
        native_id, _, text = line.partition("|")
        record = parse_exit_record(text)
        if native_id in known and record is not None and same(record.native_id) == same(native_id):
            found[native_id] = record
    return found


def alone(record: ExitRecord, job: JobRef, *, cancelled: bool = False) -> JobStatus:
    """The end of a job of which the scheduler says nothing.

    :param cancelled: somebody here asked for its end while it was there. A job that was told to stop ended of that,
        also when its walltime was near; one that ended by itself did not.
    """
    own = _own(record)
    if cancelled and record.reason:
        own = Outcome.CANCELED
    state = _STATES.get(own, JobState.FAILED)
    return JobStatus(
        job.native_id, state, "EXIT RECORD", job.name, record.exit_code, record.signal, record.reason, own
    )


def joined(
    end: JobStatus | None, record: ExitRecord | None, job: JobRef, *, cancelled: bool = False
) -> JobStatus | None:
    """One end from both; the record alone, for a job that left the queue, is final: nothing starts it again.

    - That a job completed is the scheduler's to say, and so is why it was ended: out of memory, walltime, deleted.
    - Where the scheduler sees no more than a status or a signal, the script knows better: it was told to stop, or its
      walltime was over. That its program ended with 0 cures nothing that came after.
    - Where it tells no status at all, the record is all there is.

    :param cancelled: see :func:`alone`
    """
    if end is None:
        return None if record is None else alone(record, job, cancelled=cancelled)
    if not end.state.terminal or end.state is JobState.COMPLETE:
        return end
    if record is not None and end.outcome is Outcome.UNKNOWN:
        return alone(record, job, cancelled=cancelled)
    from_outside = end.outcome in (Outcome.CANCELED, Outcome.SIGNALED)
    if record is not None:
        own = _own(record)
        seen = end.outcome in (None, Outcome.FAILED, Outcome.SIGNALED)
        from_outside = from_outside or (seen and record.reason != "")
        end = replace(
            end,
            exit_code=record.exit_code,
            signal=record.signal,
            reason=end.reason or record.reason or ("what came after its program failed" if _well(record) else ""),
            outcome=own if seen and own is not Outcome.COMPLETED else end.outcome,
        )
    if cancelled and from_outside:
        end = replace(end, state=JobState.CANCELED, outcome=Outcome.CANCELED)
    return end


_STATES: Mapping[Outcome, JobState] = {
    Outcome.COMPLETED: JobState.COMPLETE,
    Outcome.CANCELED: JobState.CANCELED,
}


def _own(record: ExitRecord) -> Outcome:
    return outcome_of_end(record.exit_code, record.signal, record.reason)


def _well(record: ExitRecord) -> bool:
    return _own(record) is Outcome.COMPLETED


def code_and_signal(status: int) -> tuple[int, int | None]:
    """A shell's exit status, and the signal that it tells of, if any."""
    return status, status - 128 if 128 < status <= 192 else None
