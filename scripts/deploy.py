"""Write the systemd unit in deploy/, or check it.

`sealserve service install broker` writes the same unit for a workspace.

The unit in deploy/ is for packages and for configuration management. It expects the workspace in /var/lib/sealserve,
sealserve in the virtual environment /opt/sealserve, and the account `sealserve`.
"""

from pathlib import Path
from typing import Final

from scripts.generated_files import write_or_check

from sealserve.cluster.systemd.units import MARKER, render_unit
from sealserve.tcp_ports import BROKER_PORT
from sealserve.terms import SystemdService
from sealserve.workspace import Workspace

ROOT: Final = Path(__file__).resolve().parent.parent
UNIT: Final = ROOT / "deploy" / "systemd" / "sealserve-broker.service"
HEADING: Final = """\
# The owner's broker, for a workspace in /var/lib/sealserve that belongs to the account sealserve.
# Written by scripts/deploy.py: run `make reference`. Your own settings belong in a drop-in: `systemctl edit`.
# docs/how-to/broker-service.md explains the installation.
"""


def content() -> str:
    """Return the unit."""
    unit = render_unit(
        SystemdService.BROKER,
        Workspace(Path("/var/lib/sealserve")),
        user="sealserve",
        for_user_manager=False,
        broker_port=BROKER_PORT,
        python="/opt/sealserve/bin/python",
    )
    return HEADING + unit.content.removeprefix(f"{MARKER}\n")


def main() -> None:
    """Write the unit, or compare it with ``--check``."""
    write_or_check({UNIT: content}, description=__doc__, target="reference")


if __name__ == "__main__":
    main()
