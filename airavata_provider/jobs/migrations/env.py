"""Alembic's entry: runs the migrations on the connection that ``jobs.db_manager`` hands over.

The version table is our own, so that these tables may live beside any others.
"""

from __future__ import annotations

from alembic import context

from airavata_provider.jobs.migrations import VERSION_TABLE
from airavata_provider.jobs.tables import metadata

_CONNECTION = context.config.attributes.get("connection")

if context.is_offline_mode():
    context.configure(
        url=context.config.get_main_option("sqlalchemy.url"),
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    context.configure(
        connection=_CONNECTION,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()
