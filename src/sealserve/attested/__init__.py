"""Attested serving: what a user verifies about a service, and the documents that prove it."""
