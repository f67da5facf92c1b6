"""The release that a target of this machine serves, and the release that it served before, for `up --rollback`.

The record is a file with one name per line. `down` does not delete it, so the next `up` can still roll back.
"""

from pathlib import Path
from typing import Final

from sealserve.atomic_file import write_file
from sealserve.cluster.codes import ClusterCode
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.workspace import Workspace

_FILE: Final = "release"


class ReleaseRecord:
    """The release record of one workspace.

    Args:
        workspace: The workspace of the deployment.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._file = workspace.host.run / _FILE

    def serving(self) -> str | None:
        """Return the name of the release that was served last, or None if no release was served."""
        return next(iter(self._names()), None)

    def previous(self, serving: str | None = None) -> str:
        """Return the name of the release that was served before the current release.

        Args:
            serving: The current release, if the target can determine it more reliably than this record. A roll-out
                can be killed before it writes the record. By default, the record decides.

        Raises:
            InputError: `target.not-up` if no other release was served before.
        """
        now = serving or self.serving()
        for name in self._names():
            if name != now:
                return name
        raise ClusterCode.TARGET_NOT_UP.error(
            "The roll-back is not possible: no other release was served before.",
            hint="Name the release to serve: `sealserve up --release NAME`.",
        )

    def serve(self, name: str) -> None:
        """Record that a release is now served. The release before it becomes the previous release."""
        names = self._names()
        if names[:1] != [name]:
            write_file(self._file, "\n".join([name, *names[:1]]).encode())

    def _names(self) -> list[str]:
        try:
            text = read_regular(self._file, follow_links=False).decode(errors="replace")
        except InputFileMissingError:
            return []
        # A different user of the host may have written the file, so a name is never interpreted as a path.
        return [Path(line).name for line in text.splitlines() if Path(line).name][:2]
