"""The record of the objects that a workspace has created in a cluster."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.cluster.kubernetes.cluster_client import ObjectName
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.workspace import Workspace

RECORD: Final = "kubernetes.json"


class Record:
    """The record of created objects, so that exactly these are removed. It contains no secret."""

    def __init__(self, workspace: Workspace) -> None:
        self._path = workspace.host.run / RECORD

    def names(self) -> list[ObjectName]:
        """Return the identities of the objects, in the order of their creation."""
        try:
            return [ObjectName(**row) for row in json.loads(read_regular(self._path, follow_links=False))]
        except (InputFileMissingError, ValueError, TypeError):
            return []

    def add(self, name: ObjectName) -> None:
        """Record an object before it is created: an unrecorded object would never be removed."""
        names = self.names()
        if name not in names:
            self._write([*names, name])

    def remove(self, name: ObjectName) -> None:
        """Remove an object from the record."""
        self._write([other for other in self.names() if other != name])

    def _write(self, names: Sequence[ObjectName]) -> None:
        if names:
            write_file(self._path, json.dumps([asdict(name) for name in names], indent=1).encode(), mode=PRIVATE)
        else:
            self._path.unlink(missing_ok=True)
