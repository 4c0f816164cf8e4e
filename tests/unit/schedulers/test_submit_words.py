"""What submit commands say when they take a job, refuse it for now or for good, or leave everybody in doubt.

Grid Engine's words about limits are captured. The others' are those of the programs' sources and binaries (SLURM
22.05 and its development branch, OpenPBS, Torque 7, HTCondor), and of published logs for LSF.
"""

from __future__ import annotations

import re
from typing import ClassVar

import pytest

from airavata_provider.errors import SubmissionRefused, SubmissionUncertain
from airavata_provider.schedulers.base import CommandResult, SubmitWords
from airavata_provider.schedulers.lsf import Lsf
from airavata_provider.schedulers.registry import scheduler
from tests.unit.schedulers.captures import capture

POLICY = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's"
FAILED = "sbatch: error: Batch job submission failed:"
TORQUE = "qsub: submit error ("

LATER = [
    ("slurm", 1, f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY} size and/or time limits)"),
    ("slurm", 1, f"sbatch: error: QOSGrpSubmitJobsLimit\n{POLICY} size and/or time limits)"),
    ("slurm", 1, f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY} size and/or time limits)"),
    ("slurm", 1, f"sbatch: error: AssocGrpSubmitJobsLimit\n{POLICY} size and/or time limits)"),
    ("slurm", 1, "sbatch: error: Slurm job queue full, sleeping and retrying\n"
     f"{FAILED} Unable to create job record, try again"),
    ("slurm", 1, f"{FAILED} MaxJobCount limit reached"),
    ("slurm", 1, f"{FAILED} Rate limit exceeded, please retry later"),
    ("slurm", 1, f"sbatch: error: Job creation temporarily disabled, retrying\n{FAILED} Requested nodes are busy"),
    ("slurm", 1, f"{FAILED} Required partition not available (inactive or drain)"),
    ("slurm", 1, f"{FAILED} Controller is in standby mode, try a different controller"),
    ("pbs", 38, "qsub: Maximum number of jobs for user sci already in queue short"),
    ("pbs", 38, "qsub: Maximum number of jobs in 'Q' state already in complex"),
    ("pbs", 38, "qsub: would exceed queue short's per-user limit"),
    ("pbs", 38, "qsub: would exceed complex's per-group limit of jobs in 'Q' state"),
    ("pbs", 39, "qsub: would exceed user sci's limit on resource ncpus in queue short for jobs in 'Q' state"),
    ("pbs", 39, "qsub: would exceed limit on resource ncpus in complex"),
    ("pbs", 198, "qsub: Maximum number of jobs already in queue"),
    ("pbs", 173, "qsub: Queue is not enabled"),
    ("pbs", 212, "qsub: Request not allowed: Server shutting down"),
    ("torque", 198, f"{TORQUE}Maximum number of jobs already in queue MSG=total number of jobs in queue exceeds the"
     " queue limit: user sci@login1, queue batch)"),
    ("torque", 226, f"{TORQUE}Maximum number of jobs already in queue for user MSG=total number of current user's"
     " jobs exceeds the queue limit: user sci@login1, queue batch)"),
    ("torque", 198, f"{TORQUE}Maximum number of jobs already in queue MSG=Job 12.torque violates the global server"
     " limit of 100 jobs queued per user)"),
    ("torque", 175, f"{TORQUE}Queue is not enabled MSG=queue is disabled: user sci@login1, queue batch)"),
    ("torque", 1, f"{TORQUE}Queue is currently not available)"),
    ("sge", 25, capture("sge-8.1.9-qsub-user-limit.err")),
    ("sge", 25, capture("sge-8.1.9-qsub-cluster-limit.err")),
    ("sge", 25, "Job kann nicht gestartet werden: zu viele"),
    ("sge", 1, "Unable to run job: JSV temporarily rejected job\nExiting."),
    ("lsf", 255, "User <sci>: Pending job threshold reached. Retrying in 60 seconds...\n"
     "User <sci>: Pending job threshold reached. Job not submitted."),
    ("lsf", 255, "Group <res_users>: Pending job threshold reached. Job not submitted."),
    ("lsf", 255, "User <sci>: Pending job slot threshold reached. Job not submitted."),
    ("lsf", 255, "No job Id can be used now. Job not submitted."),
    ("lsf", 255, "night: Queue has been closed. Job not submitted."),
    ("htcondor", 1, capture("htcondor-submit-limit.err")),
    ("htcondor", 1, "\nERROR: MAX_JOBS_SUBMITTED exceeded. Current=100, Limit=100\n"
     "Number of submitted jobs would exceed MAX_JOBS_SUBMITTED\n"),
]  # fmt: skip

NEVER = [
    ("slurm", 1, f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY} size and/or time limits)"),
    ("slurm", 1, f"{FAILED} Invalid job array specification"),
    ("slurm", 1, f"{FAILED} Requested node configuration is not available"),
    ("pbs", 3, "qsub: Array job exceeds server or queue size limit"),
    ("pbs", 188, "qsub: Job violates queue and/or server resource limits"),
    ("pbs", 170, "qsub: Unknown queue"),
    ("torque", 188, f"{TORQUE}Job exceeds queue resource limits MSG=cannot satisfy queue max walltime requirement)"),
    ("torque", 174, f"{TORQUE}Access to queue is denied MSG=user sci@login1 is not in the queue's list)"),
    ("sge", 1, capture("sge-8.1.9-qsub-tasks.err")),
    ("sge", 1, "Unable to run job: JSV rejected job\nExiting."),
    ("lsf", 255, "Cannot exceed queue's hard limit(s). Job not submitted."),
    ("lsf", 255, "Job array index too large. Job not submitted."),
    ("lsf", 255, "Queue does not have enough per-user job slots. Job not submitted."),
    (
        "htcondor",
        1,
        "\nERROR: Failed to create proc\nNumber of submitted jobs would exceed MAX_JOBS_PER_SUBMISSION\n",
    ),
    ("htcondor", 1, "\nERROR: Failed to create cluster\nUser is disabled\n"),
]

DOUBT = [
    # A limit before, and then nobody knows.
    ("slurm", 1, "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
     f"{FAILED} Socket timed out on send/recv operation"),
    ("slurm", 124, "sbatch: error: Slurm job queue full, sleeping and retrying"),
    ("pbs", 198, "qsub: End of File\nMaximum number of jobs already in queue"),
    ("sge", 25, "Unable to run job: failed receiving gdi request response for mid=1 (got syncron message timeout)"),
    ("sge", 124, "only 2000 jobs are allowed per user"),
    ("lsf", 124, "User <sci>: Pending job threshold reached. Retrying in 60 seconds..."),
    ("lsf", 255, "Pending job threshold reached. Retrying in 60 seconds...\n"
     "Communication time out. Job not submitted."),
    ("htcondor", 1, "ERROR: Failed to commit job submission into the queue.\nERROR: MAX_JOBS_SUBMITTED"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "status", "words"), LATER)
def test_a_limit_that_time_cures_is_later(name: str, status: int, words: str) -> None:
    with pytest.raises(SubmissionRefused) as refused:
        scheduler(name).parse_submit(CommandResult(status, "", words))
    assert refused.value.transient
    assert refused.value.message == " ".join(words.split())


@pytest.mark.parametrize(("name", "status", "words"), NEVER)
def test_a_job_that_is_too_large_or_not_allowed_is_refused_for_good(name: str, status: int, words: str) -> None:
    with pytest.raises(SubmissionRefused) as refused:
        scheduler(name).parse_submit(CommandResult(status, "", words))
    assert not refused.value.transient


TOO_LONG = [
    ("slurm", 1, capture("slurm-22.05.8-sbatch-array.err")),
    ("pbs", 3, "qsub: Array job exceeds server or queue size limit"),
    ("torque", 1, f"{TORQUE}Bad Job Array Request MSG=Requested array size too large, limit is 100)"),
    ("sge", 1, capture("sge-8.1.9-qsub-tasks.err")),
    ("lsf", 255, "Job array index too large. Job not submitted."),
    (
        "htcondor",
        1,
        "\nERROR: Failed to create proc\nNumber of submitted jobs would exceed MAX_JOBS_PER_SUBMISSION\n",
    ),
]


@pytest.mark.parametrize(("name", "status", "words"), TOO_LONG)
def test_an_array_that_is_too_long_names_the_setting_that_splits_it(name: str, status: int, words: str) -> None:
    with pytest.raises(SubmissionRefused) as refused:
        scheduler(name).parse_submit(CommandResult(status, "", words))
    assert not refused.value.transient
    assert "max_array_size" in str(refused.value)
    assert " ".join(words.split()) in str(refused.value)


def test_of_other_refusals_it_is_not_named() -> None:
    with pytest.raises(SubmissionRefused) as refused:
        scheduler("slurm").parse_submit(CommandResult(1, "", f"{FAILED} Invalid partition name specified"))
    assert refused.value.advice is None


@pytest.mark.parametrize(("name", "status", "words"), DOUBT)
def test_words_of_doubt_outweigh_those_of_a_refusal(name: str, status: int, words: str) -> None:
    with pytest.raises(SubmissionUncertain):
        scheduler(name).parse_submit(CommandResult(status, "", words))


@pytest.mark.parametrize("name", ["slurm", "pbs", "torque", "sge", "lsf", "htcondor"])
@pytest.mark.parametrize("status", [126, 127])
def test_a_command_that_cannot_be_run_is_refused_with_advice(name: str, status: int) -> None:
    with pytest.raises(SubmissionRefused, match="cannot be run") as refused:
        scheduler(name).parse_submit(CommandResult(status, "", "sh: not found"))
    assert not refused.value.transient
    assert "PATH" in str(refused.value.advice)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("slurm", "34\n"),
        ("pbs", "34.pbs\r\n"),
        ("torque", "34.pbs\n"),
        ("sge", "34\n"),
        ("htcondor", "34.0 - 34.0\n"),
    ],
)
def test_an_id_from_a_command_that_failed_is_no_refusal(name: str, printed: str) -> None:
    words = "sbatch: error: qsub: denied ERROR"
    with pytest.raises(SubmissionUncertain):
        scheduler(name).parse_submit(CommandResult(1, printed, words))


def test_a_long_refusal_is_told_by_its_end_and_judged_by_all_of_it() -> None:
    with pytest.raises(SubmissionRefused) as refused:
        scheduler("slurm").parse_submit(CommandResult(1, "note " * 500, f"{FAILED} MaxJobCount limit reached"))
    assert refused.value.transient
    assert len(refused.value.message) <= 1000


class Bare(Lsf):
    """An adaptor that says neither how its answers read nor reads them."""

    submit_words: ClassVar[SubmitWords | None] = None


def test_an_adaptor_has_to_say_how_its_answers_read() -> None:
    with pytest.raises(NotImplementedError, match="submit_words"):
        Bare().parse_submit(CommandResult(0, "Job <1> is submitted to default queue <normal>.", ""))
    assert Bare().accepted(CommandResult(0, "Job <1> is submitted to", "")) is None


def test_what_is_not_said_matches_nothing() -> None:
    say = SubmitWords("qadd", "?", re.compile("lost"), re.compile("no"))
    for pattern in (say.later, say.said, say.bare):
        assert not any(pattern.search(text) for text in ("", "\n", "12", "later"))
