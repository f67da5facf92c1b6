"""Enclaves: what goes into one, its measurement and signature, and where it runs."""
