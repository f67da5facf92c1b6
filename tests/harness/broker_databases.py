"""Which databases a test of the broker runs with."""

import pytest

ONLY_SQLITE = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
"""For a test of what only SQLite has: its file, its locks, a column without a type."""

ONLY_POSTGRESQL = pytest.mark.parametrize(
    "kind", [pytest.param("postgresql", marks=pytest.mark.integration)], indirect=True
)
"""For a test that looks at the server itself."""
