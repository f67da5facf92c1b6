"""Run the revisions in the transaction of the caller, which Alembic passes on in the configuration."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
