"""The tables of the first release.

Revision: a1f0c3d20001, the first
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "a1f0c3d20001"
down_revision = None
branch_labels = None
depends_on = None


def _moment() -> sa.DateTime:
    return sa.DateTime(timezone=True)


def _serial() -> sa.BigInteger:
    """What numbers itself: on SQLite only an INTEGER does."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "airavata_job",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("experiment_id", sa.String(length=250), nullable=False),
        sa.Column("task_id", sa.String(length=250), nullable=False),
        sa.Column("map_index", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("resource", sa.String(length=250), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("gateway", sa.String(length=250), nullable=False),
        sa.Column("user", sa.String(length=250), nullable=False),
        sa.Column("queue", sa.String(length=250), nullable=True),
        sa.Column("state", sa.String(length=32), nullable=True),
        sa.Column("state_at", _moment(), nullable=True),
        sa.Column("state_source", sa.String(length=64), nullable=False),
        sa.Column("submission", sa.String(length=32), nullable=False),
        sa.Column("native_id", sa.String(length=250), nullable=True),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("walltime_s", sa.BigInteger(), nullable=True),
        sa.Column("exit_code", sa.BigInteger(), nullable=True),
        sa.Column("signal", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("submitted_at", _moment(), nullable=True),
        sa.Column("started_at", _moment(), nullable=True),
        sa.Column("ended_at", _moment(), nullable=True),
        sa.Column("changed_at", _moment(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("cancel_requested_at", _moment(), nullable=True),
        sa.Column("cancel_requested_by", sa.String(length=250), nullable=False),
        sa.Column("canceled_at", _moment(), nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("admitted_at", _moment(), nullable=True),
        sa.Column("submitting_at", _moment(), nullable=True),
        sa.Column("array", sa.String(length=64), nullable=True),
        sa.Column("element", sa.Integer(), nullable=False),
        sa.Column("offset", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=True),
        sa.Column("tally", sa.JSON(), nullable=True),
        sa.Column("request", sa.JSON(), nullable=True),
        sa.Column("born", sa.String(length=64), nullable=False),
        sa.Column("waiter", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_airavata_job")),
        sa.UniqueConstraint(
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
    )
    op.create_index(
        op.f("ix_airavata_job_cancel_requested_at_canceled_at"),
        "airavata_job",
        ["cancel_requested_at", "canceled_at"],
    )
    op.create_index(op.f("ix_airavata_job_array"), "airavata_job", ["array"])
    op.create_index(op.f("ix_airavata_job_changed_at"), "airavata_job", ["changed_at"])
    op.create_index(op.f("ix_airavata_job_ended_at_resource"), "airavata_job", ["ended_at", "resource"])
    op.create_index(op.f("ix_airavata_job_native_id"), "airavata_job", ["native_id"])

    op.create_table(
        "airavata_lease",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=250), nullable=False),
        sa.Column("expires_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_airavata_lease")),
    )
    op.create_table(
        "airavata_mail_folder",
        sa.Column("mailbox", sa.String(length=100), nullable=False),
        sa.Column("folder", sa.String(length=250), nullable=False),
        sa.Column("uidvalidity", sa.BigInteger(), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("old_uid", sa.BigInteger(), nullable=False),
        sa.Column("waiting", sa.JSON(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("mailbox", "folder", name=op.f("pk_airavata_mail_folder")),
    )
    op.create_table(
        "airavata_task",
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("experiment_id", sa.String(length=250), nullable=False),
        sa.Column("born", sa.String(length=64), nullable=False),
        sa.Column("task_id", sa.String(length=250), nullable=False),
        sa.Column("map_index", sa.Integer(), nullable=False),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("started_at", _moment(), nullable=False),
        sa.Column("ended_at", _moment(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("run_started", sa.String(length=64), nullable=False),
        sa.Column("stands_through", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint(
            "dag_id", "experiment_id", "born", "task_id", "map_index", name=op.f("pk_airavata_task")
        ),
    )
    op.create_table(
        "airavata_placement",
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("experiment_id", sa.String(length=250), nullable=False),
        sa.Column("born", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=250), nullable=False),
        sa.Column("queue", sa.String(length=250), nullable=True),
        sa.Column("sizes", sa.JSON(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("decided_at", _moment(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("dag_id", "experiment_id", "born", name=op.f("pk_airavata_placement")),
    )
    op.create_index(op.f("ix_airavata_placement_decided_at"), "airavata_placement", ["decided_at"])
    op.create_table(
        "airavata_availability",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=250), nullable=False),
        sa.Column("queue", sa.String(length=250), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("starts_at", _moment(), nullable=False),
        sa.Column("ends_at", _moment(), nullable=True),
        sa.Column("by", sa.String(length=250), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_airavata_availability")),
    )
    op.create_table(
        "airavata_job_event",
        sa.Column("id", _serial(), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.String(length=250), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("at", _moment(), nullable=False),
        sa.Column("received_at", _moment(), nullable=False),
        sa.Column("exit_code", sa.BigInteger(), nullable=True),
        sa.Column("signal", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("native_id", sa.String(length=250), nullable=True),
        sa.Column("given_up", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("effect", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["job"], ["airavata_job.name"], name=op.f("fk_airavata_job_event_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_airavata_job_event")),
        sa.UniqueConstraint("job", "source", "event_id", name=op.f("uq_airavata_job_event_job_source_event_id")),
    )
    op.create_table(
        "airavata_submission",
        sa.Column("id", _serial(), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("at", _moment(), nullable=False),
        sa.Column("native_id", sa.String(length=250), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job"], ["airavata_job.name"], name=op.f("fk_airavata_submission_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_airavata_submission")),
    )
    op.create_index(op.f("ix_airavata_submission_job"), "airavata_submission", ["job"])

    op.create_table(
        "airavata_handover",
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("experiment_id", sa.String(length=250), nullable=False),
        sa.Column("born", sa.String(length=64), nullable=False),
        sa.Column("task_id", sa.String(length=250), nullable=False),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("starts", sa.Integer(), nullable=False),
        sa.Column("changed_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("dag_id", "experiment_id", "born", name=op.f("pk_airavata_handover")),
    )
    op.create_index(op.f("ix_airavata_handover_state_changed_at"), "airavata_handover", ["state", "changed_at"])


def downgrade() -> None:

    op.drop_table("airavata_availability")
    op.drop_table("airavata_placement")
    op.drop_table("airavata_submission")
    op.drop_table("airavata_job_event")
    op.drop_table("airavata_task")
    op.drop_table("airavata_mail_folder")
    op.drop_table("airavata_handover")
    op.drop_table("airavata_lease")

    op.drop_table("airavata_job")
