"""The SSH pool against OpenSSH's own server: an sshd that this file starts, on loopback, on a port of its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from airavata_provider.errors import (
    AuthenticationFailed,
    CircuitOpen,
    ConnectFailed,
    HostKeyRejected,
)
from airavata_provider.jobs.store import JobStore
from airavata_provider.ssh import files
from airavata_provider.ssh.breaker import BreakerPolicy
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Limits, Target
from airavata_provider.storage.sftp import SFTPStorage
from airavata_provider.storage.transfer import Transfer, from_host, to_host
from tests.bed import Bed

SSHD = "/usr/sbin/sshd"


def keygen(*arguments: str | Path) -> None:
    subprocess.run(["ssh-keygen", "-q", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Sshd:
    """A running sshd; ``folder`` holds its keys, its log and the CA that it trusts."""

    folder: Path
    port: int
    user: str
    key: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.log)]
        self.process = subprocess.Popen(command)
        for _ in range(3000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"sshd does not start:\n{self.log.read_text()}")

    def kill(self) -> None:
        """``kill -9`` of the listener and of every connection's process."""
        if self.process is not None:
            children = subprocess.run(
                ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
            ).stdout.split()
            grandchildren = [
                each
                for child in children
                for each in subprocess.run(
                    ["pgrep", "-P", child], capture_output=True, text=True, check=False
                ).stdout.split()
            ]
            self.process.kill()
            self.process.wait()
            for pid in children + grandchildren:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.process = None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def accepted(self) -> int:
        """Connections that logged in."""
        return len(re.findall(r"^Accepted publickey for ", self.log.read_text(), re.MULTILINE))

    @property
    def target(self) -> Target:
        return Target(
            host="127.0.0.1",
            port=self.port,
            user=self.user,
            private_key_file=str(self.key),
            known_hosts=str(self.folder / "known_hosts"),
        )


@pytest.fixture
def sshd(bed: Bed) -> Iterator[Sshd]:
    # Not below pytest's folder, which others may not enter: sshd reads authorized_keys as the one who logs in.
    with tempfile.TemporaryDirectory(prefix="airavata-test-sshd-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = configured_sshd(bed, folder)
        server.start()
        yield server
        server.kill()


def configured_sshd(bed: Bed, folder: Path) -> Sshd:
    port = free_port()
    keygen("-t", "ed25519", "-N", "", "-f", folder / "host_key")
    keygen("-t", "ed25519", "-N", "", "-f", folder / "ca")
    keygen("-t", "ed25519", "-N", "", "-f", folder / "user")
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
    (folder / "sshd_config").write_text(
        f"""Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
TrustedUserCAKeys {folder}/ca.pub
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PrintMotd no
Subsystem sftp internal-sftp
MaxStartups 10:30:100
MaxSessions 10
LogLevel VERBOSE
"""
    )
    (folder / "authorized_keys").chmod(0o644)
    return Sshd(folder, port, bed.ssh_user, folder / "user")


@contextmanager
def agent(socket_path: Path) -> Iterator[None]:
    """An ssh-agent without keys."""
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket_path)], stdout=subprocess.DEVNULL)
    try:
        while not socket_path.exists():
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait()


def add_to_agent(key: Path) -> None:
    subprocess.run(["ssh-add", "-q", str(key)], check=True, stderr=subprocess.DEVNULL)


@pytest.fixture
async def pool() -> AsyncIterator[SSHPool]:
    pool = SSHPool()
    yield pool
    await pool.close()


async def test_300_tasks_open_no_more_connections_than_configured(sshd: Sshd, pool: SSHPool) -> None:
    target = replace(sshd.target, limits=Limits(max_connections=2, sessions_per_connection=4))

    async def task(number: int) -> str:
        host = pool.host(target)
        if number % 3 == 0:
            async with host.sftp() as client:
                await client.stat("/")
        await host.check("sleep 0.02")
        return (await host.check(f"echo {number}")).stdout

    answers = await asyncio.gather(*(task(number) for number in range(300)))
    assert answers == [f"{number}\n" for number in range(300)]
    (stats,) = pool.stats.values()
    assert (stats.opened, stats.peak, sshd.accepted) == (2, 2, 2)
    assert stats.sessions_peak <= 8
    seen = re.findall(r"^Connection from", sshd.log.read_text(), re.MULTILINE)
    # One more: the probe of the fixture, which waits for the port.
    assert len(seen) <= 3


_PROCESS = """
import asyncio, sys
from pathlib import Path
from airavata_provider.jobs.store import JobStore
from airavata_provider.ssh import places
from airavata_provider.ssh.pool import SSHPool
from airavata_provider.ssh.target import Limits, Target

places.RENEW_S = 0.5
url, port, user, key, known_hosts, name, until = sys.argv[1:]

async def main():
    store = JobStore(url)
    pool = SSHPool(ledger=store.host_uses)
    limits = Limits(max_connections=2, sessions_per_connection=1, connects_per_minute=1000)
    target = Target(
        "127.0.0.1", int(port), user, private_key_file=key, known_hosts=known_hosts, limits=limits
    )

    async def work():
        while not Path(until).exists():
            await pool.host(target).check("sleep 0.05")
            Path(name).touch()

    await asyncio.gather(*(work() for _ in range(6)))
    await pool.close()
    await store.close()

asyncio.run(main())
"""


def established(port: int) -> set[str]:
    """Connections to that port, by their other ends, as the server sees them (proc(5): state 01).

    Not all of them stood at the same time, and one may be listed twice: the kernel writes the list in pieces, while
    others come and go.
    """
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[2] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}


async def test_processes_together_open_no_more_connections_than_configured(
    sshd: Sshd, store: JobStore, tmp_path: Path
) -> None:
    """One process works with all there are; a second one gets its share, and the first one goes on with the rest."""
    url, folder = f"sqlite:///{tmp_path / 'jobs.db'}", sshd.folder
    stop = tmp_path / "stop"
    peak = 0
    before: set[str] = set()

    async def start(name: str) -> asyncio.subprocess.Process:
        words = (url, sshd.port, sshd.user, sshd.key, folder / "known_hosts", tmp_path / name, stop)
        return await asyncio.create_subprocess_exec(sys.executable, "-c", _PROCESS, *map(str, words))

    async def until(reached: Callable[[], bool]) -> None:
        nonlocal peak, before
        async with asyncio.timeout(90):
            while not reached():
                now = established(sshd.port)
                # Those in two lists stood between them, all at the same time.
                peak, before = max(peak, len(before & now)), now
                await asyncio.sleep(0.005)

    first = await start("first")
    await until(lambda: sshd.accepted == 2)
    second = await start("second")
    await until((tmp_path / "second").exists)
    (tmp_path / "first").unlink()
    (tmp_path / "second").unlink()
    await until(lambda: (tmp_path / "first").exists() and (tmp_path / "second").exists())
    stop.touch()
    assert [await first.wait(), await second.wait()] == [0, 0]
    assert peak == 2
    assert sshd.accepted >= 3


async def test_large_files_both_ways_between_hosts_of_one_session_each(
    sshd: Sshd, ssh_target: Target, bed_dir: str, pool: SSHPool
) -> None:
    narrow = Limits(max_connections=1, sessions_per_connection=1)
    one, two = (pool.host(replace(target, limits=narrow)) for target in (sshd.target, ssh_target))
    content = os.urandom(3 * files.CHUNK + 5)
    work: list[Coroutine[Any, Any, Transfer]] = []
    for number, (here, there) in enumerate(((one, two), (two, one))):
        storage = SFTPStorage("store", f"{bed_dir}/{number}", here)
        await storage.write("big", files.once(content))
        await storage.write("old", files.once(bytes(len(content))))
        work.extend(to_host(storage, "big", there, f"{bed_dir}/{number}/to/{each}") for each in range(3))
        work.extend(from_host(there, f"{bed_dir}/{number}/big", storage, name) for name in ("old", "new"))
    async with asyncio.timeout(120):
        await asyncio.gather(*work)
    sums = (await one.check(f"cat {bed_dir}/[01]/old {bed_dir}/[01]/new {bed_dir}/[01]/to/* | sha256sum")).stdout
    assert sums.split()[0] == hashlib.sha256(content * 10).hexdigest()
    assert [stats.peak for stats in pool.stats.values()] == [1, 1]


def until_it_is_there(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


async def test_killed_sshd_in_the_middle(sshd: Sshd, pool: SSHPool, bed_dir: str) -> None:
    """Whoever ran hears that nobody knows; whoever waited goes on with the next sshd."""
    host = pool.host(sshd.target)
    tasks = [asyncio.create_task(host.run(f"touch {bed_dir}/up; sleep 2; echo done")) for _ in range(30)]
    await asyncio.wait_for(asyncio.to_thread(until_it_is_there, Path(bed_dir, "up")), 60)
    sshd.kill()
    await asyncio.sleep(0.3)
    sshd.start()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    broken = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, ConnectFailed) and error.started for error in broken), broken
    assert 0 < len(broken) <= 8
    assert (await host.run("echo again")).stdout == "again\n"


async def test_a_connection_that_went_silent_is_given_up(sshd: Sshd, pool: SSHPool, bed_dir: str) -> None:
    """As behind a firewall that forgot it: nothing arrives, and nobody says that it ended."""
    assert sshd.process is not None
    host = pool.host(replace(sshd.target, limits=Limits(max_connections=1, keepalive_s=2.0)))
    running = asyncio.create_task(host.run(f"touch {bed_dir}/up; sleep 600", timeout=600))
    await asyncio.wait_for(asyncio.to_thread(until_it_is_there, Path(bed_dir, "up")), 60)
    silent = psutil.Process(sshd.process.pid).children(recursive=True)
    for process in silent:
        process.suspend()
    try:
        async with asyncio.timeout(60):
            with pytest.raises(ConnectFailed) as caught:
                await running
            assert caught.value.started
            assert (await host.run("echo again")).stdout == "again\n"
    finally:
        for process in silent:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    assert sshd.accepted == 2


async def test_a_certificate_of_a_trusted_ca(sshd: Sshd, pool: SSHPool) -> None:
    key = sshd.folder / "fresh"
    keygen("-t", "ed25519", "-N", "", "-f", key)
    target = replace(sshd.target, private_key_file=None, private_key=key.read_text())
    with pytest.raises(AuthenticationFailed):
        await pool.host(target).run("true")
    keygen("-s", sshd.folder / "ca", "-I", "test", "-n", sshd.user, "-V", "+1h", f"{key}.pub")
    certificate = key.with_name("fresh-cert.pub")
    assert (await pool.host(replace(target, certificate=certificate.read_text())).run("id -un")).stdout == (
        f"{sshd.user}\n"
    )
    from_file = replace(target, private_key=None, private_key_file=str(key), certificate_file=str(certificate))
    assert (await pool.host(from_file).run("echo in")).stdout == "in\n"


async def test_keys_of_an_agent(sshd: Sshd, pool: SSHPool, monkeypatch: pytest.MonkeyPatch) -> None:
    socket_path = sshd.folder / "agent"
    with agent(socket_path):
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        target = replace(sshd.target, private_key_file=None, agent=True)
        with pytest.raises(AuthenticationFailed):
            await pool.host(target).run("true")
        add_to_agent(sshd.key)
        assert (await pool.host(replace(target, known_hosts=None, check_host_key=False)).run("echo in")).stdout


async def test_a_jump_host(sshd: Sshd, bed: Bed, ssh_target: Target, pool: SSHPool) -> None:
    """Through our sshd to the bed's, and to itself as another user would."""
    through = replace(ssh_target, jump=sshd.target)
    result = await pool.host(through).run('echo "$SSH_CONNECTION"')
    assert result.stdout.split()[3] == str(bed.ssh_port)
    twice = replace(sshd.target, jump=replace(sshd.target, jump=ssh_target))
    assert (await pool.host(twice).run("echo in")).stdout == "in\n"


async def test_a_wrong_host_key_is_refused(sshd: Sshd, pool: SSHPool) -> None:
    other = " ".join((sshd.folder / "ca.pub").read_text().split()[:2])
    genuine = " ".join((sshd.folder / "host_key.pub").read_text().split()[:2])
    with pytest.raises(HostKeyRejected):
        await pool.host(replace(sshd.target, host_keys=(other,))).run("true")
    assert sshd.accepted == 0
    assert (await pool.host(replace(sshd.target, host_keys=(genuine,))).run("echo in")).stdout == "in\n"


async def test_a_dead_host_is_not_hammered(sshd: Sshd) -> None:
    sshd.kill()
    pool = SSHPool(BreakerPolicy(threshold=3, backoff_s=0.01, pause_s=60))
    target = replace(sshd.target, limits=Limits(patience_s=5))

    async def attempt() -> BaseException | None:
        try:
            await pool.host(target).run("true")
        except (ConnectFailed, CircuitOpen) as error:
            return error
        return None

    first = await asyncio.gather(*(attempt() for _ in range(50)))
    assert all(isinstance(error, ConnectFailed) and not error.started for error in first)
    later = [await attempt() for _ in range(50)]
    assert all(isinstance(error, CircuitOpen) for error in later)
    (stats,) = pool.stats.values()
    assert stats.attempts == 3
    await pool.close()


async def test_a_host_that_does_not_answer_is_given_up_in_time(pool: SSHPool) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        target = Target(
            "127.0.0.1",
            silent.getsockname()[1],
            "ada",
            check_host_key=False,
            limits=Limits(connect_timeout_s=0.2, patience_s=0.1),
        )
        with pytest.raises(ConnectFailed, match="in time"):
            await pool.host(target).run("true")


async def test_a_login_shell_that_is_noisy(sshd: Sshd, bed: Bed, pool: SSHPool) -> None:
    """An sshd that starts every command with a greeting, as start-up files of a shell do."""
    sshd.kill()
    config = sshd.folder / "sshd_config"
    config.write_text(config.read_text() + 'ForceCommand echo Welcome; eval "$SSH_ORIGINAL_COMMAND"\n')
    sshd.start()
    host = pool.host(sshd.target)
    assert (await host.run("echo one; cat", input="two")).stdout == "one\ntwo"
