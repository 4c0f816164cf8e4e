"""Fetching outputs: what is not there yet, and what never will be."""

from __future__ import annotations

import pytest

from airavata_provider.tasks import staging
from airavata_provider.tasks.staging import Fetched, until_there


class Files:
    """A file system on which the output of a place is seen by the n-th look, or never."""

    def __init__(self, seen: dict[int, int | None]) -> None:
        self.seen, self.looks = seen, dict.fromkeys(seen, 0)

    async def fetch(self, place: int) -> Fetched:
        self.looks[place] += 1
        seen = self.seen[place]
        return [], [], [] if seen is not None and self.looks[place] >= seen else ["result.txt"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "LATE_S", (0.0, 0.0, 0.0))


async def test_what_is_seen_late_is_waited_for_and_nothing_else_is_asked_for_again() -> None:
    files = Files({0: 1, 1: 3, 2: 2})
    fetched = await until_there(files.fetch, range(3), set())
    assert list(fetched) == [0, 1, 2]
    assert all(not missing for _, _, missing in fetched.values())
    assert files.looks == {0: 1, 1: 3, 2: 2}


async def test_what_is_never_seen_is_told_in_the_end() -> None:
    files = Files({0: None, 1: 1})
    fetched = await until_there(files.fetch, range(2), set())
    assert [missing for _, _, missing in fetched.values()] == [["result.txt"], []]
    assert files.looks == {0: 4, 1: 1}


async def test_what_a_failed_job_did_not_leave_is_not_waited_for() -> None:
    files = Files({0: None, 1: None})
    fetched = await until_there(files.fetch, range(2), {0, 1})
    assert [missing for _, _, missing in fetched.values()] == [["result.txt"]] * 2
    assert files.looks == {0: 1, 1: 1}
