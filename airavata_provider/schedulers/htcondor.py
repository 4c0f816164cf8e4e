"""HTCondor: ``condor_submit``, ``condor_q``, ``condor_history``, ``condor_rm``, and a job's own event log.

Written from the manual of 23.0; the description's text was read by 23.10's own parser. What is asked for stands in a
submit description of its own, beside the script in the control directory; the script has no directives. Words for
options are in ``htcondor_options``, those for states in ``htcondor_states``.

A job is ``12.0``: cluster and process. An array is the cluster ``12``; its element is ``12[3]``, with the index from
our attribute ``AiravataIndex``, because HTCondor's process numbers count without gaps and an array's indices may have
some. The attribute ``AiravataJob`` is the name that jobs are known by. Pure; no Airflow.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from airavata_provider.errors import AnswerUnreadable, ConfigurationError
from airavata_provider.models.job import JobState
from airavata_provider.schedulers import ends, frame
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler, SubmitWords, quote
from airavata_provider.schedulers.counting import LIMIT_S, counted
from airavata_provider.schedulers.htcondor_options import HOPELESS, KEPT_S, OPTIONS, value
from airavata_provider.schedulers.htcondor_queries import (
    AWK,
    CPUS,
    JOBS,
    as_json,
    by_log,
    cluster_of,
    counts_of,
    exactly,
    log_of,
    of_clusters,
    string,
)
from airavata_provider.schedulers.htcondor_states import (
    ATTRIBUTES,
    FACTORY,
    Ad,
    ads,
    from_ad,
    from_log,
    log_cluster,
    ours,
)
from airavata_provider.schedulers.load import QueueLoad
from airavata_provider.schedulers.record import control_directory, make_directories
from airavata_provider.schedulers.request import JobRequest, Option

DESCRIPTION = "submit"
"""The submit description's name in the control directory."""

_SINCE = '-since "EnteredCurrentStatus < $(($(date +%s) - 2592000))"'
"""A history is read backwards; what left the queue a month ago is no job of ours."""

_NATIVE = "${AIRAVATA_NATIVE:-unknown}"
_CHUNK = 500
_TIMEOUT_STATUS = 124

_TERSE = re.compile(r"^(\d+)\.(\d+) - (\d+)\.(\d+)\s*$", re.MULTILINE)
_PLAIN = re.compile(r"^(\d+) job\(s\) submitted to cluster (\d+)\.", re.MULTILINE)
_UNCERTAIN = re.compile(
    r"failed to connect|can't connect|connection (?:reset|refused|closed)|SECMAN|timed? ?out|communication"
    r"|AUTHENTICATE|CEDAR|lost connection|failed to commit|qmgmt|failed to end",
    re.IGNORECASE,
)
_WORDS = SubmitWords(
    command="condor_submit",
    missing="is HTCondor in the account's PATH?",
    bare=_TERSE,
    uncertain=_UNCERTAIN,
    # Not MAX_JOBS_PER_SUBMISSION: that array is too large for good.
    later=re.compile(r"MAX_JOBS_(?:SUBMITTED|PER_OWNER)\b|too many jobs|temporarily|try again later", re.IGNORECASE),
    refused=re.compile(
        r"\bERROR\b|would exceed|not allowed|denied|disabled|can't open|no such|failed to", re.IGNORECASE
    ),
    too_long=re.compile(r"MAX_JOBS_PER_SUBMISSION"),
)
_TROUBLE = re.compile(rf"{_UNCERTAIN.pattern}|failed to fetch|error|can't find|unknown option|invalid", re.IGNORECASE)
_NO_HISTORY = re.compile(r"no history file|history file.* (?:not|is not) defined", re.IGNORECASE)
_OURS = frozenset(
    {
        "queue", "executable", "arguments", "args", "universe", "initialdir", "initial_dir", "log", "environment",
        "env", "environment2", "max_materialize", "max_idle", "+airavatajob", "my.airavatajob", "+airavataindex",
        "my.airavataindex",
    }
)  # fmt: skip


class HTCondor(Scheduler):
    """HTCondor, universe vanilla, with a file system that access point and machines share."""

    name: ClassVar[str] = "htcondor"
    options: ClassVar[Sequence[Option]] = OPTIONS
    submit_words: ClassVar[SubmitWords | None] = _WORDS
    native_id_expression: ClassVar[str] = _NATIVE
    index_expression: ClassVar[str | None] = "$AIRAVATA_ITEM"
    restart_expression: ClassVar[str] = "${airavata_starts:-0}"
    enforces_walltime: ClassVar[bool] = False

    def element_id(self, native_id: str, index: int) -> str:
        """``12[3]``; an array of one element may be known as ``12.0``."""
        return f"{native_id.partition('.')[0]}[{index}]"

    def prologue(self, request: JobRequest, control: str) -> Sequence[str]:
        """Counts the starts: an evicted job begins again under its id."""
        return ends.count_starts(_NATIVE)

    def directives(self, request: JobRequest) -> Sequence[str]:
        """None: they stand in the submit description."""
        return ()

    def side_files(self, request: JobRequest, control: str) -> Mapping[str, str]:
        """The submit description."""
        lines = [*super().directives(request), _queue(request)]
        return {DESCRIPTION: "\n".join(lines) + "\n"}

    def fixed(self, request: JobRequest) -> Sequence[str]:
        """Where it runs, where its log is, what it is known by, and how long its end is shown."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", request.name):
            raise ConfigurationError(f"{request.name!r} cannot be the name of an HTCondor job")
        control = value(control_directory(request.directory, request.name))
        dot, native = "", "$(Cluster).$(Process)"
        words = []
        if request.array is not None:
            dot, native = ".$(airavata_item)", "$(Cluster)[$(airavata_item)]"
            words = ["AIRAVATA_ITEM=$(airavata_item)"]
        lines = [
            "universe = vanilla",
            f"executable = {control}/script",
            "transfer_executable = False",
            "should_transfer_files = NO",
            f"initialdir = {value(request.directory)}",
            f"log = {control}/events{dot}",
            f"output = {control}/log{dot}",
            f"error = {control}/log.err{dot}",
            f'environment = "{" ".join([f"AIRAVATA_NATIVE={native}", *words])}"',
            f"batch_name = {request.name}",
            f'+AiravataJob = "{request.name}"',
            f"periodic_remove = JobStatus == 5 && member(HoldReasonCode, {{{', '.join(map(str, HOPELESS))}}})",
        ]
        if request.array is not None:
            indices = ",".join(map(str, sorted(request.array.indices)))
            lines += ["+AiravataIndex = $(airavata_item)", f'+AiravataIndices = "{indices}"']
        if request.array is None or not request.array.throttle:
            # An element that stays would keep the next one out of the queue.
            lines.append(
                f"leave_in_queue = (JobStatus == 3 || JobStatus == 4) && time() - EnteredCurrentStatus < {KEPT_S}"
            )
        return lines

    def directive_key(self, line: str) -> str:
        """A command of the description; case is no matter to HTCondor."""
        return "".join(line.partition("=")[0].split()).lower()

    def check_raw(self, line: str) -> None:
        """No other program, log, environment or attribute that we follow the job by, and no second ``queue``.

        :raises ConfigurationError: with it, the job could not be followed
        """
        key = self.directive_key(line)
        if key in _OURS or line.split()[:1] == ["queue"] or re.match(r"queue\b", line, re.IGNORECASE):
            raise ConfigurationError(f"directive {line!r}: the job could not be followed with its own {key}")

    def submit_command(self, script: str, request: JobRequest) -> str:
        """``condor_submit``. HTCondor runs the script itself, so it has to be executable."""
        control = posixpath.dirname(script)
        made = [f"(umask 077; {make_directories(control, request.array.indices)}) &&"] if request.array else []
        submit = f"exec condor_submit -terse {quote(f'{control}/{DESCRIPTION}')}"
        return " ".join([*made, f"chmod u+x {quote(script)} &&", submit])

    def accepted(self, result: CommandResult) -> str | None:
        """``12.0`` for a job, ``12`` for an array of several elements."""
        if result.exit_status != 0:
            return None
        if terse := _TERSE.findall(result.stdout):
            cluster, first, _, last = terse[-1]
            return f"{cluster}.{first}" if first == last else str(cluster)
        if plain := _PLAIN.findall(result.stdout):
            number, cluster = plain[-1]
            return f"{cluster}.0" if number == "1" else str(cluster)
        return None

    def find_command(self, name: str, user: str | None, directory: str) -> str:
        """``condor_q`` by our attribute, the event log that a submission begins, ``condor_history``."""
        constraint = f"AiravataJob == {string(name)}" + (f" && Owner == {string(user)}" if user else "")
        events = f"{control_directory(directory, name)}/events"
        # The first line of a log is the submission's.
        look = f'for f in {quote(events)} {quote(events)}.*; do if [ -s "$f" ]; then head -n 1 "$f"; break; fi; done'
        which = f"{as_json(ATTRIBUTES)} -constraint {quote(constraint)}"
        history = f"airavata_limit 60 condor_history {which} -limit 1 {_SINCE}"
        return "\n".join(
            (
                frame.SETUP,
                frame.frame("queue", f"airavata_limit 30 condor_q {which}"),
                frame.frame("events", look),
                frame.frame("history", history),
            )
        )

    def parse_find(self, result: CommandResult, name: str) -> str | None:
        """The first id under that name; None only when queue, event log and history have none."""
        found: set[tuple[int, str]] = set()
        faults = []
        for label in ("queue", "history"):
            answer = frame.whole(result.stdout, label, stderr=result.stderr)
            if fault := _fault(answer):
                faults.append(f"{label}: {fault}")
                continue
            for ad in ours(ads("\n".join(answer.lines))):
                if ad.name == name:
                    found.add((int(re.split(r"\D", ad.native_id)[0]), ad.native_id.partition("[")[0]))
        events = frame.whole(result.stdout, "events", stderr=result.stderr)
        if found:
            return min(found)[1]
        if cluster := log_cluster(events.lines):
            # Whether it is an array's is not told; an array's elements are its cluster's either way.
            return f"{cluster}.0"
        if faults:
            raise AnswerUnreadable("; ".join(faults))
        return None

    def status_command(self, jobs: Sequence[JobRef]) -> str:
        """``condor_q`` for our jobs' clusters, what of arrays is not in the queue yet, and exit records."""
        if not jobs:
            return "\n".join((frame.SETUP, frame.frame("queue", ":"), frame.frame("records", ":")))
        constraint = quote(of_clusters(jobs))
        parts = [
            frame.SETUP,
            ends.FUNCTION,
            frame.frame("queue", f"airavata_limit 60 condor_q {as_json(ATTRIBUTES)} -constraint {constraint}"),
        ]
        if any("[" in job.native_id for job in jobs):
            factory = f"airavata_limit 60 condor_q -factory {as_json(FACTORY)} -constraint {constraint}"
            parts.append(frame.frame("factory", factory))
        return "\n".join([*parts, frame.frame("records", ends.ask(jobs))])

    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """States by id; an ad with one of the ids and another name is another job, after ids began anew."""
        answer = frame.whole(result.stdout, "queue", stderr=result.stderr)
        records = ends.records(frame.whole(result.stdout, "records", stderr=result.stderr).lines, jobs)
        if fault := _fault(answer):
            raise AnswerUnreadable(f"condor_q: {fault}")
        states: dict[str, JobStatus] = {}
        for job, ad in _known(jobs, ours(ads("\n".join(answer.lines)))):
            status = from_ad(job, ad.data)
            states[job.native_id] = ends.joined(status, records.get(job.native_id), job) or status
        factory = frame.unframe(result.stdout, "factory")
        if factory is not None and not _fault(factory):
            states |= _to_come(factory, [job for job in jobs if job.native_id not in states])
        return states

    def history_command(self, jobs: Sequence[JobRef]) -> str:
        """Exit records, event logs, and, when a log has no end, ``condor_q`` and ``condor_history``."""
        if not jobs:
            return "\n".join((frame.SETUP, frame.frame("records", ":"), frame.frame("events", ":")))
        logs = [quote(log_of(job)) for job in jobs]
        constraint = quote(of_clusters(jobs))
        asked = f"-limit {len(jobs)} {_SINCE} -constraint {constraint}"
        return "\n".join(
            (
                frame.SETUP,
                ends.FUNCTION,
                frame.frame("records", ends.ask(jobs)),
                "set -- /dev/null; airavata_more=",
                f"for f in {' '.join(logs)}; do",
                '  if [ -s "$f" ]; then set -- "$@" "$f"; else airavata_more=yes; fi',
                "done",
                frame.frame("events", f"""awk '{AWK}' "$@" """),
                # /dev/null has no end either.
                """if [ -n "$airavata_more" ] || [ "$(grep -L '^00[59] (' "$@" | wc -l)" -gt 1 ]; then""",
                frame.frame("queue", f"airavata_limit 60 condor_q {as_json(ATTRIBUTES)} -constraint {constraint}"),
                frame.frame("history", f"airavata_limit 60 condor_history {as_json(ATTRIBUTES)} {asked}"),
                "fi",
            )
        )

    def parse_history(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        """Ends only: HTCondor's words, else the event log's, with the script's own status; else its record's.

        A record is no end of a job that is still in the queue, or may be.
        """
        records = ends.records(frame.whole(result.stdout, "records", stderr=result.stderr).lines, jobs)
        logs = by_log(frame.whole(result.stdout, "events", stderr=result.stderr).lines)
        told = {job.native_id: from_log(job, logs.get(log_of(job), ())) for job in jobs}
        live: set[str] = set()
        faults = []
        for label in ("queue", "history"):
            answer = frame.unframe(result.stdout, label)
            if answer is None:
                continue
            if fault := _fault(answer):
                faults.append(f"condor_{label[0] if label == 'queue' else label}: {fault}")
                if label == "queue":
                    live |= {i for i, end in told.items() if end is None}
                continue
            for job, ad in _known(jobs, ours(ads("\n".join(answer.lines)))):
                if (status := from_ad(job, ad.data)).state.terminal:
                    told[job.native_id] = status
                elif label == "queue" and told[job.native_id] is None:
                    live.add(job.native_id)
        found: dict[str, JobStatus] = {}
        for job in jobs:
            end = told[job.native_id]
            if end is None and job.native_id in live:
                continue
            if (end := ends.joined(end, records.get(job.native_id), job)) is not None:
                found[job.native_id] = end
        if faults and not found:
            raise AnswerUnreadable("; ".join(faults))
        return found

    def cancel_command(self, jobs: Sequence[JobRef]) -> str:
        """``condor_rm`` by cluster and name: no other job's id is touched.

        An array's elements that are not in the queue yet are removed when they get there and are asked for again.
        """
        lines = [frame.SETUP]
        for first in range(0, len(jobs), _CHUNK):
            which = " || ".join(exactly(jobs[first : first + _CHUNK]))
            constraint = f"JobStatus != 3 && JobStatus != 4 && ({which})"
            lines += [
                f"airavata_words=$(airavata_limit 60 condor_rm -constraint {quote(constraint)} 2>&1 </dev/null) ||",
                '  case "$airavata_words" in',
                # Nobody is there any more.
                '    *"ouldn\'t find"*"all jobs matching"*|*"ot find"*"matching constraint"*) ;;',
                '    *) echo "$airavata_words" >&2; exit 1;;',
                "  esac",
            ]
        return "\n".join(lines)

    def load_command(self, queues: Sequence[str]) -> str | None:
        """``condor_status`` of the pool's access points and machines: the collector knows them, no queue is asked."""
        jobs = f"airavata_limit {LIMIT_S} condor_status -schedd -af TotalIdleJobs TotalRunningJobs"
        cpus = f"airavata_limit {LIMIT_S} condor_status -af State Cpus"
        frames = (frame.frame("jobs", counted(jobs, JOBS)), frame.frame("cpus", counted(cpus, CPUS)))
        return "\n".join((frame.SETUP, *frames))

    def parse_load(self, result: CommandResult, queues: Sequence[str]) -> Mapping[str, QueueLoad]:
        """The pool's, for whatever queue: HTCondor has none."""
        answers = {label: frame.whole(result.stdout, label, stderr=result.stderr) for label in ("jobs", "cpus")}
        faults = {label: _fault(answer) for label, answer in answers.items()}
        counts = {label: None if faults[label] else counts_of(answer.lines) for label, answer in answers.items()}
        (waiting, running), (busy, free) = (counts[label] or (None, None) for label in ("jobs", "cpus"))
        if waiting is None and not busy and not free:
            words = "; ".join(f"{label}: {fault or 'none'}" for label, fault in faults.items())
            raise AnswerUnreadable(f"condor_status: {words}")
        up = None if busy is None or free is None else busy + free
        return dict.fromkeys(queues, QueueLoad(waiting, running, up, busy))


def _queue(request: JobRequest) -> str:
    if request.array is None:
        return "queue"
    return f"queue airavata_item in ({', '.join(map(str, sorted(request.array.indices)))})"


def _known(jobs: Sequence[JobRef], found: Iterable[Ad]) -> Iterator[tuple[JobRef, Ad]]:
    known = {job.native_id: job for job in jobs}
    for ad in found:
        job = known.get(ad.native_id)
        if job is not None and job.name == ad.name:
            yield job, ad


def _to_come(factory: frame.Frame, jobs: Sequence[JobRef]) -> dict[str, JobStatus]:
    """Elements that HTCondor has yet to put into the queue."""
    arrays: dict[tuple[str, str], tuple[list[str], int]] = {}
    for ad in ads("\n".join(factory.lines)):
        following, indices = ad.get("JobMaterializeNextProcId"), ad.get("AiravataIndices")
        if isinstance(following, int) and isinstance(indices, str):
            arrays[str(ad.get("ClusterId")), str(ad.get("AiravataJob"))] = indices.split(","), following
    found = {}
    for job in jobs:
        indices, following = arrays.get((cluster_of(job), job.name), ([], 0))
        index = job.native_id.partition("[")[2].rstrip("]")
        if index in indices[following:]:
            reason = "waits for its turn in the array"
            found[job.native_id] = JobStatus(job.native_id, JobState.QUEUED, "TO COME", job.name, reason=reason)
    return found


def _fault(answer: frame.Frame) -> str | None:
    """What is wrong with an answer, None for a good one or for a history that this access point does not keep."""
    if answer.status == _TIMEOUT_STATUS:
        return "no answer in time"
    if answer.status != 0 and _NO_HISTORY.search(answer.errors):
        return None
    if answer.status != 0 or _TROUBLE.search(answer.errors):
        return answer.errors[-500:] or f"status {answer.status}"
    return None
