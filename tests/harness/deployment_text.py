"""Changing one key in the text of a ``sealserve.toml``, however the file writes and comments it."""

import re


def with_key(text: str, key: str, value: str) -> str:
    """Return the text with a key set.

    Args:
        text: The file's content.
        key: Table and key, such as ``server.threads``.
        value: The value, as TOML writes it.
    """
    table, _, name = key.rpartition(".")
    heading = re.search(rf"(?m)^\[{re.escape(table)}\].*\n", text)
    assert heading is not None, table
    end = re.compile(r"(?m)^\[").search(text, heading.end())
    body = text[heading.end() : end.start() if end else len(text)]
    line = f"{name} = {value}\n"
    changed, count = re.subn(rf"(?m)^(# )?{re.escape(name)} = .*\n", lambda _: line, body, count=1)
    changed = changed if count else line + body
    assert changed != body, f"{key} is {value} already"
    return text[: heading.end()] + changed + (text[end.start() :] if end else "")
