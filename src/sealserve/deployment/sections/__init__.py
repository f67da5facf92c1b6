"""The sections of ``sealserve.toml``: one module for each section."""
