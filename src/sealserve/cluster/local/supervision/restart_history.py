"""The supervisor's report about each part for `sealserve status`: a small file in the host's run folder.

The file is only information for people. No part is started or stopped because of it. It is a JSON object:

======== =========================================================================================================
boot     the boot of the machine that the entries belong to
parts    an object with an entry for each role: pid, state, restarts, last_exit, last_exit_at, next_start_at
======== =========================================================================================================

This module has few imports; see `sealserve.cluster.local.supervision.supervisor`.
`sealserve.cluster.local.supervision.restarts` reads the file.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sealserve.cluster.local.supervision.supervised_part import Part
from sealserve.process_signal import boot_id

_LOG: Final = logging.getLogger(__name__)

FILE: Final = "restarts.json"
RUNNING: Final = "running"
WAITING: Final = "waiting"
"""The part has ended and will be restarted after a pause."""
FAILED: Final = "failed"
"""The part failed too many times in a row and stays down."""


class History:
    """The entries of the parts.

    Args:
        run: The host's run folder.
    """

    def __init__(self, run: Path) -> None:
        self._file = run / FILE
        self._entries: dict[str, dict[str, Any]] = {}

    def load(self) -> None:
        """Load the entries of an earlier supervisor from this boot of the machine. Damaged content is ignored."""
        try:
            found = json.loads(self._file.read_bytes())
            if found["boot"] == boot_id():
                self._entries = {str(role): dict(entry) for role, entry in found["parts"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._entries = {}

    def restore(self, part: Part) -> None:
        """Restore the entry of an earlier supervisor for an adopted part, if it is about the same process."""
        entry: Mapping[str, Any] = self._entries.get(part.role, {})
        if entry.get("pid") == part.pid and isinstance(restarts := entry.get("restarts"), int):
            part.restarts = restarts

    def note(self, part: Part, state: str, *, pause: float | None = None) -> None:
        """Write the state of a part.

        Args:
            part: The part.
            state: `RUNNING`, `WAITING` or `FAILED`.
            pause: Seconds until the part is restarted.
        """
        self._entries[part.role] = {
            "pid": part.pid,
            "state": state,
            "restarts": part.restarts,
            "last_exit": part.last_exit,
            "last_exit_at": None if part.last_exit_at is None else _utc(part.last_exit_at),
            "next_start_at": None if pause is None else _utc(time.time() + pause),
        }
        self.save()

    def drop(self, part: Part) -> None:
        """Remove the entry of a part that was stopped on purpose, unless a different process has its role now."""
        if self._entries.get(part.role, {}).get("pid") == part.pid:
            del self._entries[part.role]
            self.save()

    def save(self) -> None:
        """Write the file. A full disk is not an error, because running parts matter more than the report."""
        temporary = self._file.with_name(f".{FILE}.partial")
        try:
            content = json.dumps({"boot": boot_id(), "parts": self._entries})
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(content)
            temporary.replace(self._file)
        except OSError as error:
            _LOG.warning("%s cannot be written: %s", self._file, error.strerror)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
