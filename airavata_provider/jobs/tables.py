"""The store's tables, in their own MetaData; columns are named as the fields of the
dataclasses in ``models``.

``airavata_job`` is the record of each job and, by its ``submission`` and ``native_id``, the intent to submit
it; ``airavata_submission`` is the journal of that intent, append-only; ``airavata_job_event`` is every piece
of news, append-only, with what it did; ``airavata_task`` holds the checkpoints of tasks; ``airavata_lease``
who runs a service that must run once, and how many connections to a host each process has;
``airavata_placement`` where experiments run that left the choice to us;
``airavata_availability`` what people said about resources: drained, down;
``airavata_mail_folder`` how far a folder of a mailbox was read; ``airavata_handover`` which experiments have a second
run, which their job's end starts.

A change here needs a migration in ``migrations/versions``; a test compares the two. Imports SQLAlchemy and
nothing that does I/O.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: timezone-aware going in, UTC coming out, on databases with and without time zones.

    :raises ValueError: (binding) a datetime without a time zone, which names no moment
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database: UTC, without the zone where the database cannot keep it."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a moment needs a time zone: {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database: always with UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite numbers only an INTEGER primary key by itself.
_Serial = BigInteger().with_variant(Integer(), "sqlite")

job = Table(
    "airavata_job",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("dag_id", String(250), nullable=False),
    Column("experiment_id", String(250), nullable=False),
    Column("task_id", String(250), nullable=False),
    Column("map_index", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("resource", String(250), nullable=False),
    Column("directory", Text, nullable=False),
    Column("gateway", String(250), nullable=False),
    Column("user", String(250), nullable=False),
    Column("queue", String(250)),
    Column("state", String(32)),
    Column("state_at", UtcDateTime),
    Column("state_source", String(64), nullable=False),
    Column("submission", String(32), nullable=False),
    Column("native_id", String(250)),
    Column("try_number", Integer, nullable=False),
    Column("walltime_s", BigInteger),
    Column("exit_code", BigInteger),
    Column("signal", BigInteger),
    Column("reason", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("submitted_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    Column("cancel_requested_at", UtcDateTime),
    Column("cancel_requested_by", String(250), nullable=False),
    Column("canceled_at", UtcDateTime),
    Column("outcome", String(32)),
    Column("priority", Integer, nullable=False),
    Column("admitted_at", UtcDateTime),
    Column("submitting_at", UtcDateTime),
    Column("array", String(64)),
    # -1 for what is no element: in a unique constraint no NULL equals another.
    Column("element", Integer, nullable=False),
    Column("offset", Integer, nullable=False),
    Column("size", Integer),
    Column("tally", JSON(none_as_null=True)),
    Column("request", JSON(none_as_null=True)),
    Column("born", String(64), nullable=False),
    Column("waiter", String(64), nullable=False),
    UniqueConstraint(
        "dag_id",
        "experiment_id",
        "born",
        "task_id",
        "map_index",
        "attempt",
        "offset",
        "element",
        name="uq_airavata_job_identity",
    ),
    # Elements of an array.
    Index(None, "array"),
    # The watcher's query; open jobs of one resource; cancels that the scheduler has not agreed to.
    Index(None, "changed_at"),
    Index(None, "ended_at", "resource"),
    Index(None, "cancel_requested_at", "canceled_at"),
    # Whose news a mail brings.
    Index(None, "native_id"),
)

job_event = Table(
    "airavata_job_event",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("job", String(64), ForeignKey(job.c.name, ondelete="CASCADE"), nullable=False),
    Column("source", String(64), nullable=False),
    Column("event_id", String(250), nullable=False),
    Column("state", String(32), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("exit_code", BigInteger),
    Column("signal", BigInteger),
    Column("reason", Text, nullable=False),
    Column("native_id", String(250)),
    Column("given_up", Boolean, nullable=False),
    Column("outcome", String(32)),
    Column("effect", String(32), nullable=False),
    UniqueConstraint("job", "source", "event_id"),
)

submission = Table(
    "airavata_submission",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("job", String(64), ForeignKey(job.c.name, ondelete="CASCADE"), nullable=False),
    Column("state", String(32), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("native_id", String(250)),
    Column("reason", Text, nullable=False),
    Index(None, "job"),
)

task = Table(
    "airavata_task",
    metadata,
    Column("dag_id", String(250), primary_key=True),
    Column("experiment_id", String(250), primary_key=True),
    Column("born", String(64), primary_key=True),
    Column("task_id", String(250), primary_key=True),
    Column("map_index", Integer, primary_key=True),
    Column("try_number", Integer, nullable=False),
    Column("state", String(32), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("result", JSON, nullable=False),
    Column("error", Text, nullable=False),
    Column("run_started", String(64), nullable=False),
    Column("stands_through", Integer),
)

lease = Table(
    "airavata_lease",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(250), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

placement = Table(
    "airavata_placement",
    metadata,
    Column("dag_id", String(250), primary_key=True),
    Column("experiment_id", String(250), primary_key=True),
    Column("born", String(64), primary_key=True),
    Column("resource", String(250), nullable=False),
    Column("queue", String(250)),
    Column("sizes", JSON, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("decided_at", UtcDateTime, nullable=False),
    Column("revision", Integer, nullable=False),
    # What was decided lately.
    Index(None, "decided_at"),
)

availability = Table(
    "airavata_availability",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("resource", String(250), nullable=False),
    Column("queue", String(250), nullable=False),
    Column("state", String(32), nullable=False),
    Column("starts_at", UtcDateTime, nullable=False),
    Column("ends_at", UtcDateTime),
    Column("by", String(250), nullable=False),
    Column("reason", Text, nullable=False),
    Column("jobs", Integer),
)

mail_folder = Table(
    "airavata_mail_folder",
    metadata,
    Column("mailbox", String(100), primary_key=True),
    Column("folder", String(250), primary_key=True),
    Column("uidvalidity", BigInteger, nullable=False),
    Column("uid", BigInteger, nullable=False),
    Column("old_uid", BigInteger, nullable=False),
    Column("waiting", JSON, nullable=False),
    Column("counts", JSON, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
)

handover = Table(
    "airavata_handover",
    metadata,
    Column("dag_id", String(250), primary_key=True),
    Column("experiment_id", String(250), primary_key=True),
    Column("born", String(64), primary_key=True),
    Column("task_id", String(250), nullable=False),
    Column("try_number", Integer, nullable=False),
    Column("state", String(32), nullable=False),
    Column("starts", Integer, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    # Who waits, and what of them is new.
    Index(None, "state", "changed_at"),
)
