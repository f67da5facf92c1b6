"""Which release a target of this machine serves, and which release it served before: for `up --rollback`.

The record is a file with one name in each line. It outlives `down`, so that the next `up` can return as well.
"""

from pathlib import Path
from typing import Final

from sealserve.atomic_file import write_file
from sealserve.cluster.codes import ClusterCode
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.workspace import Workspace

_FILE: Final = "release"


class ReleaseRecord:
    """The record of one workspace.

    Args:
        workspace: Whose deployment it is.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._file = workspace.host.run / _FILE

    def serving(self) -> str | None:
        """Return the name of the release that was served last, or None if no release was."""
        return next(iter(self._names()), None)

    def previous(self, serving: str | None = None) -> str:
        """Return the name of the release that was served before another one.

        Args:
            serving: The release that is served now, where the target knows that better than this record: a roll-out
                can be killed before it writes the record. By default, the record decides.

        Raises:
            InputError: `target.not-up`: No other release was served before.
        """
        now = serving or self.serving()
        for name in self._names():
            if name != now:
                return name
        raise ClusterCode.TARGET_NOT_UP.error(
            "No other release was served before.",
            hint="Name the release to serve: `sealserve up --release NAME`.",
        )

    def serve(self, name: str) -> None:
        """Record that a release is served from now on. The release before becomes the previous one."""
        names = self._names()
        if names[:1] != [name]:
            write_file(self._file, "\n".join([name, *names[:1]]).encode())

    def _names(self) -> list[str]:
        try:
            text = read_regular(self._file, follow_links=False).decode(errors="replace")
        except InputFileMissingError:
            return []
        # Another user of the host may have written it: a name is never a path.
        return [Path(line).name for line in text.splitlines() if Path(line).name][:2]
