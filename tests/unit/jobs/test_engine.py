"""Work that is tried again when the database stumbles, and only then."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoneFree

from airavata_provider.jobs import engine
from airavata_provider.jobs.engine import PATIENCE_S, RETRY_AFTER_S, is_passing, pauses, persist

LOCKED = OperationalError("select", {}, sqlite3.OperationalError("database is locked"))


@given(st.floats(0, 10_000))
def test_the_pauses_fill_the_patience(patience_s: float) -> None:
    found = list(pauses(patience_s))
    assert patience_s - engine.LATER_S - 0.01 < sum(found) < patience_s + 0.01


def test_the_short_patience_is_all_short_pauses() -> None:
    assert tuple(pauses(PATIENCE_S)) == RETRY_AFTER_S


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (LOCKED, True),
        (OSError("no route"), True),
        (NoneFree("QueuePool limit reached"), True),
        (OperationalError("select", {}, sqlite3.OperationalError("no such table: airavata_job")), False),
        (ProgrammingError("select", {}, Exception("relation does not exist")), False),
        (IntegrityError("insert", {}, Exception("unique")), False),
        (ValueError("a bug"), False),
    ],
)
def test_what_passes(error: Exception, passes: bool) -> None:
    assert is_passing(error) is passes


@pytest.mark.parametrize(
    ("errors", "tries", "raised"),
    [
        ([], 1, None),
        ([LOCKED, LOCKED], 3, None),
        ([LOCKED, ValueError("a bug")], 2, ValueError),
        ([LOCKED] * 9, 4, SQLAlchemyError),
    ],
)
async def test_work_is_done_again_after_what_passes(
    errors: list[Exception], tries: int, raised: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_AFTER_S", (0.001, 0.001, 0.001))
    left, tried = list(errors), 0

    async def work() -> str:
        nonlocal tried
        tried += 1
        if left:
            raise left.pop(0)
        return "done"

    if raised is None:
        assert await persist(work, 0.003) == "done"
    else:
        with pytest.raises(raised):
            await persist(work, 0.003)
    assert tried == tries
