"""Sealing: Gramine encrypted files, trees of them, and releases."""
