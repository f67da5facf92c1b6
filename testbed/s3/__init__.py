"""A real S3-compatible store, which verifies signatures, for tests."""
