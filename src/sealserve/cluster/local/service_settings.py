"""The settings that each of the owner's services was started with, so that `up` restarts it when they change.

A service reads ``sealserve.toml`` once, when it starts. Each service has a file in the host's run folder with a digest
of its settings. The digest covers no secret: a setting may name a file with a secret, but the file is not read.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.cluster.target import BROKER, PCS, PLATFORM
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.regular_file import read_regular
from sealserve.workspace import Workspace

# Only `up` reads `broker.drain_minutes` and `broker.reached_at`. The broker does not.
_READ_BY: Final[Mapping[str, Mapping[str, set[str]]]] = {
    BROKER: {
        "broker": {
            "name", "address", "listen", "port", "collateral_url", "collateral_ca_file", "collateral_update",
            "metrics_port", "admin_port", "admin_listen", "instance", "processes", "limits", "log_format",
            "notifications", "certificate_hours",
        },
        "server": {"dangerous_owner_tls_key"},
        "database": {"url", "password_file", "ca_file", "dangerous_unverified_server"},
        "keystore": {
            "kind", "passphrase_file", "transit_url", "transit_mount", "transit_key", "transit_token_file",
            "transit_ca_file", "transit_namespace", "pkcs11_module", "pkcs11_token", "pkcs11_serial", "pkcs11_key",
            "pkcs11_pin_file",
        },
    },
    PCS: {"broker": {"collateral_url"}},
    PLATFORM: {},
}  # fmt: skip


def digest(deployment: Deployment, role: str) -> str:
    """Return a digest of the settings that a service reads."""
    wanted = {name: set(keys) for name, keys in _READ_BY[role].items()}
    text = deployment.model_dump_json(include=wanted) if wanted else json.dumps({"platform": deployment.platform})
    return hashlib.sha256(text.encode()).hexdigest()


def has_changed(workspace: Workspace, deployment: Deployment, role: str) -> bool:
    """Return whether the settings of a running service differ from the settings that it was started with.

    Without a record, such as after an upgrade, they count as unchanged.
    """
    try:
        return read_regular(workspace.host.run / _file(role), follow_links=False).decode() != digest(deployment, role)
    except (SealserveError, UnicodeDecodeError):
        return False


def remember(workspace: Workspace, deployment: Deployment, role: str) -> None:
    """Record the settings of a service that is about to start."""
    write_file(workspace.host.run / _file(role), digest(deployment, role).encode(), mode=PRIVATE)


def _file(role: str) -> str:
    return f"{role}.settings"
