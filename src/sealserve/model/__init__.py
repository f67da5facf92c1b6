"""Fetching, creating, converting and describing plaintext models, only on their owner's machine."""
