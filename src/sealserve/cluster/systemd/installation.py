"""Installs and removes systemd units.

Source: systemd.unit(5) "Unit File Load Path", sd_booted(3), systemctl(1).
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.atomic_file import write_file
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.systemd.units import MARKER, Unit
from sealserve.errors import SealserveError
from sealserve.regular_file import InputFileMissingError, read_regular

_SYSTEM_UNITS: Final = Path("/etc/systemd/system")
_SECONDS: Final = 900.0
"""Timeout of a systemctl call: longer than a deployment may take to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Systemd:
    """A systemd service manager.

    Args:
        units: The folder of its unit files.
        runtime: The folder that exists while the manager runs.
        options: Options that make `systemctl` connect to this manager.
    """

    units: Path
    runtime: Path
    options: tuple[str, ...] = ()

    def install(self, unit: Unit) -> Path:
        """Write a unit file and enable the unit, so that systemd starts it at boot. It is not started now.

        Returns:
            The path of the unit file.

        Raises:
            UnavailableError: `service.no-systemd` if this service manager does not run.
            InputError: `service.foreign-file` if a unit file with this name exists that sealserve did not write.
            UnavailableError: `service.systemctl` if a systemctl command fails.
        """
        self._require()
        path = self._own(unit.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, unit.content.encode())
        self._call("daemon-reload")
        self._call("enable", unit.name)
        return path

    def uninstall(self, name: str) -> Path | None:
        """Stop a unit and remove its file.

        Returns:
            The path of the removed unit file, or None if it did not exist.

        Raises:
            SealserveError: As for `install`.
        """
        self._require()
        path = self._own(name)
        if not path.exists():
            return None
        self._call("disable", "--now", name)
        path.unlink(missing_ok=True)
        self._call("daemon-reload")
        return path

    def _require(self) -> None:
        if not self.runtime.is_dir() or shutil.which("systemctl") is None:
            raise ClusterCode.SERVICE_NO_SYSTEMD.error(
                f"systemd's service manager does not run: {self.runtime} or the program systemctl is missing.",
                hint="To print the unit for another machine, run `sealserve service install --print`.",
            )

    def _own(self, name: str) -> Path:
        """Return the path of a unit file that sealserve wrote or that does not exist."""
        path = self.units / name
        try:
            content = read_regular(path, follow_links=False).decode(errors="replace")
        except InputFileMissingError:
            return path
        if not content.startswith(MARKER):
            raise ClusterCode.SERVICE_FOREIGN_FILE.error(
                f"{path} exists, and `sealserve service install` did not write it.",
                hint="Remove or rename the file. Then run this command again.",
            )
        return path

    def _call(self, *arguments: str) -> None:
        line = ["systemctl", *self.options, *arguments]
        try:
            done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = f"no answer within {_SECONDS:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else error
            raise _refused(line, reason) from error
        if done.returncode != 0:
            raise _refused(line, done.stderr.strip() or f"exit status {done.returncode}")


def system_manager() -> Systemd:
    """Return the system's service manager. Only root can install units in it."""
    return Systemd(units=_SYSTEM_UNITS, runtime=Path("/run/systemd/system"))


def user_manager() -> Systemd:
    """Return the service manager of this user."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    return Systemd(units=home / "systemd" / "user", runtime=runtime / "systemd", options=("--user",))


def _refused(line: list[str], reason: object) -> SealserveError:
    return ClusterCode.SERVICE_SYSTEMCTL.error(
        f"`{' '.join(line)}` failed: {reason}.", hint="For details, run `systemctl status` and `journalctl -xe`."
    )
