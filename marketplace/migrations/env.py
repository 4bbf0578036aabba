"""Alembic's entry: migrates over the connection that ``marketplace.migrate`` gives it."""

from alembic import context
from sqlmodel import SQLModel

import billing.models  # noqa: F401
import marketplace.models  # noqa: F401

context.configure(
    connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata, compare_type=True
)
with context.begin_transaction():
    context.run_migrations()
