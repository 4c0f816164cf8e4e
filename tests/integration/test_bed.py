"""The test bed itself: each server answers, and the limits that tests rely on are in force."""

from __future__ import annotations

import subprocess
import time

import psycopg

from tests.bed import Bed


def test_sbatch_works_for_the_ssh_user_and_is_accounted(bed: Bed, bed_dir: str) -> None:
    job = bed.run(f"cd {bed_dir} && sbatch --parsable -J bed-job --wrap 'echo hello; exit 3'").stdout.strip()

    def record() -> str:
        return bed.run(f"sacct -X -n -P -j {job} -o JobName,State,ExitCode").stdout.strip()

    # Right after the end, sacct may call a job "allocation": its start has not reached the database yet.
    deadline = time.monotonic() + 30
    while record() != "bed-job|FAILED|3:0" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert record() == "bed-job|FAILED|3:0"
    assert bed.run(f"cat {bed_dir}/slurm-{job}.out").stdout == "hello\n"


def test_the_cluster_is_the_beds_own(bed: Bed) -> None:
    configuration = bed.run("scontrol show config").stdout
    assert str(bed.slurm_conf) in configuration
    assert not str(bed.slurm_conf).startswith("/etc/")


def test_qsub_works_for_the_ssh_user_in_the_beds_own_cell_and_is_accounted(bed: Bed) -> None:
    assert bed.run("echo $SGE_ROOT").stdout.strip() == str(bed.sge_root)
    job = bed.run("echo 'exit 3' | qsub -terse -N bed-job -o /dev/null -j y -S /bin/sh").stdout.strip()

    def record() -> str:
        return bed.run(f"qacct -j {job}", check=False).stdout

    deadline = time.monotonic() + 30
    while "exit_status" not in record() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert {("jobname", "bed-job"), ("exit_status", "3")} <= {tuple(line.split()) for line in record().splitlines()}


def test_a_fresh_database_is_empty_and_durable(postgres_db: str) -> None:
    with psycopg.connect(postgres_db) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public'"
        ).fetchone()
        fsync = connection.execute("SHOW fsync").fetchone()
    assert (tables, fsync) == ((0,), ("on",))


def test_a_container_runs(bed: Bed) -> None:
    run = ["docker", "--host", bed.docker_host, "run", "--rm", "--network", "none", bed.docker_image]
    done = subprocess.run(
        [*run, "sh", "-c", "echo inside"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "inside\n"


def test_sshd_has_the_limits_that_it_ships_with(bed: Bed) -> None:
    lines = bed.sshd_config.read_text().splitlines()
    assert {"MaxSessions 10", "MaxStartups 10:30:100"} <= set(lines)
