"""A small batch system that keeps real state and runs real jobs: what the stand-ins for schedulers' commands share.

A *frontend* (``tests/standins/<scheduler>/``) reads a scheduler's own command line and writes its own formats;
everything that happens to a job happens here. Tests hold the same :class:`Cluster` to look into it, to change
its :class:`Settings`, and to tell its commands to misbehave.

A frontend's executable is ``tests/standins/<scheduler>/bin/<command>``::

    #!/usr/bin/env python3
    import sys
    from pathlib import Path
    sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
    from tests.standins.pbs.commands import qsub
    from tests.standins.engine import main
    main("qsub", qsub)               # qsub(cluster, arguments) -> exit status

A test puts that ``bin`` at the front of ``PATH`` and passes :meth:`Cluster.environment`::

    cluster = Cluster(tmp_path / "state", Settings(keep_s=5))
    host = LocalHost(STANDINS / "pbs" / "bin", environment=cluster.environment())
    cluster.misbehave("qsub", Trouble.LATE, text="Connection timed out", status=124)
    ...
    cluster.close()                  # ends what still runs

What always holds:

- The state is a folder: ``lock`` (flock(1)'s, held for each change), ``settings.json``, ``troubles.json``, ``next``
  and one JSON file for each job in ``jobs/``: ``12.json`` is a job or a whole array, ``12.3.json`` its element.
- There is no daemon. Whoever changes something starts what may start (:meth:`Cluster.tick`); each running job has a
  runner of its own, detached, which ends it at its walltime or when it is asked to, and starts the next ones.
- A job is a session of its own (setsid) with exactly the environment, directory and files that its :class:`Spec`
  names. Whatever ends it reaches all processes of the session: SIGTERM, after ``kill_delay_s`` SIGKILL.
- A runner that is gone took its job with it: the job ended because of its node (:data:`NODE`).
- An ended job is in :meth:`Cluster.queue` for ``keep_s`` seconds, in :meth:`Cluster.history` for ``history_s``.

Only the standard library; nothing of the provider. Linux (``/proc``).
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from tests.standins import processes
from tests.standins.model import CANCELLED, DEPENDENCY, FOLDER, NODE, Job, Settings, Spec, State, Trouble


class Cluster:
    """The batch system behind a folder; any number of processes may hold one.

    :param settings: written when given, or when the folder is new
    """

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        self.folder = Path(folder)
        (self.folder / "jobs").mkdir(parents=True, exist_ok=True)
        (self.folder / "scripts").mkdir(exist_ok=True)
        if settings is not None or not (self.folder / "settings.json").exists():
            _write(self.folder / "settings.json", asdict(settings or Settings()))

    def environment(self) -> dict[str, str]:
        """What its commands need in their environment."""
        return {FOLDER: str(self.folder)}

    # --- for frontends and tests

    @property
    def settings(self) -> Settings:
        """As they are now."""
        return Settings(**_read(self.folder / "settings.json"))

    def configure(self, **changes: Any) -> None:
        """Change settings; takes effect at once."""
        with self.locked():
            _write(self.folder / "settings.json", asdict(replace(self.settings, **changes)))
        self.tick()

    def submit(self, spec: Spec) -> int:
        """Take a job or an array; its number."""
        with self.locked():
            counter = self.folder / "next"
            number = int(counter.read_text()) if counter.exists() else self.settings.first
            counter.write_text(str(number + 1))
            if spec.script:
                script = self.script(number)
                script.write_text(spec.script)
                script.chmod(0o700)
            now = time.time()
            first = State.HELD if spec.hold else State.WAITING
            if spec.elements:
                for index in spec.elements:
                    # An element needs no copy of all the others.
                    own = replace(spec, elements={index: spec.elements[index]})
                    self.save(Job(number, index, own, first, now))
                first = State.ARRAY
            self.save(Job(number, None, spec, first, now))
        self.tick()
        return number

    def job(self, key: str) -> Job | None:
        """A job by its key, None when nobody ever had it or it is forgotten altogether."""
        path = self.folder / "jobs" / f"{key}.json"
        try:
            data = _read(path)
        except FileNotFoundError:
            return None
        spec = data.pop("spec")
        spec["elements"] = {int(index): words for index, words in spec["elements"].items()}
        spec["after"] = [(key, kind) for key, kind in spec["after"]]
        if spec["notice"]:
            spec["notice"] = (spec["notice"][0], spec["notice"][1])
        return Job(**{**data, "spec": Spec(**spec), "state": State(data["state"])})

    def jobs(self) -> list[Job]:
        """All of them, arrays and elements too, by number and index; lost runners are noticed first."""
        self.tick()
        return self._jobs()

    def elements(self, number: int) -> list[Job]:
        """An array's elements."""
        return [job for job in self._jobs() if job.number == number and job.index is not None]

    def queue(self) -> list[Job]:
        """What waits or runs, and what ended in the last ``keep_s``; an array as long as one of its elements is."""
        return self._seen(self.settings.keep_s)

    def history(self) -> list[Job]:
        """The same, with what ended in the last ``history_s``."""
        return self._seen(self.settings.history_s)

    def cancel(self, key: str, why: str = CANCELLED) -> bool:
        """End a job, an element, or all of an array, for a reason of this module; False when there is none to end."""
        job = self.job(key)
        if job is None:
            return False
        if job.state is State.ARRAY:
            return sum(self.cancel(each.key, why) for each in self.elements(job.number)) > 0
        with self.locked():
            job = self.job(key)
            if job is None or job.state is State.ENDED:
                return False
            if job.state in (State.WAITING, State.HELD):
                self.save(replace(job, state=State.ENDED, ended=time.time(), why=why))
            else:
                (self.folder / "jobs" / f"{key}.stop").write_text(why)
        self.tick()
        return True

    def change(self, key: str, **changes: Any) -> None:
        """Change a job's record: ``blocked`` and ``comment``, or anything that a test wants to be so."""
        for each in self._these(key):
            with self.locked():
                if (job := self.job(each)) is not None:
                    self.save(replace(job, **changes))
        self.tick()

    def hold(self, key: str) -> None:
        """Keep a waiting job from starting."""
        self._move(key, State.WAITING, State.HELD)

    def release(self, key: str) -> None:
        """Let a held job go."""
        self._move(key, State.HELD, State.WAITING)

    def suspend(self, key: str) -> None:
        """Stop a running job's processes."""
        self.send(key, signal.SIGSTOP)
        self._move(key, State.RUNNING, State.SUSPENDED)

    def resume(self, key: str) -> None:
        """Let them go on."""
        self._move(key, State.SUSPENDED, State.RUNNING)
        self.send(key, signal.SIGCONT)

    def requeue(self, key: str) -> None:
        """Kill a running job and let it wait again under its number."""
        for each in self._these(key):
            with self.locked():
                (self.folder / "jobs" / f"{each}.stop").write_text("requeue")

    def send(self, key: str, number: int) -> None:
        """Send a signal to all processes of a running job."""
        for each in self._these(key):
            job = self.job(each)
            if job is not None and job.leader is not None and job.state is not State.ENDED:
                processes.signal_session(job.leader, number)

    def lose_node(self, key: str) -> None:
        """Kill a running job together with its runner, as a node that breaks down does."""
        for each in self._these(key):
            job = self.job(each)
            if job is not None and job.runner is not None and processes.alive(job.runner, job.runner_since):
                os.kill(job.runner, signal.SIGKILL)
                if job.leader is not None:
                    processes.signal_session(job.leader, signal.SIGKILL)
        self.tick()

    def misbehave(
        self,
        command: str,
        trouble: Trouble,
        *,
        text: str = "",
        status: int = 1,
        seconds: float = 0.0,
        times: int | None = 1,
    ) -> None:
        """Tell a command what to do the next ``times`` (None: from now on). Several wait in line."""
        with self.locked():
            troubles = self._troubles()
            entry = {"trouble": trouble.value, "text": text, "status": status, "seconds": seconds, "times": times}
            troubles.setdefault(command, []).append(entry)
            _write(self.folder / "troubles.json", troubles)

    def behave(self, command: str | None = None) -> None:
        """Forget the misbehaviour of one command, or all."""
        with self.locked():
            troubles = {} if command is None else {c: t for c, t in self._troubles().items() if c != command}
            _write(self.folder / "troubles.json", troubles)

    def tick(self) -> None:
        """Notice lost runners, start what may start, forget what is old."""
        with self.locked():
            now, settings = time.time(), self.settings
            jobs = {job.key: job for job in self._jobs()}
            for job in list(jobs.values()):
                if job.state in (State.RUNNING, State.SUSPENDED):
                    if job.runner is not None and not processes.alive(job.runner, job.runner_since):
                        jobs[job.key] = self.save(replace(job, state=State.ENDED, ended=now, why=NODE))
                elif job.state is State.ENDED and now - (job.ended or now) > settings.history_s:
                    self._forget(jobs, job)
            running = [job for job in jobs.values() if job.state in (State.RUNNING, State.SUSPENDED)]
            for job in sorted(jobs.values(), key=lambda each: (each.number, each.index or 0)):
                if job.state is not State.WAITING or job.blocked or settings.paused:
                    continue
                met = all(_met(jobs, key, kind) for key, kind in job.spec.after)
                if any(_met(jobs, key, kind) is None for key, kind in job.spec.after):
                    if settings.drop_unmet:
                        jobs[job.key] = self.save(replace(job, state=State.ENDED, ended=now, why=DEPENDENCY))
                    continue
                siblings = sum(each.number == job.number for each in running)
                throttled = job.spec.throttle is not None and siblings >= job.spec.throttle
                if met and len(running) < settings.slots and not throttled:
                    running.append(self._start(job, now))

    def close(self) -> None:
        """End everything that runs, at once, and start nothing more."""
        with self.locked():
            _write(self.folder / "settings.json", asdict(replace(self.settings, paused=True)))
        for job in self._jobs():
            if job.state in (State.RUNNING, State.SUSPENDED):
                self.lose_node(job.key)

    # --- within

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """For each change of the state; not to be taken twice."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def script(self, number: int) -> Path:
        """Where a job's script is kept."""
        return self.folder / "scripts" / str(number)

    def save(self, job: Job) -> Job:
        """Write a job's record, locked."""
        _write(self.folder / "jobs" / f"{job.key}.json", asdict(job))
        return job

    def _jobs(self) -> list[Job]:
        found = [self.job(path.name.removesuffix(".json")) for path in (self.folder / "jobs").glob("*.json")]
        # An array stands before its elements.
        return sorted(
            (job for job in found if job is not None), key=lambda job: (job.number, job.index or 0, job.key)
        )

    def _these(self, key: str) -> list[str]:
        job = self.job(key)
        if job is not None and job.state is State.ARRAY:
            return [each.key for each in self.elements(job.number)]
        return [key]

    def _seen(self, seconds: float) -> list[Job]:
        self.tick()
        jobs, now = self._jobs(), time.time()
        seen = {job.key for job in jobs if job.ended is None or now - job.ended < seconds}
        live = {job.number for job in jobs if job.state is not State.ARRAY and job.key in seen}
        return [job for job in jobs if job.key in seen and job.number in live]

    def _move(self, key: str, before: State, after: State) -> None:
        for each in self._these(key):
            with self.locked():
                job = self.job(each)
                if job is not None and job.state is before:
                    self.save(replace(job, state=after))
        self.tick()

    def _forget(self, jobs: dict[str, Job], job: Job) -> None:
        jobs.pop(job.key, None)
        (self.folder / "jobs" / f"{job.key}.json").unlink(missing_ok=True)
        if not any(other.number == job.number and other.index is not None for other in jobs.values()):
            jobs.pop(str(job.number), None)
            (self.folder / "jobs" / f"{job.number}.json").unlink(missing_ok=True)
            self.script(job.number).unlink(missing_ok=True)

    def _start(self, job: Job, now: float) -> Job:
        """Start a job's runner, which begins its work once the lock is free."""
        words = [sys.executable, "-S", "-E", str(Path(__file__).with_name("runner.py")), str(self.folder), job.key]
        runner = os.posix_spawn(sys.executable, words, os.environ, setsid=True)
        since = processes.start_time(runner)
        return self.save(
            replace(job, state=State.RUNNING, started=now, runner=runner, runner_since=since, leader=None, comment="")
        )

    def _troubles(self) -> dict[str, list[dict[str, Any]]]:
        try:
            found: dict[str, list[dict[str, Any]]] = _read(self.folder / "troubles.json")
        except FileNotFoundError:
            return {}
        return found

    def trouble(self, command: str) -> dict[str, Any] | None:
        """What this call of a command has to do wrong, which is one call less from now on."""
        with self.locked():
            troubles = self._troubles()
            for entry in troubles.get(command, []):
                if entry["times"] is None:
                    return entry
                if entry["times"] > 0:
                    entry["times"] -= 1
                    _write(self.folder / "troubles.json", troubles)
                    return entry
        return None


def main(command: str, body: Callable[[Cluster, list[str]], int]) -> NoReturn:
    """Run a frontend's command: its misbehaviour first, then its work.

    :param body: takes the cluster and the arguments, writes to the two streams, returns the exit status
    """
    cluster = Cluster(Path(os.environ[FOLDER]))
    entry = cluster.trouble(command) or {"trouble": None}
    match entry["trouble"]:
        case Trouble.REFUSE | Trouble.EMPTY:
            sys.stderr.write(f"{entry['text']}\n" if entry["text"] else "")
            sys.exit(entry["status"])
        case Trouble.HANG:
            time.sleep(entry["seconds"])
        case Trouble.BANNER:
            sys.stdout.write(entry["text"])
            sys.stderr.write(entry["text"])
        case Trouble.LATE:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                body(cluster, sys.argv[1:])
            time.sleep(entry["seconds"])
            sys.stderr.write(f"{entry['text']}\n" if entry["text"] else "")
            sys.exit(entry["status"])
    sys.exit(body(cluster, sys.argv[1:]))


def _met(jobs: Mapping[str, Job], key: str, kind: str) -> bool | None:
    """Whether a dependency is met; None: it never will be."""
    target = jobs.get(key)
    if target is None:
        # Forgotten: it ended, nobody knows how.
        return kind in ("ended", "started") or None
    one = [target]
    if target.state is State.ARRAY:
        one = [job for job in jobs.values() if job.number == target.number and job.index is not None]
    if kind == "started":
        return all(job.started is not None for job in one)
    if any(job.state is not State.ENDED for job in one):
        return False
    good = all(job.exit_status == 0 and not job.why for job in one)
    return {"ok": good, "failed": not good}.get(kind, True) or None


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _write(path: Path, data: object) -> None:
    new = path.with_suffix(f".{os.getpid()}.new")
    new.write_text(json.dumps(data))
    new.replace(path)
