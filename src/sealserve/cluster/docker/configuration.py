"""Files that the containers read: NGINX's configuration, and a ``sealserve.toml`` that matches their networks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import tomli_w

from sealserve.atomic_file import write_file
from sealserve.cluster.container_layout import RUN_FOLDER
from sealserve.cluster.docker import keystore_files
from sealserve.cluster.docker.layout import RELAY, ContainerLayout
from sealserve.cluster.docker.ownership import QUOTING
from sealserve.cluster.docker.seccomp import gramine_direct_profile
from sealserve.cluster.docker.served import Served
from sealserve.cluster.target import BROKER, NGINX, PCS, drain_seconds
from sealserve.deployment import Deployment
from sealserve.held_tree import held
from sealserve.ingress.nginx_config import STREAM_MODULE, NginxConfig, RestRoute, Upstream, render, render_relay
from sealserve.tcp_ports import REST_PORT, SERVICE_PORT, SIMULATED_PCS_PORT
from sealserve.terms import EVERY_IPV4_ADDRESS, PlatformKind
from sealserve.workspace import DEPLOYMENT_FILE

SECCOMP_FILE: Final = "gramine-direct-seccomp.json"
_HIDDEN: Final = {"path"}  # containers do not need the location of the owner's plaintext model


def write_configuration(
    layout: ContainerLayout,
    described: Deployment,
    served: Served,
    *,
    broker: Upstream | None,
    needs_passphrase: bool = False,
) -> None:
    """Write all configuration files except NGINX's list of replicas. Existing files are replaced.

    Args:
        layout: The layout, which defines the location of the files.
        described: The deployment from the containers' point of view.
        served: The release that the replicas serve.
        broker: The address at which the relay reaches the broker, or None if the broker runs on this machine.
        needs_passphrase: Whether the file of the broker's master key is encrypted under a passphrase.

    Raises:
        InputError: `target.unsupported` if the broker's container could not open the keystore.
    """
    if broker is None:
        keystore_files.check(layout.workspace, described.keystore, user=layout.user, needs_passphrase=needs_passphrase)
        keystore_files.check_database(described.database, user=layout.user)
        keystore_files.check_notifications(described.broker.notifications, user=layout.user)
    for name in (NGINX, QUOTING, *([RELAY] if broker else [])):
        _make_readable(layout.folder / name)
    write_file(layout.folder / DEPLOYMENT_FILE, container_deployment(described).encode())
    if broker is not None:
        text = render_relay(served.broker[1], broker, run_folder=Path(RUN_FOLDER), stream_module=STREAM_MODULE)
        write_file(layout.folder / RELAY / "nginx.conf", text.encode())


def write_front(
    layout: ContainerLayout,
    described: Deployment,
    upstreams: Sequence[Upstream],
    rest: Sequence[Upstream] = (),
    *,
    ages: Sequence[int | None] = (),
) -> bool:
    """Write NGINX's configuration, and return whether it has changed.

    Args:
        layout: The layout, which defines the location of the file.
        described: The deployment.
        upstreams: The replicas, at least one.
        rest: The REST ports of the replicas. Empty if REST is off.
        ages: Age in seconds at which each replica drains a connection. None where it is unknown.
    """
    config = NginxConfig(
        listen=layout.front_address,
        port=SERVICE_PORT,
        service_name=described.service.name,
        upstreams=upstreams,
        run_folder=Path(RUN_FOLDER),
        log_folder=None,
        stream_module=STREAM_MODULE,
        drain_timeout=drain_seconds(described, ages),
        rest=RestRoute(port=REST_PORT, upstreams=rest),
    )
    path, content = layout.folder / NGINX / "nginx.conf", render(config).encode()
    if path.is_file() and path.read_bytes() == content:
        return False
    _make_readable(path.parent)
    write_file(path, content)
    return True


def write_seccomp(folder: Path) -> Path:
    """Write the seccomp profile for gramine-direct into ``folder``, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SECCOMP_FILE
    write_file(path, (json.dumps(gramine_direct_profile(), indent=1) + "\n").encode())
    return path


def _make_readable(folder: Path) -> None:
    """Make a folder readable for the containers' user, independently of the umask. It contains no secret."""
    folder.mkdir(parents=True, exist_ok=True)
    for found in held(folder):
        if found.is_folder:
            found.change_mode(0o755)


def container_deployment(described: Deployment) -> str:
    """Return the containers' ``sealserve.toml``: the broker listens in its networks and finds the vendor in one."""
    settings: dict[str, Any] = described.model_dump(mode="json", by_alias=True, exclude_none=True)
    settings["model"] = [
        {key: value for key, value in model.items() if key not in _HIDDEN} for model in settings["model"]
    ]
    for name in keystore_files.FIELDS:
        if name in settings["keystore"]:
            settings["keystore"][name] = keystore_files.place(name)
    settings["keystore"].pop("pkcs11_files", None)  # they are mounts, and the broker does not read the setting
    for name in keystore_files.DATABASE_FIELDS:
        if name in settings["database"]:
            settings["database"][name] = keystore_files.database_place(name)
    for name in keystore_files.NOTIFICATION_FIELDS:
        if name in settings[BROKER]["notifications"]:
            settings[BROKER]["notifications"][name] = keystore_files.notification_place(name)
    if "collateral_ca_file" in settings[BROKER]:
        settings[BROKER]["collateral_ca_file"] = keystore_files.COLLATERAL_CA
    settings["tcb"].pop("policy_file", None)  # the broker's database has the policy of each release
    settings[BROKER]["listen"] = EVERY_IPV4_ADDRESS  # the container's networks are private to the deployment
    if described.platform is PlatformKind.SIMULATED:
        settings[BROKER]["collateral_url"] = f"http://{PCS}:{SIMULATED_PCS_PORT}"
    return "# Written by `sealserve up --target docker`, for its containers.\n" + tomli_w.dumps(settings)
