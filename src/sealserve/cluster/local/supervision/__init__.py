"""The supervisor process that restarts failed parts, and the files and requests that it shares with commands.

This file imports nothing, so that the supervisor stays small in memory.
"""
