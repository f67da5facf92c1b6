"""Clouds with SGX machines, as data: the facts about each cloud, with their sources and dates."""
