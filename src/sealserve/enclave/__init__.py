"""Enclaves: their contents, measurement and signature, and the runtimes that start them."""
