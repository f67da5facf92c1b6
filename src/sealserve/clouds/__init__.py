"""Clouds that have SGX machines, as data: what is known of each, from where, and from when."""
