"""Alembic's entry point: works in the transaction that `store.migrate` brings along."""

from alembic import context

from mcphub.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite alters a table by copying it.
    render_as_batch=True,
    # The caller's transaction is the only one, also on SQLite.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
