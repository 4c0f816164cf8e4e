"""The peer: a batch job over SSH as people write it today, with the operators of Airflow's own providers.

A DAG file; ``benchmarks.run`` copies it into the bench's DAG folder. ``BENCH_SCRATCH`` is a folder on the
host, ``BENCH_FILES`` one here with ``input.txt`` in it.
"""

from __future__ import annotations

import os

from airflow.providers.sftp.operators.sftp import SFTPOperator
from airflow.providers.ssh.operators.ssh import SSHOperator
from airflow.sdk import DAG

SCRATCH = os.environ.get("BENCH_SCRATCH", "/tmp")
FILES = os.environ.get("BENCH_FILES", "/tmp")
CONNECTION = "bench_ssh"
HERE = f"{SCRATCH}/plain-{{{{ run_id }}}}"

with DAG("plain", schedule=None, catchup=False, max_active_runs=10000) as dag:
    make_directory = SSHOperator(
        task_id="make_directory", ssh_conn_id=CONNECTION, command=f"mkdir -p '{HERE}'", do_xcom_push=False
    )
    put_input = SFTPOperator(
        task_id="put_input",
        ssh_conn_id=CONNECTION,
        operation="put",
        local_filepath=f"{FILES}/input.txt",
        remote_filepath=f"{HERE}/input.txt",
    )
    run_job = SSHOperator(
        task_id="run_job",
        ssh_conn_id=CONNECTION,
        command=f"cd '{HERE}' && sbatch --wait -o stdout.txt -e stderr.txt --wrap 'cat input.txt'",
        cmd_timeout=600,
        do_xcom_push=False,
    )
    check_output = SSHOperator(
        task_id="check_output",
        ssh_conn_id=CONNECTION,
        command=f"test -s '{HERE}/stdout.txt'",
        do_xcom_push=False,
    )
    get_output = SFTPOperator(
        task_id="get_output",
        ssh_conn_id=CONNECTION,
        operation="get",
        local_filepath=f"{FILES}/outputs/plain-{{{{ run_id }}}}.txt",
        remote_filepath=f"{HERE}/stdout.txt",
        create_intermediate_dirs=True,
    )
    make_directory >> put_input >> run_job >> check_output >> get_output
