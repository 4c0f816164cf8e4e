"""The test bed as Python sees it: where its servers are, and a shell on its host."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
BED_SCRIPT = PROJECT / "scripts" / "testbed.sh"


@cache
def _control() -> str:
    """This process' folder for the sockets of OpenSSH's connections that stand."""
    folder = tempfile.mkdtemp(prefix="airavata-test-ssh-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Bed:
    """Where the test bed's servers are, all on loopback. Written by ``scripts/testbed.sh``.

    :param ssh_key: private key file of ``ssh_user``
    :param sshd_config: with it, ``/usr/sbin/sshd -f`` starts a killed sshd again
    :param sshd_log: sshd's log; level VERBOSE, one ``Connection from`` line per connection
    :param scratch: folder that ``ssh_user`` may write
    :param slurm_job_log: SLURM's job-completion log, one line per finished job
    :param sge_root: Grid Engine's cell is in its folder ``default``
    :param postgres_url: ``postgresql://`` URL of a superuser
    :param docker_host: what ``DOCKER_HOST`` has to be
    :param imaps_port: of the same server, with TLS from the start
    :param imap_certificate: of that port, for 127.0.0.1 and localhost; its own authority, which no machine knows
    :param imap_key: its key
    :param imap_password: of every account of the IMAP server; an account is a maildir in ``mail_root``
    :param mailer: ``mailer -s SUBJECT NAME <BODY`` delivers into the maildir of that name
    :param dovecot_conf: with it, ``dovecot -c`` starts a killed Dovecot again
    """

    ssh_host: str
    ssh_port: int
    ssh_user: str
    ssh_key: Path
    known_hosts: Path
    sshd_config: Path
    sshd_log: Path
    sshd_pid_file: Path
    scratch: Path
    slurm_conf: Path
    slurm_job_log: Path
    slurmctld_pid_file: Path
    sge_root: Path
    postgres_url: str
    docker_image: str
    docker_host: str
    imap_port: int
    imaps_port: int
    imap_certificate: Path
    imap_key: Path
    imap_password: str
    mail_root: Path
    mailer: Path
    dovecot_conf: Path
    dovecot_pid_file: Path

    @classmethod
    def load(cls, file: Path) -> Bed:
        """Read a ``testbed.json``; every part of the bed has to be in it."""
        facts: dict[str, Any] = json.loads(file.read_text())
        values: dict[str, Any] = {
            field.name: Path(facts[field.name]) if field.type == "Path" else facts[field.name]
            for field in fields(cls)
        }
        return cls(**values)

    def run(self, command: str, *, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the bed's host as ``ssh_user``, through OpenSSH's own client."""
        options = ["-F", "none", "-n", "-p", str(self.ssh_port), "-i", str(self.ssh_key)]
        options += ["-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={self.known_hosts}"]
        # One connection for all commands of this process: a key exchange costs 0.2 s of CPU.
        options += ["-o", "ControlMaster=auto", "-o", "ControlPersist=20", "-o", f"ControlPath={_control()}/%p"]
        return subprocess.run(
            ["ssh", *options, f"{self.ssh_user}@{self.ssh_host}", command],
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
        )


def start_bed() -> Bed:
    """Start what does not answer, and say where everything is.

    :raises RuntimeError: something cannot be started; carries the script's words, which say what to install
    """
    if os.environ.get("TESTBED_IS_UP") != "1":  # see scripts/test.sh
        done = subprocess.run(
            [str(BED_SCRIPT), "up"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the test bed does not start:\n{done.stdout}{done.stderr}")
    return Bed.load(Path(os.environ.get("TESTBED_STATE", PROJECT / ".testbed")) / "testbed.json")
