"""Sealing: Gramine encrypted files, folders of encrypted files, and releases."""
