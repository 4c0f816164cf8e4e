"""Statements that a transaction of the store writes with, in each database's words. No I/O; imports no Airflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import bindparam, delete, update
from sqlalchemy.dialects import postgresql, sqlite

from airavata_provider.jobs import tables
from airavata_provider.jobs.rows import availability_values
from airavata_provider.models.availability import Availability

UPDATE_JOB = (
    update(tables.job)
    .where(tables.job.c.name == bindparam("key"))
    .values({column.name: bindparam(column.name) for column in tables.job.c})
)


def _put_task(insert_into: Callable[..., Any]) -> Any:
    statement = insert_into(tables.task)
    return statement.on_conflict_do_update(
        index_elements=list(tables.task.primary_key.columns),
        set_={
            column.name: statement.excluded[column.name] for column in tables.task.c if not column.primary_key
        },  # The checkpoint of a later try stands.
        where=tables.task.c.try_number <= statement.excluded.try_number,
    )


def _put_lease(insert_into: Callable[..., Any]) -> Any:
    statement = insert_into(tables.lease)
    excluded = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["name"], set_={"holder": excluded.holder, "expires_at": excluded.expires_at}
    )


_INSERTS: Mapping[str, Callable[..., Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
PUT_TASK = {name: _put_task(insert_into) for name, insert_into in _INSERTS.items()}
PUT_LEASE = {name: _put_lease(insert_into) for name, insert_into in _INSERTS.items()}


def _put_availability(insert_into: Callable[..., Any]) -> Any:
    statement = insert_into(tables.availability)
    return statement.on_conflict_do_update(
        index_elements=["id"],
        set_={
            column.name: statement.excluded[column.name] for column in tables.availability.c if not column.primary_key
        },
    )


_PUT_AVAILABILITY = {name: _put_availability(insert_into) for name, insert_into in _INSERTS.items()}


def say_availability(each: Availability | str, dialect: str) -> tuple[Any, ...]:
    """The statement, and the row that goes with it."""
    if isinstance(each, str):
        return (delete(tables.availability).where(tables.availability.c.id == each),)
    return _PUT_AVAILABILITY[dialect], [availability_values(each)]
