"""What batch schedulers and their clusters really do to whoever drives them, and the tests that hold for each.

Each trap was seen in real trackers. A test that is named here and is no more, or has another name, fails this one.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

TRAPS: dict[str, list[str]] = {
    "a submit command times out after the job was accepted": [
        "integration/submission_suite.py::test_the_submit_command_submits_and_then",
        "integration/submission_suite.py::test_the_submit_command_submits_and_hangs",
        "integration/submission_suite.py::test_nobody_can_tell_to_the_end",
        "contract/suite.py::test_a_job_that_was_accepted_without_an_answer_is_found_and_runs_once",
        "contract/suite.py::test_a_submit_that_was_cut_is_uncertain",
        "unit/jobs/test_submission.py::test_accepted_and_the_answer_lost_in_the_scheduler",
        "unit/jobs/test_submission.py::test_could_not_tell_to_the_end_hands_over_and_never_submits",
        "unit/schedulers/test_submit_words.py::test_words_of_doubt_outweigh_those_of_a_refusal",
        "unit/schedulers/test_slurm.py::test_find_has_three_answers",
    ],
    "a submitter dies between the submit and the saving of the id": [
        "integration/submission_suite.py::test_the_process_is_killed_before_it_saves_the_id",
        "integration/submission_suite.py::test_the_connection_is_cut_after_the_scheduler_accepted",
        "integration/test_tasks.py::test_killed_anywhere_and_run_again_it_ends_the_same",
        "unit/jobs/test_submission.py::test_a_second_try_finds_the_first_ones_answer",
        "e2e/test_kills.py::test_every_process_may_be_killed",
    ],
    "an empty or failed status query; a time-out with status 0; one expired id that spoils a whole list": [
        "unit/monitors/test_poll.py::test_unreadable_is_neither_absent_nor_finished",
        "unit/schedulers/test_slurm.py::test_absent_is_not_unreadable",
        "unit/schedulers/test_slurm.py::test_an_answer_with_trouble_is_unreadable",
        "contract/suite.py::test_noise_is_never_an_answer",
        "contract/suite.py::test_one_command_tells_of_all_jobs_and_a_forgotten_one_spoils_nothing",
        "integration/submission_suite.py::test_the_queue_is_empty_although_the_scheduler_has_the_job",
        "integration/submission_suite.py::test_the_queue_in_trouble_during_the_look_up",
    ],
    "no accounting database; a controller that forgets": [
        "unit/schedulers/test_slurm.py::test_without_accounting_records_and_the_controller_tell",
        "unit/schedulers/test_sge.py::test_without_accounting_the_jobs_own_record_tells",
        "contract/test_contract_pbs.py::test_without_history_the_job_s_own_record_tells",
        "unit/schedulers/test_ends.py::test_a_record_alone_tells_the_same_end_on_every_scheduler",
    ],
    "ended jobs vanish from the queue: absent and without a record is unknown": [
        "unit/monitors/test_poll.py::test_missing",
        "unit/jobs/test_poller.py::test_given_up_with_every_sources_last_word",
        "unit/jobs/test_state.py::test_given_up_wakes_and_can_be_revived",
        "unit/schedulers/test_slurm.py::test_no_record_at_all_is_no_end",
    ],
    "ids are used again after a controller's reset": [
        "unit/schedulers/test_slurm.py::test_another_job_that_got_the_id_is_not_ours",
        "unit/schedulers/test_slurm.py::test_a_job_older_than_the_wish_for_it_is_not_ours",
        "unit/schedulers/test_slurm.py::test_a_record_of_another_job_in_the_same_directory_is_nobodys",
        "unit/schedulers/test_lsf.py::test_another_job_that_got_the_id_is_not_ours",
        "unit/schedulers/test_htcondor.py::test_another_job_that_got_the_id_is_not_ours",
        "unit/jobs/test_submission.py::test_a_job_of_that_name_from_before_the_intent_is_not_ours",
        "unit/jobs/test_state.py::test_an_id_used_again_is_another_job",
    ],
    "banners and start-up files write into the answers": [
        "integration/submission_suite.py::test_noise_around_everything",
        "integration/test_ssh_sshd.py::test_a_login_shell_that_is_noisy",
        "unit/schedulers/test_frame.py::test_a_frame_brings_back_what_was_written",
        "unit/schedulers/test_frame.py::test_noise_without_a_newline_before_the_frame_does_not_hide_it",
        "unit/ssh/test_host.py::test_a_greeting_is_no_part_of_an_answer",
    ],
    "a shared file system shows a file seconds late": [
        "integration/test_tasks.py::test_an_output_that_the_file_system_shows_late_is_waited_for",
        "unit/tasks/test_staging.py::test_what_is_seen_late_is_waited_for_and_nothing_else_is_asked_for_again",
        "unit/jobs/test_submission.py::test_a_job_that_turns_up_late_is_found",
        "unit/monitors/test_poll.py::test_missing",
    ],
    "sshd drops connections past MaxStartups and sessions past MaxSessions; sites ban who connects too often": [
        "integration/test_bed.py::test_sshd_has_the_limits_that_it_ships_with",
        "integration/test_ssh_sshd.py::test_300_tasks_open_no_more_connections_than_configured",
        "integration/test_ssh_sshd.py::test_a_dead_host_is_not_hammered",
        "unit/ssh/test_host.py::test_refused_connections_are_tried_again",
        "unit/ssh/test_host.py::test_refused_sessions_are_asked_for_again",
        "unit/ssh/test_pool.py::test_attempts_a_minute_are_limited",
        "unit/ssh/test_breaker.py::test_a_pause_stays_within_its_jitter",
    ],
    "controllers limit questions: one status call per cluster for all jobs": [
        "unit/jobs/test_reconcile.py::test_polls_each_resource_in_one_command",
        "unit/jobs/test_reconcile_times.py::test_status_calls_keep_to_the_floor_whatever_is_expected",
        "unit/monitors/test_poll.py::test_one_command_for_all_and_one_for_the_absent",
        "unit/schedulers/test_lsf.py::test_one_bjobs_for_all_jobs",
        "unit/schedulers/test_htcondor.py::test_one_condor_q_for_all_jobs",
        "unit/schedulers/test_submit_words.py::test_a_limit_that_time_cures_is_later",
    ],
    "each kind of end, and of never starting, has an outcome and advice of its own; states are printed cut": [
        "unit/schedulers/test_slurm_states.py::test_outcomes",
        "unit/schedulers/test_slurm_states.py::test_states_as_they_are_printed",
        "unit/schedulers/test_ends.py::test_both_together",
        "unit/schedulers/test_submit_words.py::test_a_job_that_is_too_large_or_not_allowed_is_refused_for_good",
        "contract/suite.py::test_each_end_has_its_outcome",
        "contract/suite.py::test_the_walltime_is_kept_and_told",
        "integration/test_options_slurm.py::test_why_a_job_never_starts",
    ],
    "a killed job cannot call its webhook, and a site may send no mail": [
        "unit/monitors/test_poll.py::test_stopped_from_outside_and_never_back_is_failed",
        "unit/monitors/test_poll.py::test_missing_long_after_its_walltime_still_has_its_grace",
        "unit/jobs/test_state.py::test_any_order_delay_loss_and_repetition_ends_the_same",
        "unit/jobs/test_poller.py::test_a_silent_cluster_gives_nobody_up_before_a_long_time",
    ],
    "cancelling has to reach the whole process tree, and to be repeated until the scheduler agrees": [
        "contract/suite.py::test_cancel_ends_the_whole_tree_and_may_be_asked_again",
        "unit/jobs/test_reconcile.py::test_cancel_is_repeated_until_the_scheduler_agrees",
        "unit/jobs/test_reconcile.py::test_cancel_survives_a_dead_host",
        "unit/jobs/test_reconcile_times.py::"
        "test_a_cancel_of_a_job_that_does_not_end_is_repeated_for_ever_and_hammers_nobody",
        "unit/schedulers/test_ends.py::test_a_job_whose_end_was_asked_for_here",
    ],
    "sites differ: jump hosts, credentials, no way out of compute nodes, home is not scratch, login shells": [
        "integration/test_ssh_sshd.py::test_a_jump_host",
        "integration/test_ssh_sshd.py::test_a_certificate_of_a_trusted_ca",
        "integration/test_ssh_sshd.py::test_keys_of_an_agent",
        "unit/ssh/test_pool.py::test_who_refuses_us_is_asked_once",
        "unit/schedulers/test_script_webhook.py::test_without_a_way_out_the_news_is_left_for_the_relay",
        "unit/jobs/test_poller.py::test_the_relays_news_comes_with_the_status_in_one_command",
        "unit/test_preview.py::test_where_modules_need_a_login_shell_the_script_runs_in_one",
        "integration/test_tasks.py::test_an_experiment_runs_from_end_to_end",
    ],
}


@cache
def _defined(path: str) -> frozenset[str]:
    """The tests in a file, in classes and outside."""
    tree = ast.parse((TESTS / path).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


@pytest.mark.parametrize("trap", TRAPS)
def test_every_trap_has_tests_of_its_own(trap: str) -> None:
    assert TRAPS[trap]
    gone = [name for name in TRAPS[trap] if name.partition("::")[2] not in _defined(name.partition("::")[0])]
    assert gone == []
    assert len(set(TRAPS[trap])) == len(TRAPS[trap])
