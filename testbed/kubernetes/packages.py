"""The distribution packages that the testbed needs: a container runtime, network plugins and network tools."""

import shutil
from pathlib import Path
from typing import Final

from scripts.setup import install_packages

NETWORK_PLUGINS: Final = Path("/usr/lib/cni")
# For each package, a program on PATH or a file that shows that it is installed.
_NEEDED: Final = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": str(NETWORK_PLUGINS / "bridge"),
    "iptables": "iptables",
    "conntrack": "conntrack",
    "iproute2": "ip",
    "mount": "mount",
    "util-linux": "nsenter",
    "busybox-static": "/bin/busybox",
}


def install() -> None:
    """Install the packages that this machine lacks. No service of the distribution is started."""
    missing = [package for package, sign in _NEEDED.items() if shutil.which(sign) is None and not Path(sign).is_file()]
    if missing:
        install_packages(missing)
