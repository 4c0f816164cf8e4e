"""A cluster of paper: a host whose commands are JSON, and an adaptor that speaks them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from airavata_provider.errors import AnswerUnreadable, CommandTimedOut, ConnectFailed
from airavata_provider.models.job import JobState
from airavata_provider.schedulers.base import CommandResult, JobRef, JobStatus, Scheduler
from airavata_provider.schedulers.request import JobRequest


class PaperScheduler(Scheduler):
    name = "paper"

    def directives(self, request: JobRequest) -> Sequence[str]:
        return ()

    def element_id(self, native_id: str, index: int) -> str:
        return f"{native_id}_{index}"

    def submit_command(self, script: str, request: JobRequest) -> str:
        raise NotImplementedError

    def parse_submit(self, result: CommandResult) -> str:
        raise NotImplementedError

    def find_command(self, name: str, user: str | None, directory: str) -> str:
        return json.dumps(["find", [name]])

    def parse_find(self, result: CommandResult, name: str) -> str | None:
        found: str | None = _answer(result).get(name)
        return found

    def status_command(self, jobs: Sequence[JobRef]) -> str:
        return json.dumps(["status", [job.native_id for job in jobs]])

    def parse_status(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        return {
            native_id: JobStatus(native_id, JobState(state), state, exit_code=code, reason="in its words")
            for native_id, (state, code) in _answer(result).items()
        }

    def history_command(self, jobs: Sequence[JobRef]) -> str:
        return json.dumps(["history", [job.native_id for job in jobs]])

    def parse_history(self, result: CommandResult, jobs: Sequence[JobRef]) -> Mapping[str, JobStatus]:
        return self.parse_status(result, jobs)

    def cancel_command(self, jobs: Sequence[JobRef]) -> str:
        return json.dumps(["cancel", [job.native_id for job in jobs]])


def _answer(result: CommandResult) -> dict[str, Any]:
    if result.exit_status != 0:
        raise AnswerUnreadable("no sense")
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


class PaperCluster:
    """The host.

    :ivar queue: native id → state and exit code
    :ivar history: the same, of jobs that left the queue
    :ivar names: job's name → native id
    :ivar deaf: how many cancels have no effect yet
    :ivar unreadable: verbs whose answer makes no sense
    """

    def __init__(self) -> None:
        self.queue: dict[str, tuple[str, int | None]] = {}
        self.history: dict[str, tuple[str, int | None]] = {}
        self.names: dict[str, str] = {}
        self.deaf = 0
        self.down = False
        self.unreadable: set[str] = set()
        self.calls: list[tuple[str, list[str]]] = []
        self._called = asyncio.Event()

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        verb, names = json.loads(command)
        self.calls.append((verb, names))
        self._called.set()
        if self.down:
            raise ConnectFailed("down")
        if verb in self.unreadable:
            return CommandResult(1, "", "slurm_load_jobs error")
        answer: object = {}
        if verb == "find":
            answer = {name: self.names[name] for name in names if name in self.names}
        elif verb == "cancel":
            self._cancel(names)
        else:
            known = self.queue if verb == "status" else self.history
            answer = {name: known[name] for name in names if name in known}
        return CommandResult(0, json.dumps(answer), "")

    def _cancel(self, names: list[str]) -> None:
        self.deaf -= 1
        if self.deaf >= 0:
            return
        for name in names:
            for found in [each for each in self.queue if each == name or each.startswith(f"{name}_")]:
                del self.queue[found]
                self.history[found] = ("CANCELED", None)

    async def until_called(self, verb: str, times: int) -> None:
        """Wait until that verb was asked so many times."""
        while self.count(verb) < times:
            self._called.clear()
            await self._called.wait()

    def count(self, verb: str) -> int:
        return sum(each == verb for each, _ in self.calls)


class TailCluster(PaperCluster):
    """One whose jobs write files: what is new of them comes before the scheduler's answer.

    :ivar files: what is in them, by path
    :ivar stuck: their file system does not answer
    """

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.stuck = False
        self.commands: list[str] = []

    async def run(self, command: str, *, timeout: float = 60.0) -> CommandResult:
        self.commands.append(command)
        tail, _, rest = command.rpartition("\n[")
        if "airavata_tail" not in command:
            return await super().run(command, timeout=timeout)
        if self.stuck:
            raise CommandTimedOut("no answer")
        lines = ""
        for number, known, path in re.findall(r"airavata_tail (\d+) (\d+) (\S+)$", tail or command, re.MULTILINE):
            new = self.files.get(path, b"")[int(known) :]
            lines += f"{number}|{known}|{new.hex()}\n" if new else ""
        frame = f"AIRAVATA-BEGIN output\n{lines}\nAIRAVATA-END output 0 \n"
        if "airavata_tail" in rest:
            return CommandResult(0, frame, "")
        answer = await super().run("[" + rest, timeout=timeout)
        return replace(answer, stdout=frame + answer.stdout)
