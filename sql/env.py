"""Alembic's entry: migrate the connection that ``diptych.audit.migrate`` hands over."""

from alembic import context

from diptych.audit.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
